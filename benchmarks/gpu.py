"""Speed and memory at the papers' scale on one GPU: `make bench-gpu`. No weights are downloaded.

A LLaVA-1.5 7B with random weights answers as slowly as the real one: the same layers, images of 336 px (576 tokens), and responses
that never end early. Measured are greedy generation at batch 32, 64 and 128, CSR's sentence search, and DPO steps with rank 128;
each stands beside its floor or plan (lookagain/plan.py). Writes reports/bench-gpu.json: {"device", "rows": [{"path", "rate",
"unit", "floor", "peak_gb"}]}; floor is null where there is no formula for the device.

    python -m benchmarks.gpu             on a GPU with 80 GB or more
    python -m benchmarks.gpu --tiny      the same code on a model of two layers, also on a CPU, in seconds
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lookagain.generation import Decoding, Request, respond
from lookagain.policy import Lineage, Policy, add_adapter
from lookagain.records import Pair, Provenance, atomic_write
from lookagain.schema import SearchSettings
from lookagain.search import search
from lookagain.sizes import HARDWARE, Shape, shape_from_config
from lookagain.training.dpo import reference_logps, train_dpo
from lookagain.training.trainer import Optimisation

PROMPT = "Describe the image."
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% else %} ASSISTANT: {{ message['content'][0]['text'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
SEARCH = SearchSettings(
    candidates=5, proposal="group_beam", temperature=1.0, diversity_penalty=3.0, keep_top=2, keep_bottom=2,
    max_sentence_tokens=32, max_sentences=3, reward="value", language="product", image_scale=100.0, aggregate="sum", prune_by="R",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: the model's, and how much of each."""

    text: dict[str, int]
    vision: dict[str, int]
    batches: tuple[int, ...]
    new_tokens: int
    response: int  # words of a training response
    pairs: int
    rank: int


FULL = Sizes(
    {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064},
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336},
    (32, 64, 128), 128, 400, 16, 128,
)  # fmt: skip
TINY = Sizes(
    {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512},
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56},
    (2, 4), 8, 12, 4, 4,
)  # fmt: skip


class RandomScorer:
    """Stands in for CLIP, whose cost is small beside the policy's: the search needs some reward."""

    def encode_images(self, images: Any) -> torch.Tensor:
        """Fixed embeddings, (images, 8)."""
        return torch.ones(len(images), 8) / 8**0.5

    def encode_texts(self, texts: Any) -> torch.Tensor:
        """Pseudo-random embeddings by text, (texts, 8)."""
        rows = [
            torch.randn(8, generator=torch.Generator().manual_seed(len(text) * 7919 + sum(text.encode()))) for text in texts
        ]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def main(tiny: bool) -> list[dict[str, Any]]:
    """Measure, print and write reports/bench-gpu.json."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    sizes = TINY if tiny else FULL
    if not tiny and device == "cpu":
        raise SystemExit("no GPU here: `python -m benchmarks.gpu --tiny` tries the same code on a CPU")
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    policy = random_policy(sizes, device)
    images = [random_image(number) for number in range(max(sizes.batches))]
    rows = [generation(policy, images[:batch], sizes) for batch in sizes.batches]
    rows.append(sentence_search(policy, images[:4]))
    rows.append(dpo(policy, images, sizes))
    report = {"device": name, "tiny": tiny, "torch": torch.__version__, "rows": rows}
    with atomic_write("reports/bench-gpu.json") as file:
        json.dump(report, file, indent=1)
    print(f"{name}, torch {torch.__version__}{', tiny' if tiny else ''}")
    for row in rows:
        floor = "-" if row["floor"] is None else f"{row['floor']:.0f}"
        peak = "-" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        print(f"{row['path']:<44}{row['rate']:>10.1f} {row['unit']:<14} floor {floor:>8}   peak {peak} GB")
    return rows


def generation(policy: Policy, images: list[Image.Image], sizes: Sizes) -> dict[str, Any]:
    """Greedy responses to one prompt about each image; the floor reads weights and cache once a step."""
    requests = [Request(str(number), str(number), PROMPT) for number in range(len(images))]
    decoding = Decoding(0.0, 1.0, sizes.new_tokens)

    def once() -> int:
        respond(policy, requests, lambda one: images[int(one.image_id)], decoding, 0)
        return len(images) * sizes.new_tokens

    floor = None
    if hardware := hardware_of(policy):
        shape, width = shape_of(policy), 2
        context = shape.image_tokens + len(policy.suffix(PROMPT)) + sizes.new_tokens / 2
        step = (shape.parameters * width + len(images) * context * shape.cache_bytes(width)) / hardware.bandwidth
        prefill = 2 * shape.parameters * len(images) * shape.image_tokens / hardware.flops
        floor = len(images) * sizes.new_tokens / (sizes.new_tokens * step + prefill)
    return measured(f"generation with prefill, batch {len(images)}", "tokens/s", once, floor)


def sentence_search(policy: Policy, images: list[Image.Image]) -> dict[str, Any]:
    """CSR's search; a candidate is a sentence of at most 32 tokens that was proposed and scored."""
    requests = [Request(str(number), str(number), PROMPT) for number in range(len(images))]
    kept = SEARCH.keep_top + SEARCH.keep_bottom

    def once() -> int:
        search(policy, images, requests, RandomScorer(), SEARCH, 0.9, 0)  # type: ignore[arg-type]
        return len(images) * SEARCH.candidates * (1 + kept * (SEARCH.max_sentences - 1))

    floor = None
    if hardware := hardware_of(policy):
        nodes = len(images) * kept  # each one's cache is read once for all its candidates
        shape = shape_of(policy)
        step = (shape.parameters * 2 + nodes * shape.image_tokens * shape.cache_bytes(2)) / hardware.bandwidth
        floor = nodes * SEARCH.candidates / (SEARCH.max_sentence_tokens * step)
    return measured(f"sentence search, {len(images)} images", "candidates/s", once, floor)


def dpo(policy: Policy, images: list[Image.Image], sizes: Sizes) -> dict[str, Any]:
    """DPO steps of 4 pairs, one at a time, with reference log-probs and checkpoints off."""
    words = " ".join(f"w{number % 400}" for number in range(sizes.response))
    how = Provenance(PROMPT, {"name": "none"}, {}, 0)
    pairs = [
        Pair(str(n), str(n % len(images)), "x", PROMPT, f"{words} w1", [f"{words} w2"], how, [how]) for n in range(sizes.pairs)
    ]

    def load(image_id: str) -> Image.Image:
        return images[int(image_id)]

    references = [row for pair in pairs for row in reference_logps(policy, [pair], load, 2048)]
    add_adapter(policy, sizes.rank, 2 * sizes.rank, 0.0)
    on_cpu = policy.device.type == "cpu"

    def once() -> int:
        with tempfile.TemporaryDirectory() as folder:
            steps = Optimisation(1e-7, 1, 4, 0.0, 0.0, 2048, 1, 0, Path(folder) / "none", 1, on_cpu, not on_cpu)
            train_dpo(policy, pairs, references, load, 0.1, 0.0, steps, lambda *_: None)
        return len(pairs)

    floor = None
    if hardware := hardware_of(policy):
        shape = shape_of(policy)
        floor = hardware.flops / (4 * shape.parameters * 2 * (shape.image_tokens + sizes.response))
    return measured(f"DPO, rank {sizes.rank}, responses of {sizes.response} tokens", "pairs/s", once, floor, rounds=1)


def measured(path: str, unit: str, once: Any, floor: float | None, rounds: int = 2) -> dict[str, Any]:
    """The best rate of some rounds after one that warms up, and the peak of memory over all of them."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    rates = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        done = once()
        if gpu:
            torch.cuda.synchronize()
        if number:
            rates.append(done / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else None
    return {"path": path, "rate": max(rates), "unit": unit, "floor": floor, "peak_gb": peak}


def shape_of(policy: Policy) -> Shape:
    """The model's sizes, as the plan counts them."""
    return shape_from_config(policy.model.config.to_dict())


def hardware_of(policy: Policy) -> Any:
    """What is known of this GPU; None for others and for CPUs."""
    name = torch.cuda.get_device_name().lower() if policy.device.type == "cuda" else ""
    return next((hardware for known, hardware in HARDWARE.items() if known in name.replace(" ", "")), None)


def random_policy(sizes: Sizes, device: str) -> Policy:
    """A LLaVA with random weights, and a tokenizer of as many made-up words as its vocabulary has tokens."""
    specials = ["<pad>", "<s>", "</s>", "<image>", "<unk>", ".", "USER", "ASSISTANT", ":", "Describe", "the", "image"]
    vocabulary = {token: index for index, token in enumerate(specials)}
    for number in range(sizes.text["vocab_size"] - len(specials)):
        vocabulary[f"w{number}"] = len(vocabulary)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\s\w]"), "removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    size = sizes.vision["image_size"]
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes.vision, patch_size=14),
        text_config=LlamaConfig(
            **sizes.text,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        image_token_index=3,
    )
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(dtype)
    with torch.no_grad():
        model.lm_head.weight[2] = 0.0  # EOS: never the most likely of random words, so that no response ends early
    here = Path("random")
    return Policy(model, processor, Lineage(here, here, "random", [], "random"))


def random_image(number: int) -> Image.Image:
    """A picture of 640x480 pixels."""
    pixels = np.random.default_rng(number).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks.gpu")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, also on a CPU")
    main(parser.parse_args().tiny)
