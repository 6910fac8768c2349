"""Two ways of doing the same, timed in turn, and the limit that the machine sets to both."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Done:
    """One run of a side: how much was done, in how many seconds, and what came out."""

    count: int
    seconds: float
    outputs: list[Any]


@dataclass(frozen=True)
class Row:
    """A line of reports/bench.json: medians of both sides' rates and their ratio; `floor_ratio` is our rate by the limit's."""

    path: str
    peer: float
    ours: float
    ratio: float
    at_least: float  # the ratio that is the goal
    floor_ratio: float | None
    unit: str
    peer_way: str
    floor: str  # its formula, or why there is none
    machine: str


Side = Callable[[], Done]
Agree = Callable[[Any, Any], bool]


def timed(work: Callable[[], list[Any]], count: Callable[[list[Any]], int] = len) -> Done:
    """Run some work; what was done is its outputs, counted."""
    start = time.perf_counter()
    outputs = work()
    return Done(count(outputs), time.perf_counter() - start, outputs)


def side_by_side(name: str, peer: Side, ours: Side, rounds: int, agree: Agree) -> tuple[float, float]:
    """Medians of both sides' rates over rounds in turn, after one that warms up.

    The peer may do less than we do: its outputs are compared with our first ones. Raises ValueError where they differ.
    """
    rates: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(rounds + 1):
        slow, fast = peer(), ours()
        differ = sum(not agree(*pair) for pair in zip(slow.outputs, fast.outputs, strict=False))
        if differ or len(slow.outputs) > len(fast.outputs):
            raise ValueError(f"{name}: {differ} of {len(slow.outputs)} outputs differ: both sides must do the same")
        if number:
            rates["peer"].append(slow.count / slow.seconds)
            rates["ours"].append(fast.count / fast.seconds)
    return statistics.median(rates["peer"]), statistics.median(rates["ours"])


def near(tolerance: float) -> Agree:
    """Whether two numbers are equal but for rounding."""
    return lambda one, other: math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


def peak_flops(size: int = 1024, rounds: int = 8) -> float:
    """FLOPs a second of a large fp32 multiplication with this process's threads: the limit of all arithmetic here."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def machine() -> str:
    """What the figures were measured on, in one line: processor, threads, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if info.is_file() and names else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    return f"{processor}, {torch.get_num_threads()} threads; {versions}"


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as they are written."""
    return [asdict(row) for row in rows]
