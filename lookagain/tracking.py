"""Experiments in MLflow: one parent run per experiment with all params and final metrics, one nested child per stage.

A stage never waits for MLflow. It appends to small files under `.tracking/<experiment>/<stage>/`; `sync` sends what a store
lacks, as often as it is called: by the report stage, by `lookagain sync`, and by a process of its own while a stage runs for
longer than a minute. The store is sqlite at the repository's root, or MLFLOW_TRACKING_URI; a server that does not answer is
replaced by the local store, and gets everything from a later sync. Only stages and the command line use this module.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage
from ruamel.yaml import YAML

from lookagain.records import atomic_write
from lookagain.runtime import root

if TYPE_CHECKING:
    from mlflow import MlflowClient

FIRST_SEND = 60.0  # seconds after which a running stage is first sent; each further wait is twice as long


# MLflow's own defaults retry a dead server for minutes, report their use, and print each database migration.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Child:
    """What a stage tells about itself. No method raises: a failure is one warning line, and the stage goes on."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._started = self._waited = time.time()
        self._wait = FIRST_SEND
        self._sender: subprocess.Popen | None = None
        self._warned = False

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Figures at a step, for curves."""
        self._record({"metrics": {key: float(value) for key, value in values.items()}, "step": int(step)})
        if time.time() - self._waited > self._wait:
            self._try(self._send_aside)

    def text(self, name: str, text: str) -> None:
        """A text under a file name."""
        self._artifact(name, lambda path: path.write_text(text, encoding="utf-8"))

    def image(self, name: str, image: PILImage.Image) -> None:
        """An image under a file name (.png)."""
        self._artifact(name, lambda path: image.save(path))

    def file(self, path: Path | str) -> None:
        """A copy of a file."""
        self._artifact(Path(path).name, lambda copy: shutil.copyfile(path, copy))

    def _artifact(self, name: str, write: Callable[[Path], object]) -> None:
        def save() -> None:
            if self._folder is not None:
                path = self._folder / "artifacts" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)

        if self._try(save):
            self._record({"artifact": name})

    def _record(self, record: dict[str, Any]) -> None:
        def append() -> None:
            if self._folder is not None:
                with (self._folder / "records.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"time": int(time.time() * 1000), **record}) + "\n")

        self._try(append)

    def _end(self, status: str) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = used.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)  # kilobytes on Linux, bytes on macOS
        seconds = {"wall_seconds": time.time() - self._started, "cpu_seconds": used.ru_utime + used.ru_stime}
        self._record({"metrics": {**seconds, "peak_memory_gb": peak}, "step": 0})
        self._record({"status": status})

    def _send_aside(self) -> None:
        if self._folder is not None and (self._sender is None or self._sender.poll() is not None):
            self._waited, self._wait = time.time(), 2 * self._wait
            command = [sys.executable, "-m", "lookagain.tracking"]
            self._sender = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # tracking must never end a stage
            if not self._warned:
                print(f"warning: tracking: {error}", file=sys.stderr)
            self._warned = True
            return False
        return True


@contextmanager
def child(stage_name: str, params_flat: Mapping[str, Any], enabled: bool = True) -> Iterator[Child]:
    """Record a stage: its params, what its block tells, wall seconds, peak memory (GB) and whether it ended well.

    `enabled` is false in all processes but the main one, which then record nothing.
    """
    track = Child(None)

    def start() -> None:
        folder = _experiment_folder() / f"{stage_name}.{int(time.time() * 1000)}"
        folder.mkdir(parents=True)
        track._folder = folder
        track._record({"stage": stage_name, "params": dict(params_flat), "pid": os.getpid(), "host": socket.gethostname()})

    if enabled:
        track._try(start)
    status = "FAILED"
    try:
        yield track
        status = "FINISHED"
    finally:
        track._end(status)


def parent(metrics: Mapping[str, float], files: Sequence[Path | str] = ()) -> None:
    """Write an experiment's final metrics (`<model>/<benchmark>/<split>/<metric>`) and files to its parent run; send all.

    The report stage calls this at its end. Like a child's methods it does not raise.
    """
    try:
        folder = _experiment_folder()
        for path in map(Path, files):
            copy = folder / "artifacts" / path.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copytree(path, copy, dirs_exist_ok=True) if path.is_dir() else shutil.copyfile(path, copy)
        with atomic_write(folder / "final.json") as file:
            json.dump({"time": time.time(), "metrics": dict(metrics)}, file)
        sync()
    except Exception as error:  # tracking must never end a stage
        print(f"warning: tracking: {error}; `lookagain sync` sends the rest later", file=sys.stderr)


def sync(wait: bool = True) -> int:
    """Send what the store lacks; returns the number of experiments looked at. Safe to repeat and to kill.

    If another sync is at work, waits for it, or returns 0 at once if `wait` is false.
    """
    base = root() / ".tracking"
    base.mkdir(exist_ok=True)
    with (base / "sync.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return 0
        folders = sorted(path for path in base.iterdir() if path.is_dir())
        if folders:
            store = Store()
            for folder in folders:
                store.send_experiment(folder)
        return len(folders)


def sync_experiments() -> int:
    """Give a parent run to each experiment that DVC knows and the store does not: those whose stages all came from the cache.

    Reads `dvc exp show`; returns how many were added. The working tree's own row counts only if `dvc status` is clean.
    """
    rows = _dvc_rows()
    store = Store()
    known = store.parents()
    added = 0
    for name, raw, metrics in rows:
        digest = params_hash(raw)
        same = [run for run in known if run.data.tags.get("lookagain.params") == digest]
        if name is None:
            if any(run.data.metrics == metrics for run in same):
                continue
            name = f"repro-{_git_revision()}-{digest}"
        if not any(run.data.tags.get("lookagain.experiment") == name for run in same):
            store.send_parent(name, raw, metrics)
            added += 1
    return added


def params_hash(raw: Mapping[str, Any]) -> str:
    """A short hash of a params file's content as read (comments and order do not count)."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:8]


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

    def parents(self) -> list[Any]:
        """All experiments' parent runs."""
        return list(self._find("tags.`lookagain.role` = 'parent'"))

    def send_parent(self, name: str, raw: Mapping[str, Any], metrics: Mapping[str, float] | None) -> str:
        """Find or create an experiment's parent run, with all params, and its final metrics if it has them; returns its id."""
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
            run_id = self.client.create_run(self.id, tags=tags).info.run_id
            self._params(run_id, _dotted(raw))
        if metrics is not None and (not runs or runs[0].data.metrics != metrics):
            self._metrics(run_id, [(key, value, int(time.time() * 1000), 0) for key, value in metrics.items()])
            self.client.set_terminated(run_id)
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
        run_id = self.send_parent(about["name"], about["params"], json.loads(ended)["metrics"] if ended else None)
        for path in pending:
            if self._send_stage(path.parent, run_id):
                (path.parent / "sent").write_text(store)
        if ended and not _marked(folder, store + ended):
            if (folder / "artifacts").is_dir():
                self.client.log_artifacts(run_id, str(folder / "artifacts"))
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


def end_server(server: subprocess.Popen) -> None:
    """End the server with all its workers."""
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=5)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def _experiment_folder() -> Path:
    """`.tracking/<experiment>/`, with its name and params written once."""
    raw = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
    digest = params_hash(raw)
    name = os.environ.get("DVC_EXP_NAME") or f"repro-{_git_revision()}-{digest}"
    folder = root() / ".tracking" / f"{name}.{digest}"
    if not (folder / "experiment.json").is_file():
        with atomic_write(folder / "experiment.json") as file:
            json.dump({"name": name, "params": raw}, file)
    return folder


def _marked(folder: Path, mark: str) -> bool:
    """Whether a folder's `sent` file says that this state was sent to this store."""
    return (folder / "sent").is_file() and (folder / "sent").read_text() == mark


def _git_revision() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "nogit"


def _dvc_rows() -> list[tuple[str | None, dict[str, Any], dict[str, float]]]:
    """(experiment name or None for the working tree, params, metrics) of what `dvc exp show` lists with metrics."""
    dvc = [sys.executable, "-m", "dvc"]
    shown = subprocess.run([*dvc, "exp", "show", "--json"], capture_output=True, text=True, check=True)
    status = subprocess.run([*dvc, "status", "report", "--with-deps", "--json"], capture_output=True, text=True, check=False)
    rows: list[tuple[str | None, dict[str, Any]]] = []
    for baseline in json.loads(shown.stdout):
        if baseline["rev"] == "workspace" and status.stdout.strip() == "{}":
            rows.append((None, baseline))
        for experiment in baseline.get("experiments") or []:
            rows += [(experiment["name"], revision) for revision in (experiment.get("revs") or [])[:1]]
    found: list[tuple[str | None, dict[str, Any], dict[str, float]]] = []
    for name, row in rows:
        data = row.get("data") or {}
        params = ((data.get("params") or {}).get("params.yaml") or {}).get("data")
        files = {Path(path).stem: entry.get("data") or {} for path, entry in (data.get("metrics") or {}).items()}
        if params:  # files of models that earlier params asked for may still lie there
            rows_of = {"base", *params["evaluate"]["models"], *(f"csr-{t + 1}" for t in range(params["csr"]["iterations"]))}
            files = {model: values for model, values in files.items() if model in rows_of}
        metrics = {f"{model}/{key}": m.get("value") for model, values in files.items() for key, m in values.items()}
        if params and metrics:
            found.append((name, params, {key: value for key, value in metrics.items() if value is not None}))
    return found


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


if __name__ == "__main__":
    os.nice(10)
    sync(wait=False)
