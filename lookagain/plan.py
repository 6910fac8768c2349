"""What a run will cost, before it is paid for: tokens, FLOPs, memory, disk and time of each stage, from params and hardware alone.

Formulae. Prefill and scoring take 2P FLOPs a token (P: the language model's parameters), training an adapter 4P, and reference
log-probs 2P once. A decode step reads the weights and the whole cache, so it lasts at least (weights + rows x context x cache of a
token) / bandwidth, and at least a fixed time a layer, as each layer is a handful of small kernels that a processor must start.
Images cost 2 FLOPs a parameter of the vision tower and patch. Training memory holds weights, adapters with two moments, and the
activations of one micro-batch; with runtime.checkpointing these are computed again, for 2P a token more.

What no formula knows is assumed and can be set: how long responses are. Times are of work alone; waiting for data is not in them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookagain.errors import UserError
from lookagain.evaluation.imports import PUBLISHED
from lookagain.params import Dpo, Params, Sft, section


class PlanError(UserError):
    """A plan that cannot be made; the message says what is unknown."""


@dataclass(frozen=True)
class Hardware:
    """One GPU, or one CPU core. Peaks are what large multiplications and copies reach, not what data sheets promise."""

    flops: float  # a second, in the dtype that stages use there
    bandwidth: float  # bytes a second
    memory: float  # bytes
    layer_seconds: float  # the least a layer of a decode step takes
    share: float  # of flops that prefill and training reach
    start_seconds: float  # to start a process and its libraries


# h200: flops and bandwidth measured; the others 0.8 of the published dense bf16 rate and of the published bandwidth. A layer's
# least time is that of eager transformers, about 30 ms for 32 layers. cpu: measured on one core of a server, fp32.
HARDWARE = {
    "h200": Hardware(790e12, 4.3e12, 141e9, 0.9e-3, 0.5, 30),
    "h100": Hardware(791e12, 2.7e12, 80e9, 0.9e-3, 0.5, 30),
    "a100": Hardware(250e12, 1.6e12, 80e9, 0.9e-3, 0.5, 30),
    "l40s": Hardware(290e12, 0.69e12, 48e9, 0.9e-3, 0.5, 30),
    "a6000": Hardware(124e12, 0.61e12, 48e9, 0.9e-3, 0.5, 30),
    "rtx4090": Hardware(132e12, 0.8e12, 24e9, 0.9e-3, 0.5, 30),
    "cpu": Hardware(105e9, 10e9, 8e9, 0.6e-3, 0.6, 6),
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


@dataclass(frozen=True)
class Assumed:
    """Lengths in tokens that only a run can tell."""

    response: int  # a description
    sentence: int
    sentences: int  # of a response in the search
    prompt: int = 40


@dataclass(frozen=True)
class Cost:
    """What one stage takes. Memory is of one device, disk what the stage leaves; `seconds` is None where no formula is known."""

    stage: str
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    flops: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    seconds: float | None = 0.0


class Planner:
    """Costs of generating, scoring and training with one model on some devices."""

    def __init__(self, shape: Shape, hardware: Hardware, devices: int, width: int, params: Params):
        self.shape, self.hardware, self.devices, self.width = shape, hardware, devices, width
        self.batch, self.micro = params.runtime.batch_size, params.runtime.micro_batch_size
        self.again = params.runtime.checkpointing
        self.weights = (shape.parameters + shape.vision) * (0.55 if params.policy.four_bit else width)

    def images(self, count: float) -> float:
        """FLOPs to encode images."""
        return 2 * self.shape.vision * self.shape.patches * count

    def work(self, flops: float) -> float:
        """Seconds of large multiplications on all devices."""
        return flops / (self.hardware.flops * self.hardware.share * self.devices)

    def generation(
        self, stage: str, images: float, requests: float, prompt: int, response: int, limit: int, rows: int, before: int = 0
    ) -> Cost:
        """Responses to `requests` prompts about `images` images, `rows` of them at once, after `before` tokens cached earlier."""
        shape, rows = self.shape, max(1, min(rows, math.ceil(requests / self.devices)))
        tokens_in = images * shape.image_tokens + requests * prompt
        prefill = 2 * shape.parameters * tokens_in + self.images(images)
        steps = math.ceil(requests / rows / self.devices) * min(limit, 1.5 * response)  # a batch waits for its longest rows
        held = rows * (shape.image_tokens + prompt + before + response) * shape.cache_bytes(self.width)
        decode = 2 * shape.parameters * requests * response
        step = max((self.weights + held) / self.hardware.bandwidth, shape.layers * self.hardware.layer_seconds)
        seconds = self.start() + self.work(prefill) + max(steps * step, self.work(decode))
        logits = rows * shape.vocabulary * 4 * 3
        return Cost(stage, tokens_in, requests * response, prefill + decode, self.weights + held + logits, 0.0, seconds)

    def start(self) -> float:
        """Seconds until a model is loaded: its weights come at a gigabyte a second."""
        return self.hardware.start_seconds + self.weights / 1e9

    def training(self, stage: str, examples: float, rows: int, length: float, settings: Dpo | Sft, rank: int) -> Cost:
        """`examples` of `rows` rows of `length` tokens about one image; with reference log-probs if they are pairs."""
        shape = self.shape
        tokens = examples * rows * (shape.image_tokens + length)
        reference = isinstance(settings, Dpo)
        passes = (6 if self.again else 4) * settings.epochs + 2 * reference
        flops = passes * shape.parameters * tokens + self.images(examples * (settings.epochs + reference))
        row = min(settings.max_length, shape.image_tokens + length)
        share = math.ceil(settings.batch_size / self.devices)
        held = min(self.micro, share) * rows * row
        layer = self.width * (12 * shape.hidden + 4 * shape.intermediate)  # bytes of a token; only inputs if computed again
        activations = held * (layer + shape.layers * self.width * shape.hidden if self.again else shape.layers * layer)
        logits = min(self.micro, share) * rows * length * shape.vocabulary * 4 * 2
        steps = math.ceil(examples / settings.batch_size) * settings.epochs * math.ceil(share / self.micro)
        fixed = 5 * steps * shape.layers * self.hardware.layer_seconds  # forward, backward, and the optimiser
        memory = self.weights + shape.adapter(rank) * 16 + activations + logits
        seconds = self.start() + max(self.work(flops), fixed)
        return Cost(stage, tokens, 0.0, flops, memory, shape.adapter(rank) * 4, seconds)


def plan(params: Params, hardware: Hardware, devices: int, response: int | None = None) -> list[Cost]:
    """The cost of every stage of the pipeline. Raises PlanError for a model whose sizes are not known."""
    world = params.policy.source == "world"
    shape = shape_of(params)
    assumed = Assumed(45, 8, 4) if world else Assumed(200, 20, 8)
    if response:
        assumed = Assumed(response, assumed.sentence, max(1, round(response / assumed.sentence)))
    width = 2 if params.policy.dtype == "bfloat16" else 4
    planner = Planner(shape, hardware, devices, width, params)
    return [
        *_preparation(params, planner),
        *_pairs(params, planner, assumed),
        *_stic(params, planner, assumed),
        *_csr(params, planner, assumed),
        *_evaluation(params, planner, assumed),
        Cost("measure_overlap", seconds=30.0),
        Cost("report", seconds=10.0),
    ]


def shape_of(params: Params) -> Shape:
    """The sizes of the base. Raises PlanError if they are neither known nor in a config.json on disk."""
    source = "models/base" if params.policy.source == "world" else params.policy.hub.id
    if source in MODELS:
        return MODELS[source]
    path = Path(source) / "config.json"
    if not path.is_file():
        known = "run prepare_policy first" if source == "models/base" else f"known are {', '.join(MODELS)}, and local folders"
        raise PlanError(f"the sizes of {source} are not known: {known}")
    return shape_from_config(json.loads(path.read_text()))


def shape_from_config(config: dict[str, Any]) -> Shape:
    """Sizes from a checkpoint's own config, with the image tokens of a vision tower that sees one square. Raises PlanError."""
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
        raise PlanError(f"the checkpoint's config.json has no {error}: its sizes are not known") from error


def _preparation(params: Params, planner: Planner) -> list[Cost]:
    """Data and base: rendered and trained in the world, which no formula covers; else indexed and downloaded."""
    if params.policy.source == "world":
        return [Cost("prepare_data", seconds=None), Cost("prepare_policy", seconds=None), Cost("sample_images", seconds=1.0)]
    stored = 20e9 + 1e9  # COCO's images, LLaVA's JSON
    weights = (planner.shape.parameters + planner.shape.vision) * 2
    return [
        Cost("prepare_data", disk=stored, seconds=stored / 100e6),  # every image is read and decoded once, on one core
        Cost("prepare_policy", disk=weights + 2e9, seconds=None),  # the download
        Cost("sample_images", disk=1e6, seconds=params.sample.images * 0.01),
    ]


def _pairs(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each pair source that params list: its responses, and the training on its pairs; own sources are taken to be like STIC."""
    costs = []
    for source, model in params.methods.items():
        images, requests, rejected, limit = _requests(params, source)
        settings = section(params, source).dpo
        if requests:
            name = f"generate_pairs@{source}"
            sizes = (3 * assumed.prompt, assumed.response, limit, planner.batch)
            costs.append(planner.generation(name, images, requests, *sizes))
        pairs = requests // (1 + rejected) if requests else images
        length = assumed.prompt + assumed.response
        costs.append(planner.training(f"train_dpo@{model}", pairs, 1 + rejected, length, settings, settings.lora_rank))
    return costs


def _requests(params: Params, source: str) -> tuple[int, int, int, int]:
    """How many images a source encodes and responses it asks for, rejected ones in a pair, and the most new tokens."""
    if source == "seva":
        asked = params.seva.pairs.items * (1 + params.seva.pairs.rejected)
        return asked, asked, params.seva.pairs.rejected, params.seva.pairs.max_new_tokens
    if source in ("povid", "self_rewarding"):
        pairs = section(params, source).pairs
        return 2 * pairs.images, 2 * pairs.images, 1, pairs.max_new_tokens
    if source == "imported":
        return 0, 0, 1, 0  # nothing is asked; how many pairs a file holds is not known
    return 2 * params.sample.images, 2 * params.sample.images, 1, params.stic.pairs.max_new_tokens


def _stic(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """STIC's second stage."""
    describe, length = params.stic.describe, assumed.response
    return [
        planner.generation(
            "describe_images", describe.items, describe.items, assumed.prompt, length, describe.max_new_tokens, planner.batch
        ),
        planner.training(
            "train_sft", describe.items, 1, assumed.prompt + 2 * length, params.stic.sft, params.stic.dpo.lora_rank
        ),
    ]


def _csr(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each iteration's search: kept nodes branch into candidates, sentence by sentence; the image is prefilled once."""
    settings, count = params.csr.search, params.csr.images
    kept = settings.keep_top + settings.keep_bottom
    depth, sentence = min(settings.max_sentences, assumed.sentences), min(settings.max_sentence_tokens, assumed.sentence)
    rows = max(1, planner.batch // kept) * kept * settings.candidates
    nodes = count * (1 + kept * (depth - 1)) * settings.candidates
    length = assumed.prompt + depth * sentence
    searched = planner.generation("search", count, nodes, 0, sentence, settings.max_sentence_tokens, rows, before=length)
    trained = planner.training("train_csr", count, 2, length, params.csr.dpo, params.csr.dpo.lora_rank)
    return [
        dataclasses.replace(cost, stage=f"{name}@{t}")
        for t in range(1, params.csr.iterations + 1)
        for cost, name in ((searched, "search"), (trained, "train_csr"))
    ]


def _evaluation(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each model answers POPE (an image's questions share its prefill), describes for CHAIR twice, and the official benchmarks."""
    world, chair = params.data.source == "world", params.evaluate.chair
    scenes = params.data.world.test_scenes if params.evaluate.split == "test" else params.data.world.validation_scenes
    pope_images, questions = (scenes, 14 * scenes) if world else (500, 9000)
    described = scenes if world else params.data.coco.chair_images
    official = sum(PUBLISHED.get(name.removesuffix("_ranking"), 1000) for name in params.evaluate.benchmarks)
    models = {"base": False, **{name: row.dar for name, row in params.evaluate.models.items()}}
    models |= {f"csr-{t}": False for t in range(1, params.csr.iterations + 1)}
    costs = []
    for name, dar in models.items():
        asked = planner.generation("", pope_images + official, questions + official, assumed.prompt, 2, 16, planner.batch)
        texts = 2 * described + (pope_images + official if dar else 0)
        told = planner.generation("", texts, texts, assumed.prompt, assumed.response, chair.max_new_tokens, planner.batch)
        costs.append(_together(f"evaluate@{name}", [asked, told], planner.start()))
    return costs


def _together(stage: str, parts: Sequence[Cost], start: float) -> Cost:
    """Parts of one stage, for which the model is loaded once."""
    return Cost(
        stage,
        tokens_in=sum(part.tokens_in for part in parts),
        tokens_out=sum(part.tokens_out for part in parts),
        flops=sum(part.flops for part in parts),
        memory=max(part.memory for part in parts),
        disk=sum(part.disk for part in parts),
        seconds=sum(part.seconds or 0.0 for part in parts) - start * (len(parts) - 1),
    )


def show(costs: Sequence[Cost], hardware: Hardware, name: str, devices: int) -> str:
    """The plan as a table, with sums, and a warning where a stage does not fit into a device's memory."""
    head = f"{'stage':<24}{'tokens in':>11}{'out':>9}{'PFLOP':>10}{'GB memory':>11}{'GB disk':>9}{'time':>10}"
    lines = [f"{devices} x {name}", head]
    for cost in costs:
        lines.append(
            f"{cost.stage:<24}{_short(cost.tokens_in):>11}{_short(cost.tokens_out):>9}{cost.flops / 1e15:>10.3g}"
            f"{cost.memory / 1e9:>11.2f}{cost.disk / 1e9:>9.2f}{_time(cost.seconds):>10}"
        )
    seconds, disk = sum(cost.seconds or 0.0 for cost in costs), sum(cost.disk for cost in costs)
    flops = sum(cost.flops for cost in costs) / 1e15
    lines.append(f"{'all':<24}{'':>11}{'':>9}{flops:>10.3g}{'':>11}{disk / 1e9:>9.2f}{_time(seconds):>10}")
    if unknown := [cost.stage for cost in costs if cost.seconds is None]:
        lines.append(f"No formula knows the time of {', '.join(unknown)}; all is without.")
    if large := [cost for cost in costs if cost.memory > 0.9 * hardware.memory]:
        worst = max(large, key=lambda cost: cost.memory)
        lines.append(
            f"{worst.stage} needs {worst.memory / 1e9:.0f} GB, a device has {hardware.memory / 1e9:.0f}: lower runtime.batch_size "
            "or micro_batch_size, set runtime.checkpointing or policy.four_bit, or split the model (configs/accelerate/fsdp.yaml)"
        )
    return "\n".join(lines)


def _short(count: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f}{unit}"
    return f"{count:.0f}" if count else ""


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
