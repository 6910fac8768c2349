"""The counts and figures that most benchmarks share: how many answers are right, and from how many none could be read.

Each split says how many answers it has, so that the accuracy over several splits is that of their answers together, as the
official scripts compute it, and not a mean of means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

METRICS: tuple[str, ...] = ("accuracy", "unparsed", "n")  # percent, answers, answers


def count(results: Iterable[tuple[float, bool]]) -> tuple[float, ...]:
    """(answers, sum of their scores, answers that could not be read) from (score in 0-1, whether it could be read)."""
    pairs = list(results)
    return float(len(pairs)), float(sum(score for score, _ in pairs)), float(sum(not parsed for _, parsed in pairs))


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The figures from summed counts (..., 3)."""
    n, right, unparsed = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return {"accuracy": percent(right, n), "unparsed": unparsed, "n": n}


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 part / whole; 0 where the whole is 0."""
    return 100 * part / np.where(whole == 0, 1, whole)


def pooled(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all splits' answers together."""
    return pool(scores_by_split, ("accuracy",), ("unparsed", "n"))


def pool(
    scores_by_split: Mapping[str, Mapping[str, float]], rates: Iterable[str], totals: Iterable[str], weight: str = "n"
) -> dict[str, float]:
    """Rates averaged with each split's weight, and totals added up; {} without a split."""
    splits = list(scores_by_split.values())
    if not splits:
        return {}
    whole = sum(split[weight] for split in splits)
    means = {name: sum(split[name] * split[weight] for split in splits) / np.maximum(whole, 1) for name in rates}
    return means | {name: sum(split[name] for split in splits) for name in totals}
