"""The noisy-image negatives of POVID (Zhou et al., 2024): descriptions of the clean image, and of the same image under noise.

The half of POVID that needs no other model. It departs from POVID, which also has GPT-4V write hallucinations into true answers,
and which takes each rejected token with the chosen response before it (teacher forcing), anew at each training step. Here the
rejected response is sampled freely and once, and there is one round where CSR has several. Prompts and the order of images are
those of CSR, so that the rows compare.
"""

from __future__ import annotations

import random

from lookagain.augmentations import augmentation
from lookagain.pairs import Ask, Inputs, Made, PairPlan, carry_out
from lookagain.prompts import CSR_DESCRIBE
from lookagain.records import Decoding
from lookagain.schema import PovidPairs as Settings
from lookagain.seeds import derive


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """A pair of each of `images` images of the sample, less those with equal responses."""
    plans = []
    for image_id in sorted(inputs.sample.ids, key=lambda one: derive(inputs.seed, "csr", one))[: settings.images]:
        prompt = random.Random(derive(inputs.seed, "csr prompt", image_id)).choice(CSR_DESCRIBE)
        noise = augmentation("diffusion", settings.noise_step, 1.0, derive(inputs.seed, "povid", image_id))
        name = f"povid/{image_id}"
        rejected = Ask(f"{name}/rejected", image_id, prompt, noise)
        plans.append(PairPlan(name, image_id, "povid", prompt, Ask(f"{name}/chosen", image_id, prompt), [rejected]))
    decoding = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
    return carry_out(plans, decoding, inputs, inputs.sample, keep_equal=False)
