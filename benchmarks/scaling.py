"""How cost grows: time and memory by images, candidates and sentences, as stages run them.

Needs models/base, models/scorer and data/pool (`dvc repro`). Each sweep has a process of its own, so that its peak of memory is
its own. Writes reports/scaling.json, {sweep: [{"size", "seconds", "mb"}]}, and docs/scaling.png.

    python -m benchmarks.scaling                 about 3 minutes
    python -m benchmarks.scaling --small         the same with a few images, in half a minute
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE, PICTURE = Path("reports/scaling.json"), Path("docs/scaling.png")
SWEEPS = {
    "images": "responses, batches of 64, by images",
    "candidates": "sentence search, by candidates of a node",
    "sentences": "sentence search, by sentences of a response",
}
SIZES = {"images": (64, 256, 1024), "candidates": (5, 10, 25), "sentences": tuple(range(1, 9))}
SMALL = {"images": (4, 8, 16), "candidates": (2, 4), "sentences": (1, 2, 3)}


def sweep(name: str, small: bool) -> list[dict[str, float]]:
    """Measure one sweep in this process, from its smallest size up: seconds, and the peak of memory."""
    from lookagain.generation import Decoding, Request, respond
    from lookagain.images import ImageStore
    from lookagain.params import load_params
    from lookagain.policy import load_policy
    from lookagain.prompts import CSR_DESCRIBE
    from lookagain.rewards import ImageTextScorer
    from lookagain.search import search

    params = load_params()
    sizes = (SMALL if small else SIZES)[name]
    policy, store = load_policy("models/base", params.policy.loading), ImageStore("data/pool/images", 10**8)
    requests = [Request(one, one, CSR_DESCRIBE[place % len(CSR_DESCRIBE)]) for place, one in enumerate(store.ids)]
    decoding = Decoding(0.0, 1.0, params.evaluate.chair.max_new_tokens)

    def responses(count: int) -> None:
        for start in range(0, count, 64):
            respond(policy, requests[start : min(start + 64, count)], lambda one: store.load(one.image_id), decoding, 0)

    def trees(candidates: int, sentences: int) -> None:
        settings = dataclasses.replace(params.csr.search, candidates=candidates, max_sentences=sentences)
        batch = requests[: 2 if small else 16]
        scorer = ImageTextScorer("models/scorer")
        search(policy, [store.load(one.image_id) for one in batch], batch, scorer, settings, params.lambda_, params.seed)

    work: dict[str, Callable[[int], None]] = {
        "images": responses,
        "candidates": lambda size: trees(size, params.csr.search.max_sentences),
        "sentences": lambda size: trees(params.csr.search.candidates, size),
    }
    work[name](sizes[0])  # warms up
    found = []
    for size in sizes:
        seconds = []
        for _ in range(1 if size == max(sizes) else 2):
            start = time.perf_counter()
            work[name](size)
            seconds.append(time.perf_counter() - start)
        found.append({"size": size, "seconds": min(seconds), "mb": peak_mb()})
    return found


def peak_mb() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def exponent(points: list[dict[str, float]], key: str) -> float:
    """p of cost ~ size^p between the smallest and the largest size: 1 is linear, less is sub-linear."""
    first, last = points[0], points[-1]
    return math.log(last[key] / first[key]) / math.log(last["size"] / first["size"])


def plot(found: dict[str, list[dict[str, float]]], picture: Path) -> None:
    """Time and memory of each sweep, with the line that doubling sizes would double."""
    from lookagain.report.style import BLUE, INK, ORANGE, STYLE, plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(found), figsize=(11, 5.2), layout="constrained")
        for column, (name, points) in enumerate(found.items()):
            sizes = [point["size"] for point in points]
            for row, (key, unit, colour) in enumerate((("seconds", "seconds", BLUE), ("mb", "peak memory, MB", ORANGE))):
                axis, values = axes[row][column], [point[key] for point in points]
                axis.plot(sizes, values, "o-", color=colour)
                if key == "seconds":
                    linear = [values[0] * size / sizes[0] for size in sizes]
                    axis.plot(sizes, linear, "--", color=INK, alpha=0.5, label="linear")
                    axis.set_title(SWEEPS[name].replace(", by", ",\nby"))
                    axis.legend()
                axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
                axis.set_xticks(sizes)
                axis.set_xlabel(name)
                axis.set_ylabel(unit)
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, facecolor="white", metadata={"Software": None})
        plt.close(figure)


def main(small: bool) -> dict[str, Any]:
    """Run all sweeps, each in a process; write and plot what they found."""
    from lookagain.records import atomic_write

    found = {}
    for name in SWEEPS:
        command = [sys.executable, "-m", "benchmarks.scaling", "--sweep", name, *(["--small"] if small else [])]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(ran.stdout)
        grows = exponent(found[name], "seconds")
        print(f"{SWEEPS[name]}: seconds ~ size^{grows:.2f}; {found[name]}")
    with atomic_write(FILE) as file:
        json.dump(found, file, indent=1)
    plot(found, PICTURE)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks.scaling")
    parser.add_argument("--small", action="store_true", help="few images")
    parser.add_argument("--sweep", choices=sorted(SWEEPS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.sweep:
        print(json.dumps(sweep(chosen.sweep, chosen.small)))
    else:
        main(chosen.small)
