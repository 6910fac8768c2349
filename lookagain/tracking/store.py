"""The MLflow store: what is sent to it, how it is found, and the server that shows it. Only this module imports MLflow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookagain.runtime import root
from lookagain.tracking.journal import params_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's own defaults retry a dead server for minutes, report their use, and print each database migration.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
HEADLINES = {  # the metrics of a model that an experiment's row shows, and their short names; MLflow allows no "="
    "chair/chair_s": "CHAIR_S",
    "chair/recall": "recall",
    "chair_sampled/chair_s": "CHAIR_S sampled",
    "chair_sampled/recall": "recall sampled",
    "pope/adversarial/accuracy": "POPE adversarial",
}
TOTALS = ("/all/accuracy", "/all/score")  # how the main figures of the other benchmarks end
VIEW = "lookagain"  # the name of the table that the UI opens with
VIEW_PARAMS = 12
VIEW_WIDTH = 150  # px of a column
NOTE = (
    "One row is one experiment, with all its params and its main metrics; the rows inside it are its stages, with curves, times "
    "and every metric. Each experiment's artifacts hold `index.html` (its report), `tables/`, `descriptions.json` and `pairs.json`."
)


def headlines(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of `<model>/<benchmark>/<split>/<metric>`s the few that an experiment's row shows, as `<model>/<short name>`.

    Files and stages have the others.
    """
    found = {}
    for key, value in metrics.items():
        model, _, metric = key.partition("/")
        if name := HEADLINES.get(metric) or (metric.partition("/")[0] if metric.endswith(TOTALS) else None):
            found[f"{model}/{name}"] = value
    return found


class Store:
    """An MLflow store. A run's tags say how much of a stage's records it holds, so that sending again adds nothing."""

    def __init__(self) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self.uri = tracking_uri()
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient(self.uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "lookagain")
        found = self.client.get_experiment_by_name(name)
        artifacts = (root() / "mlartifacts").absolute().as_uri() if self.uri.startswith("sqlite") else None
        self.id = found.experiment_id if found else self.client.create_experiment(name, artifact_location=artifacts)
        self._tags = dict(found.tags) if found else {}

    def parents(self) -> list[Any]:
        """All experiments' parent runs."""
        return list(self._find("tags.`lookagain.role` = 'parent'"))

    def describe(self) -> None:
        """Tell the UI what the rows are, and to show the params in which experiments differ and what became of it."""
        runs = self.parents()
        metrics = _differing([run.data.metrics for run in runs]) or [key for run in runs for key in run.data.metrics]
        models = {key.partition("/")[0] for key in metrics}
        last = max(models, key=lambda one: (one.startswith("csr-"), one), default="")  # CSR's last iteration, if it differs
        shown = [f"metrics.`{last}/{name}`" for name in HEADLINES.values() if f"{last}/{name}" in metrics]
        params = _differing([run.data.params for run in runs])[:VIEW_PARAMS] or ["lambda"]
        columns = [*shown, *(f"params.`{key}`" for key in params)]
        view = {"selectedColumns": columns, "columnOrder": columns, "columnWidths": dict.fromkeys(columns, VIEW_WIDTH)}
        tags = {
            "mlflow.experimentKind": "custom_model_development",  # else the UI opens with pages about language models' traces
            "mlflow.note.content": NOTE,
            f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
        }
        for key, value in tags.items():
            if self._tags.get(key) != value:
                self.client.set_experiment_tag(self.id, key, value)

    def send_parent(
        self, name: str, raw: Mapping[str, Any], metrics: Mapping[str, float] | None, times: tuple[int, int] | None = None
    ) -> str:
        """Find or create an experiment's parent run, with all params, and its main metrics if it has them; returns its id.

        `times` are those of its first stage's start and of its end, in ms.
        """
        began, ended = times or (None, int(time.time() * 1000))
        digest = params_hash(raw)
        query = f"tags.`lookagain.experiment` = '{name}' and tags.`lookagain.params` = '{digest}'"
        runs = list(self._find(query))
        if runs:
            run_id = runs[0].info.run_id
        else:
            tags = {
                "lookagain.role": "parent",
                "lookagain.experiment": name,
                "lookagain.params": digest,
                "mlflow.runName": name,
            }
            run_id = self.client.create_run(self.id, start_time=began, tags=tags).info.run_id
            self._params(run_id, _dotted(raw))
        if metrics is not None and (not runs or runs[0].data.metrics != metrics):
            self._metrics(run_id, [(key, value, ended, 0) for key, value in metrics.items()])
            self.client.set_terminated(run_id, end_time=ended)
        return run_id

    def send_experiment(self, folder: Path) -> None:
        """Send one folder of `.tracking/`: the parent, each stage's new records, and at last the final metrics and files."""
        about = json.loads((folder / "experiment.json").read_text())
        store = f"{self.uri} {self.client.get_experiment(self.id).creation_time}"
        pending = [path for path in sorted(folder.glob("*/records.jsonl")) if not _marked(path.parent, store)]
        final = folder / "final.json"
        ended = final.read_text() if final.is_file() else ""
        if not pending and _marked(folder, store + ended):
            return
        final_record = json.loads(ended) if ended else None
        metrics = headlines(final_record["metrics"]) if final_record else None
        end = int((final_record["time"] if final_record else time.time()) * 1000)
        run_id = self.send_parent(about["name"], about["params"], metrics, (min(_starts(folder), default=end), end))
        for path in pending:
            if self._send_stage(path.parent, run_id):
                (path.parent / "sent").write_text(store)
        if ended and not _marked(folder, store + ended):
            if (folder / "artifacts").is_dir():
                self.client.log_artifacts(run_id, str(folder / "artifacts"))
                shown = [{"path": path.name, "type": "table"} for path in sorted((folder / "artifacts").glob("*.json"))]
                self.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))  # the UI compares them across runs
            (folder / "sent").write_text(store + ended)

    def _send_stage(self, folder: Path, parent: str) -> bool:
        """Send a stage's records that its run does not hold yet; returns whether it has ended, so that no more will come."""
        lines = (folder / "records.jsonl").read_text(encoding="utf-8").split("\n")[:-1]  # the last may be half-written
        records = [json.loads(line) for line in lines]
        first = records[0]
        runs = list(self._find(f"tags.`lookagain.stage` = '{folder.name}'"))
        if not runs:
            tags = {"lookagain.stage": folder.name, "mlflow.parentRunId": parent, "mlflow.runName": first["stage"]}
            runs = [self.client.create_run(self.id, start_time=first["time"], tags=tags)]
            self._params(runs[0].info.run_id, first["params"])
        run_id = runs[0].info.run_id
        new = records[int(runs[0].data.tags.get("lookagain.sent", "1")) :]
        self._metrics(run_id, [(k, v, r["time"], r["step"]) for r in new if "metrics" in r for k, v in r["metrics"].items()])
        for record in new:
            if "artifact" in record:
                place = os.path.dirname(record["artifact"]) or None
                self.client.log_artifact(run_id, str(folder / "artifacts" / record["artifact"]), place)
        self.client.set_tag(run_id, "lookagain.sent", str(len(records)))
        status = records[-1].get("status") or ("" if _alive(first["pid"], first["host"]) else "KILLED")
        if status:
            self.client.set_terminated(run_id, status, records[-1]["time"])
        return bool(status)

    def _find(self, query: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.id], query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), 100):  # MLflow's limit for a request
            self.client.log_batch(run_id, params=entries[start : start + 100])

    def _metrics(self, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        entries = [Metric(*metric) for metric in metrics]
        for start in range(0, len(entries), 1000):
            self.client.log_batch(run_id, metrics=entries[start : start + 1000])


def _differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys under which runs have several values, or only some have one."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def _starts(folder: Path) -> Iterator[int]:
    """When an experiment's stages started, in ms."""
    for path in folder.glob("*/records.jsonl"):
        with path.open(encoding="utf-8") as file:
            yield json.loads(file.readline())["time"]


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or sqlite at the repository's root if it is not set or its server does not answer in two seconds."""
    local = f"sqlite:///{(root() / 'mlflow.db').absolute()}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        try:
            with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=2):
                return uri
        except OSError as error:
            print(f"warning: tracking: {uri} does not answer ({error}); using {local}", file=sys.stderr)
            return local
    return uri or local


def serve(port: int) -> subprocess.Popen:
    """Start MLflow's server on 127.0.0.1 over the local store, in a session of its own, with few processes."""
    store = f"sqlite:///{(root() / 'mlflow.db').absolute()}"
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    settings = {**SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    return subprocess.Popen([sys.executable, "-m", "mlflow", "server", *where], env=settings, start_new_session=True)


def address(port: int) -> str:
    """Where the server shows the experiments beside each other."""
    return f"http://127.0.0.1:{port}/#/experiments/{Store().id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def end_server(server: subprocess.Popen) -> None:
    """End the server with all its workers."""
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=5)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def _marked(folder: Path, mark: str) -> bool:
    """Whether a folder's `sent` file says that this state was sent to this store."""
    return (folder / "sent").is_file() and (folder / "sent").read_text() == mark


def _dotted(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat.update(_dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _alive(pid: int, host: str) -> bool:
    if host != socket.gethostname():
        return True  # nothing is known about another machine's processes
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
