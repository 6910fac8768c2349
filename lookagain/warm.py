"""Start stages from a process that has imported their libraries: `python -m lookagain.warm COMMAND...` runs a command, such as
`dvc repro`, whose stages do so.

Importing torch and transformers takes a stage seconds, and a pipeline has dozens of stages. Here one process imports them once
and forks itself for each stage, which then imports LookAgain's own modules, as they are at that time. It ends with the command.
Stages that need a GPU start without it: CUDA does not outlive a fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lookagain.processes import CAN_FORK, cores, environment

WARM = "LOOKAGAIN_WARM"  # for a command's stages: the server's socket, and the Python that it is
LIBRARIES = (
    "accelerate",
    "open_clip",
    "peft",
    "torchvision.transforms.v2",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip",
)
# Those of some stages, imported while the first stage runs.
LATER = ("trl.trainer.dpo_trainer", "sklearn.manifold", "matplotlib.pyplot")


def main(command: list[str]) -> int:
    """Run a command beside a server for its stages; returns its exit code."""
    with serving():
        running = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda *_: running.terminate())
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command too
        return running.wait()


@contextmanager
def serving() -> Iterator[None]:
    """Stages that this process's commands run start from a server, as long as the block lasts."""
    if not CAN_FORK:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lookagain-") as folder:
        path, settings = f"{folder}/socket", environment({"use_cpu": True, "num_processes": cores()})
        server = subprocess.Popen(
            [sys.executable, "-m", "lookagain.warm", "--serve", path], stdin=subprocess.PIPE, env=settings
        )
        os.environ[WARM] = f"{path}{os.pathsep}{sys.prefix}"
        try:
            yield
        finally:
            del os.environ[WARM]
            server.communicate()  # its input ends, and so does it


def ask(arguments: list[str]) -> int | None:
    """The exit code of a stage that the server runs as this process would run it; None if there is no server."""
    path, _, python = os.environ.get(WARM, "").partition(os.pathsep)
    if python != sys.prefix:
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
        except OSError:
            return None
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps([arguments, str(Path.cwd()), sys.path, dict(os.environ)]).encode() + b"\n")
        said = server.makefile()
        process = int(said.readline())
        signal.signal(signal.SIGTERM, lambda *_: os.kill(process, signal.SIGTERM))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells it too
        code = said.readline()
    if not code:
        print(f"the stage's process {process} was killed", file=sys.stderr)
    return int(code or 1)


def serve(path: str) -> None:
    """Fork for each stage that is asked for, until standard input ends."""
    gc.disable()
    _import(LIBRARIES)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        later: tuple[str, ...] = LATER
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            client = listener.accept()[0]
            if os.fork() == 0:
                listener.close()
                _run(client)
            client.close()
            _import(later)
            later = ()


def _import(names: Iterable[str]) -> None:
    for name in names:
        importlib.import_module(name)
    gc.freeze()


def _run(client: socket.socket) -> None:
    """Run the stage that a client asks for, in this process, and end with it."""
    import torch

    streams = socket.recv_fds(client, 1, 3)[1]
    arguments, folder, sys.path[:], environment = json.loads(client.makefile().readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lookagain"]:
        del sys.modules[name]  # the stage's own may lie elsewhere
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client.sendall(f"{os.getpid()}\n".encode())
    code = 1
    try:
        from lookagain import launch  # as it is now

        code = launch.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(f"{code}\n".encode())
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
        os._exit(0)  # nothing to take apart
    else:
        sys.exit(main(sys.argv[1:]))
