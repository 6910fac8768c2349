"""Typed params: `params.yaml` is read once, in a stage, into frozen dataclasses; the library takes plain arguments.

A preset is a whole params file: nothing is merged or inherited, every key is required, and an unknown or mistyped one is an
error that names the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lookagain.errors import UserError
from lookagain.extensions import ExtensionError, require

MAX_CSR_ITERATIONS = 8  # pipelines/csr/dvc.yaml is unrolled this far


BenchmarkName = Literal[
    "scienceqa", "textvqa", "chartqa", "mmbench", "mmbench_cn", "mathvista", "mme", "seedbench", "seedbench_ranking", "vizwiz",
    "gqa", "pragmatics", "llava_bench", "mmvet", "shr", "contextual",
]  # fmt: skip
# Those that the world writes files of about its own scenes and charts.
WORLD_BENCHMARKS = ("mme", "gqa", "mmbench", "seedbench", "seedbench_ranking", "textvqa", "chartqa", "pragmatics")
AugmentationName = Literal[
    "none", "flip", "rr_crop", "random_crop", "center_crop", "affine", "invert", "auto_augment", "diffusion", "moco", "byol",
    "simclr",
]  # fmt: skip
PairFormat = Literal["stic", "seva", "povid", "rlaif_v", "vlfeedback", "rlhf_v"]


class ParamsError(UserError):
    """A params file that cannot be used: the message says which key, what was given and what is allowed."""


@dataclass(frozen=True)
class Runtime:
    batch_size: int
    micro_batch_size: int
    checkpointing: bool


@dataclass(frozen=True)
class WorldData:
    image_size: int
    policy_scenes: int
    policy_charts: int
    instruct_scenes: int
    pool_scenes: int
    validation_scenes: int
    test_scenes: int
    benchmark_questions: int


@dataclass(frozen=True)
class CocoData:
    pool_images: str
    instruct_images: str
    instruct_json: str
    test_images: str
    instances_json: str
    captions_json: str
    chair_images: int
    pope_dir: str
    benchmarks: dict[str, str]


@dataclass(frozen=True)
class Data:
    source: Literal["world", "coco"]
    max_bad_images: int
    max_image_pixels: int
    world: WorldData
    coco: CocoData


@dataclass(frozen=True)
class HubPolicy:
    id: str
    revision: str


@dataclass(frozen=True)
class WorldPolicy:
    tower_steps: int
    align_steps: int
    max_yesno_steps: int
    yesno_loss: float
    mixed_steps: int
    noise_share: float


@dataclass(frozen=True)
class Loading:
    """How a policy's weights are held, its attention is computed and images are shown to it."""

    dtype: str = "float32"
    attention: str = "sdpa"
    four_bit: bool = False
    pad_images: bool = False


@dataclass(frozen=True)
class PolicyParams:
    source: Literal["world", "hub"]
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    four_bit: bool
    pad_images: bool
    hub: HubPolicy
    world: WorldPolicy

    @property
    def loading(self) -> Loading:
        """The keys that say how the weights are loaded and images are shown."""
        return Loading(self.dtype, self.attention, self.four_bit, self.pad_images)


@dataclass(frozen=True)
class OpenClip:
    name: str
    pretrained: str


@dataclass(frozen=True)
class WorldReward:
    steps: int
    batch_size: int


@dataclass(frozen=True)
class RewardParams:
    source: Literal["world", "open_clip"]
    open_clip: OpenClip
    world: WorldReward


@dataclass(frozen=True)
class Sample:
    images: int


@dataclass(frozen=True)
class Augmentation:
    name: AugmentationName
    noise_step: int
    crop_share: float


@dataclass(frozen=True)
class SticPairs:
    bad_prompt_share: float
    corrupt: bool
    low_resolution: int
    brightness: float
    hue: float
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Dpo:
    objective: Literal["dpo", "sft"]
    beta: float
    alpha: float
    rejected_score: Literal["response", "top1"]
    image_token: bool
    learning_rate: float
    epochs: int
    batch_size: int
    warmup_ratio: float
    weight_decay: float
    max_length: int
    lora_rank: int
    lora_alpha: int
    lora_dropout: float


@dataclass(frozen=True)
class SticDescribe:
    items: int
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Sft:
    learning_rate: float
    epochs: int
    batch_size: int
    warmup_ratio: float
    weight_decay: float
    max_length: int


@dataclass(frozen=True)
class Stic:
    pairs: SticPairs
    dpo: Dpo
    describe: SticDescribe
    infusion: Literal["paper", "as_released"]
    blind_dar: bool
    sft: Sft


@dataclass(frozen=True)
class SevaPairs:
    questions: Literal["sample", "instruct"]
    folders: list[str]
    items: int
    description_share: float
    rejected: int
    augmentation: Augmentation
    copies: int
    one_line: bool
    max_new_tokens: int


@dataclass(frozen=True)
class Seva:
    pairs: SevaPairs
    dpo: Dpo


@dataclass(frozen=True)
class PovidPairs:
    images: int
    noise_step: int
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Povid:
    pairs: PovidPairs
    dpo: Dpo


@dataclass(frozen=True)
class SelfRewardingPairs:
    images: int
    temperature: float
    top_p: float
    max_new_tokens: int
    judge: Literal["text", "verdicts", "responses"]
    verdict_tokens: int


@dataclass(frozen=True)
class SelfRewarding:
    pairs: SelfRewardingPairs
    dpo: Dpo


@dataclass(frozen=True)
class ImportedPairs:
    file: str
    format: PairFormat
    images: str
    max_bad: int


@dataclass(frozen=True)
class Imported:
    pairs: ImportedPairs
    dpo: Dpo


@dataclass(frozen=True)
class OwnMethod:
    """A pair source of one's own: `pairs` is checked against the `Settings` of its module."""

    pairs: dict[str, Any]
    dpo: Dpo


@dataclass(frozen=True)
class AdapterSft(Sft):
    lora_rank: int
    lora_alpha: int
    lora_dropout: float


@dataclass(frozen=True)
class ContinuedSft:
    models: dict[str, float]
    folders: list[str]
    sft: AdapterSft


@dataclass(frozen=True)
class SearchSettings:
    candidates: int
    proposal: Literal["sample", "group_beam"]
    temperature: float
    diversity_penalty: float
    keep_top: int
    keep_bottom: int
    max_sentence_tokens: int
    max_sentences: int
    reward: str
    language: Literal["product", "mean_logp"]
    image_scale: float
    aggregate: Literal["sum", "mean"]
    prune_by: Literal["R", "R_T"]


@dataclass(frozen=True)
class Csr:
    init: Literal["base", "stic"]
    iterations: int
    images: int
    search: SearchSettings
    dpo: Dpo


@dataclass(frozen=True)
class Pope:
    per_image: int
    suffix: str


@dataclass(frozen=True)
class Chair:
    prompt: str
    max_new_tokens: int


@dataclass(frozen=True)
class Evaluated:
    policy: str
    dar: bool
    augment: Augmentation | None = None


@dataclass(frozen=True)
class JudgeParams:
    base_url: str
    model: str
    runs: int
    concurrency: int


@dataclass(frozen=True)
class Evaluate:
    models: dict[str, Evaluated]
    benchmarks: list[BenchmarkName]
    prompts: Literal["llava15"]
    judge: JudgeParams
    split: Literal["test", "validation"]
    pope: Pope
    chair: Chair
    bootstrap: int


@dataclass(frozen=True)
class Params:
    lambda_: float
    seed: int
    runtime: Runtime
    data: Data
    policy: PolicyParams
    reward: RewardParams
    sample: Sample
    methods: dict[str, str]
    stic: Stic
    seva: Seva
    csr: Csr
    povid: Povid
    self_rewarding: SelfRewarding
    imported: Imported
    continued_sft: ContinuedSft
    evaluate: Evaluate
    own: dict[str, OwnMethod] = field(default_factory=dict)  # sections that `methods` names and no field above


# Bounds by key name, whatever its section: (lowest, highest). Numbers without an entry must be finite and 0 or more.
BOUNDS: dict[str, tuple[float, float]] = {
    "lambda": (0, 1),
    "top_p": (1e-6, 1),
    "bad_prompt_share": (0, 1),
    "noise_share": (0, 1),
    "brightness": (0, 1),
    "hue": (0, 0.5),
    "warmup_ratio": (0, 1),
    "lora_dropout": (0, 0.999),
    "iterations": (1, MAX_CSR_ITERATIONS),
    "benchmark_questions": (10, math.inf),  # MME has five kinds of two questions
    "description_share": (0, 1),
    "noise_step": (0, 999),
    "crop_share": (0.01, 1),
    **dict.fromkeys(
        (
            "batch_size micro_batch_size epochs max_length lora_rank lora_alpha images items candidates image_size "
            "max_sentence_tokens max_sentences max_new_tokens keep_top low_resolution bootstrap per_image test_scenes "
            "validation_scenes pool_scenes instruct_scenes policy_scenes max_image_pixels chair_images "
            "runs concurrency policy_charts rejected copies verdict_tokens"
        ).split(),
        (1, math.inf),
    ),
}


_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file.

    Raises ParamsError if the file is missing, is no YAML, or holds an unknown, missing, mistyped or out-of-range key.
    """
    return check_params(read_raw(path), str(path))


def read_raw(path: Path | str = "params.yaml") -> dict[str, Any]:
    """A params file as plain nested values, unchecked. Raises ParamsError if it is missing or no YAML."""
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"no params file {path}: run from the repository's root, or `lookagain use tiny` to write one")
    try:
        return YAML(typ="safe", pure=True).load(path.read_text())
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error


def check_params(raw: dict[str, Any], path: str) -> Params:
    """Params from plain nested values, checked as `load_params` does; `path` names them in errors."""
    raw = dict(raw) if isinstance(raw, dict) else raw
    own = _own_sections(raw, path)
    params: Params = dataclasses.replace(_build(Params, raw, "", path), own=own)
    _check_relations(params, path)
    return params


def section(params: Params, method: str) -> Any:
    """The section of a method that makes pairs: its `pairs` and `dpo`. Raises ParamsError if there is none."""
    found = params.own.get(method) or getattr(params, method, None)
    if not (hasattr(found, "pairs") and hasattr(found, "dpo")):
        known = [name for name in typing.get_type_hints(Params) if hasattr(getattr(params, name), "pairs")]
        raise ParamsError(
            f"params: methods names {method!r}, and no section of that name has pairs and dpo; those that have: "
            + ", ".join([*known, *params.own])
        )
    return found


def pair_settings(params: Params, method: str, kind: type) -> Any:
    """The `pairs` of a method as its source's `Settings`. Raises ParamsError for a key that these do not have."""
    settings = section(params, method).pairs
    return _build(kind, settings, f"{method}.pairs", "params.yaml") if isinstance(settings, dict) else settings


def _own_sections(raw: Any, path: str) -> dict[str, OwnMethod]:
    """Take the sections of methods that this module does not know out of a raw params file."""
    methods = raw.get("methods") if isinstance(raw, dict) else None
    if not isinstance(methods, dict):
        return {}
    known = {one.name for one in dataclasses.fields(Params)}
    names = [name for name in methods if isinstance(name, str) and name not in known and name in raw]
    return {name: _build(OwnMethod, raw.pop(name), name, path) for name in names}


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Params as flat dotted keys, for tracking: {"lambda": 0.9, "stic.dpo.beta": 0.1, ...}."""
    if dataclasses.is_dataclass(params):
        params = {one.name.rstrip("_"): getattr(params, one.name) for one in dataclasses.fields(params)}
        params = params | params.pop("own", {})
    if not isinstance(params, dict):
        return {prefix.removesuffix("."): params}
    return {name: leaf for key, value in params.items() for name, leaf in flatten(value, f"{prefix}{key}.").items()}


def _build(cls: type, raw: Any, where: str, path: str) -> Any:
    """One dataclass from one YAML mapping, recursively."""
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: {where or 'the file'} must be a section of keys, got {raw!r}")
    hints = typing.get_type_hints(cls)
    fields = [one for one in dataclasses.fields(cls) if (cls, one.name) != (Params, "own")]
    names = {one.name.rstrip("_"): one.name for one in fields}
    optional = {one.name for one in fields if one.default is not dataclasses.MISSING}
    for key in raw:
        if key not in names:
            raise ParamsError(f"{path}: unknown key {_dotted(where, key)!r}; allowed here: {', '.join(names)}")
    for key, name in names.items():
        if key not in raw and name not in optional:
            raise ParamsError(f"{path}: missing key {_dotted(where, key)!r}; presets/tiny.yaml shows every key")
    return cls(**{name: _value(hints[name], raw[key], _dotted(where, key), path) for key, name in names.items() if key in raw})


def _value(kind: Any, raw: Any, where: str, path: str) -> Any:
    """One checked value. YAML readers disagree on `5e-7` (DVC writes it so): a string that spells a float is not one here,
    because ruamel reads YAML 1.2, where it is a float already."""
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), raw, where, path)
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if raw not in allowed or isinstance(raw, bool):
            raise ParamsError(f"{path}: {where} = {raw!r}, allowed: {', '.join(map(str, allowed))}")
        return raw
    if isinstance(kind, types.UnionType):  # an optional section
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
        return _value(kind, raw, where, path)
    if kind is Any:
        return raw
    if isinstance(kind, types.GenericAlias):
        *_, item = typing.get_args(kind)
        if typing.get_origin(kind) is list:
            if not isinstance(raw, list) or any(raw.count(entry) > 1 for entry in raw):
                raise ParamsError(f"{path}: {where} = {raw!r} must be a list, each entry once")
            return [_value(item, entry, where, path) for entry in raw]
        if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
            raise ParamsError(f"{path}: {where} = {raw!r} must map names to {getattr(item, '__name__', item)}")
        return {key: _value(item, entry, _dotted(where, key), path) for key, entry in raw.items()}
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        raw = float(raw)
    if raw is None:
        raise ParamsError(f"{path}: {where} has no value; presets/tiny.yaml shows one")
    if not isinstance(raw, kind) or isinstance(raw, bool) != (kind is bool):
        quoted = " (no quotes)" if isinstance(raw, str) else ""
        raise ParamsError(f"{path}: {where} = {raw!r} is {_NAMES.get(type(raw), 'a section')}, must be {_NAMES[kind]}{quoted}")
    if kind in (int, float):
        low, high = BOUNDS.get(where.rpartition(".")[2], (0, math.inf))
        if not (math.isfinite(raw) and low <= raw <= high):
            bounds = f"lie between {low:g} and {high:g}" if math.isfinite(high) else f"be finite and {low:g} or more"
            raise ParamsError(f"{path}: {where} = {raw!r} must {bounds}")
    return raw


def _check_relations(params: Params, path: str) -> None:
    """Checks that need two keys."""
    world = params.data.world
    if params.data.source == "world" and params.sample.images > world.pool_scenes:
        raise ParamsError(
            f"{path}: sample.images = {params.sample.images} exceeds data.world.pool_scenes = {world.pool_scenes}"
        )
    if params.csr.images > params.sample.images:
        raise ParamsError(f"{path}: csr.images = {params.csr.images} exceeds sample.images = {params.sample.images}")
    for method in ("povid", "self_rewarding"):
        asked = getattr(params, method).pairs.images
        if method in params.methods and asked > params.sample.images:
            raise ParamsError(f"{path}: {method}.pairs.images = {asked} exceeds sample.images = {params.sample.images}")
    for method in params.methods:
        section(params, method)
    if params.methods.get("stic") != "stic-stage1":
        raise ParamsError(f"{path}: methods must hold stic: stic-stage1, on which STIC's second stage stands; others may go")
    _check_names(params, path)
    if "self_rewarding" in params.methods and params.self_rewarding.pairs.temperature == 0:
        raise ParamsError(f"{path}: self_rewarding.pairs.temperature = 0 would draw each response twice; it must be over 0")
    for name, share in params.continued_sft.models.items():
        if not 0 < share <= 1:
            raise ParamsError(f"{path}: continued_sft.models.{name} = {share} must be a share over 0 and up to 1")
    if params.csr.init not in ("base", *params.evaluate.models):
        raise ParamsError(f"{path}: csr.init = {params.csr.init} must be a row of evaluate.models: CSR 1 is tested against it")
    if params.csr.search.proposal == "sample" and params.csr.search.temperature == 0:
        raise ParamsError(f"{path}: csr.search.temperature = 0 would propose one sentence many times; it must be over 0")
    if params.csr.search.candidates < 2:
        raise ParamsError(f"{path}: csr.search.candidates = {params.csr.search.candidates} must be 2 or more to make a pair")
    if params.evaluate.judge.base_url and not params.evaluate.judge.model:
        raise ParamsError(f"{path}: evaluate.judge.base_url is given, and no evaluate.judge.model: name the judge")
    if params.policy.source == "world" and params.data.source != "world":
        raise ParamsError(f"{path}: policy.source = world needs data.source = world, got {params.data.source}")
    if params.reward.source == "world" and params.policy.source != "world":
        raise ParamsError(f"{path}: reward.source = world needs policy.source = world; set reward.source: open_clip")
    if params.data.source == "world":
        for name in params.evaluate.benchmarks:
            if name not in WORLD_BENCHMARKS:
                raise ParamsError(
                    f"{path}: evaluate.benchmarks names {name}, which the world has no files of; with data.source = world: "
                    + ", ".join(WORLD_BENCHMARKS)
                )
    if params.data.source == "coco":
        for name in params.evaluate.benchmarks:
            if name.removesuffix("_ranking") not in params.data.coco.benchmarks:
                raise ParamsError(
                    f"{path}: evaluate.benchmarks names {name}, and data.coco.benchmarks does not say where it lies"
                )


def _check_names(params: Params, path: str) -> None:
    """Checks of names that say what another key, or a file, is called."""
    made = [*params.methods.values(), *params.continued_sft.models]
    csr = [f"csr-{number}" for number in range(1, MAX_CSR_ITERATIONS + 1)]
    for model in made:
        if made.count(model) > 1 or model in ("base", "reward", "stic", *csr):
            raise ParamsError(
                f"{path}: methods or continued_sft.models name the model {model!r}, which something else makes too"
            )
    policies = ["base", "stic", *made, *csr[: params.csr.iterations]]
    for row, evaluated in params.evaluate.models.items():
        if evaluated.policy not in policies:
            raise ParamsError(
                f"{path}: evaluate.models.{row}.policy = {evaluated.policy}: no such policy; there are: {', '.join(policies)}"
            )
    try:
        require("rewards", params.csr.search.reward)
    except ExtensionError as error:
        raise ParamsError(f"{path}: csr.search.reward = {params.csr.search.reward}: {error}") from error


def _dotted(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
