"""Bringing the store up to date: from the files that stages left, and from the experiments that DVC knows."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookagain.records import atomic_write
from lookagain.runtime import root
from lookagain.tracking.journal import experiment_folder, git_revision, params_hash
from lookagain.tracking.store import Store, headlines


def parent(
    metrics: Mapping[str, float],
    files: Sequence[Path | str] = (),
    tables: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
) -> None:
    """Write an experiment's final metrics (`<model>/<benchmark>/<split>/<metric>`), files and tables to its parent run; send all.

    A table is rows under one set of columns, and becomes `<name>.json`, which MLflow shows and compares. The report stage calls
    this at its end. Like a child's methods it does not raise.
    """
    try:
        folder = experiment_folder()
        kept = folder / "artifacts"
        kept.mkdir(exist_ok=True)
        for path in map(Path, files):
            shutil.copytree(path, kept / path.name, dirs_exist_ok=True) if path.is_dir() else shutil.copy(path, kept)
        for name, rows in (tables or {}).items():
            columns = list(rows[0]) if rows else []
            split = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
            (kept / f"{name}.json").write_text(json.dumps(split, ensure_ascii=False), encoding="utf-8")
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
            store.describe()
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
            name = f"repro-{git_revision()}-{digest}"
        if not any(run.data.tags.get("lookagain.experiment") == name for run in same):
            store.send_parent(name, raw, metrics)
            added += 1
    if added:
        store.describe()
    return added


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
            known = {key: value for key, value in metrics.items() if value is not None}
            found.append((name, params, headlines(known)))
    return found
