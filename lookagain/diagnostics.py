"""What a set of preference pairs is like: how many, how long, how far apart, and how often each side names absent objects.

Figures are `records.Metric`s under `pairs/<side>/<name>`: side is all, chosen or rejected. CHAIR_I is over all responses of a side,
where the objects of the images are known: nothing but these figures reads them, no method does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lookagain import stats
from lookagain.metrics import chair
from lookagain.records import Metric, Pair

RESAMPLES = 500
NO_TRUTH = "the objects of these images are not known"
NO_MARGIN = "trained on the chosen responses alone: there is no reward margin"
LAST_SHARE = 10  # the reward margin is the mean over the last one in ten steps


def diagnose(
    pairs: Sequence[Pair],
    counts: Mapping[str, int],
    log: Sequence[Mapping[str, float]],
    truth: Mapping[str, frozenset[str]],
    seed: int,
) -> dict[str, Metric]:
    """All figures of one set of pairs.

    `counts` are those that its source made on the way, `log` the training's on these pairs, `truth` the objects by image id.
    Lengths are in words. Responses that a pair has several of count each.
    """
    figures = {f"pairs/all/{name}": Metric(float(count)) for name, count in counts.items()}
    chosen = [(pair.image_id, pair.chosen) for pair in pairs]
    rejected = [(pair.image_id, text) for pair in pairs for text in pair.rejected]
    for side, responses in (("chosen", chosen), ("rejected", rejected)):
        figures[f"pairs/{side}/length"] = mean([len(text.split()) for _, text in responses])
        figures[f"pairs/{side}/chair_i"] = chair_i(responses, truth, seed)
    gaps = [len(pair.chosen.split()) - sum(len(text.split()) for text in pair.rejected) / len(pair.rejected) for pair in pairs]
    figures["pairs/all/length_gap"] = mean(gaps)
    return figures | {"pairs/all/reward_margin": reward_margin(log)}


def mean(values: Sequence[float]) -> Metric:
    """A mean with its standard error."""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Metric(_round(float(np.mean(values))), None if spread is None else _round(spread), len(values))


def chair_i(responses: Sequence[tuple[str, str]], truth: Mapping[str, frozenset[str]], seed: int) -> Metric:
    """The percentage of object mentions in (image id, response)s that are of absent objects, and its bootstrap error."""
    known = [(image_id, text) for image_id, text in responses if image_id in truth]
    if not known:
        return Metric(None, reason=NO_TRUTH)
    counts = np.array([chair.count(text, truth[image_id]) for image_id, text in known])
    if not counts[:, chair.COLUMNS.index("mentions")].sum():
        return Metric(None, reason="these responses mention no object")
    sums = stats.resample(counts, RESAMPLES, seed)
    drawn = stats.spread(np.asarray(chair.score(sums)["chair_i"]))
    return Metric(_round(float(chair.score(counts.sum(0))["chair_i"])), _round(drawn), len(known))


def reward_margin(log: Sequence[Mapping[str, float]]) -> Metric:
    """The mean DPO reward margin over the last tenth of the training's steps."""
    margins = [entry["reward_margin"] for entry in log if "reward_margin" in entry]
    if not margins:
        return Metric(None, reason=NO_MARGIN)
    return mean(margins[-max(1, len(margins) // LAST_SHARE) :])


def _round(value: float) -> float:
    return float(f"{value:.6g}")
