"""The self-rewarding baseline of CSR (after Yuan et al., 2024): two sampled responses, and the policy judges which is better.

The judge (`judge`) is one of three; it sees the clean image, and equal responses are not judged:

- `text`: the paper's. The policy is asked with CSR's Table 3, greedily; a verdict that names neither response, or both, is none.
- `verdicts`: the same question, and of the two verdicts that it allows the likelier one counts. It is asked in both orders and the
  log-probs are added, so that a policy's liking for one of the two words cancels.
- `responses`: the response counts as better that the policy finds likelier by the mean log-prob of its tokens, as in CSR's R_T by
  length. It needs no policy that can judge, and so serves small ones, which were never taught what a verdict is.

Pairs without a verdict are dropped and counted. Prompts and the order of images are those of CSR, as the paper has it; there is one
round, where CSR has several.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping

from lookagain.augmentations import CLEAN
from lookagain.pairs import Ask, Inputs, Made
from lookagain.prompts import CSR_DESCRIBE, judge_pair
from lookagain.records import Decoding, Pair, Provenance
from lookagain.schema import SelfRewardingPairs as Settings
from lookagain.seeds import derive

NAMED = re.compile(r"response\s*([12])\b", re.IGNORECASE)
VERDICTS = ("response 1", "response 2")
Texts = Mapping[str, tuple[str, str]]  # image id -> two different responses
Better = dict[str, int | None]  # image id -> the better response, 0 or 1; None without a verdict


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """A pair of each of `images` images of the sample whose responses differ and were judged."""
    images = sorted(inputs.sample.ids, key=lambda one: derive(inputs.seed, "csr", one))[: settings.images]
    prompts = {one: random.Random(derive(inputs.seed, "csr prompt", one)).choice(CSR_DESCRIBE) for one in images}
    asks = [Ask(f"self_rewarding/{one}/{number}", one, prompts[one]) for one in images for number in (1, 2)]
    sampled = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
    responses = inputs.respond(inputs.sample, asks, sampled)
    both = {one: (responses[f"self_rewarding/{one}/1"], responses[f"self_rewarding/{one}/2"]) for one in images}
    differ = {one: texts for one, texts in both.items() if texts[0] != texts[1]}
    better = judged(inputs, settings, differ, prompts)
    pairs = []
    for one, texts in differ.items():
        place = better[one]
        if place is not None:
            made = Provenance(prompts[one], dict(CLEAN), dataclasses.asdict(sampled), inputs.seed)
            told = texts[place], [texts[1 - place]]
            pairs.append(Pair(f"self_rewarding/{one}", one, "self_rewarding", prompts[one], *told, made, [made]))
    counts = {"planned": len(images), "equal_dropped": len(images) - len(differ), "no_verdict": len(differ) - len(pairs)}
    return Made(pairs, counts, inputs.sample)


def judged(inputs: Inputs, settings: Settings, texts: Texts, prompts: Mapping[str, str]) -> Better:
    """Which of each image's two responses is better, by the chosen judge."""
    if settings.judge == "responses":
        asks = {one: Ask(f"self_rewarding/{one}/likelihood", one, prompts[one]) for one in texts}
        found = inputs.losses(inputs.sample, list(asks.values()), {ask.id: texts[one] for one, ask in asks.items()})
        return {one: lower(*found[ask.id]) for one, ask in asks.items()}
    asks = {one: Ask(f"self_rewarding/{one}/verdict", one, judge_pair(*texts[one])) for one in texts}
    if settings.judge == "text":
        verdicts = inputs.respond(inputs.sample, list(asks.values()), Decoding(0.0, 1.0, settings.verdict_tokens))
        return {one: verdict(verdicts[ask.id]) for one, ask in asks.items()}
    turned = {one: Ask(f"{ask.id}/turned", one, judge_pair(*reversed(texts[one]))) for one, ask in asks.items()}
    both = [*asks.values(), *turned.values()]
    found = inputs.losses(inputs.sample, both, {ask.id: VERDICTS for ask in both})
    return {one: both_orders(found[asks[one].id], found[turned[one].id]) for one in texts}


def verdict(text: str) -> int | None:
    """Which response a verdict names, 0 or 1; None if it names neither, or both."""
    named = set(NAMED.findall(text))
    return int(named.pop()) - 1 if len(named) == 1 else None


def both_orders(losses: list[float], turned: list[float]) -> int | None:
    """The better response from the losses of `VERDICTS` in one order and in the other, where response 1 is the second text."""
    return lower(losses[0] + turned[1], losses[1] + turned[0])


def lower(first: float, second: float) -> int | None:
    """The place of the lower of two losses; None if they are equal."""
    return None if first == second else int(second < first)
