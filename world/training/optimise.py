"""The one training loop of the small world's models: Muon and AdamW, a rate that rises, stays and falls, counted in steps.

Muon (momentum made orthogonal) takes the weight matrices of hidden layers, AdamW the rest. With AdamW alone, tower and
conversations need nearly twice the steps for the same loss.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

Report = Callable[[str, int, int, float], None]  # label, step, steps, loss
THREADS = 1  # of a training: sums, and so weights, depend on their number, and two worlds may train at once
EVERY = 50  # steps between two lines of progress
IGNORED = -100  # label of what is not learned
WARM_UP = 60  # steps
LOWEST_RATE = 0.02  # that the learning rate falls to, in its peak
MATRIX_RATE = 3.0  # Muon's learning rate, in AdamW's: its updates are of one size in all directions
_HIDDEN = re.compile(r"\b(layers|resblocks|multi_modal_projector)\.")  # as transformers and open_clip name them


def in_bfloat16(module: torch.nn.Module) -> Callable[..., Any]:
    """The module's forward with its trained weights rounded to bfloat16; the weights themselves, and their gradients, stay float32.

    On CPUs half as fast again as autocast, which turns every activation to and fro.
    """

    def forward(*inputs: Any) -> Any:
        rounded = {name: value.to(torch.bfloat16) for name, value in module.named_parameters() if value.requires_grad}
        return functional_call(module, rounded, inputs)

    return forward


def hidden_matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The trained weight matrices of a module's transformer layers and projector: Muon's part of its parameters."""
    named = module.named_parameters()
    return [value for name, value in named if value.requires_grad and value.ndim == 2 and _HIDDEN.search(name)]


def minimise(
    label: str,
    parameters: Iterable[torch.nn.Parameter],
    matrices: Sequence[torch.nn.Parameter],
    loss_at: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    report: Report,
    hold: float = 0.0,
    weight_decay: float = 0.02,
    enough: float | None = None,
) -> float:
    """Minimise `loss_at(step)` for `steps` steps and return the smoothed loss.

    `matrices` are those of the parameters that Muon trains. The learning rate warms up, stays at its peak until a share `hold`
    of all steps is done, and falls along a cosine. With `enough`, training stops once the smoothed loss is below it.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    known = {id(matrix) for matrix in matrices}
    rest = [parameter for parameter in trained if id(parameter) not in known]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    ]
    if matrices:
        rate = MATRIX_RATE * learning_rate
        optimisers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    falls = [LambdaLR(optimiser, lambda step: _rate(step, steps, hold)) for optimiser in optimisers]
    smoothed = math.nan
    for step in range(steps):
        loss = loss_at(step)
        for parameter in trained:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser, fall in zip(optimisers, falls, strict=True):
            optimiser.step()
            fall.step()
        value = loss.item()
        smoothed = value if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * value
        report(label, step + 1, steps, smoothed)
        if enough is not None and smoothed < enough:
            break
    return smoothed


def _rate(step: int, steps: int, hold: float) -> float:
    fallen = max(0.0, step / steps - hold) / (1 - hold) if hold < 1 else 0.0
    return min(1.0, (step + 1) / WARM_UP) * (LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * fallen)))


def progress() -> Report:
    """A line every EVERY steps: phase, step, loss, seconds."""
    begun = time.monotonic()

    def report(label: str, step: int, steps: int, loss: float) -> None:
        if step % EVERY == 0 or step == steps:
            print(f"{label} {step}/{steps} loss {loss:.3f} {time.monotonic() - begun:.0f} s", flush=True)

    return report
