"""The self-rewarding baseline of CSR (after Yuan et al., 2024): two sampled responses, and the policy judges which is better.

The judge is asked with CSR's Table 3, greedily, about the clean image. Equal responses are not judged; a verdict that names neither
response, or both, is no verdict: such pairs are dropped and counted. Prompts and images are those of CSR, as the paper has it.
"""

from __future__ import annotations

import dataclasses
import random
import re

from lookagain.augmentations import CLEAN
from lookagain.pairs import Ask, Inputs, Made
from lookagain.params import SelfRewardingPairs as Settings
from lookagain.prompts import CSR_DESCRIBE, judge_pair
from lookagain.records import Decoding, Pair, Provenance
from lookagain.seeds import derive

NAMED = re.compile(r"response\s*([12])\b", re.IGNORECASE)


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """A pair of each of `images` images of the sample whose responses differ and were judged."""
    images = sorted(inputs.sample.ids, key=lambda one: derive(inputs.seed, "csr", one))[: settings.images]
    prompts = {one: random.Random(derive(inputs.seed, "csr prompt", one)).choice(CSR_DESCRIBE) for one in images}
    asks = [Ask(f"self_rewarding/{one}/{number}", one, prompts[one]) for one in images for number in (1, 2)]
    sampled = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
    responses = inputs.respond(inputs.sample, asks, sampled)
    both = {one: [responses[f"self_rewarding/{one}/{number}"] for number in (1, 2)] for one in images}
    differ = [one for one in images if both[one][0] != both[one][1]]
    judged = [Ask(f"self_rewarding/{one}/verdict", one, judge_pair(*both[one])) for one in differ]
    verdicts = inputs.respond(inputs.sample, judged, Decoding(0.0, 1.0, settings.verdict_tokens))
    pairs = []
    for one in differ:
        better = verdict(verdicts[f"self_rewarding/{one}/verdict"])
        if better is not None:
            made = Provenance(prompts[one], dict(CLEAN), dataclasses.asdict(sampled), inputs.seed)
            texts = both[one][better], [both[one][1 - better]]
            pairs.append(Pair(f"self_rewarding/{one}", one, "self_rewarding", prompts[one], *texts, made, [made]))
    counts = {"planned": len(images), "equal_dropped": len(images) - len(differ), "no_verdict": len(differ) - len(pairs)}
    return Made(pairs, counts, inputs.sample)


def verdict(text: str) -> int | None:
    """Which response a verdict names, 0 or 1; None if it names neither, or both."""
    named = set(NAMED.findall(text))
    return int(named.pop()) - 1 if len(named) == 1 else None
