"""The training loop of the world's models."""

import pytest
import torch

from world.training import optimise
from world.training.optimise import hidden_matrices, in_bfloat16, minimise


def silent(label, step, steps, loss):
    """Report nothing."""


def test_muon_trains_matrices_and_adamw_the_rest(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(64, 8, generator=generator), torch.randn(4, 8, generator=generator)
    module = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 4)]), "head": torch.nn.Linear(8, 4)})
    frozen = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 4)])}).requires_grad_(False)
    assert hidden_matrices(frozen) == []
    matrix, *others = hidden_matrices(module)
    assert not others
    assert matrix is module["layers"][0].weight
    taken = []
    muon = torch.optim.Muon
    monkeypatch.setattr(torch.optim, "Muon", lambda given, **settings: taken.extend(given) or muon(given, **settings))

    def loss_at(step):
        return (module["layers"][0](inputs) - inputs @ true.T).square().mean() + module["head"].weight.square().sum()

    seen = []
    minimise("x", module.parameters(), [matrix], loss_at, 200, 0.05, lambda *now: seen.append(now[3]))
    assert seen[-1] < 0.02 * seen[0]
    assert [given is matrix for given in taken] == [True]


def test_training_stops_when_the_loss_is_enough():
    weight = torch.nn.Parameter(torch.ones(1))
    seen = []
    minimise("x", [weight], [], lambda step: weight.square().sum(), 500, 0.1, lambda *now: seen.append(now[3]), enough=0.5)
    assert seen[-1] < 0.5 <= seen[-2]
    assert len(seen) < 500


def test_gradients_of_one_step_are_not_added_to_those_of_the_last_and_are_clipped():
    weight = torch.nn.Parameter(torch.ones(1))
    for slope, seen in ((0.1, 0.1), (3.0, 1.0)):
        minimise("x", [weight], [], lambda step, slope=slope: slope * weight.sum(), 3, 0.0, silent)
        assert weight.grad.item() == pytest.approx(seen)


def test_bfloat16_rounds_the_trained_weights_and_keeps_their_gradients():
    module = torch.nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    given = torch.ones(1, 3)
    with torch.no_grad():
        module.weight.fill_(1 + 2**-12)  # 1 in bfloat16
    with pytest.raises(RuntimeError):
        in_bfloat16(module)(given)  # the frozen bias stays float32
    module.bias.requires_grad_(True)
    output = in_bfloat16(module)(given.bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert module.weight.dtype == module.weight.grad.dtype == torch.float32
    assert module.weight[0, 0].item() == 1 + 2**-12
    assert (output.float() - module.bias.bfloat16().float() - 3).abs().max() < 0.03


def test_the_rate_rises_stays_and_falls():
    assert optimise._rate(0, 1000, 0.5) == pytest.approx(1 / optimise.WARM_UP)
    assert optimise._rate(500, 1000, 0.5) == 1
    assert optimise._rate(750, 1000, 0.5) == pytest.approx((1 + optimise.LOWEST_RATE) / 2)
    assert optimise._rate(1000, 1000, 0.5) == pytest.approx(optimise.LOWEST_RATE)
    assert optimise._rate(500, 1000, 0.0) == pytest.approx((1 + optimise.LOWEST_RATE) / 2)
    assert optimise._rate(999, 1000, 1.0) == 1
