"""The rows of `make bench`: each a path of the pipeline as stages run it, and as it is run elsewhere."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import peers
from benchmarks.timing import Done, Row, Side, machine, near, side_by_side, timed
from lookagain.generation import Decoding, Request, respond, respond_in_turn
from lookagain.images import ImageStore
from lookagain.pairs import read_pairs
from lookagain.params import Params
from lookagain.plan import shape_from_config
from lookagain.policy import Policy, add_adapter, load_policy
from lookagain.prompts import CSR_DESCRIBE, STIC_CAPTION
from lookagain.records import Conversation, Pair, read_records
from lookagain.rewards import ImageTextScorer
from lookagain.search import CachedGrower, search
from lookagain.training.collate import Example
from lookagain.training.dpo import pair_examples, reference_logps, train_dpo
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation

NOUNS = "person bicycle car bus train truck boat bird cat dog horse sheep cow elephant bear zebra giraffe umbrella".split()
TRAINED = 96  # examples of a training epoch
STEP = 8  # of them in a step
TOKEN_FLOPS = "2 FLOPs a parameter and token, of the vision tower for patches"
TRAIN_FLOPS = "4 FLOPs a parameter and token of the trained rows, prefixes once a pair, and the tower's 2"


class Bench:
    """What rows share: the model, images, and the machine's peak."""

    def __init__(self, params: Params, peak: float):
        self.params, self.peak = params, peak
        self.policy = load_policy("models/base", params.policy.loading)
        store = ImageStore("data/sample/images", params.data.max_image_pixels)
        self.images: dict[str, Image.Image] = {image_id: store.load(image_id) for image_id in store.ids[:128]}
        self.shape = shape_from_config(self.policy.model.config.to_dict())
        self.encoding = 2 * self.shape.vision * self.shape.patches  # FLOPs of an image
        self.token = 2 * self.shape.parameters  # FLOPs of a token

    def tokens(self, text: str) -> int:
        """A response's length, with EOS."""
        return len(self.policy.tokenizer(text, add_special_tokens=False).input_ids) + 1

    def row(
        self, path: str, unit: str, at_least: float, peer: tuple[str, Side], ours: Side, floor: tuple[float | None, str],
        rounds: int = 3, agree: Callable[[Any, Any], bool] = lambda one, other: one == other,
    ) -> Row:  # fmt: skip
        """Measure a row. floor: the FLOPs that one unit takes at the least, and the formula; None and the reason if unknown."""
        slow, fast = side_by_side(path, peer[1], ours, rounds, agree)
        flops, formula = floor
        reached = None if flops is None else fast * flops / self.peak
        return Row(path, slow, fast, fast / slow, at_least, reached, unit, peer[0], formula, machine())

    # Responses

    @functools.cached_property
    def asked(self) -> list[Request]:
        """Two prompts about each image, as STIC's two responses of a pair are."""
        one, other = self.params.evaluate.chair.prompt, STIC_CAPTION[0]
        return [Request(f"{image}/{number}", image, text) for number, text in enumerate((one, other)) for image in self.images]

    def answer(self, requests: list[Request], batch_size: int, new_tokens: int) -> list[str]:
        """Our responses, in batches as generate_pairs and describe_images make them."""
        responses, decoding = [], Decoding(0.0, 1.0, new_tokens)
        for start in range(0, len(requests), batch_size):
            part = requests[start : start + batch_size]
            responses += respond(self.policy, part, lambda one: self.images[one.image_id], decoding, 0)
        return responses

    def responses(self, path: str, at_least: float, way: str, count: int, peer: Callable[[list[Request]], list[str]]) -> Row:
        """Greedy responses at batch 64 against a peer's; the peer answers the first `count` prompts."""
        new_tokens = self.params.evaluate.chair.max_new_tokens
        shown = self.answer(self.asked, 64, new_tokens)
        length = sum(map(self.tokens, shown)) / len(shown)
        prompts = sum(len(self.policy.suffix(one.prompt)) for one in self.asked) / len(self.asked)
        flops = self.encoding + self.token * (self.shape.image_tokens + prompts + length)

        def counted(texts: list[str]) -> int:
            return sum(map(self.tokens, texts))

        return self.row(
            path, "tokens/s", at_least,
            (way, lambda: timed(lambda: peer(self.asked[:count]), counted)),
            lambda: timed(lambda: self.answer(self.asked, 64, new_tokens), counted),
            (flops / length, f"{TOKEN_FLOPS}; {length:.0f} tokens a response"),
        )  # fmt: skip

    def generate_one(self) -> Row:
        """Against transformers' `generate`, one prompt at a time."""
        limit = self.params.evaluate.chair.max_new_tokens
        way = "`generate`, one prompt at a time (STIC, SeVa, CSR)"
        return self.responses(
            "responses, batch 64", 10, way, 16, lambda part: peers.generate(self.policy, part, self.images, limit, 1)
        )

    def generate_64(self) -> Row:
        """Against transformers' `generate` in batches."""
        limit = self.params.evaluate.chair.max_new_tokens
        return self.responses(
            "responses, batch 64 against plain batches", 1.3, "`generate` in plain batches of 64", len(self.asked),
            lambda part: peers.generate(self.policy, part, self.images, limit, 64),
        )  # fmt: skip

    def batch_1(self) -> Row:
        """Against our own code at batch 1."""
        limit = self.params.evaluate.chair.max_new_tokens
        return self.responses(
            "responses, batch 64 against our batch 1", 10, "our own code, one prompt at a time", 16,
            lambda part: self.answer(part, 1, limit),
        )  # fmt: skip

    # Questions

    def questions(self, path: str, at_least: float, way: str, count: int, batch_size: int) -> Row:
        """18 of POPE's questions about each of 64 images, images prefilled once, against `generate` on each question."""
        suffix = self.params.evaluate.pope.suffix
        asked = [
            Request(f"{image}/{noun}", image, f"Is there a {noun} in the image?{suffix}")
            for image in list(self.images)[:64]
            for noun in NOUNS
        ]
        decodings = [Decoding(0.0, 1.0, 128)] * len(asked)
        length = sum(len(self.policy.suffix(one.prompt)) for one in asked) / len(asked) + 1
        flops = (self.encoding + self.token * self.shape.image_tokens) / len(NOUNS) + self.token * length

        def ours() -> list[str]:
            return respond_in_turn(self.policy, asked, decodings, lambda one: self.images[one.image_id], 0, 64)

        return self.row(
            path, "questions/s", at_least,
            (way, lambda: timed(lambda: peers.generate(self.policy, asked[:count], self.images, 128, batch_size))),
            lambda: timed(ours),
            (flops, f"{TOKEN_FLOPS}; an image once for its 18 questions"),
        )  # fmt: skip

    def questions_one(self) -> Row:
        """Against one question at a time."""
        return self.questions("POPE, 18 questions an image", 20, "`generate`, one question at a time", 36, 1)

    def questions_64(self) -> Row:
        """Against batches that prefill each question's image."""
        way = "`generate` in batches of 64, an image for each question"
        return self.questions("POPE, 18 questions an image, against plain batches", 4, way, 576, 64)

    # Search

    def searched(self, path: str, at_least: float, way: str, count: int, scorer: type[ImageTextScorer], grower: type) -> Row:
        """CSR's search with the settings of params, in batches as the stage makes them."""
        settings, some = self.params.csr.search, list(self.images)[:32]
        requests = [Request(one, one, CSR_DESCRIBE[place % len(CSR_DESCRIBE)]) for place, one in enumerate(some)]
        step = max(1, 64 // (settings.keep_top + settings.keep_bottom))

        def by(part: list[Request], way: type[ImageTextScorer], grower: type) -> list[Any]:
            found, reward = [], way("models/reward")  # a new one, which has seen no sentence yet
            for start in range(0, len(part), step):
                batch = part[start : start + step]
                shown = [self.images[one.image_id] for one in batch]
                found += search(self.policy, shown, batch, reward, settings, self.params.lambda_, self.params.seed, grower)
            return [[node.tokens for node in tree.responses()] for tree in found]

        return self.row(
            path, "images/s", at_least,
            (way, lambda: timed(lambda: by(requests[:count], scorer, grower))),
            lambda: timed(lambda: by(requests, ImageTextScorer, CachedGrower)),
            (None, "none: how many sentences a tree grows depends on what is found"),
        )  # fmt: skip

    def search_csr(self) -> Row:
        """Against CSR's released way."""
        way = "image and response prefilled again for each node, CLIP one sentence at a time (CSR)"
        return self.searched("sentence search", 15, way, 2, peers.OneByOneScorer, peers.FreshGrower)

    def search_prefill(self) -> Row:
        """Against the same batches of CLIP."""
        way = "the same search with a fresh prefill for each node"
        return self.searched("sentence search, cache against prefill", 4, way, 2, ImageTextScorer, peers.FreshGrower)

    def clip(self) -> Row:
        """CLIP scores of 25 candidates of each of 32 images."""
        places = ("left", "right", "top", "bottom", "center", "top left", "top right")
        names = itertools.permutations(NOUNS, 2)
        sentences = [f"In the {place} there is a {one} and a {other}." for one, other in names for place in places]
        shown = list(self.images.values())[:32]
        texts = [sentences[25 * number : 25 * number + 25] for number in range(len(shown))]
        one_by_one, model = peers.OneByOneScorer("models/reward"), ImageTextScorer("models/reward").model

        def peer() -> list[float]:
            return [
                float((one_by_one.encode_images([image]) * one_by_one.encode_texts([text])).sum())
                for image, part in zip(shown[:4], texts, strict=False)
                for text in part
            ]

        def ours() -> list[float]:
            scorer = ImageTextScorer("models/reward")
            embedded = scorer.encode_texts([text for part in texts for text in part]).view(len(shown), 25, -1)
            return (scorer.encode_images(shown)[:, None] * embedded).sum(-1).flatten().tolist()

        text = model.text if hasattr(model, "text") else model
        layers = sum(value.numel() for value in text.transformer.parameters())
        flops = self.encoding / 25 + 2 * layers * text.context_length
        return self.row(
            "CLIP scores, 25 candidates an image", "scores/s", 10, ("one pair at a time (CSR)", lambda: timed(peer)),
            lambda: timed(ours), (flops, "2 FLOPs a parameter of the text encoder and token, an image once for its 25"),
            agree=near(1e-4),
        )  # fmt: skip

    # Training

    def trained(self) -> tuple[Policy, dict[str, torch.Tensor]]:
        """The base with a fresh adapter, and that adapter's weights."""
        policy, settings = load_policy("models/base", self.params.policy.loading), self.params.stic.dpo
        torch.manual_seed(0)
        add_adapter(policy, settings.lora_rank, settings.lora_alpha, 0.0)
        return policy, {name: value for name, value in policy.model.state_dict().items() if "lora_" in name}

    def optimisation(self, folder: str) -> Optimisation:
        """Steps of 8 examples, as trl's default is."""
        settings = self.params.stic.dpo
        return Optimisation(settings.learning_rate, 1, STEP, 0.0, 0.0, settings.max_length, STEP, 0, Path(folder) / "none")

    def trl_steps(self, checkpointing: bool | None) -> dict[str, Any]:
        """trl's arguments: its defaults, but our learning rate and schedule, the same order, and fp32, so that losses agree."""
        own = {} if checkpointing is None else {"activation_checkpointing": checkpointing}
        return own | {
            "per_device_train_batch_size": STEP, "learning_rate": self.params.stic.dpo.learning_rate, "num_train_epochs": 1,
            "lr_scheduler_type": "cosine", "train_sampling_strategy": "sequential", "bf16": False, "use_cpu": True,
            "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
        }  # fmt: skip

    def preferences(self, path: str, at_least: float, way: str, checkpointing: bool | None) -> Row:
        """A DPO epoch with its reference log-probs; losses of all steps must agree."""
        pairs = [pair for pair in read_pairs("data/pairs/stic") if len(pair.rejected) == 1][:TRAINED]
        store = ImageStore("data/pairs/stic/images", self.params.data.max_image_pixels)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()  # of our only epoch
        examples = [pair_examples(self.policy, pair) for pair in pairs]
        responses = sum(len(one.ids) for group in examples for one in group) / len(pairs)
        flops = 2 * self.encoding + 3 * self.token * (self.shape.image_tokens + responses)

        def texts(pair: Pair) -> dict[str, Any]:
            ends = [f" {text}{self.policy.tokenizer.eos_token}" for text in (pair.chosen, pair.rejected[0])]
            shown = {"images": [store.load(pair.image_id)], "prompt": peers.prompt_text(self.policy, pair.prompt)}
            return {**shown, "chosen": ends[0], "rejected": ends[1]}

        def peer() -> Done:
            policy, lora = self.trained()
            return peers.trl_dpo(policy, [texts(pairs[item]) for item in order], lora, self.trl_steps(checkpointing), 0.1)

        def ours() -> Done:
            policy, _ = self.trained()
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                with policy.model.disable_adapter():
                    parts = [pairs[at : at + 32] for at in range(0, len(pairs), 32)]
                    references = [row for part in parts for row in reference_logps(policy, part, store.load, 512)]
                log = train_dpo(policy, pairs, references, store.load, 0.1, 0.0, self.optimisation(folder), lambda *_: None)
                return Done(len(pairs), time.perf_counter() - start, [entry["loss"] for entry in log])

        formula = f"{TRAIN_FLOPS}; 2 more for reference log-probs"
        return self.row(path, "pairs/s", at_least, (way, peer), ours, (flops, formula), agree=near(1e-3))

    def dpo(self) -> Row:
        """Against trl's DPOTrainer as it comes."""
        return self.preferences("DPO epoch", 2, "trl's DPOTrainer as it comes: vision, LoRA, checkpointing", None)

    def dpo_held(self) -> Row:
        """Against trl's DPOTrainer without checkpointing."""
        return self.preferences("DPO epoch, against no checkpointing", 1, "trl's DPOTrainer without checkpointing", False)

    def instructions(self, path: str, at_least: float, way: str, checkpointing: bool | None) -> Row:
        """An SFT epoch on the first turns of the instruction data; losses of all steps must agree."""
        rows = read_records("data/instruct/conversations.jsonl", Conversation)[:TRAINED]
        store = ImageStore("data/instruct/images", self.params.data.max_image_pixels)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        examples = [
            Example(one.image_id, *self.policy.conversation([(one.turns[0].prompt, one.turns[0].response)])) for one in rows
        ]
        length = sum(len(one.ids) for one in examples) / len(examples)
        flops = self.encoding + 2 * self.token * (self.shape.image_tokens + length)

        def texts(one: Conversation) -> dict[str, Any]:
            first = one.turns[0]
            return {
                "images": [store.load(one.image_id)],
                "prompt": peers.prompt_text(self.policy, first.prompt),
                "completion": f" {first.response}{self.policy.tokenizer.eos_token}",
            }

        def peer() -> Done:
            policy, lora = self.trained()
            return peers.trl_sft(policy, [texts(rows[item]) for item in order], lora, self.trl_steps(checkpointing))

        def ours() -> Done:
            policy, _ = self.trained()
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                log = train_sft(policy, examples, store.load, self.optimisation(folder), lambda *_: None)
                return Done(len(rows), time.perf_counter() - start, [entry["loss"] for entry in log])

        return self.row(path, "examples/s", at_least, (way, peer), ours, (flops, TRAIN_FLOPS), agree=near(1e-3))

    def sft(self) -> Row:
        """Against trl's SFTTrainer as it comes."""
        return self.instructions("SFT epoch", 1.5, "trl's SFTTrainer as it comes: vision, LoRA, checkpointing", None)

    def sft_held(self) -> Row:
        """Against trl's SFTTrainer without checkpointing."""
        return self.instructions("SFT epoch, against no checkpointing", 1, "trl's SFTTrainer without checkpointing", False)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "generate-one": Bench.generate_one,
    "generate-64": Bench.generate_64,
    "batch-1": Bench.batch_1,
    "search": Bench.search_csr,
    "search-prefill": Bench.search_prefill,
    "dpo": Bench.dpo,
    "dpo-held": Bench.dpo_held,
    "sft": Bench.sft,
    "sft-held": Bench.sft_held,
    "pope-one": Bench.questions_one,
    "pope-64": Bench.questions_64,
    "clip": Bench.clip,
}
