"""Rows of `make bench` about the training of the small world's base: passes, updates, and what two processes tell each other."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, distributed

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.timing import Done, Row, near
from lookagain.processes import ranks
from lookagain.world import pretrain, splits
from lookagain.world.optimise import Muon, hidden_matrices, in_bfloat16, weighted_cross_entropy
from lookagain.world.packed import Answering
from lookagain.world.together import exchanged
from lookagain.world.tower import new_tower, tower_features

SCENES = 96  # that the base is trained on
UPDATES, EXCHANGES = 30, 100  # in a round
BFLOAT16 = None, "none: it multiplies in bfloat16, and the limit is fp32's"


def passes(bench: Bench) -> Row:
    """Passes of the base's last phase, forward and back, on scenes of the instruction data; the losses must agree."""
    scenes, pixels = splits.read_split("data/instruct")
    scenes, pixels = scenes[:SCENES], pixels[:SCENES]
    about = [splits.training_conversations(scene, bench.params.policy.world.noise_share, 0) for scene in scenes]
    features = tower_features(bench.policy.model.model.vision_tower, pixels)[:, 1:]
    examples = pretrain.encode(bench.policy.tokenizer, about, range(len(scenes)), features.shape[1])
    examples.sort(key=lambda one: len(one.ids))
    batches = [examples[start : start + pretrain.BATCH] for start in range(0, len(examples), pretrain.BATCH)]

    def side(module: type[torch.nn.Module]) -> Done:
        answering = in_bfloat16(module(bench.policy.model))
        start, losses = time.perf_counter(), []
        for batch in batches:
            ids, parts, positions, before, labels, weights = pretrain.padded(batch)
            logits = answering(ids, features[[one.row for one in batch]], parts, positions, before)
            total = weights.sum().item()
            loss = weighted_cross_entropy(logits.flatten(0, 1), labels.flatten(), weights.flatten(), total)
            loss.backward()
            losses.append(loss.item())
        bench.policy.model.zero_grad()
        return Done(len(scenes), time.perf_counter() - start, losses)

    way = "transformers' own layers on whole rows behind a mask"
    return bench.row(
        "the base's training, forward and back", "images/s", 1.3, (way, lambda: side(peers.Whole)),
        lambda: side(Answering), BFLOAT16, agree=near(1e-2),
    )  # fmt: skip


def updates(bench: Bench) -> Row:
    """Muon's steps on the half of the base's matrices that one of two processes updates, on one thread; to the bit the same."""
    given = hidden_matrices(pretrain.new_llava(new_tower(64), bench.policy.tokenizer))[::2]
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(matrix.shape, generator=generator) for matrix in given]

    def side(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> Done:
        matrices = [torch.nn.Parameter(matrix.detach().clone()) for matrix in given]
        optimiser, threads = make(matrices), torch.get_num_threads()
        torch.set_num_threads(1)
        start = time.perf_counter()
        for _ in range(UPDATES):
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient
            optimiser.step()
        seconds = time.perf_counter() - start
        torch.set_num_threads(threads)
        return Done(UPDATES, seconds, [matrix.sum().item() for matrix in matrices])

    def theirs(matrices: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")

    return bench.row(
        "the base's training, Muon's updates", "updates/s", 1.2, ("torch.optim.Muon: matrix by matrix", lambda: side(theirs)),
        lambda: side(lambda matrices: Muon(matrices, 1e-3, 0.02)), BFLOAT16,
    )  # fmt: skip


def exchange(bench: Bench) -> Row:
    """Sums over two processes of as many numbers as the base has weights; to the bit the same."""
    model = pretrain.new_llava(new_tower(64), bench.policy.tokenizer)
    length = sum(value.numel() for value in model.parameters() if value.requires_grad)

    def over_sockets(sent: Tensor) -> Tensor:
        told = sent.clone()
        distributed.all_reduce(told)
        return told

    def side(add: Callable[[Tensor], Tensor]) -> Done:
        context = multiprocessing.get_context("fork")
        said = context.SimpleQueue()

        def work(environment: dict[str, str]) -> None:
            os.environ.update(environment)
            torch.set_num_threads(1)
            distributed.init_process_group("gloo")
            sent = torch.arange(length, dtype=torch.float32) / (1 + distributed.get_rank())
            add(sent)
            distributed.barrier()
            start = time.perf_counter()
            for _ in range(EXCHANGES):
                told = add(sent)
            if distributed.get_rank() == 0:
                said.put((time.perf_counter() - start, told.sum().item()))
            distributed.destroy_process_group()

        running = [context.Process(target=work, args=(environment,)) for environment in ranks(2)]
        for process in running:
            process.start()
        for process in running:
            process.join()
        if any(process.exitcode for process in running):
            raise RuntimeError("a process failed: its message stands above")
        seconds, total = said.get()
        return Done(EXCHANGES, seconds, [total])

    return bench.row(
        "the base's training, sums over two processes", "sums/s", 1.5, ("gloo's all_reduce", lambda: side(over_sockets)),
        lambda: side(lambda sent: exchanged(sent).sum(0)), (None, "none: nothing is multiplied"),
    )  # fmt: skip
