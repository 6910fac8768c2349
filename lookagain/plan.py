"""What a run will cost, before it is paid for: tokens, FLOPs, memory, disk and time of each stage, from params and hardware alone.

Formulae. Prefill and scoring take 2P FLOPs a token (P: the language model's parameters), training an adapter 4P, and reference
log-probs 2P once. A decode step reads the weights, and passes over the whole cache CACHE_PASSES times,
so it lasts at least (weights + passes x rows x context x cache of a token) / bandwidth, and at least a fixed time a layer, as each
layer is a handful of small kernels that a processor must start. A batch lasts as long as its longest rows. Images cost 2 FLOPs a
parameter of the vision tower and patch, those of DPO twice, though the features that are kept are not computed again. Training
memory holds weights, adapters with two moments, and the activations of one
micro-batch; with runtime.checkpointing these are computed again, for 2P a token more.

What no formula knows is assumed and can be set: how long responses are. Times are of work alone; waiting for data is not in them.
How much is published for a run is in `publish`; of other data, the sizes of those that the papers used are assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lookagain.cards import checkpoint_folder
from lookagain.evaluation.imports import PUBLISHED
from lookagain.params import section
from lookagain.schema import Dpo, Params, Publication, Sft
from lookagain.sizes import Hardware, Shape, shape_of

KEPT_BYTES = 2**30  # of image features that a process of DPO holds: training/collate.py's, which would import torch
TOGETHER = 2  # prompts about an image that one row answers: generation.py's, which would import torch
CACHE_PASSES = 2  # attention reads it; rows that end or branch have it copied
LONGEST = 1.5  # a batch's longest responses and sentences over the usual ones
DEEPEST = 2  # a search's deepest responses over the usual ones, in sentences
ROTATIONS = {"mmbench": 4, "mmbench_cn": 4, "pragmatics": 2}  # times a published benchmark asks each of its questions
PICTURE = 8e3, 1.2e-3  # bytes of a small world's image and what is said of it, and seconds of a core to draw or to index it
VAL2014 = 40_504  # images that CHAIR describes where none are drawn
COCO = 20e9  # bytes of train2014 and val2014 with annotations
INSTRUCTIONS = 70e9  # LLaVA's 665k file and its images: COCO's train2017, GQA, OCR-VQA, TextVQA, Visual Genome
CIRCULAR = 4 * 1164  # MMBench asks each of its questions with its options rotated


@dataclass(frozen=True)
class Assumed:
    """Lengths in tokens that only a run can tell."""

    response: int  # a description
    sentence: int
    sentences: int  # of a response in the search
    prompt: int


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
        self.fixed = hardware.process + self.weights

    def images(self, count: float) -> float:
        """FLOPs to encode images."""
        return 2 * self.shape.vision * self.shape.patches * count

    def work(self, flops: float) -> float:
        """Seconds of large multiplications on all devices."""
        return flops / (self.hardware.flops * self.hardware.share * self.devices)

    def generation(self, stage: str, images: float, requests: float, prompt: int, response: int, limit: int, rows: int) -> Cost:
        """Responses to `requests` prompts about `images` images in `rows` rows at once, each of an image and two of its prompts."""
        together = max(1, min(TOGETHER, requests / max(1, images)))
        rows = max(1, min(rows, math.ceil(requests / together / self.devices)))
        steps = math.ceil(requests / together / rows / self.devices) * min(limit, LONGEST * response)
        context = self.shape.image_tokens + together * (prompt + response)
        return self._decoding(stage, images, requests * prompt, requests * response, steps, rows, rows, context)

    def search(self, stage: str, images: float, prompt: int, assumed: Assumed, params: Params) -> Cost:
        """Sentence trees: kept nodes branch into candidates, depth by depth; each image is prefilled once.

        A node's cache serves all its candidates, and is held twice while they grow. About half of these are apart from their
        siblings and still write. Trees end at different depths: on average two thirds of the rows are there, with a response of
        the usual length.
        """
        settings = params.csr.search
        kept = settings.keep_top + settings.keep_bottom
        trees = max(1, self.batch // kept)
        rows = trees * kept
        sentence, usual = min(settings.max_sentence_tokens, assumed.sentence), min(settings.max_sentences, assumed.sentences)
        depth = min(settings.max_sentences, DEEPEST * usual)
        steps = math.ceil(images / trees / self.devices) * depth * min(settings.max_sentence_tokens, LONGEST * sentence)
        written = images * (1 + kept * (usual - 1)) * settings.candidates * sentence
        context = self.shape.image_tokens + prompt + usual * sentence
        return self._decoding(stage, images, images * prompt, written, steps, 2 * rows, rows * settings.candidates / 3, context)

    def _decoding(
        self,
        stage: str,
        images: float,
        prompts: float,
        written: float,
        steps: float,
        rows: int,
        usual_rows: float,
        context: float,
    ) -> Cost:
        """`steps` of `rows` rows at most; prompts and written in tokens, the context at its end."""
        shape = self.shape
        tokens_in = images * shape.image_tokens + prompts
        prefill = 2 * shape.parameters * tokens_in + self.images(images)
        decode = 2 * shape.parameters * written
        cache = context * shape.cache_bytes(self.width)
        step = (self.weights + CACHE_PASSES * usual_rows * cache) / self.hardware.bandwidth
        step = max(step, shape.layers * self.hardware.layer_seconds)
        seconds = self.start() + self.work(prefill) + max(steps * step, self.work(decode))
        logits = rows * shape.vocabulary * 4 * 3
        return Cost(stage, tokens_in, written, prefill + decode, self.fixed + rows * cache + logits, 0.0, seconds)

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
        kept = min(KEPT_BYTES, examples * shape.image_tokens * shape.hidden * self.width) if reference else 0
        memory = self.fixed + shape.adapter(rank) * 16 + activations + logits + kept
        seconds = self.start() + max(self.work(flops), fixed)
        return Cost(stage, tokens, 0.0, flops, memory, shape.adapter(rank) * 4, seconds)


def plan(params: Params, hardware: Hardware, devices: int, response: int | None = None) -> list[Cost]:
    """The cost of every stage of the pipeline. Raises SizeError for a model whose sizes are not known."""
    given = publication(params)
    assumed = Assumed(45, 8, 4, 15) if given else Assumed(200, 20, 8, 40)
    if response:
        sentences = max(1, round(response / assumed.sentence))
        assumed = dataclasses.replace(assumed, response=response, sentences=sentences)
    width = 2 if params.policy.dtype == "bfloat16" else 4
    planner = Planner(shape_of(params), hardware, devices, width, params)
    return [
        *_inputs(params, planner),
        Cost("sample_images", disk=1e6, seconds=1 + params.sample.images * (0.001 if given else 0.01)),
        *_pairs(params, planner, assumed),
        *_stic(params, planner, assumed),
        *_continued(params, planner, assumed),
        *_csr(params, planner, assumed),
        *_evaluation(params, planner, assumed),
        Cost("measure_overlap", seconds=9.0),
        _attention(params, planner, assumed),
        Cost("report", seconds=10.0),
    ]


def publication(params: Params) -> Publication | None:
    """Return the publication of a run; None where files and checkpoints come from elsewhere."""
    return next(iter(params.publish.values()), None)


def _inputs(params: Params, planner: Planner) -> list[Cost]:
    """Params checked, a publication written, files indexed, base and scorer pinned or downloaded, in a time nobody knows."""
    given, start, shape = publication(params), planner.hardware.start_seconds, planner.shape
    costs = [Cost("check_params", seconds=start)]
    if given:
        images = given.pool + given.instruct + given.validation + given.test + 2 * given.questions
        stored, seconds = images * PICTURE[0], start + images * PICTURE[1]
        costs += [Cost(f"publish@{name}", disk=stored, seconds=seconds) for name in params.publish]
    else:
        stored = COCO + (INSTRUCTIONS if "665k" in params.data.instruct.json else 1e9)
        seconds = stored / 100e6  # each image is read and decoded once, on one core
    costs.append(Cost("prepare_data", disk=stored, seconds=seconds))
    folder = checkpoint_folder(params.policy.checkpoint, params.publish).is_dir()
    sizes = {"prepare_policy": 0 if folder else (shape.parameters + shape.vision) * 2}
    sizes["prepare_scorer"] = 0 if params.scorer.pretrained is None else 2e9
    return costs + [Cost(stage, disk=size, seconds=None if size else start) for stage, size in sizes.items()]


def _pairs(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each pair source that params list: its responses, the training on its pairs, and their figures; own sources are like STIC."""
    costs = []
    for source in params.methods:
        images, requests, rejected, limit = _requests(params, source)
        settings = section(params, source).dpo
        if requests:
            name = f"generate_pairs@{source}"
            sizes = (3 * assumed.prompt, assumed.response, limit, planner.batch)
            costs.append(planner.generation(name, images, requests, *sizes))
        pairs = requests // (1 + rejected) if requests else images
        length = assumed.prompt + assumed.response
        costs.append(planner.training(f"train_dpo@{source}", pairs, 1 + rejected, length, settings, settings.lora_rank))
        costs.append(Cost(f"diagnose_pairs@{source}", seconds=planner.hardware.start_seconds))
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
            "train_sft", describe.items, 1, length + _conversation(assumed), params.stic.sft, params.stic.dpo.lora_rank
        ),
    ]


def _conversation(assumed: Assumed) -> float:
    """Tokens of an item of the instruction data: three turns, with responses half as long as a description."""
    return 3 * (assumed.prompt + assumed.response / 2)


def _continued(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """The base fine-tuned on shares of the instruction data (LLaVA's has 665,000 conversations)."""
    given = publication(params)
    items = given.instruct if given else 665_000
    settings, length = params.continued_sft.sft, _conversation(assumed)
    return [
        planner.training(f"train_continued@{model}", share * items, 1, length, settings, settings.lora_rank)
        for model, share in params.continued_sft.models.items()
    ]


def _csr(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each iteration's search and training, and the figures of their pairs."""
    count = params.csr.images
    depth = min(params.csr.search.max_sentences, assumed.sentences)
    length = assumed.prompt + depth * min(params.csr.search.max_sentence_tokens, assumed.sentence)
    searched = planner.search("search", count, assumed.prompt, assumed, params)
    trained = planner.training("train_csr", count, 2, length, params.csr.dpo, params.csr.dpo.lora_rank)
    costs = [
        dataclasses.replace(cost, stage=f"{name}@{t}")
        for t in range(1, params.csr.iterations + 1)
        for cost, name in ((searched, "search"), (trained, "train_csr"))
    ]
    return [*costs, Cost("diagnose_csr", seconds=planner.hardware.start_seconds)]


def _evaluation(params: Params, planner: Planner, assumed: Assumed) -> list[Cost]:
    """Each model answers POPE (an image's questions share its prefill), describes for CHAIR twice, and the official benchmarks.

    An image's three yes-questions are the same in POPE's three files, and of its nine no-questions a third are asked twice. With
    DaR each image is described first, and all prompts are longer by that; in a publication CHAIR's descriptions serve. Its
    benchmarks ask about the images that CHAIR describes, but ChartQA about charts, of which each question may have its own.
    """
    given, chair = publication(params), params.evaluate.chair
    scenes = (given.test if params.evaluate.split == "test" else given.validation) if given else 0
    pope_images = scenes or 500
    described = params.data.splits[params.evaluate.split].chair_images or scenes or VAL2014
    questions = (3 * given.pope_per_image if given else 9) * pope_images
    official = sum(_asked(given, name) for name in params.evaluate.benchmarks)
    others = official  # images
    if given:
        others = given.questions if "chartqa" in params.evaluate.benchmarks else 0
    models = {"base": False, **{name: row.dar for name, row in params.evaluate.models.items()}}
    models |= {f"csr-{t}": False for t in range(1, params.csr.iterations + 1)}
    costs = []
    for name, dar in models.items():
        prompt = assumed.prompt + (assumed.response if dar else 0)
        asked = planner.generation("", pope_images + others, questions + official, prompt, 2, 16, planner.batch)
        first = pope_images + others if dar and not given else 0
        texts = 2 * described + first
        shown = 0 if given else texts
        told = planner.generation("", shown, texts, prompt, assumed.response, chair.max_new_tokens, planner.batch)
        stage = "evaluate_base" if name == "base" else f"evaluate@{name.removeprefix('csr-')}"
        costs.append(_together(stage, [asked, told], planner.start()))
    return costs


def _attention(params: Params, planner: Planner, assumed: Assumed) -> Cost:
    """Each policy that describes by itself is forced along 64 descriptions of its own, and along the base's of the same images."""
    policies = 1 + params.csr.iterations + sum(not row.dar and row.augment is None for row in params.evaluate.models.values())
    texts = (2 * policies - 1) * 64
    tokens = texts * (planner.shape.image_tokens + assumed.prompt + assumed.response)
    flops = 2 * planner.shape.parameters * tokens + planner.images(policies * 64)
    seconds = planner.start() + (policies - 1) * planner.weights / 1e9 + planner.work(flops)
    return Cost("measure_attention", tokens, 0.0, flops, planner.fixed, 0.0, seconds)


def _asked(given: Publication | None, name: str) -> int:
    """How many prompts a benchmark has."""
    if given:
        return given.questions * ROTATIONS.get(name, 1)
    return CIRCULAR if name.startswith("mmbench") else PUBLISHED.get(name.removesuffix("_ranking"), 1000)


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
        lines.append(
            f"No formula knows the time of {', '.join(unknown)}, which downloads weights or reads files: it is not in the sum."
        )
    lines.append(
        "One stage: dvc repro train_dpo@stic; CSR's, named by its iteration: dvc repro pipelines/csr/dvc.yaml:search@1"
    )
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
