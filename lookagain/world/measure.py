"""A quick look at a base policy on validation scenes: whether it came out as intended. Benchmarks proper are in the evaluation.

Self-contained on purpose: if this used the project's metrics, an edit of a metric would train the base again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from lookagain import prompts
from lookagain.world.art import NAMES
from lookagain.world.language import DESCRIBE, plural
from lookagain.world.scenes import Scene

MAX_NEW_TOKENS = 96
_NOUNS = {form: name for name in NAMES for form in (name, plural(name))}
_MENTION = re.compile(r"\b(?:" + "|".join(sorted(_NOUNS, key=len, reverse=True)) + r")\b")


class Respond(Protocol):
    """The base's responses to questions (number of the scene, prompt), greedy or sampled at temperature 1; `kind` names them."""

    def __call__(  # noqa: D102
        self, kind: str, questions: Sequence[tuple[int, str]], max_new_tokens: int, sampled: bool
    ) -> list[str]: ...


@torch.inference_mode()
def responses(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    asked: Sequence[str],
    max_new_tokens: int,
    seed: int | None = None,
) -> list[str]:
    """The model's responses to one batch, greedy, or with a seed sampled at temperature 1."""
    if seed is not None:
        torch.manual_seed(seed)
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in asked]
    chats = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=list(images), text=chats, padding=True, return_tensors="pt")
    drawing = {"do_sample": True, "top_k": 0} if seed is not None else {"do_sample": False}
    ids = model.generate(**inputs.to(model.device), max_new_tokens=max_new_tokens, **drawing)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def hallucination(scenes: Sequence[Scene], descriptions: Sequence[str]) -> dict[str, float]:
    """CHAIR_S, CHAIR_I and recall in percent, and repeats a description."""
    named = [[_NOUNS[noun] for noun in _MENTION.findall(text.lower())] for text in descriptions]
    present = [set(scene.names()) for scene in scenes]
    wrong = [[name for name in names if name not in truth] for names, truth in zip(named, present, strict=True)]
    found = sum(len(set(names) & truth) for names, truth in zip(named, present, strict=True))
    return {
        "chair_s": 100 * sum(map(bool, wrong)) / len(scenes),
        "chair_i": 100 * sum(map(len, wrong)) / max(1, sum(map(len, named))),
        "recall": 100 * found / sum(map(len, present)),
        "repeats": sum(len(names) - len(set(names)) for names in named) / len(scenes),
    }


def measure(respond: Respond, scenes: Sequence[Scene], questions: Sequence[tuple[int, str, str]]) -> dict[str, float]:
    """The base's figures: descriptions greedy and at T = 1, obedience to bad prompts, yes/no accuracy by sprites.

    `questions` are (number of the scene, POPE question, "yes" or "no").
    """
    plain = [(row, DESCRIBE[0]) for row in range(len(scenes))]
    bad = [(row, prompts.STIC_BAD[row % len(prompts.STIC_BAD)]) for row in range(len(scenes))]
    described = {
        "greedy": respond("greedy", plain, MAX_NEW_TOKENS, False),
        "sampled": respond("sampled", plain, MAX_NEW_TOKENS, True),
        "bad_prompts": respond("bad_prompts", bad, MAX_NEW_TOKENS, False),
    }
    answers = respond("yes_no", [(row, text) for row, text, _ in questions], 2, False)
    right = [answer.lower().startswith(label) for answer, (_, _, label) in zip(answers, questions, strict=True)]
    art = [scenes[row].art for row, _, _ in questions]
    figures = {}
    for kind in ("all", "seen", "novel"):
        hits = [hit for hit, one in zip(right, art, strict=True) if kind in ("all", one)]
        figures[f"yes_no_accuracy/{kind}"] = 100 * sum(hits) / max(1, len(hits))
    figures["yes_rate"] = 100 * sum(answer.lower().startswith("yes") for answer in answers) / len(answers)
    for name, texts in described.items():
        figures |= {f"{name}/{key}": value for key, value in hallucination(scenes, texts).items()}
    return {key: round(value, 2) for key, value in figures.items()}
