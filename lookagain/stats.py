"""Standard errors and paired tests: bootstrap over resampling units, exact McNemar.

A unit is what was drawn independently (the image for POPE and CHAIR, not the question). A statistic is recomputed from the
resampled units' summed counts, so that ratios such as F1 and CHAIR_I have their own error and not that of a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # summed counts (..., k) -> value (...)


@dataclass(frozen=True)
class Difference:
    """A paired difference, first minus second, with its bootstrap error, 95% percentile interval and two-sided p-value."""

    value: float
    se: float
    low: float
    high: float
    p: float


def resample(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of counts over bootstrap resamples of the units: (units, k) -> (resamples, k), a function of the seed.

    Raises ValueError without units or resamples.
    """
    counts = np.asarray(counts, dtype=float)
    units = len(counts)
    if units == 0 or resamples < 1:
        raise ValueError(f"the bootstrap needs units and resamples, got {units} and {resamples}")
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, counts.shape[1]))
    for row in range(resamples):  # one weight vector at a time: memory does not grow with resamples x units
        weights = np.bincount(generator.integers(units, size=units), minlength=units)
        sums[row] = weights @ counts
    return sums


def bootstrap_se(counts: np.ndarray, statistic: Statistic, resamples: int, seed: int) -> float:
    """The bootstrap standard error of a statistic of summed counts (units, k)."""
    return spread(statistic(resample(counts, resamples, seed)))


def spread(draws: np.ndarray) -> float:
    """The standard error that draws of a statistic (resamples,) show; 0 for a single draw."""
    return float(np.std(draws, ddof=1)) if len(draws) > 1 else 0.0


def paired_bootstrap(first: np.ndarray, second: np.ndarray, statistic: Statistic, resamples: int, seed: int) -> Difference:
    """The difference of a statistic between two models on the same units, resampled together: counts (units, k) each.

    Raises ValueError if the shapes differ.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"a paired test needs the same units on both sides, got {first.shape} and {second.shape}")
    width = first.shape[1]
    sums = resample(np.concatenate([first, second], axis=1), resamples, seed)
    value = statistic(first.sum(0)) - statistic(second.sum(0))
    return difference(float(value), statistic(sums[:, :width]) - statistic(sums[:, width:]))


def difference(value: float, draws: np.ndarray) -> Difference:
    """What paired draws of a difference (resamples,) say about its value.

    The p-value inverts the percentile interval: twice the smaller share of draws on either side of 0, with one added to count
    and total, so that it is never 0.
    """
    low, high = np.percentile(draws, [2.5, 97.5])
    tail = min(np.sum(draws <= 0), np.sum(draws >= 0)) + 1
    return Difference(float(value), spread(draws), float(low), float(high), min(1.0, float(2 * tail / (len(draws) + 1))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the given order: the chance of any false positive among them stays below the level."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """The exact two-sided McNemar p-value of two models' 0/1 scores on the same questions, in the same order.

    Only questions on which they differ count; given n of those, each side's share is Binomial(n, 1/2). 1 if they never differ.
    Raises ValueError if the lengths differ or a score is neither 0 nor 1.
    """
    if len(first) != len(second):
        raise ValueError(f"McNemar needs the same questions on both sides, got {len(first)} and {len(second)}")
    if bad := {*first, *second} - {0, 1}:
        raise ValueError(f"McNemar needs scores of 0 or 1, got {sorted(bad)[:3]}")
    wins = sum(a > b for a, b in zip(first, second, strict=True))
    losses = sum(a < b for a, b in zip(first, second, strict=True))
    total = wins + losses
    tail = term = 1  # whole numbers: exact for any count
    for k in range(1, min(wins, losses) + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, tail / 2 ** (total - 1)) if total else 1.0
