"""Run a stage: `python -m lookagain.launch STAGE [ARGUMENTS]` calls `main(*ARGUMENTS)` of stages/STAGE.py.

The stage runs in the processes of the Accelerate config that ACCELERATE_CONFIG names (configs/accelerate/): the variable, not a
param, names the hardware, so that another machine does not invalidate the cache. Without it, a GPU gets one process, and a
machine without one two processes on half the cores each, for small models gain less from more threads.
An error that its user can mend ends with one line and exit code 1; any other keeps its traceback.

Told to stop (SIGTERM, as a scheduler sends before it takes a machine away), a stage saves what it has and ends within 30 seconds
with exit code 0; the same command goes on from there. Inside a Slurm job with a config of several machines, it starts itself on
each of them through srun.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import inspect
import os
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from lookagain import warm
from lookagain.errors import UserError
from lookagain.params import load_params
from lookagain.processes import CAN_FORK, Forked, Process, check_gpus, cores, environment, launcher, ranks, run_together
from lookagain.records import atomic_write
from lookagain.runtime import StageError, read_accelerate_config, root

# Stages whose other processes would only wait.
ONE_PROCESS = ("check_params", "prepare_data", "prepare_policy", "prepare_scorer", "sample_images", "report")
# Set for the process that does the work, or forks those that do: to 1, or, for one of several, to a file in which they leave a
# user's error. They end well then: else Accelerate's launcher would print its own traceback above the one line.
LAUNCHED = "LOOKAGAIN_LAUNCHED"


class Stopped(BaseException):
    """SIGTERM: what is finished is saved already. No Exception, so that nothing on the way takes it for a failure."""


def main(arguments: list[str]) -> int:
    """Run one stage; returns the exit code."""
    return _ended(lambda: _start(arguments))


def _start(arguments: list[str]) -> int:
    load_params()  # before any model loads, and before several processes would each complain
    share_raw_data()
    name = os.environ.get("ACCELERATE_CONFIG") or default_config()
    config = read_accelerate_config(name) if name else {}
    if arguments and arguments[0] in ONE_PROCESS:
        os.environ.pop("ACCELERATE_CONFIG", None)
        config = {"use_cpu": True}  # they have no use for a GPU, nor for other machines
    if LAUNCHED not in os.environ:
        return _launch(name, config, arguments)
    work, count = loaded(arguments), config.get("num_processes", 1)
    if count == 1 or os.environ[LAUNCHED] != "1":
        work()
        return 0
    return run_together(lambda said: [Forked(lambda: _ended(work), rank | {LAUNCHED: said}) for rank in ranks(count)])


def _launch(name: str, config: dict, arguments: list[str]) -> int:
    """Run the stage in processes with the right environment: this one started anew, or others."""
    os.environ.update(environment(config))
    count, stage = config.get("num_processes", 1), ["lookagain.launch", *arguments]
    here = config.get("use_cpu", not config) and config.get("num_machines", 1) == 1  # without Accelerate's launcher
    if here and (count == 1 or CAN_FORK):
        os.environ[LAUNCHED] = "1"
        code = warm.ask(arguments) if config.get("use_cpu") else None
        if code is None:
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, "-m", *stage])
        return code
    if not here and not config.get("use_cpu") and config.get("num_machines", 1) == 1:
        check_gpus(name, count)
    # The launcher would import torch first, seconds long: CPU processes do without.
    commands = (
        [([sys.executable, "-m", *stage], rank) for rank in ranks(count)] if here else [(launcher(name, config, stage), {})]
    )

    def start(said: str) -> list[Process]:
        shared = os.environ | {LAUNCHED: said, "ACCELERATE_CONFIG": name}
        return [subprocess.Popen(command, env=shared | own) for command, own in commands]

    return run_together(start)


def _ended(work: Callable[[], int | None]) -> int:
    """The exit code of some work, whose end, if it is not a bug, is told in one line."""
    alone = os.environ.get(LAUNCHED, "1") == "1"
    try:
        if LAUNCHED in os.environ:
            signal.signal(signal.SIGTERM, _stop)
        return _told(work, alone)
    except Stopped:  # perhaps while it tells of an error: a process that fails too, but later than another
        if alone:
            print("stopped; the same command goes on from here", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        if alone:
            print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if LAUNCHED in os.environ:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending


def _told(work: Callable[[], int | None], alone: bool) -> int:
    """The exit code of some work, whose error, if it is its user's, is told in one line."""
    try:
        return work() or 0
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else _disk_full(error)
        if not message:
            raise
        if alone:
            print(f"error: {message}", file=sys.stderr)
            return 1
        with atomic_write(os.environ[LAUNCHED]) as file:  # the one that started the others says it, once
            file.write(message)
        return 0


def share_raw_data() -> None:
    """In a temporary copy of the repository (`dvc exp run --temp`), let data/raw be the repository's own.

    Downloaded data belong to neither git nor DVC, which would carry them there; indexed images are read from where they lie.
    """
    kept, here = root() / "data/raw", Path("data/raw")
    if kept.is_dir() and not here.exists():
        here.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            here.symlink_to(kept.resolve())


def _stop(*_: object) -> None:
    raise Stopped


def _disk_full(error: BaseException | None) -> str:
    """One line about a disk (or quota, or file size limit) that is full, if that is what an error or its cause says."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or os.strerror(errno.ENOSPC) in str(error):
            where = f" ({name})" if (name := getattr(error, "filename", None)) else ""
            reason = os.strerror(number) if number else os.strerror(errno.ENOSPC)
            return f"{reason}{where} in {Path.cwd()}: nothing was left half-written; make room, then the same command goes on"
        if "inline_container.cc" in str(error):  # torch's own files, of which it says no more: checkpoints
            return f"a checkpoint could not be written in {Path.cwd()}, probably for lack of room; the same command goes on"
        error = error.__cause__ or error.__context__
    return ""


def default_config() -> str:
    """The Accelerate config of a machine of which nothing was said; none where there is a GPU, or a single core."""
    gpu = shutil.which("nvidia-smi") or Path("/dev/kfd").exists()
    return "" if gpu or cores() < 2 else "configs/accelerate/cpu-2.yaml"


def loaded(arguments: list[str]) -> Callable[[], None]:
    """A stage with its libraries imported, ready to run. Raises StageError for an unknown stage or a wrong number of arguments."""
    known = sorted(path.stem for path in Path("stages").glob("*.py") if path.stem != "__init__")
    if not arguments or arguments[0] not in known:
        raise StageError(f"no stage {' '.join(arguments[:1])!r} in {Path.cwd() / 'stages'}; stages: {', '.join(known)}")
    gc.disable()  # imports make a million objects that stay: looking through them again and again takes a second
    # The libraries warn of names that they call themselves; a user can do nothing about it.
    for module in ("transformers", "open_clip"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    stage_main = runpy.run_path(str(Path("stages") / f"{arguments[0]}.py"), run_name=f"stages.{arguments[0]}")["main"]
    gc.freeze()
    gc.set_threshold(100_000)  # a stage's own objects stay too, by the million where it makes conversations
    gc.enable()
    signature = inspect.signature(stage_main)
    try:
        signature.bind(*arguments[1:])
    except TypeError as error:
        raise StageError(f"stage {arguments[0]} takes {signature}: {error}") from error
    return functools.partial(stage_main, *arguments[1:])


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # taking the interpreter apart, library by library, takes another second
