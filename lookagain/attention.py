"""Where a policy looks while it describes an image: CSR's Figure 6, the attention on image tokens and on text tokens.

The paper shows maps of one example for each of three models. Here are shares, in %, over many images: of all attention that a
response's tokens are written with, the part on the image's tokens, on the rest of the prompt, and on the response so far. They add
up to 100. Each model is forced along its own description, and along the base's: a description of another length or content
changes the shares by itself, and only with the same text is a difference the model's own.

Attention is the mean over heads, and over layers where none is named. What it says is limited: some tokens draw attention that
nothing depends on (the first one, mostly), and a share is no measure of use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookagain import stats
from lookagain.losses import IGNORE
from lookagain.policy import Policy, PolicyError
from lookagain.records import Metric
from lookagain.seeds import derive
from lookagain.training.collate import Example, Rows, collate
from lookagain.transforms import Shown

KINDS = ("image", "prompt", "response")  # of tokens that are looked at
TEXTS = ("own", "same")  # the model's own description, and the base's
BIN = 8  # response tokens that stand together in a curve over positions


@dataclass(frozen=True)
class Text:
    """A description that a model is forced along."""

    id: str
    image_id: str
    prompt: str
    response: str


# Of one text: "layers" (layers, 3), the shares by layer and kind; "positions", the share on the image by bin of response tokens.
Shares = dict[str, list[Any]]


@torch.inference_mode()
def attention(policy: Policy, texts: Sequence[Text], load_image: Callable[[str], Shown]) -> list[Shares]:
    """The shares of attention of one batch of texts, each in [0, 1].

    Of a layer's maps (rows, heads, length, length) only (rows, length, 3) is kept, before the next layer is computed. Raises
    PolicyError for a model that was not loaded with eager attention: others compute no such maps.
    """
    groups = [[_example(policy, text)] for text in texts]
    rows = collate(policy, groups, load_image, max_length=2**31)
    with _recorded(policy, rows) as layers:
        policy.forward(
            rows.ids.to(policy.device),
            rows.features,
            rows.positions.to(policy.device),
            attention_mask=rows.mask.to(policy.device),
            use_cache=False,
            logits_to_keep=1,
        )
    whole = torch.stack(layers, dim=1).cpu()  # (rows, layers, length, 3)
    written = rows.labels != IGNORE
    # The token before a response's token is the one that looks in order to write it.
    return [_shares(whole[row][:, written[row].nonzero()[:, 0] - 1]) for row in range(len(texts))]


def _example(policy: Policy, text: Text) -> Example:
    """A text's tokens after the image, without EOS, which a description that was cut has not."""
    suffix, response = policy.suffix(text.prompt), policy.response(text.prompt, text.response)
    return Example(text.image_id, [*suffix, *response], [False] * len(suffix) + [True] * len(response))


@contextmanager
def _recorded(policy: Policy, rows: Rows) -> Iterator[list[Tensor]]:
    """Fills the list with each layer's shares (rows, length, 3) while the model runs."""
    image = (rows.ids == policy.model.config.image_token_id).float()
    response = (rows.labels != IGNORE).float()
    kinds = torch.stack([image, 1 - image - response, response], dim=-1).to(policy.device)  # (rows, length, 3)
    layers: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        if output[1] is None:
            raise PolicyError("attention maps need a model loaded with eager attention; this one's layers return none")
        layers.append(output[1].float().mean(1) @ kinds)

    hooks = [layer.self_attn.register_forward_hook(keep) for layer in policy.model.get_decoder().layers]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def _shares(found: Tensor) -> Shares:
    """The shares of one text from those of each of its tokens: (layers, tokens, 3)."""
    over_tokens = found[..., 0].mean(0)
    return {
        "layers": found.mean(1).tolist(),
        "positions": [float(part.mean()) for part in over_tokens.split(BIN)],
    }


def summary(
    own: Mapping[str, Sequence[Shares]], same: Mapping[str, Sequence[Shares]], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """What is written of each model, the base first: its figures, and its curves by layer and over positions.

    own, same: by model the shares along its own descriptions and along the base's, of the same images in the same order.
    Figures are Metrics `<text>/<kind>`, and `<text>/image_vs_base` and its p-value, by the bootstrap over images.
    """
    base = next(iter(own))
    found: dict[str, dict[str, Any]] = {}
    for model in own:
        figures: dict[str, Metric] = {}
        curves: dict[str, Any] = {"layers": {}, "positions": {}}
        for name, by_model in zip(TEXTS, (own, same), strict=True):
            shares = _layers(by_model[model])  # (images, layers, 3)
            for kind, values in zip(KINDS, shares.mean(1).T, strict=True):
                figures[f"{name}/{kind}"] = _mean(values, resamples, derive(seed, "attention", kind))
            figures |= _against(shares, _layers(by_model[base]), name, resamples, seed) if model != base else {}
            curves["layers"][name] = [_point(values) for values in shares[..., 0].T]
            curves["positions"][name] = _positions([one["positions"] for one in by_model[model]])
        found[model] = {"figures": figures, **curves}
    return found


def _layers(shares: Sequence[Shares]) -> np.ndarray:
    """(images, layers, 3), in %."""
    return 100 * np.array([one["layers"] for one in shares])


def _mean(values: np.ndarray, resamples: int, seed: int) -> Metric:
    """The mean over images with its bootstrap error and 95% interval."""
    draws = _average(stats.resample(_counts(values), resamples, seed))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Metric(float(values.mean()), stats.spread(draws), len(values), low=float(low), high=float(high))


def _against(mine: np.ndarray, base: np.ndarray, text: str, resamples: int, seed: int) -> dict[str, Metric]:
    """How a model's share on the image differs from the base's, on the same images."""
    counts = [_counts(shares[..., 0].mean(1)) for shares in (mine, base)]
    gap = stats.paired_bootstrap(counts[0], counts[1], _average, resamples, derive(seed, "attention", text))
    return {
        f"{text}/image_vs_base": Metric(gap.value, gap.se, len(mine), low=gap.low, high=gap.high),
        f"{text}/image_p_vs_base": Metric(gap.p, n=len(mine)),
    }


def _counts(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def _average(counts: np.ndarray) -> np.ndarray:
    return counts[..., 0] / counts[..., 1]


def _positions(shares: Sequence[Sequence[float]]) -> list[list[float]]:
    """[mean, standard error] in % of each bin that at least half of the descriptions reach: fewer would be other images."""
    reached = [[100 * one[place] for one in shares if len(one) > place] for place in range(max(map(len, shares)))]
    return [_point(np.array(values)) for values in reached if 2 * len(values) >= len(shares)]


def _point(values: np.ndarray) -> list[float]:
    """[mean, standard error] over images."""
    return [float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0]
