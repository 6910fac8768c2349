"""The one training loop of the small world's models: Muon and AdamW, a rate that rises, stays and falls, counted in steps.

Muon (momentum made orthogonal) takes the weight matrices of hidden layers, AdamW the rest. With AdamW alone, tower and
conversations need nearly twice the steps for the same loss.

It is data-parallel over the processes that torch.distributed connects, if there are several: each draws the same batch, works
on its `own` examples of it, and the gradients are averaged. So a step's loss is the whole batch's, whatever their number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from lookagain.world.together import exchanged, own, processes

Report = Callable[[str, int, int, float], None]  # label, step, steps, loss
IGNORED = -100  # label of what is not learned
WARM_UP = 60  # steps
LOWEST_RATE = 0.02  # that the learning rate falls to, in its peak
MATRIX_RATE = 3.0  # Muon's learning rate, in AdamW's: its updates are of one size in all directions
MOMENTUM = 0.95  # of Muon; so are the next two
ORTHOGONAL_STEPS = 5
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # the weights of x, x^3 and x^5: steep at 0, about 1 from there on
_HIDDEN = re.compile(r"\b(layers|resblocks|multi_modal_projector)\.")  # as transformers and open_clip name them


def mean_cross_entropy(logits: Tensor, labels: Tensor, whole: Tensor, weight: Tensor | None = None) -> Tensor:
    """This process's share of a batch's mean cross-entropy: averaged over the processes, it is the mean over all labels.

    logits: (labels, classes) and labels: (labels,) are of its own examples, `whole` holds all labels of the batch, in any shape.
    """
    counted = whole[whole != IGNORED]
    total = len(counted) if weight is None else weight.cpu()[counted.cpu()].sum().item()
    summed = functional.cross_entropy(logits.float(), labels, weight=weight, ignore_index=IGNORED, reduction="sum")
    return summed * (processes()[1] / max(total, 1))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, total: float) -> Tensor:
    """This process's share of a batch's weighted mean cross-entropy: averaged over the processes, it is the mean over all labels.

    logits: (labels, classes), labels and weights: (labels,) are of its own examples, `total` is the sum of the batch's weights.
    """
    each = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    return (each * weights).sum() * (processes()[1] / total)


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


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, the same to the bit: equally large matrices are made orthogonal in
    one batch, for one by one they are too small to keep a processor busy."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the matrices' gradients."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                momentum = self.state[matrices[0]].setdefault("momentum", torch.zeros_like(gradients))  # of all of them
                momentum.lerp_(gradients, 1 - MOMENTUM)
                rate = 0.2 * math.sqrt(max(shape)) * group["lr"]  # as large as AdamW's
                for matrix, update in zip(matrices, orthogonal(gradients.lerp(momentum, MOMENTUM)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (number, rows, columns) with their singular values moved near 1, by Newton and Schulz's iteration in bfloat16."""
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.to(torch.bfloat16)
    found = found / found.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)  # in torch's order: before they are turned
    found = found.mT if tall else found
    once, cubed, fifth = NEWTON_SCHULZ
    for _ in range(ORTHOGONAL_STEPS):
        squared = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(squared, squared, squared, beta=cubed, alpha=fifth), found, beta=once)
    return found.mT if tall else found


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
    if own(matrices):  # each process makes its share of the updates orthogonal
        optimisers.append(Muon(own(matrices), MATRIX_RATE * learning_rate, weight_decay))
    falls = [LambdaLR(optimiser, lambda step: _rate(step, steps, hold)) for optimiser in optimisers]
    smoothed = math.nan
    for step in range(steps):
        loss = loss_at(step)
        for parameter in trained:
            parameter.grad = None
        loss.backward()
        value = _averaged(loss, trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser, fall in zip(optimisers, falls, strict=True):
            optimiser.step()
            fall.step()
        _spread(matrices)
        smoothed = value if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * value
        report(label, step + 1, steps, smoothed)
        if enough is not None and smoothed < enough:
            break
    return smoothed


def _rate(step: int, steps: int, hold: float) -> float:
    fallen = max(0.0, step / steps - hold) / (1 - hold) if hold < 1 else 0.0
    return min(1.0, (step + 1) / WARM_UP) * (LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * fallen)))


def _averaged(loss: Tensor, parameters: Sequence[torch.nn.Parameter]) -> float:
    """Average the gradients over the processes, and the loss, which is returned."""
    if processes()[1] == 1:
        return loss.item()
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    mean = exchanged(_flat([*gradients, loss.detach().float()[None]])).mean(0)
    for parameter, gradient in zip(learning, _parts(mean[:-1], gradients), strict=True):
        parameter.grad = gradient
    return mean[-1].item()


@torch.no_grad()
def _spread(matrices: Sequence[torch.nn.Parameter]) -> None:
    """Give every process the matrices that the others have updated, in place."""
    index, count = processes()
    if count == 1 or not matrices:
        return
    shares = [matrices[owner::count] for owner in range(count)]
    sizes = [sum(map(torch.numel, share)) for share in shares]
    told = exchanged(_flat([*shares[index], matrices[0].new_zeros(max(sizes) - sizes[index])]))
    for owner, (share, size) in enumerate(zip(shares, sizes, strict=True)):
        if owner != index:
            for matrix, values in zip(share, _parts(told[owner, :size], share), strict=True):
                matrix.copy_(values)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _parts(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of what `_flat` made of tensors of these shapes."""
    return [part.view_as(tensor) for part, tensor in zip(flat.split([*map(torch.numel, tensors)]), tensors, strict=True)]
