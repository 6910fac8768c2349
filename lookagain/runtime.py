"""What every stage needs around its work: one lock, the processes Accelerate started, and a place to go on from after a kill.

A stage's results must not depend on the number of processes: whole batches are dealt out, and gathered in order. Only stages use
this module.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lookagain.errors import UserError
from lookagain.records import atomic_write

# How long a process waits for the others: they may have a longer share, or a judge to ask. That a process has died is told by its
# connection, or by who started it, and takes no waiting.
WAIT = timedelta(hours=24)
DEFAULT_CONFIG = "configs/accelerate/default.yaml"  # of Accelerate, where ACCELERATE_CONFIG names none; dvc.yaml says the same

# What torch says instead of OutOfMemoryError: on CPUs, and where cuBLAS finds no room for its own.
NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class StageError(UserError):
    """A stage that cannot start or go on, for a reason that its user can mend: the message says which and how."""


@dataclass
class Run:
    """One running stage, as one of its processes sees it."""

    stage: str
    index: int  # of this process, 0 is the main one
    world_size: int
    resume_folder: Path  # survives a kill, is deleted when the stage ends well
    _labels: set[str] = field(default_factory=set)
    _fits: int | None = None  # items of a batch that fit into memory, once a larger one did not

    @property
    def is_main(self) -> bool:
        """Whether this process writes the outputs."""
        return self.index == 0

    @property
    def device(self) -> str:
        """Where this process puts its model: "cpu" or "cuda:<n>"."""
        if self.world_size > 1:
            from accelerate import PartialState

            device = PartialState().device
            return "cpu" if device.type == "cpu" else str(device)
        import torch

        return "cuda:0" if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU") != "true" else "cpu"

    def wait(self) -> None:
        """Return when every process has come this far."""
        if self.world_size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def map_batches(
        self, batches: Sequence[Sequence[Any]], work: Callable[[Sequence[Any]], list[Any]], label: str = "batches"
    ) -> list[Any]:
        """One JSON-able result per item, in the items' order, the same on every process.

        Whole batches are dealt out to the processes; each finished one is kept in the resume folder under its items' ids, and
        is not computed again after a kill. A batch that does not fit into memory is computed in halves. `label` names the
        progress bar and may be used once a stage. Raises StageError if a single item does not fit.
        """
        if label in self._labels:
            raise ValueError(f"map_batches was called twice with label {label!r}: their kept results would mix")
        self._labels.add(label)
        folder = self.resume_folder / label
        folder.mkdir(parents=True, exist_ok=True)
        mine: dict[int, list[Any]] = {}
        with self._progress() as progress:
            task = progress.add_task(label, total=sum(map(len, batches))) if progress else None
            for number in range(self.index, len(batches), self.world_size):
                mine[number] = _kept(folder, batches[number], lambda batch: self._fitting(batch, work))
                if progress:  # the other processes are about as far
                    progress.advance(task, sum(map(len, batches[number : number + self.world_size])))
        done = self._gather(mine)
        return [result for number in range(len(batches)) for result in done[number]]

    def _fitting(self, batch: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        """A batch's results, in parts that fit into memory: no item's result depends on what else is in its batch."""
        results: list[Any] = []
        while len(results) < len(batch):
            part = batch[len(results) : len(results) + (self._fits or len(batch))]
            try:
                made = work(part)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise StageError(f"{part[0].id} does not fit into memory alone: {str(error).splitlines()[0]}") from error
                self._fits = len(part) // 2
            else:
                if len(made) != len(part):
                    raise ValueError(f"{len(made)} results for a batch of {len(part)} items ({part[0].id}, ...)")
                results += made
                continue
            # Only now: inside `except` the error's traceback still holds the tensors.
            _empty_cache()
            print(f"out of memory with {len(part)} at once, going on with {self._fits}", file=sys.stderr)
        return results

    def _gather(self, mine: dict[int, list[Any]]) -> dict[int, list[Any]]:
        if self.world_size == 1:
            return mine
        from accelerate.utils import gather_object

        return {number: results for part in gather_object([mine]) for number, results in part.items()}

    def _progress(self) -> Any:
        """A progress bar on standard error in the main process, nothing in the others."""
        if not self.is_main:
            return nullcontext()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=Console(stderr=True))


@contextmanager
def stage(name: str, params: Any, inputs: Sequence[Path | str] = ()) -> Iterator[Run]:
    """Run a stage's work, alone of its name in this working tree.

    `params` (dataclasses, mappings, plain values) and the content of `inputs` (files and folders) decide, with the code, which
    resume folder is used. Raises StageError if an input is missing or another process runs this stage.
    """
    index, world_size = _processes()
    if missing := [str(path) for path in inputs if not Path(path).exists()]:
        raise StageError(f"{name}: no {', '.join(missing)}; `dvc repro` makes what is missing")
    folder = root() / ".resume" / name / fingerprint(name, params, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(Path(".resume") / f"{name}.lock", name, index), _alone(folder, index):
        run = Run(name, index, world_size, folder)
        run.wait()
        yield run
        run.wait()
        if run.is_main:
            shutil.rmtree(folder, ignore_errors=True)


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def root() -> Path:
    """The repository's root: where DVC was called, also for a stage that it runs in a temporary copy (`dvc exp run --temp`)."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def fingerprint(name: str, params: Any, inputs: Sequence[Path | str]) -> str:
    """A hash of all that a stage's results depend on: its params without `runtime`, its inputs' content, and the code."""
    plain = json.loads(json.dumps(params, default=dataclasses.asdict, sort_keys=True))
    if isinstance(plain, dict):
        plain.pop("runtime", None)
    digest = hashlib.sha256(json.dumps([name, plain], sort_keys=True).encode())
    code = [Path("stages") / f"{name.partition('@')[0]}.py", *Path("lookagain").rglob("*.py")]
    for path in sorted({file for entry in [*map(Path, inputs), *code] for file in _files(entry)}):
        digest.update(f"{path.as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def accelerate_config() -> tuple[str, dict[str, Any]]:
    """The Accelerate config file that ACCELERATE_CONFIG names ("" if it is not set) and what it holds, or else the default.

    Raises StageError if the file is missing or no YAML mapping.
    """
    name = os.environ.get("ACCELERATE_CONFIG", "")
    path = Path(name or DEFAULT_CONFIG)
    if not path.is_file():
        raise StageError(f"ACCELERATE_CONFIG = {path}: no such file; configs/accelerate/ holds {_names('configs/accelerate')}")
    try:
        config = YAML(typ="safe", pure=True).load(path.read_text())
    except YAMLError as error:
        raise StageError(f"ACCELERATE_CONFIG = {path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise StageError(f"ACCELERATE_CONFIG = {path} must hold an Accelerate config, got {config!r}")
    return name, config


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _names(folder: str) -> str:
    return ", ".join(sorted(path.name for path in Path(folder).glob("*.yaml"))) or "nothing"


def _processes() -> tuple[int, int]:
    """This process's index and the number of processes; connects them if they are several."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true", timeout=WAIT)
    if state.num_processes != world_size:
        raise StageError(f"{world_size} processes started, {state.num_processes} are connected")
    return state.process_index, state.num_processes


@contextmanager
def _locked(path: Path, name: str, index: int) -> Iterator[None]:
    """Hold a file lock (the system frees it when the process ends, however it ends); the main process alone takes it."""
    if index > 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _try_lock(file):
            process = _holder(file)
            raise StageError(f"{name} is already running here as process {process}: wait until it ends, or `kill {process}`")
        yield


@contextmanager
def _alone(folder: Path, index: int) -> Iterator[None]:
    """Wait while the same work is being done in another copy of the repository (experiments side by side)."""
    if index > 0:
        yield
        return
    with folder.with_suffix(".lock").open("a+") as file:
        if not _try_lock(file):
            print(f"waiting for process {_holder(file)}, which does the same work", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
            _sign(file)
            folder.mkdir(parents=True, exist_ok=True)  # deleted by the one that went before
        yield


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _sign(file)
    return True


def _sign(file: TextIO) -> None:
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "?"


def _kept(folder: Path, batch: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """A batch's results: read if an earlier run finished it, else worked out and kept."""
    ids = [item.id for item in batch]
    path = folder / f"{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:24]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    results = work(batch)
    text = json.dumps(results)
    with atomic_write(path) as file:
        file.write(text)
    return json.loads(text)  # what a resumed run would read


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path] if path.is_file() else []
