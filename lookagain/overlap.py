"""How far benchmarks' images lie from the unlabeled ones that self-training uses: STIC's Figures 8 and 14.

The paper shows t-SNE maps of 1,000 images of COCO and of each of four benchmarks, and judges the overlap by eye. Beside the map
stands a figure here, taken in the features' own space, as a map of two dimensions has lost most distances: how often an image's
neighbours are unlabeled images, where both sets are of one size. 100% means as often as in a random mixture, 0% never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lookagain.records import Metric

NEIGHBOURS = 10
PERPLEXITY = 30.0  # of t-SNE, at most a third of the images


def overlap(sample: np.ndarray, other: np.ndarray) -> Metric:
    """The overlap of `other` with `sample`, in %, with its standard error over images: (n, width) and (m, width), of unit length.

    The larger set is cut to the size of the smaller one. Null with fewer than two images of each.
    """
    size = min(len(sample), len(other))
    if size < 2:
        return Metric(None, reason="fewer than two images")
    sample, other = sample[:size], other[:size]
    cosines = other @ np.concatenate([sample, other]).T  # (size, 2 size)
    cosines[np.arange(size), size + np.arange(size)] = -np.inf  # no image is its own neighbour
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, size)]
    shares = (nearest < size).mean(axis=1) * (2 * size - 1) / size
    return Metric(100 * float(shares.mean()), 100 * float(shares.std(ddof=1)) / math.sqrt(size), size)


def tsne(features: Mapping[str, np.ndarray], seed: int) -> dict[str, list[list[float]]]:
    """A map of all images together, in two dimensions: by set a point for each image. Few images make an empty map."""
    from sklearn.manifold import TSNE  # seconds, which only this needs

    together = np.concatenate(list(features.values()))
    perplexity = min(PERPLEXITY, len(together) / 3)
    if perplexity < 2:
        return {name: [] for name in features}
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(together)
    ends = np.cumsum([len(part) for part in features.values()])
    parts = np.split(points, ends[:-1])
    return {
        name: [[round(float(x), 2), round(float(y), 2)] for x, y in part] for name, part in zip(features, parts, strict=True)
    }
