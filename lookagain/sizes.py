"""Sizes of the models and of the hardware that people have: what lookagain/plan.py reckons with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lookagain.cards import checkpoint_folder
from lookagain.errors import UserError
from lookagain.schema import Params


class SizeError(UserError):
    """A model whose sizes are not known; the message says which."""


@dataclass(frozen=True)
class Hardware:
    """One GPU, or one CPU core. Peaks are what large multiplications and copies reach, not what data sheets promise."""

    flops: float  # a second, in the dtype that stages use there
    bandwidth: float  # bytes a second
    memory: float  # bytes
    layer_seconds: float  # the least a layer of a decode step takes
    share: float  # of flops that prefill and training reach
    start_seconds: float  # to start a stage: its launcher, its process and their libraries
    process: float  # bytes that a process takes before it has a model


# h200: flops and bandwidth measured; the others 0.8 of the published dense bf16 rate and of the published bandwidth. A layer's
# least time is that of eager transformers, about 30 ms for 32 layers. cpu: measured in fp32 on one core of a server; the share is
# that of a model of a million parameters in two processes, a core each.
HARDWARE = {
    "h200": Hardware(790e12, 4.3e12, 141e9, 0.9e-3, 0.5, 30, 0.6e9),
    "h100": Hardware(791e12, 2.7e12, 80e9, 0.9e-3, 0.5, 30, 0.6e9),
    "a100": Hardware(250e12, 1.6e12, 80e9, 0.9e-3, 0.5, 30, 0.6e9),
    "l40s": Hardware(290e12, 0.69e12, 48e9, 0.9e-3, 0.5, 30, 0.6e9),
    "a6000": Hardware(124e12, 0.61e12, 48e9, 0.9e-3, 0.5, 30, 0.6e9),
    "rtx4090": Hardware(132e12, 0.8e12, 24e9, 0.9e-3, 0.5, 30, 0.6e9),
    "cpu": Hardware(105e9, 10e9, 8e9, 0.6e-3, 0.27, 5.0, 1.0e9),
}


@dataclass(frozen=True)
class Shape:
    """A model's sizes. `image_tokens` and `patches` are those of a COCO image of 640x480 pixels."""

    hidden: int
    layers: int
    kv: int  # width of a layer's keys: heads x head size
    intermediate: int
    vocabulary: int
    tied: bool
    vision: float  # the vision tower's parameters
    patches: int  # that it sees of an image
    image_tokens: int

    @property
    def parameters(self) -> float:
        """The language model's parameters."""
        layer = 2 * self.hidden**2 + 2 * self.hidden * self.kv + 3 * self.hidden * self.intermediate
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def cache_bytes(self, width: int) -> float:
        """Keys and values of one token, at `width` bytes a number."""
        return 2 * self.layers * self.kv * width

    def adapter(self, rank: int) -> float:
        """Parameters of a LoRA on all linear layers of the language model."""
        sides = 4 * self.hidden + 2 * (self.hidden + self.kv) + 3 * (self.hidden + self.intermediate)
        return rank * self.layers * sides


MODELS = {
    "llava-hf/llava-1.5-7b-hf": Shape(4096, 32, 4096, 11008, 32064, False, 0.30e9, 577, 576),
    "llava-hf/llava-1.5-13b-hf": Shape(5120, 40, 5120, 13824, 32064, False, 0.30e9, 577, 576),
    "llava-hf/llava-v1.6-mistral-7b-hf": Shape(4096, 32, 1024, 14336, 32064, False, 0.30e9, 5 * 577, 2340),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(3584, 28, 512, 18944, 152064, False, 0.67e9, 1564, 391),
    "HuggingFaceTB/SmolVLM-256M-Instruct": Shape(576, 30, 192, 1536, 49280, True, 0.09e9, 13 * 1024, 832),
}


def shape_of(params: Params) -> Shape:
    """The sizes of the base. Raises SizeError if they are neither known nor in a config.json on disk."""
    source = params.policy.checkpoint
    if source in MODELS:
        return MODELS[source]
    path = checkpoint_folder(source, params.publish) / "config.json"
    if not path.is_file():
        raise SizeError(f"the sizes of {source} are not known: known are {', '.join(MODELS)}, and local folders")
    return shape_from_config(json.loads(path.read_text()))


def shape_from_config(config: dict[str, Any]) -> Shape:
    """Sizes from a checkpoint's own config, with the image tokens of a vision tower that sees one square. Raises SizeError."""
    text, vision = config.get("text_config", config), config.get("vision_config", {})
    try:
        hidden, layers = text["hidden_size"], text["num_hidden_layers"]
        heads = text["num_attention_heads"]
        kv = text.get("num_key_value_heads", heads) * (text.get("head_dim") or hidden // heads)
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        width, depth = vision["hidden_size"], vision["num_hidden_layers"]
        tower = depth * (4 * width**2 + 2 * width * vision["intermediate_size"])
        tied = bool(text.get("tie_word_embeddings", False))
        return Shape(hidden, layers, kv, text["intermediate_size"], text["vocab_size"], tied, tower, patches + 1, patches)
    except KeyError as error:
        raise SizeError(f"the checkpoint's config.json has no {error}: its sizes are not known") from error
