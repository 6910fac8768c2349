"""Speed against the slow ways, side by side: `make bench`.

Both sides run in this process on the same model and data, in turn; their outputs are compared before any figure is
printed. Needs models/base, models/reward and data/sample (`dvc repro`). Writes reports/bench.json:
[{"path", "peer", "ours", "ratio", "floor_ratio", "unit"}], medians over the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peers import FreshGrower, generate_one_by_one
from lookagain.generation import Decoding, Request, respond
from lookagain.images import ImageStore
from lookagain.launch import LAUNCHED
from lookagain.params import Params, load_params
from lookagain.policy import Policy, load_policy
from lookagain.processes import environment
from lookagain.prompts import CSR_DESCRIBE
from lookagain.records import atomic_write
from lookagain.rewards import ImageTextScorer
from lookagain.search import CachedGrower, search

ROUNDS = 3
NOUNS = "person bicycle car bus train truck boat bird cat dog horse sheep cow elephant bear zebra giraffe umbrella".split()
Side = Callable[[], tuple[int, Any]]  # runs once: how much was done, and its outputs


def main() -> None:
    """Run all benchmarks, print a table, write reports/bench.json."""
    params = load_params()
    policy = load_policy("models/base", params.policy.loading)
    store = ImageStore("data/sample/images", params.data.max_image_pixels)
    images = {image_id: store.load(image_id) for image_id in store.ids[:128]}
    rows = [*generation(policy, images, params), questions(policy, images, params), sentence_search(policy, images, params)]
    with atomic_write("reports/bench.json") as file:
        json.dump(rows, file, indent=1)
    table = Table(title=f"Speed, {torch.get_num_threads()} threads, medians of {ROUNDS} rounds in turn")
    for column in ("path", "peer", "ours", "ratio", "unit"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["path"], f"{row['peer']:.0f}", f"{row['ours']:.0f}", f"{row['ratio']:.1f}x", row["unit"])
    Console().print(table)


def generation(policy: Policy, images: dict[str, Any], params: Params) -> list[dict[str, Any]]:
    """Greedy descriptions of 128 images at batch 64, against one image at a time: by `generate`, and by our own way."""
    chair = params.evaluate.chair
    requests = [Request(image_id, image_id, chair.prompt) for image_id in images]
    decoding = Decoding(0.0, 1.0, chair.max_new_tokens)

    def counted(responses: list[str]) -> tuple[int, list[str]]:
        return sum(len(policy.tokenizer(text, add_special_tokens=False).input_ids) + 1 for text in responses), responses

    def at(size: int) -> tuple[int, list[str]]:
        responses = []
        for start in range(0, len(requests), size):
            responses += respond(policy, requests[start : start + size], lambda one: images[one.image_id], decoding, 0)
        return counted(responses)

    def plain() -> tuple[int, list[str]]:
        return counted(generate_one_by_one(policy, list(images.values()), chair.prompt, chair.max_new_tokens))

    return [
        side_by_side("generation, batch 64 against `generate` one by one", "tokens/s", plain, lambda: at(64)),
        side_by_side("generation, batch 64 against batch 1", "tokens/s", lambda: at(1), lambda: at(64)),
    ]


def questions(policy: Policy, images: dict[str, Any], params: Params) -> dict[str, Any]:
    """18 of POPE's questions about each of 32 images at batch 64, against batches that encode and prefill each question's image."""
    some = list(images)[:32]
    asked = [f"Is there a {noun} in the image?{params.evaluate.pope.suffix}" for noun in NOUNS]
    requests = [Request(f"{image}/{number}", image, text) for image in some for number, text in enumerate(asked)]

    def by(load: Callable[[Request], Any]) -> tuple[int, list[str]]:
        answers = []
        for start in range(0, len(requests), 64):
            answers += respond(policy, requests[start : start + 64], load, Decoding(0.0, 1.0, 8), 0)
        return len(requests), answers

    fresh, shared = (lambda one: images[one.image_id].copy()), (lambda one: images[one.image_id])
    return side_by_side("18 questions an image, shared prefix", "questions/s", lambda: by(fresh), lambda: by(shared))


def sentence_search(policy: Policy, images: dict[str, Any], params: Params) -> dict[str, Any]:
    """CSR's search on 16 images, against a fresh prefill of every node's candidates."""
    some = list(images.values())[:16]
    requests = [Request(str(number), str(number), CSR_DESCRIBE[number % len(CSR_DESCRIBE)]) for number in range(len(some))]
    scorer = ImageTextScorer("models/reward")

    def by(grower: type[Any]) -> tuple[int, list[Any]]:
        trees = search(policy, some, requests, scorer, params.csr.search, params.lambda_, params.seed, grower)
        found = [[node.tokens for node in tree.responses()] for tree in trees]
        return len(some), found

    return side_by_side("sentence search, cache against prefill", "images/s", lambda: by(FreshGrower), lambda: by(CachedGrower))


def side_by_side(
    path: str, unit: str, peer: Callable[[], tuple[int, Any]], ours: Callable[[], tuple[int, Any]]
) -> dict[str, Any]:
    """Medians of both sides' rates over rounds in turn. Raises ValueError if their outputs differ."""
    rates: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(ROUNDS + 1):
        outputs = {}
        for side, run in (("peer", peer), ("ours", ours)):
            start = time.perf_counter()
            done, outputs[side] = run()
            if number:  # the first round warms up
                rates[side].append(done / (time.perf_counter() - start))
        if outputs["peer"] != outputs["ours"]:
            raise ValueError(f"{path}: both sides must give the same outputs")
    medians = {side: statistics.median(values) for side, values in rates.items()}
    return {"path": path, **medians, "ratio": medians["ours"] / medians["peer"], "floor_ratio": None, "unit": unit}


if __name__ == "__main__":
    if LAUNCHED not in os.environ:  # with the settings that stages run under, which are read when a process starts
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks"], environment({}) | {LAUNCHED: "1"})
    main()
