"""Experiments in MLflow: one parent run per experiment with all params and the main metrics, one nested child per stage.

A stage never waits for MLflow. It appends to small files under `.tracking/<experiment>/<stage>/`; `sync` sends what a store
lacks, as often as it is called: by the report stage, by `lookagain sync`, and by a process of its own while a stage runs for
longer than a minute. The store is sqlite at the repository's root, or MLFLOW_TRACKING_URI; a server that does not answer is
replaced by the local store, and gets everything from a later sync. Only stages and the command line use this package.
"""

from lookagain.tracking.journal import Child, child
from lookagain.tracking.store import address, end_server, serve
from lookagain.tracking.syncing import parent, sync, sync_experiments

__all__ = ["Child", "address", "child", "end_server", "parent", "serve", "sync", "sync_experiments"]
