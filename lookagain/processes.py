"""The processes in which a stage runs: started, watched, and ended together.

On Linux, processes that need no GPU are forked from one that has imported the stage: its libraries take seconds to import.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lookagain.errors import UserError

STOP_SECONDS = 28  # for processes that were told to stop, before they are killed
END_SECONDS = 5  # for the others, once one has failed: they may wait for it for ever
CAN_FORK = sys.platform == "linux"  # elsewhere system libraries do not outlive a fork

# Memory that a step frees is taken again by the next; glibc would give it back to the system in between, page by page, which
# costs small models on CPUs a third of their time. It reads these when a process starts.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in large pages, where the system has them
}


class Forked:
    """A forked process that calls `work` and exits with its result, with the methods of a subprocess."""

    def __init__(self, work: Callable[[], int], environment: dict[str, str]):
        def begin() -> None:
            os.environ.update(environment)
            sys.exit(work())

        self._process = multiprocessing.get_context("fork").Process(target=begin)
        self._process.start()
        self.pid, self.terminate, self.kill = self._process.pid, self._process.terminate, self._process.kill

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired if the process runs for more than `timeout` seconds."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return code


Process = subprocess.Popen | Forked


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(config: dict) -> dict[str, str]:
    """This process's environment for a stage's processes: what they read once, when they start, as far as the user left it open."""
    processes = max(1, config.get("num_processes", 1) // config.get("num_machines", 1))
    settings = {
        "OMP_NUM_THREADS": str(max(1, cores() // processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        **MALLOC,
    }
    # The launcher passes it on to a single process only.
    cpu = {"ACCELERATE_USE_CPU": "true"} if config.get("use_cpu") else {}
    return settings | dict(os.environ) | cpu


def gpus() -> int | None:
    """How many GPUs this process may use, without importing torch; None where that is not known (AMD's)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    if not shutil.which("nvidia-smi"):
        return None if Path("/dev/kfd").exists() else 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def check_gpus(name: str, processes: int) -> None:
    """Raise UserError if an Accelerate config asks for more processes than this machine has GPUs, before torch does in traces."""
    found = gpus()
    if found is not None and found < processes:
        raise UserError(
            f"ACCELERATE_CONFIG = {name} asks for {processes} processes with a GPU each, and this machine shows {found}: set "
            "num_processes there, or leave ACCELERATE_CONFIG out"
        )


def run_together(start: Callable[[str], list[Process]]) -> int:
    """Run the processes that `start(said)` starts, and end all if one fails; returns the exit code.

    `said` is the path of a file in which they leave a user's error: it is printed once.
    """
    Path(".resume").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=".resume") as folder:  # where all machines of a cluster can write
        said = (Path(folder) / "error").absolute()
        sys.stdout.flush()
        processes = start(str(said))
        stopped: list[int] = []

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            end(processes, STOP_SECONDS)

        signal.signal(signal.SIGTERM, stop)
        try:
            failed = wait_for(processes, said)
        except KeyboardInterrupt:  # the terminal told them too
            end(processes, STOP_SECONDS)
            raise
        if stopped:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 0
        if said.is_file():
            print(f"error: {said.read_text()}", file=sys.stderr)
            return 1
    if failed and len(processes) > 1:
        print(f"process {', '.join(failed)} of {len(processes)} failed, the others were ended", file=sys.stderr)
    return 1 if failed else 0


def ranks(count: int) -> list[dict[str, str]]:
    """The environment of each of several processes on this machine, as torch.distributed reads it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()} for rank in range(count)]


def launcher(name: str, config: dict, stage: list[str]) -> list[str]:
    """The command by which Accelerate starts a stage's processes on this machine, or on all machines of a Slurm job."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", name]
    if config.get("num_machines", 1) > 1 and os.environ.get("SLURM_JOB_ID"):
        return over_slurm(command, config["num_machines"], stage)
    return [*command, "-m", *stage]


def over_slurm(launcher: list[str], machines: int, stage: list[str]) -> list[str]:
    """The command that runs Accelerate's launcher on each machine of a Slurm job, this one being the first.

    srun ends all of them as soon as one fails.
    """
    here = ["--main_process_ip", socket.gethostname()]
    everywhere = f'exec {shlex.join(launcher)} --machine_rank "$SLURM_NODEID" {shlex.join([*here, "-m", *stage])}'
    each = [f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
    return ["srun", *each, "--kill-on-bad-exit=1", "--label", "bash", "-c", everywhere]


def wait_for(processes: Sequence[Process], said: Path) -> list[str]:
    """Those of processes that failed, with their exit codes. They end together: if one fails, or has `said` why, all are ended."""
    while any(process.poll() is None for process in processes) and not _failed(processes) and not said.is_file():
        time.sleep(0.05)
    failed = _failed(processes)
    end(processes, END_SECONDS)
    return failed


def _failed(processes: Sequence[Process]) -> list[str]:
    codes = [process.poll() for process in processes]
    return [f"{rank} ({code})" for rank, code in enumerate(codes) if code]


def end(processes: Sequence[Process], seconds: float) -> None:
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
