"""Data-parallel training of the world's models gives what one process gives."""

import functools
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.nn import functional
from torch.testing import assert_close

from lookagain.world import optimise, reward, together
from lookagain.world.scenes import draw_scene
from lookagain.world.tower import new_tower, tower_features


def train(folder: Path) -> None:
    """A classifier of 9 examples, some without a label; features of 5 scenes; two steps of a reward. Rank 0 writes all."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(9, 4, generator=generator), torch.tensor([0, 1, 2, -100, 1, 0, 2, 2, -100])
    weight, share = torch.nn.Parameter(torch.zeros(3, 4)), torch.tensor([1.0, 0.3, 1.0])
    weights = torch.where(labels < 0, 0.0, torch.arange(9.0))
    matrices = [torch.nn.Parameter(torch.eye(4)) for _ in range(3)]  # an odd number: the processes' shares differ

    def loss_at(step: int) -> torch.Tensor:
        logits = functools.reduce(torch.matmul, matrices, together.own(inputs)) @ weight.T
        mean = optimise.mean_cross_entropy(logits, together.own(labels), labels, share)
        return mean + optimise.weighted_cross_entropy(logits, together.own(labels), together.own(weights), weights.sum().item())

    losses: list[float] = []
    optimise.minimise("x", [weight, *matrices], matrices, loss_at, 5, 0.1, lambda *now: losses.append(now[3]))
    torch.manual_seed(0)
    tower = new_tower(64).eval().requires_grad_(False)
    drawn = [draw_scene(0, "policy", index, 64) for index in range(5)]
    features = tower_features(tower, np.stack([np.asarray(image) for image, _ in drawn]))
    clip, _ = reward.train_reward(tower, features, [scene for _, scene in drawn], 2, 4, 0, lambda *_: None)
    if together.processes()[0] == 0:
        weights = torch.cat([weight, *matrices]).detach()
        kept = {"weights": weights, "losses": torch.tensor(losses), "features": features}
        kept |= {name: value.detach() for name, value in clip.named_parameters() if value.requires_grad}
        save_file({name: value.contiguous() for name, value in kept.items()}, folder / f"{together.processes()[1]}.safetensors")


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    train(folder)
    for number in range(5):
        sent = torch.arange(3.0) + 10 * rank + number
        shared = together.exchanged(sent).clone()
        os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if the other were on another machine
        assert torch.equal(shared, together.exchanged(sent))
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        assert torch.equal(shared[1] - shared[0], torch.full((3,), 10.0))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # as tests/test_kills.py: its process has imported all of this already
    context.set_forkserver_preload(["lookagain.training.dpo", "lookagain.search"])
    processes = [context.Process(target=work, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    train(folder)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [load_file(folder / f"{count}.safetensors") for count in (1, 2)]


def test_two_processes_take_the_steps_of_one(trained):
    one, two = trained
    assert one["losses"][-1] < one["losses"][0]
    assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    assert_close(two["weights"], one["weights"], rtol=1e-3, atol=1e-3)  # Muon works in bfloat16


def test_features_are_gathered_in_order(trained):
    one, two = trained
    assert len(one["features"]) == 5
    assert_close(two["features"], one["features"], rtol=0.02, atol=0.02)  # bfloat16, in other batches


def test_reward_contrasts_over_both_processes(trained):
    """AdamW's first steps follow the gradients' signs: negatives of one's own process alone would turn many."""
    one, two = trained
    moved = [name for name in one if name not in ("weights", "losses", "features")]
    same = torch.cat([((one[name] - two[name]).abs() < 1e-4).flatten().float() for name in moved])
    assert same.mean() > 0.9


def test_muon_is_torchs_own():
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16), (48, 16), (16, 16), (16, 48), (3, 7)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    steps = [
        optimise.Muon(ours, 0.003, 0.02),
        torch.optim.Muon(theirs, lr=0.003, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for step in steps:
            step.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_mean_cross_entropy_is_torchs_own():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 0])
    share = torch.tensor([1.0, 0.3, 1.0])
    for weight in (None, share):
        expected = functional.cross_entropy(logits, labels, weight=weight)
        assert_close(optimise.mean_cross_entropy(logits, labels, labels, weight), expected)


def test_weighted_cross_entropy_is_the_mean_of_repeated_labels():
    logits, labels, weights = torch.randn(4, 3), torch.tensor([0, 1, -100, 2]), torch.tensor([1.0, 3.0, 5.0, 2.0])
    repeated = torch.tensor([0, 1, 1, 1, 3, 3])
    expected = functional.cross_entropy(logits[repeated], labels[repeated])
    assert_close(optimise.weighted_cross_entropy(logits, labels, weights, 6.0), expected)


def test_the_rate_rises_stays_and_falls():
    assert optimise._rate(0, 1000, 0.5) == pytest.approx(1 / optimise.WARM_UP)
    assert optimise._rate(500, 1000, 0.5) == 1
    assert optimise._rate(750, 1000, 0.5) == pytest.approx((1 + optimise.LOWEST_RATE) / 2)
    assert optimise._rate(1000, 1000, 0.5) == pytest.approx(optimise.LOWEST_RATE)
    assert optimise._rate(500, 1000, 0.0) == pytest.approx((1 + optimise.LOWEST_RATE) / 2)
    assert optimise._rate(999, 1000, 1.0) == 1
