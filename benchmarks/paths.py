"""Rows of `make bench` that answer and search: paths as stages run them, beside the peers' ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.timing import Row, near, timed
from lookagain.generation import Decoding, Request
from lookagain.prompts import CSR_DESCRIBE
from lookagain.rewards import ImageTextScorer
from lookagain.search import CachedGrower, search

NOUNS = "person bicycle car bus train truck boat bird cat dog horse sheep cow elephant bear zebra giraffe umbrella".split()
TOKEN_FLOPS = "2 FLOPs a parameter and token, of the vision tower for patches"


def responses(
    bench: Bench, path: str, at_least: float, way: str, count: int, peer: Callable[[list[Request]], list[str]]
) -> Row:
    """Greedy responses at batch 64 against a peer's; the peer answers the first `count` prompts."""
    decoding = Decoding(0.0, 1.0, bench.params.evaluate.chair.max_new_tokens)
    shown = bench.answer(bench.asked, decoding)
    length = sum(map(bench.tokens, shown)) / len(shown)
    prompts = sum(len(bench.policy.suffix(one.prompt)) for one in bench.asked) / len(bench.asked)
    flops = (bench.encoding + bench.token * bench.shape.image_tokens) / 2 + bench.token * (prompts + length)

    def counted(texts: list[str]) -> int:
        return sum(map(bench.tokens, texts))

    return bench.row(
        path, "tokens/s", at_least,
        (way, lambda: timed(lambda: peer(bench.asked[:count]), counted)),
        lambda: timed(lambda: bench.answer(bench.asked, decoding), counted),
        (flops / length, f"{TOKEN_FLOPS}; an image once for its 2 responses of {length:.0f} tokens"),
    )  # fmt: skip


def generate_one(bench: Bench) -> Row:
    """Against transformers' `generate`, one prompt at a time."""
    limit = bench.params.evaluate.chair.max_new_tokens
    way = "`generate`, one prompt at a time (STIC, SeVa, CSR)"
    return responses(
        bench, "responses, batch 64", 10, way, 16, lambda part: peers.generate(bench.policy, part, bench.images, limit, 1)
    )


def generate_64(bench: Bench) -> Row:
    """Against transformers' `generate` in batches."""
    limit = bench.params.evaluate.chair.max_new_tokens
    return responses(
        bench,
        "responses, batch 64 against plain batches", 1.3, "`generate` in plain batches of 64", len(bench.asked),
        lambda part: peers.generate(bench.policy, part, bench.images, limit, 64),
    )  # fmt: skip


def questions(
    bench: Bench, path: str, at_least: float, way: str, count: int, peer: Callable[[list[Request], Decoding], list[str]]
) -> Row:
    """18 of POPE's questions about each of 64 images, images prefilled once; the peer answers the first `count`."""
    suffix, decoding = bench.params.evaluate.pope.suffix, Decoding(0.0, 1.0, 128)
    asked = [
        Request(f"{image}/{noun}", image, f"Is there a {noun} in the image?{suffix}")
        for image in list(bench.images)[:64]
        for noun in NOUNS
    ]
    length = sum(len(bench.policy.suffix(one.prompt)) for one in asked) / len(asked) + 1
    flops = (bench.encoding + bench.token * bench.shape.image_tokens) / len(NOUNS) + bench.token * length

    return bench.row(
        path, "questions/s", at_least,
        (way, lambda: timed(lambda: peer(asked[:count], decoding))),
        lambda: timed(lambda: bench.answer(asked, decoding)),
        (flops, f"{TOKEN_FLOPS}; an image once for its 18 questions"),
    )  # fmt: skip


def questions_one(bench: Bench) -> Row:
    """Against transformers' `generate`, one question at a time."""
    return questions(
        bench, "POPE, 18 questions an image", 20, "`generate`, one question at a time", 36,
        lambda part, decoding: peers.generate(bench.policy, part, bench.images, decoding.max_new_tokens, 1),
    )  # fmt: skip


def questions_64(bench: Bench) -> Row:
    """Against `generate` in batches that prefill each question's image."""
    way = "`generate` in batches of 64, an image for each question"
    return questions(
        bench, "POPE, 18 questions an image, against plain batches", 3, way, 576,
        lambda part, decoding: peers.generate(bench.policy, part, bench.images, decoding.max_new_tokens, 64),
    )  # fmt: skip


def search_csr(bench: Bench) -> Row:
    """Against CSR's released way, with the settings of params, in batches as the stage makes them."""
    settings, some = bench.params.csr.search, list(bench.images)[:64]
    requests = [Request(one, one, CSR_DESCRIBE[place % len(CSR_DESCRIBE)]) for place, one in enumerate(some)]
    step = max(1, 64 // (settings.keep_top + settings.keep_bottom))
    theirs, own = peers.OneByOneScorer("models/scorer"), ImageTextScorer("models/scorer")

    def by(part: list[Request], scorer: ImageTextScorer, grower: type) -> list[Any]:
        found = []
        scorer.forget()
        for start in range(0, len(part), step):
            batch = part[start : start + step]
            shown = [bench.images[one.image_id] for one in batch]
            found += search(bench.policy, shown, batch, scorer, settings, bench.params.lambda_, bench.params.seed, grower)
        return [[node.tokens for node in tree.responses()] for tree in found]

    way = "image and response prefilled again for each node, CLIP one sentence at a time (CSR)"
    return bench.row(
        "sentence search", "images/s", 15,
        (way, lambda: timed(lambda: by(requests[:2], theirs, peers.FreshGrower))),
        lambda: timed(lambda: by(requests, own, CachedGrower)),
        (None, "none: how many sentences a tree grows depends on what is found"),
    )  # fmt: skip


def clip(bench: Bench) -> Row:
    """CLIP scores of 25 candidates of each of 32 images."""
    places = ("left", "right", "top", "bottom", "center", "top left", "top right")
    names = itertools.permutations(NOUNS, 2)
    sentences = [f"In the {place} there is a {one} and a {other}." for one, other in names for place in places]
    shown = list(bench.images.values())[:32]
    texts = [sentences[25 * number : 25 * number + 25] for number in range(len(shown))]
    one_by_one, scorer = peers.OneByOneScorer("models/scorer"), ImageTextScorer("models/scorer")

    def peer() -> list[float]:
        return [
            float((one_by_one.encode_images([image]) * one_by_one.encode_texts([text])).sum())
            for image, part in zip(shown[:4], texts, strict=False)
            for text in part
        ]

    def ours() -> list[float]:
        scorer.forget()
        embedded = scorer.encode_texts([text for part in texts for text in part]).view(len(shown), 25, -1)
        return (scorer.encode_images(shown)[:, None] * embedded).sum(-1).flatten().tolist()

    text = getattr(scorer.model, "text", scorer.model)
    layers = sum(value.numel() for value in text.transformer.parameters())
    length = float((scorer.tokenizer([one for part in texts for one in part]) != 0).sum(-1).double().mean())  # 0 pads
    flops = bench.encoding / 25 + 2 * layers * length
    return bench.row(
        "CLIP scores, 25 candidates an image", "scores/s", 10, ("one pair at a time (CSR)", lambda: timed(peer)),
        lambda: timed(ours), (flops, "2 FLOPs a parameter of the text encoder and token, an image once for its 25"),
        agree=near(1e-4),
    )  # fmt: skip
