"""How the benchmarks' images overlap with the unlabeled ones (STIC, Figures 8 and 14), by the features of the scorer.

Run:    python -m lookagain.launch measure_overlap
Reads:  data/sample/, data/benchmarks/<evaluate.split>/, models/scorer
Writes: data/overlap.json: {"overlap": {set: Metric}, "points": {set: [[x, y], ...]}}; a set is `unlabeled`, `scenes` (the images
        of POPE and CHAIR) or another benchmark

It departs from the paper in the number of images (IMAGES of each set) and in CLIP's features; the paper does not name its own.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from lookagain import runtime, tracking
from lookagain.images import ImageStore
from lookagain.overlap import overlap, tsne
from lookagain.params import load_params
from lookagain.records import atomic_write
from lookagain.rewards import ImageTextScorer
from lookagain.seeds import derive

IMAGES = 120  # of each set, drawn by seed
BATCH = 50


def main() -> None:
    """Encode a few images of each set, and compare the sets."""
    params = load_params()
    benchmarks = Path(f"data/benchmarks/{params.evaluate.split}")
    with (
        runtime.stage("measure_overlap", {"seed": params.seed}, ["data/sample", benchmarks, "models/scorer"]) as run,
        tracking.child("measure_overlap", {"images": IMAGES}, enabled=run.is_main) as track,
    ):
        if not run.is_main:
            return
        folders = {"unlabeled": Path("data/sample/images"), "scenes": benchmarks / "images"}
        folders |= {path.parent.name: path for path in sorted(benchmarks.glob("*/images"))}
        scorer = ImageTextScorer("models/scorer", run.device)
        features = {name: encode(scorer, path, params.seed, params.data.max_image_pixels) for name, path in folders.items()}
        found = {name: overlap(features["unlabeled"], part) for name, part in features.items() if name != "unlabeled"}
        points = tsne(features, derive(params.seed, "t-SNE"))
        with atomic_write(Path("data/overlap.json")) as file:
            json.dump({"overlap": {name: dataclasses.asdict(metric) for name, metric in found.items()}, "points": points}, file)
        track.metrics({f"overlap/{name}": metric.value for name, metric in found.items() if metric.value is not None})
        print(", ".join(f"{name} {metric.value or 0:.0f}%" for name, metric in found.items()))


def encode(scorer: ImageTextScorer, folder: Path, seed: int, max_pixels: int) -> np.ndarray:
    """Features of unit length of images drawn by seed, (images, width)."""
    store = ImageStore(folder, max_pixels)
    drawn = sorted(store.ids, key=lambda one: (derive(seed, "overlap", one), one))[:IMAGES]
    parts = [scorer.encode_images([store.load(one) for one in drawn[i : i + BATCH]]) for i in range(0, len(drawn), BATCH)]
    return np.concatenate([part.numpy() for part in parts])
