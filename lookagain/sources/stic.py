"""STIC Algorithm 1, one pair per unlabeled image.

Chosen: the step-by-step prompt on the clean image. Rejected: a bad prompt on the clean image, else the caption prompt on a
corrupted one. Both are trained on the caption prompt, uniform from the eight, and the clean image; equal responses are kept.

The released generator differs: it records the corruption and never applies it (`corrupt: false` here, with a record that says so).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from lookagain.augmentations import CLEAN
from lookagain.pairs import Ask, Inputs, Made, PairPlan, carry_out
from lookagain.prompts import STIC_BAD, STIC_CAPTION, STIC_STEP_BY_STEP
from lookagain.records import Decoding
from lookagain.schema import SticPairs as Settings
from lookagain.seeds import derive


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """A pair of each image of the sample."""
    decoding = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
    return carry_out(plan(inputs.sample.ids, settings, inputs.seed), decoding, inputs, inputs.sample, keep_equal=True)


def plan(image_ids: Sequence[str], settings: Settings, seed: int) -> list[PairPlan]:
    """What to ask about each image.

    The rejected response has a bad prompt with probability `bad_prompt_share`; the corruption is low resolution or colour jitter,
    half each.
    """
    plans = []
    for image_id in image_ids:
        draw = random.Random(derive(seed, "stic", image_id))
        caption, bad = draw.choice(STIC_CAPTION), draw.choice(STIC_BAD)
        shades = {
            "name": "colour_jitter",
            "brightness": draw.uniform(1 - settings.brightness, 1 + settings.brightness),
            "hue": draw.uniform(-settings.hue, settings.hue),
        }
        corruption = draw.choice([{"name": "low_resolution", "size": settings.low_resolution}, shades])
        is_bad = draw.random() < settings.bad_prompt_share
        transform = CLEAN if is_bad or not settings.corrupt else corruption
        chosen = Ask(f"stic/{image_id}/chosen", image_id, STIC_STEP_BY_STEP, CLEAN)
        rejected = Ask(f"stic/{image_id}/rejected", image_id, bad if is_bad else caption, transform)
        plans.append(PairPlan(f"stic/{image_id}", image_id, "stic", caption, chosen, [rejected]))
    return plans
