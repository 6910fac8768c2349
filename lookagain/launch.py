"""Run a stage in this process: `python -m lookagain.launch STAGE [ARGUMENTS]` calls `main(*ARGUMENTS)` of stages/STAGE.py.

Stages without a model start like this. Accelerate's launcher starts the others, as dvc.yaml shows, in the processes of the config
that ACCELERATE_CONFIG names (configs/accelerate/): the variable, not a param, names the hardware, so that another machine does not
invalidate the cache. This module adds what the launcher lacks:

- An error that its user can mend is one line and exit code 1; any other keeps its traceback.
- SIGTERM, as a scheduler sends before it takes a machine away, makes a stage save what it has and end within 30 seconds; the same
  command goes on from there. It does the same when the launcher or DVC has died.
- A process that cannot have the hardware its config asks for ends before it loads anything.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from lookagain.errors import UserError
from lookagain.params import load_params
from lookagain.runtime import StageError, accelerate_config, cores, root

STOP_SECONDS = 28  # from SIGTERM to SIGKILL, for a process that is orphaned
SHELLS = ("sh", "ash", "bash", "dash", "fish", "zsh")  # which may stand between DVC and the launcher
LAUNCHED = "ACCELERATE_MIXED_PRECISION" in os.environ  # Accelerate's launcher sets it in all its processes


class Stopped(BaseException):
    """SIGTERM: what is finished is saved already. No Exception, so that nothing on the way takes it for a failure."""


def main(arguments: list[str]) -> int:
    """Run one stage; returns the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(arguments)
    except Stopped:
        return _say("stopped; the same command goes on from here", code=0)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from here", code=130)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending


def _run(arguments: list[str]) -> int:
    if starters := _starters():
        threading.Thread(target=_end_with, args=(starters,), daemon=True).start()
    try:
        load_params()  # before any model loads
        share_raw_data()
        prepare_environment()
        load_stage(arguments)()
        return 0
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else _disk_full(error)
        if not message:
            raise
        return _fail(message)


def _stop(*_: object) -> None:
    raise Stopped


def _say(message: str, code: int) -> int:
    """Print a line on standard error, in the main process alone; returns the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    return code


def _fail(message: str) -> int:
    """Print an error; returns the exit code. Where torchrun has started several processes, it ends as well.

    It would print forty lines of its own below the one, and has no option to leave them out.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(3)  # the main process says the same, and ends this one
    print(f"error: {message}", file=sys.stderr)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        os.kill(os.getppid(), signal.SIGKILL)
    return 1


def _starters() -> list[int]:
    """Process ids of Accelerate's launcher and of DVC, with the shell between them, as far as they started this process."""
    import psutil

    above = psutil.Process().parents()
    count = int(LAUNCHED)
    if "DVC_ROOT" in os.environ:
        while count < len(above) and above[count].name() in SHELLS:
            count += 1
        count += 1
    return [process.pid for process in above[:count]]


def _end_with(starters: list[int]) -> None:
    """Stop this process when one that started it has died: nobody else would end it."""
    # An orphan's parent is outside the session: DVC may have died while the launcher imported torch. torchrun's processes have
    # sessions of their own.
    alive = len({os.getsid(pid) for pid in (0, *starters)} - {os.getpid()}) == 1
    while alive and _starters() == starters:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)  # it waits for a process that has ended


def prepare_environment() -> None:
    """Set what libraries read when they are imported. Raises StageError if the machine lacks what Accelerate's config asks for."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The libraries warn of names that they call themselves; a user can do nothing about it.
    for module in ("transformers", "open_clip"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    name, config = accelerate_config() if LAUNCHED or os.environ.get("ACCELERATE_CONFIG") else ("", {})
    if not LAUNCHED:
        return
    import psutil

    here, total = (int(os.environ.get(key, "1")) for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if (wanted := config.get("num_processes", 1)) != total:  # MULTI_CPU with num_processes: 2 starts one process
        raise StageError(
            f"ACCELERATE_CONFIG = {name} asks for num_processes: {wanted}, but {total} started; on CPUs use distributed_type: "
            "MULTI_GPU with use_cpu: true, as configs/accelerate/cpu-2.yaml does"
        )
    # The launcher passes it to a single process only, and one thread where nothing is said.
    os.environ["ACCELERATE_USE_CPU"] = "true" if config.get("use_cpu") else "false"
    threads = psutil.Process(os.getppid()).environ().get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = threads or str(max(1, cores() // here))
    if here == total and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if not config.get("use_cpu"):
        check_gpus(name, here)


def check_gpus(name: str, processes: int) -> None:
    """Raise StageError if torch sees fewer GPUs than processes; the default config, whose `name` is empty, may use the CPU.

    A single process sees the first of several GPUs only: trl's trainers refuse DataParallel.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if processes == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = (chosen or "0").split(",")[0] if chosen != "" else ""
    import torch

    found = torch.cuda.device_count()
    if name and found < processes:
        raise StageError(
            f"ACCELERATE_CONFIG = {name} asks for {processes} processes with a GPU each, and torch sees {found} here: set "
            "num_processes there, or ACCELERATE_CONFIG=configs/accelerate/cpu.yaml"
        )
    if not found and chosen is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
        if listed.startswith("GPU "):
            raise StageError(
                f"torch {torch.__version__} sees no GPU, nvidia-smi lists {listed.splitlines()[0]}: update its driver, or set "
                "ACCELERATE_CONFIG=configs/accelerate/cpu.yaml"
            )


def load_stage(arguments: list[str]) -> Callable[[], None]:
    """Import a stage, ready to run. Raises StageError for an unknown stage or a wrong number of arguments."""
    known = sorted(path.stem for path in Path("stages").glob("*.py") if path.stem != "__init__")
    if not arguments or arguments[0] not in known:
        raise StageError(f"no stage {' '.join(arguments[:1])!r} in {Path.cwd() / 'stages'}; stages: {', '.join(known)}")
    stage_main = runpy.run_path(str(Path("stages") / f"{arguments[0]}.py"), run_name=f"stages.{arguments[0]}")["main"]
    signature = inspect.signature(stage_main)
    try:
        signature.bind(*arguments[1:])
    except TypeError as error:
        raise StageError(f"stage {arguments[0]} takes {signature}: {error}") from error
    return functools.partial(stage_main, *arguments[1:])


def share_raw_data() -> None:
    """In a temporary copy of the repository (`dvc exp run --temp`), let data/raw be the repository's own.

    Downloaded data belong to neither git nor DVC, which would carry them there; indexed images are read from where they lie.
    """
    kept, here = root() / "data/raw", Path("data/raw")
    if kept.is_dir() and not here.exists():
        here.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            here.symlink_to(kept.resolve())


def _disk_full(error: BaseException | None) -> str:
    """Describe a full disk (or quota, or file size limit) in one line, if that is what an error or its cause says."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
