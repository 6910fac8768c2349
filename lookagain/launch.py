"""Run a stage: `python -m lookagain.launch STAGE [ARGUMENTS]` calls `main(*ARGUMENTS)` of stages/STAGE.py.

The stage runs in the processes of the Accelerate config that ACCELERATE_CONFIG names (configs/accelerate/): the variable, not a
param, names the hardware, so that another machine does not invalidate the cache. Without it, a GPU gets one process, and a
machine without one two processes on half the cores each: for small models that is nearly twice as fast as one on all of them.
An error that its user can mend ends with one line and exit code 1; any other keeps its traceback.

Told to stop (SIGTERM, as a scheduler sends before it takes a machine away), a stage saves what it has and ends within 30 seconds
with exit code 0; the same command goes on from there. Inside a Slurm job with a config of several machines, it starts itself on
each of them through srun.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from lookagain.errors import UserError
from lookagain.params import load_params
from lookagain.runtime import StageError, read_accelerate_config, root

ONE_PROCESS = ("prepare_data", "sample_images", "report")  # stages whose other processes would only wait
# Set for the processes that do the work, so that they do not start others: to 1, or, where they are several, to a file in which
# they leave a user's error. They end well then: else Accelerate's launcher would print its own traceback above the one line.
LAUNCHED = "LOOKAGAIN_LAUNCHED"
STOP_SECONDS = 28  # for processes that were told to stop, before they are killed
END_SECONDS = 5  # for the others, once one has failed: they may wait for it for ever
# Memory that a step frees is taken again by the next; glibc would give it back to the system in between, page by page, which
# costs small models on CPUs a third of their time. It reads these when a process starts.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


class Stopped(BaseException):
    """SIGTERM: what is finished is saved already. No Exception, so that nothing on the way takes it for a failure."""


def main(arguments: list[str]) -> int:
    """Run one stage; returns the exit code."""
    if LAUNCHED in os.environ:
        signal.signal(signal.SIGTERM, _stop)
    try:
        load_params()  # before any model loads, and before several processes would each complain
        share_raw_data()
        name = os.environ.get("ACCELERATE_CONFIG") or default_config()
        config = read_accelerate_config(name) if name else {}
        if arguments and arguments[0] in ONE_PROCESS:
            os.environ.pop("ACCELERATE_CONFIG", None)
            config = {"use_cpu": True}  # they have no use for a GPU, nor for other machines
        if LAUNCHED not in os.environ:
            set_environment(config)
            if not plain(config):
                return run_processes(name, config, arguments)
            os.environ[LAUNCHED] = "1"
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, "-m", "lookagain.launch", *arguments])
        run(arguments)
    except Stopped:
        if os.environ.get(LAUNCHED, "1") == "1":
            print("stopped; the same command goes on from here", file=sys.stderr)
        return 0
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else _disk_full(error)
        if not message:
            raise
        if os.environ.get(LAUNCHED, "1") != "1":  # one of several processes: the one that started them says it, once
            Path(os.environ[LAUNCHED]).write_text(message)
            return 0
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if os.environ.get(LAUNCHED, "1") == "1":
            print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
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


def run_processes(name: str, config: dict, arguments: list[str]) -> int:
    """Run a stage in the processes of an Accelerate config, and end all if one fails; returns the exit code."""
    Path(".resume").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=".resume") as folder:  # where all machines of a cluster can write
        said = (Path(folder) / "error").absolute()
        environment = os.environ | {LAUNCHED: str(said), "ACCELERATE_CONFIG": name}
        sys.stdout.flush()
        processes = [subprocess.Popen(command, env=environment | own) for command, own in commands(name, config, arguments)]
        stopped: list[int] = []

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            end(processes, STOP_SECONDS)

        signal.signal(signal.SIGTERM, stop)
        try:
            code = wait_for(processes, said)
        except KeyboardInterrupt:  # the terminal told them too
            end(processes, STOP_SECONDS)
            raise
        if stopped:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 0
        if said.is_file():
            print(f"error: {said.read_text()}", file=sys.stderr)
    return code


def commands(name: str, config: dict, arguments: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """What to start, each with its environment: Accelerate's launcher, or, for one machine's CPUs, the processes themselves.

    The launcher imports torch first; without it every stage starts seconds earlier.
    """
    stage = ["lookagain.launch", *arguments]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", name]
    if config.get("num_machines", 1) > 1 and os.environ.get("SLURM_JOB_ID"):
        return [(over_slurm(launcher, config["num_machines"], stage), {})]
    if not config.get("use_cpu") or config.get("num_machines", 1) > 1:
        return [([*launcher, "-m", *stage], {})]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = config["num_processes"]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()} for rank in range(count)]
    return [([sys.executable, "-m", *stage], rank) for rank in ranks]


def over_slurm(launcher: list[str], machines: int, stage: list[str]) -> list[str]:
    """The command that runs Accelerate's launcher on each machine of a Slurm job, this one being the first.

    srun ends all of them as soon as one fails.
    """
    here = ["--main_process_ip", socket.gethostname()]
    everywhere = f'exec {shlex.join(launcher)} --machine_rank "$SLURM_NODEID" {shlex.join([*here, "-m", *stage])}'
    each = [f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
    return ["srun", *each, "--kill-on-bad-exit=1", "--label", "bash", "-c", everywhere]


def wait_for(processes: list[subprocess.Popen], said: Path) -> int:
    """The exit code of processes that end together: that of the first that fails, upon which the others are ended."""
    while any(process.poll() is None for process in processes):
        if said.is_file() or any(process.poll() for process in processes):
            failed = [f"{rank} ({process.poll()})" for rank, process in enumerate(processes) if process.poll()]
            end(processes, END_SECONDS)
            if failed and not said.is_file():
                print(f"process {', '.join(failed)} of {len(processes)} failed, the others were ended", file=sys.stderr)
            break
        time.sleep(0.05)
    return 1 if said.is_file() or any(process.wait() for process in processes) else 0


def end(processes: list[subprocess.Popen], seconds: float) -> None:
    """End processes that still run, and wait until they have; they are killed if that takes longer than `seconds`."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
        error = error.__cause__ or error.__context__
    return ""


def default_config() -> str:
    """The Accelerate config of a machine of which nothing was said; none where there is a GPU, or a single core."""
    gpu = shutil.which("nvidia-smi") or Path("/dev/kfd").exists()
    return "" if gpu or cores() < 2 else "configs/accelerate/cpu-2.yaml"


def plain(config: dict) -> bool:
    """Whether a stage runs as one process that needs nothing from Accelerate's launcher."""
    return config.get("use_cpu", not config) and config.get("num_processes", 1) == 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(arguments: list[str]) -> None:
    """Call a stage's `main` in this process. Raises StageError for an unknown stage or a wrong number of arguments."""
    known = sorted(path.stem for path in Path("stages").glob("*.py") if path.stem != "__init__")
    if not arguments or arguments[0] not in known:
        raise StageError(f"no stage {' '.join(arguments[:1])!r} in {Path.cwd() / 'stages'}; stages: {', '.join(known)}")
    gc.disable()  # imports make a million objects that stay: looking through them again and again takes a second
    # The libraries warn of names that they call themselves; a user can do nothing about it.
    for module in ("transformers", "open_clip"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    stage_main = runpy.run_path(str(Path("stages") / f"{arguments[0]}.py"), run_name=f"stages.{arguments[0]}")["main"]
    gc.freeze()
    gc.enable()
    signature = inspect.signature(stage_main)
    try:
        signature.bind(*arguments[1:])
    except TypeError as error:
        raise StageError(f"stage {arguments[0]} takes {signature}: {error}") from error
    stage_main(*arguments[1:])


def set_environment(config: dict) -> None:
    """Settings that are read once, when a process starts or a library loads; what the user set is kept."""
    processes = max(1, config.get("num_processes", 1) // config.get("num_machines", 1))
    defaults = {
        "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread that spins takes the core of one that works
        "OMP_NUM_THREADS": str(max(1, cores() // processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        **MALLOC,
    }
    if config.get("use_cpu"):  # the launcher passes it on to a single process only
        os.environ["ACCELERATE_USE_CPU"] = "true"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # taking the interpreter apart, library by library, takes another second
