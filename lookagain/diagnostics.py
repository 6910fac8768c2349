"""What a set of preference pairs is like: how many, how long, how far apart, how relevant to their images, how probable, and how
often each side names absent objects.

Figures are `records.Metric`s under `pairs/<side>/<name>`: side is all, chosen or rejected. CHAIR_I is over all responses of a side,
where the objects of the images are known: nothing but these figures reads them, no method does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lookagain import stats
from lookagain.metrics import chair
from lookagain.records import Metric, Pair

RESAMPLES = 500
NO_TRUTH = "the objects of these images are not known"
NO_RELEVANCE = "this method does not score how relevant a response is to its image"
NO_LOGPS = "training kept no log-probabilities under the reference"
NO_MARGIN = "trained on the chosen responses alone: there is no reward margin"
LAST_SHARE = 10  # the reward margin is the mean over the last one in ten steps


def diagnose(
    pairs: Sequence[Pair],
    counts: Mapping[str, int],
    log: Sequence[Mapping[str, float]],
    truth: Mapping[str, frozenset[str]],
    seed: int,
    references: Mapping[str, Sequence[float]],
) -> dict[str, Metric]:
    """All figures of one set of pairs.

    `counts` are those that its source made on the way, `log` the training's on these pairs, `truth` the objects by image id.
    `references` are the responses' log-probs under the policy that the training started from, by pair, the chosen one first.
    Lengths are in words, log-probs in nats and summed over a response. Responses that a pair has several of count each.
    """
    figures = {f"pairs/all/{name}": Metric(float(count)) for name, count in counts.items()}
    chosen = [(pair.image_id, pair.chosen) for pair in pairs]
    rejected = [(pair.image_id, text) for pair in pairs for text in pair.rejected]
    for side, responses in (("chosen", chosen), ("rejected", rejected)):
        figures[f"pairs/{side}/length"] = mean([len(text.split()) for _, text in responses])
        figures[f"pairs/{side}/chair_i"] = chair_i(responses, truth, seed)
        figures[f"pairs/{side}/relevance"] = mean(relevances(pairs, side), NO_RELEVANCE)
        figures[f"pairs/{side}/logp"] = mean(logps(references, side), NO_LOGPS)
    gaps = [len(pair.chosen.split()) - sum(len(text.split()) for text in pair.rejected) / len(pair.rejected) for pair in pairs]
    figures["pairs/all/length_gap"] = mean(gaps)
    return figures | {"pairs/all/reward_margin": reward_margin(log)}


def relevances(pairs: Sequence[Pair], side: str) -> list[float]:
    """R_I (CSR Eq. 3) of all chosen or all rejected responses that have one."""
    made = [one for pair in pairs for one in ([pair.chosen_provenance] if side == "chosen" else pair.rejected_provenance)]
    return [one.relevance for one in made if one.relevance is not None]


def logps(references: Mapping[str, Sequence[float]], side: str) -> list[float]:
    """Log-probs of all chosen or all rejected responses."""
    return [value for pair in references.values() for value in (pair[:1] if side == "chosen" else pair[1:])]


def mean(values: Sequence[float], unknown: str = "there are none") -> Metric:
    """A mean with its standard error; null with the reason `unknown` where there are no values."""
    if not values:
        return Metric(None, reason=unknown)
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


def read_references(model: Path | str) -> dict[str, list[float]]:
    """The log-probs that a model's training kept; empty where it kept none."""
    path = Path(model) / "reference_logps.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _round(value: float) -> float:
    return float(f"{value:.6g}")
