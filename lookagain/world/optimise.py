"""The one training loop of the small world's models: AdamW, a warmed-up cosine, bf16 autocast, counted in steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Report = Callable[[str, int, int, float], None]  # label, step, steps, loss


def minimise(
    label: str,
    parameters: Iterable[torch.nn.Parameter],
    loss_at: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    report: Report,
    floor: float = 0.02,
    weight_decay: float = 0.02,
    enough: float | None = None,
) -> float:
    """Minimise `loss_at(step)` for `steps` steps and return the smoothed loss.

    The learning rate warms up over 60 steps and falls along a cosine to `floor` times its peak. With `enough`, training stops as
    soon as the smoothed loss is below it.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    smoothed = math.nan
    for step in range(steps):
        rate = min(1.0, (step + 1) / 60) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate
        with torch.autocast(trained[0].device.type, torch.bfloat16):
            loss = loss_at(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        smoothed = loss.item() if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss.item()
        report(label, step + 1, steps, smoothed)
        if enough is not None and smoothed < enough:
            break
    return smoothed
