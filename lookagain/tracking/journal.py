"""What stages tell about themselves: small files under `.tracking/<experiment>/<stage>/`. Nothing here needs MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from ruamel.yaml import YAML

from lookagain.records import atomic_write
from lookagain.runtime import root

FIRST_SEND = 60.0  # seconds after which a running stage is first sent; each further wait is twice as long


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
        folder = experiment_folder() / f"{stage_name}.{int(time.time() * 1000)}"
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


def params_hash(raw: Mapping[str, Any]) -> str:
    """A short hash of a params file's content as read (comments and order do not count)."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:8]


def experiment_folder() -> Path:
    """`.tracking/<experiment>/`, with its name and params written once."""
    raw = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
    digest = params_hash(raw)
    name = os.environ.get("DVC_EXP_NAME") or f"repro-{git_revision()}-{digest}"
    folder = root() / ".tracking" / f"{name}.{digest}"
    if not (folder / "experiment.json").is_file():
        with atomic_write(folder / "experiment.json") as file:
            json.dump({"name": name, "params": raw}, file)
    return folder


def git_revision() -> str:
    """The commit that is checked out, short."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "nogit"
