"""What a pair source asks of the policy: plans of responses to generate, made from ids and a seed alone.

STIC Algorithm 1, as the paper has it. The released generator differs: it never applies the corruption it records.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookagain.prompts import STIC_BAD, STIC_CAPTION, STIC_STEP_BY_STEP
from lookagain.records import Pair, Provenance
from lookagain.seeds import derive

CLEAN: dict[str, Any] = {"name": "none"}


@dataclass(frozen=True)
class Ask:
    """One response to generate: a prompt about an image, as a transform shows it."""

    id: str
    image_id: str
    prompt: str
    transform: Mapping[str, Any]


@dataclass(frozen=True)
class PairPlan:
    """A pair to be: its training prompt, and how its two responses are made."""

    id: str
    image_id: str
    method: str
    prompt: str
    chosen: Ask
    rejected: Ask

    def pair(self, chosen: str, rejected: str, decoding: Mapping[str, Any], seed: int) -> Pair:
        """The pair, once its responses are there."""
        made = [Provenance(ask.prompt, dict(ask.transform), dict(decoding), seed) for ask in (self.chosen, self.rejected)]
        return Pair(self.id, self.image_id, self.method, self.prompt, chosen, [rejected], made[0], [made[1]])


def plan_stic(
    image_ids: Sequence[str], seed: int, bad_prompt_share: float, low_resolution: int, brightness: float, hue: float
) -> list[PairPlan]:
    """STIC Algorithm 1, one pair per image.

    Chosen: the step-by-step prompt on the clean image. Rejected: with probability `bad_prompt_share` a bad prompt on the clean
    image, else the caption prompt on a corrupted one (low resolution or colour jitter, half each). Both are trained on the
    caption prompt, uniform from the eight, and the clean image.
    """
    plans = []
    for image_id in image_ids:
        draw = random.Random(derive(seed, "stic", image_id))
        caption, bad = draw.choice(STIC_CAPTION), draw.choice(STIC_BAD)
        shades = {
            "name": "colour_jitter",
            "brightness": draw.uniform(1 - brightness, 1 + brightness),
            "hue": draw.uniform(-hue, hue),
        }
        corruption = draw.choice([{"name": "low_resolution", "size": low_resolution}, shades])
        prompt, transform = (bad, CLEAN) if draw.random() < bad_prompt_share else (caption, corruption)
        chosen = Ask(f"stic/{image_id}/chosen", image_id, STIC_STEP_BY_STEP, CLEAN)
        rejected = Ask(f"stic/{image_id}/rejected", image_id, prompt, transform)
        plans.append(PairPlan(f"stic/{image_id}", image_id, "stic", caption, chosen, rejected))
    return plans


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Items in batches, those of one prompt together, so that rows of a batch are about equally long; the order is by id within."""
    ordered = sorted(items, key=lambda item: (len(item.prompt), item.prompt, item.id))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
