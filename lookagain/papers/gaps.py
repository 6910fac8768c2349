"""Differences between two models over several runs: their mean, two 95% intervals, and what these say of a published effect.

- Over runs: Student's t. With one run of each base the differences at the bases vary, and the interval is about another base; with
  several seeds of each base the base is a fixed factor, what varies is left within the bases, and the interval is about other
  seeds for these bases. With few runs it is wide.
- Over images: from the bootstrap errors of each run. It is about other images for these very models, and the narrower one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

Z975 = 1.95996

SHOWS, HERE, NOT, AGAINST_HERE, AGAINST = (
    "shows",
    "shows in these runs",
    "does not show",
    "opposite in these runs",
    "opposite",
)


@dataclass(frozen=True)
class Gap:
    """A difference: mean over bases, its value in each run, and 95% intervals (None where there is no error to make one of)."""

    value: float
    in_runs: list[float]
    over_runs: tuple[float, float] | None
    over_images: tuple[float, float] | None


def difference(in_runs: Sequence[float], errors: Sequence[float | None], bases: Sequence[str]) -> Gap:
    """The mean over bases of the differences in runs, each with its standard error over images and its base."""
    groups = [[value for value, base in zip(in_runs, bases, strict=True) if base == one] for one in dict.fromkeys(bases)]
    value = fmean(map(fmean, groups))
    weights = [1 / (len(groups) * bases.count(base)) for base in bases]
    within = len(in_runs) > len(groups)
    left = [one - (fmean(group) if within else value) for group in groups for one in group]
    freedom = len(in_runs) - (len(groups) if within else 1)
    runs = images = None
    if freedom:
        spread = math.sqrt(sum(one**2 for one in left) / freedom)
        runs = _around(value, float(stdtrit(freedom, 0.975)) * spread * math.hypot(*weights))
    known = [weight * error for weight, error in zip(weights, errors, strict=True) if error is not None]
    if len(known) == len(in_runs):
        images = _around(value, Z975 * math.hypot(*known))
    return Gap(value, list(in_runs), runs, images)


def _around(mean: float, reach: float) -> tuple[float, float]:
    return mean - reach, mean + reach


def verdict(gap: Gap, better: str) -> str:
    """Whether a difference is there, in the direction `better` (up or down): by the interval over runs, which must exclude 0.

    Where only the one over images does, with the same sign in every run, it is there in these runs, and no more is known.
    """
    sign = 1 if better == "up" else -1
    toward, away = _excludes(gap.over_runs, sign), _excludes(gap.over_runs, -sign)
    if toward or away:
        return SHOWS if toward else AGAINST
    if all(sign * value > 0 for value in gap.in_runs) and _excludes(gap.over_images, sign):
        return HERE
    if all(sign * value < 0 for value in gap.in_runs) and _excludes(gap.over_images, -sign):
        return AGAINST_HERE
    return NOT


def _excludes(interval: tuple[float, float] | None, sign: int) -> bool:
    """Whether an interval lies wholly on one side of 0."""
    return interval is not None and all(sign * end > 0 for end in interval)


def together(verdicts: Sequence[str]) -> str:
    """What the comparisons of one effect say of it."""
    for_it = sum(one in (SHOWS, HERE) for one in verdicts)
    against = sum(one in (AGAINST, AGAINST_HERE) for one in verdicts)
    if for_it == len(verdicts):
        return SHOWS if all(one == SHOWS for one in verdicts) else HERE
    if against:
        return f"{NOT}: the opposite is there in {against} of {len(verdicts)} comparisons"
    return f"shows in part, in {for_it} of {len(verdicts)} comparisons" if for_it else NOT
