"""The experiments that a table still needs, run through `dvc exp run`, one after another or several at a time.

Each runs in a copy of the repository (`--temp`), so that params.yaml and the workspace stay as they are, edited or not; DVC makes
nothing again that its cache holds for the same params. What is missing is looked up before each run, so a grid that was killed
goes on where it stopped, and what one run measures for several rows is run once. A failed run is reported and the others go on.
DVC's own queue is not used: it is known to hang.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from lookagain.papers.cells import Filled, overridden
from lookagain.papers.reading import NOT_RUN

LOGS = ".resume/grid"


@dataclass(frozen=True)
class Run:
    """One experiment: its name, what it changes of params.yaml, and the rows that want it."""

    name: str
    overrides: dict[str, Any]
    rows: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is None where it ended well."""

    run: Run
    seconds: float
    error: str | None
    log: Path


def missing_runs(filled: Filled, raw: Mapping[str, Any]) -> list[Run]:
    """The runs that would measure a table's missing rows; rows that want the same params share one.

    Those that change most come first: they measure as well what the others want of the unchanged params.
    """
    runs: dict[str, Run] = {}
    for row in filled.rows:
        if row.missing:
            changes = {key: value for key, value in row.overrides.items() if overridden(raw, {key: value}) != raw}
            name = run_name(filled.table.name, overridden(raw, changes))
            runs.setdefault(name, Run(name, changes, [])).rows.append(row.label)
    return sorted(runs.values(), key=lambda run: -len(run.overrides))


def run_name(table: str, wanted: Mapping[str, Any]) -> str:
    """An experiment's name: the table, and a hash of the whole params without `runtime`, which changes no result."""
    kept = {key: value for key, value in wanted.items() if key != "runtime"}
    return f"{table}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]}"


def command(run: Run, raw: Mapping[str, Any]) -> list[str]:
    """The `dvc exp run` of one run; `+` adds a name to a section of free names.

    It waits for DVC's lock: two that start together, or one beside a `dvc` of the user, would give up after three seconds.
    """
    changes = []
    for key, value in run.overrides.items():
        changes += ["-S", f"{'' if _known(raw, key) else '+'}{key}={_written(value)}"]
    return [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", run.name, *changes]


def _known(raw: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return False
        raw = raw[part]
    return True


def _written(value: Any) -> str:
    """A value in the grammar of DVC's `-S`: strings quoted where they are not plain words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value) if not isinstance(value, str) else value


def run_grid(
    look: Callable[[], Filled],
    raw: Mapping[str, Any],
    jobs: int = 1,
    tell: Callable[[str], None] = print,
    root: Path | str = ".",
) -> list[Outcome]:
    """Run what a table misses, `jobs` at a time, each as soon as there is room for it.

    `look` fills the table anew: it is asked before every run, as one may measure another's rows.
    """

    def start(run: Run) -> Outcome:
        return run_one(run, raw, root, lambda: _is_missing(run, look(), raw), environment(jobs))

    outcomes: list[Outcome] = []
    running: dict[Future[Outcome], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            tried = {run.name for run in running.values()} | {outcome.run.name for outcome in outcomes}
            left = [run for run in missing_runs(look(), raw) if run.name not in tried]
            for run in left[: jobs - len(running)]:
                changes = ", ".join(f"{key}={value}" for key, value in run.overrides.items()) or "params.yaml as it is"
                tell(f"{run.name}: {changes} (for {', '.join(run.rows)}); its output: {LOGS}/{run.name}.log")
                running[pool.submit(start, run)] = run
            if not running:
                return outcomes
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                outcome = future.result()
                ended = f"failed: {outcome.error}" if outcome.error else "done"
                tell(f"{outcome.run.name}: {ended} after {outcome.seconds:.0f} s")
                outcomes.append(outcome)


def with_failures(filled: Filled, outcomes: Sequence[Outcome]) -> Filled:
    """The table with the reasons of runs that failed in the cells that wanted them."""
    errors = {row: f"failed: {one.error} ({one.log})" for one in outcomes if one.error for row in one.run.rows}
    rows = [
        replace(
            row,
            cells=[
                replace(cell, reason=errors[row.label]) if (cell.reason or "").startswith(NOT_RUN) else cell
                for cell in row.cells
            ],
        )
        if row.missing and row.label in errors
        else row
        for row in filled.rows
    ]
    return replace(filled, rows=rows)


def _is_missing(run: Run, filled: Filled, raw: Mapping[str, Any]) -> bool:
    return run.name in {one.name for one in missing_runs(filled, raw)}


def environment(jobs: int) -> dict[str, str]:
    """That of an experiment's commands: this process's Python is theirs, be its environment activated or not.

    Where several run at once, a thread that waits for another leaves its core to them. Alone it had better spin: a small model
    trains half again as long with threads that are woken for every operation.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if jobs > 1 else {}
    return waiting | os.environ | {"PATH": path}


def run_one(
    run: Run, raw: Mapping[str, Any], root: Path | str, wanted: Callable[[], bool], environment: Mapping[str, str]
) -> Outcome:
    """Run one experiment in an environment, with all that it prints in a log file.

    Where a grid was killed and left its `dvc` at work, waits for that one, and runs the experiment if it is still `wanted`. The
    lock is the child's as well, and is free when both have ended.
    """
    log = Path(root) / LOGS / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.with_suffix(".lock").open("w") as lock:
        if _waited_for(lock) and not wanted():
            return Outcome(run, time.monotonic() - start, None, log)
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                command(run, raw),
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                check=False,
            )
    error = last_error(log.read_text(encoding="utf-8", errors="replace")) if done.returncode else None
    return Outcome(run, time.monotonic() - start, error, log)


def _waited_for(lock: TextIO) -> bool:
    """Take a lock; returns whether another process had it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    return False


def last_error(text: str) -> str:
    """The line of a log that says best what went wrong: an error of ours, else DVC's."""
    printed = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in printed if line.startswith("error: ")]
    failed = [line for line in printed if line.startswith("ERROR: ")]
    return (told or failed or printed or ["no output"])[-1].removeprefix("error: ").removeprefix("ERROR: ")
