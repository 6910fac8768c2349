"""What params there are: the sections of params.yaml as frozen dataclasses, and the names that they allow.

`params.py` reads and checks a file of them; the library takes plain arguments, or a section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MAX_CSR_ITERATIONS = 8  # pipelines/csr/dvc.yaml is unrolled this far
BenchmarkFolder = Literal[
    "scienceqa", "textvqa", "chartqa", "mmbench", "mmbench_cn", "mathvista", "mme", "seedbench", "vizwiz", "gqa", "pragmatics",
    "llava_bench", "mmvet", "shr", "contextual",
]  # fmt: skip
BenchmarkName = Literal[BenchmarkFolder, "seedbench_ranking"]  # the latter reads seedbench's folder
AugmentationName = Literal[
    "none", "flip", "rr_crop", "random_crop", "center_crop", "affine", "invert", "auto_augment", "diffusion", "moco", "byol",
    "simclr",
]  # fmt: skip
PairFormat = Literal["stic", "seva", "povid", "rlaif_v", "vlfeedback", "rlhf_v"]


@dataclass(frozen=True)
class Runtime:
    batch_size: int
    micro_batch_size: int
    checkpointing: bool


@dataclass(frozen=True)
class Publication:
    checkpoint: str
    pool: int
    instruct: int
    validation: int
    test: int
    questions: int
    pope_per_image: int


@dataclass(frozen=True)
class PoolData:
    images: str
    instances_json: str | None
    captions_json: str | None


@dataclass(frozen=True)
class InstructData:
    images: str
    json: str


@dataclass(frozen=True)
class SplitData:
    images: str
    instances_json: str
    captions_json: str
    pope_dir: str
    chair_images: int | None
    benchmarks: dict[BenchmarkFolder, str]


@dataclass(frozen=True)
class Data:
    max_bad_images: int
    max_image_pixels: int
    pool: PoolData
    instruct: InstructData
    validation: SplitData | None
    test: SplitData

    @property
    def splits(self) -> dict[str, SplitData]:
        """The splits that there are, by name."""
        return {"test": self.test} | ({} if self.validation is None else {"validation": self.validation})


@dataclass(frozen=True)
class Loading:
    """How a policy's weights are held, its attention is computed and images are shown to it."""

    dtype: str = "float32"
    attention: str = "sdpa"
    four_bit: bool = False
    pad_images: bool = False


@dataclass(frozen=True)
class PolicyParams:
    checkpoint: str
    revision: str
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    four_bit: bool
    pad_images: bool

    @property
    def loading(self) -> Loading:
        """The keys that say how the weights are loaded and images are shown."""
        return Loading(self.dtype, self.attention, self.four_bit, self.pad_images)


@dataclass(frozen=True)
class Scorer:
    model: str
    pretrained: str | None


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
    publish: dict[str, Publication]
    data: Data
    policy: PolicyParams
    scorer: Scorer
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
