"""Rows of `make bench` that train, of which each step's loss must agree: epochs of our trainers beside trl's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.timing import Done, Row, near
from lookagain.images import ImageStore
from lookagain.pairs import read_pairs
from lookagain.policy import Policy, add_adapter, load_policy
from lookagain.records import Conversation, Pair, read_records
from lookagain.training.collate import Example, Kept
from lookagain.training.dpo import all_reference_logps, pair_examples, train_dpo
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation

TRAINED, ROUNDS = 500, 3  # examples of an epoch, and times that it is measured after the first
TRAIN_FLOPS = "4 FLOPs a parameter and token of the trained rows, prefixes once a pair, and the tower's 2 once"


def trained(bench: Bench) -> tuple[Policy, dict[str, torch.Tensor]]:
    """The base with a fresh adapter, and that adapter's weights."""
    policy, settings = load_policy("models/base", bench.params.policy.loading), bench.params.stic.dpo
    torch.manual_seed(0)
    add_adapter(policy, settings.lora_rank, settings.lora_alpha, 0.0)
    return policy, {name: value for name, value in policy.model.state_dict().items() if "lora_" in name}


def optimisation(bench: Bench, folder: str) -> Optimisation:
    """Steps as STIC's are, without warm-up."""
    chosen, micro = bench.params.stic.dpo, bench.params.runtime.micro_batch_size
    checkpoints = Path(folder) / "none"
    return Optimisation(chosen.learning_rate, 1, chosen.batch_size, 0.0, 0.0, chosen.max_length, micro, 0, checkpoints)


def trl_steps(bench: Bench, checkpointing: bool | None) -> dict[str, Any]:
    """trl's arguments: its defaults, but our learning rate and schedule, the same order, and fp32, so that losses agree."""
    own = {} if checkpointing is None else {"activation_checkpointing": checkpointing}
    settings, micro = bench.params.stic.dpo, bench.params.runtime.micro_batch_size
    return own | {
        "per_device_train_batch_size": micro, "gradient_accumulation_steps": settings.batch_size // micro,
        "learning_rate": settings.learning_rate, "num_train_epochs": 1,
        "lr_scheduler_type": "cosine", "train_sampling_strategy": "sequential", "bf16": False, "use_cpu": True,
        "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def preferences(bench: Bench, path: str, at_least: float, way: str, checkpointing: bool | None) -> Row:
    """A DPO epoch with its reference log-probs; losses of all steps must agree."""
    pairs = [pair for pair in read_pairs("data/pairs/stic") if len(pair.rejected) == 1][:TRAINED]
    store = ImageStore("data/pairs/stic/images", bench.params.data.max_image_pixels)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()  # of our only epoch
    examples = [pair_examples(bench.policy, pair) for pair in pairs]
    responses = sum(len(one.ids) for group in examples for one in group) / len(pairs)
    flops = bench.encoding + 3 * bench.token * (bench.shape.image_tokens + responses)

    def texts(pair: Pair) -> dict[str, Any]:
        ends = [f" {text}{bench.policy.tokenizer.eos_token}" for text in (pair.chosen, pair.rejected[0])]
        shown = {"images": [store.load(pair.image_id)], "prompt": peers.prompt_text(bench.policy, pair.prompt)}
        return {**shown, "chosen": ends[0], "rejected": ends[1]}

    def peer() -> Done:
        policy, lora = trained(bench)
        return peers.trl_dpo(policy, [texts(pairs[item]) for item in order], lora, trl_steps(bench, checkpointing), 0.1)

    def ours() -> Done:
        policy, _ = trained(bench)
        with tempfile.TemporaryDirectory() as folder:
            start, kept = time.perf_counter(), Kept()
            with policy.model.disable_adapter():
                references = all_reference_logps(policy, pairs, store.load, bench.params.stic.dpo, in_turn, 64, kept)
            how = 0.1, 0.0, optimisation(bench, folder), lambda *_: None
            log = train_dpo(policy, pairs, references, store.load, *how, kept=kept)
            return Done(len(pairs), time.perf_counter() - start, [entry["loss"] for entry in log])

    formula = f"{TRAIN_FLOPS}; 2 more for reference log-probs"
    return bench.row(path, "pairs/s", at_least, (way, peer), ours, (flops, formula), ROUNDS, near(1e-3))


def dpo(bench: Bench) -> Row:
    """Against trl's DPOTrainer as it comes."""
    return preferences(bench, "DPO epoch", 2, "trl's DPOTrainer as it comes: vision, LoRA, checkpointing", None)


def dpo_held(bench: Bench) -> Row:
    """Against trl's DPOTrainer without checkpointing."""
    return preferences(bench, "DPO epoch, against no checkpointing", 1, "trl's DPOTrainer without checkpointing", False)


def instructions(bench: Bench, path: str, at_least: float, way: str, checkpointing: bool | None) -> Row:
    """An SFT epoch on the first turns of the instruction data; losses of all steps must agree."""
    rows = read_records("data/instruct/conversations.jsonl", Conversation)[:TRAINED]
    store = ImageStore("data/instruct/images", bench.params.data.max_image_pixels)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    examples = [
        Example(one.image_id, *bench.policy.conversation([(one.turns[0].prompt, one.turns[0].response)])) for one in rows
    ]
    length = sum(len(one.ids) for one in examples) / len(examples)
    flops = bench.encoding + 2 * bench.token * (bench.shape.image_tokens + length)

    def texts(one: Conversation) -> dict[str, Any]:
        first = one.turns[0]
        return {
            "images": [store.load(one.image_id)],
            "prompt": peers.prompt_text(bench.policy, first.prompt),
            "completion": f" {first.response}{bench.policy.tokenizer.eos_token}",
        }

    def peer() -> Done:
        policy, lora = trained(bench)
        return peers.trl_sft(policy, [texts(rows[item]) for item in order], lora, trl_steps(bench, checkpointing))

    def ours() -> Done:
        policy, _ = trained(bench)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            log = train_sft(policy, examples, store.load, optimisation(bench, folder), lambda *_: None)
            return Done(len(rows), time.perf_counter() - start, [entry["loss"] for entry in log])

    return bench.row(path, "examples/s", at_least, (way, peer), ours, (flops, TRAIN_FLOPS), ROUNDS, near(1e-3))


def sft(bench: Bench) -> Row:
    """Against trl's SFTTrainer as it comes."""
    return instructions(bench, "SFT epoch", 1.5, "trl's SFTTrainer as it comes: vision, LoRA, checkpointing", None)


def sft_held(bench: Bench) -> Row:
    """Against trl's SFTTrainer without checkpointing."""
    return instructions(bench, "SFT epoch, against no checkpointing", 1, "trl's SFTTrainer without checkpointing", False)


def in_turn(batches: list[Any], work: Callable[[Any], list[Any]], label: str) -> list[Any]:
    """What `Run.map_batches` does with one process."""
    return [result for batch in batches for result in work(batch)]
