"""Differences between two models over several seeds: their mean, two 95% intervals, and what these say of a published effect.

- Over seeds: Student's t on the differences at the seeds. A seed draws scenes, base, pairs and training anew, so the interval is
  about another run of everything, images included; with few seeds it is wide.
- Over images: from the bootstrap errors at each seed. It is about other images for these very models, and the narrower one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lookagain.errors import UserError

# Student's t at 97.5% by degrees of freedom, 1 to 9.
T975 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.306, 2.26216)
Z975 = 1.95996

SHOWS, HERE, NOT, AGAINST_HERE, AGAINST = (
    "shows",
    "shows at these seeds",
    "does not show",
    "opposite at these seeds",
    "opposite",
)


@dataclass(frozen=True)
class Gap:
    """A difference: mean over seeds, its value at each, and 95% intervals (None where there is no error to make one of)."""

    value: float
    at_seeds: list[float]
    over_seeds: tuple[float, float] | None
    over_images: tuple[float, float] | None


def difference(at_seeds: Sequence[float], errors: Sequence[float | None]) -> Gap:
    """The mean of differences at seeds, each with its standard error over images. Raises UserError for more than ten seeds."""
    count = len(at_seeds)
    if count > len(T975) + 1:
        raise UserError(f"a study has at most {len(T975) + 1} seeds, this one has {count}")
    mean = sum(at_seeds) / count
    seeds = None
    if count > 1:
        spread = math.sqrt(sum((value - mean) ** 2 for value in at_seeds) / (count - 1))
        seeds = _around(mean, T975[count - 2] * spread / math.sqrt(count))
    known = [error for error in errors if error is not None]
    images = _around(mean, Z975 * math.sqrt(sum(error**2 for error in known)) / count) if len(known) == count else None
    return Gap(mean, list(at_seeds), seeds, images)


def _around(mean: float, reach: float) -> tuple[float, float]:
    return mean - reach, mean + reach


def verdict(gap: Gap, better: str) -> str:
    """Whether a difference is there, in the direction `better` (up or down): by the interval over seeds, which must exclude 0.

    Where only the one over images does, with the same sign at every seed, it is there at these seeds, and no more is known.
    """
    sign = 1 if better == "up" else -1
    toward, away = _excludes(gap.over_seeds, sign), _excludes(gap.over_seeds, -sign)
    if toward or away:
        return SHOWS if toward else AGAINST
    if all(sign * value > 0 for value in gap.at_seeds) and _excludes(gap.over_images, sign):
        return HERE
    if all(sign * value < 0 for value in gap.at_seeds) and _excludes(gap.over_images, -sign):
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
