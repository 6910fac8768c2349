"""Training rows: token ids with labels on responses alone, in batches whose images are encoded once.

The order of all rows is laid out before training, with a weight for each, so that the result does not depend on how many rows
a process takes at once or how many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lookagain.errors import UserError
from lookagain.losses import IGNORE, sequence_logps, top_token_labels
from lookagain.policy import Policy, forward
from lookagain.transforms import Shown


@dataclass(frozen=True)
class Example:
    """Tokens after an image: `is_response` marks what is learned from."""

    image_id: str
    ids: list[int]
    is_response: list[bool]


@dataclass(frozen=True)
class Rows:
    """A right-padded batch. `features` holds each distinct image's features once; `image_of_row` says whose row needs which."""

    ids: Tensor  # (rows, length)
    mask: Tensor  # (rows, length), 1 on tokens
    positions: Tensor  # (axes, rows, length), see policy.Prefixes
    labels: Tensor  # (rows, length), IGNORE off responses
    features: list[Tensor | None]  # per distinct image (image tokens, width)
    image_of_row: list[int]


def collate(policy: Policy, examples: Sequence[Example], load_image: Callable[[str], Shown], max_length: int) -> Rows:
    """A batch of rows. Raises UserError if a row is longer than `max_length`: cutting it could cut its image."""
    distinct = list(dict.fromkeys(example.image_id for example in examples))
    prefixes = policy.prefixes([load_image(image_id) for image_id in distinct])
    image_of_row = [distinct.index(example.image_id) for example in examples]
    rows = [prefixes.ids[image] + example.ids for image, example in zip(image_of_row, examples, strict=True)]
    length = max(map(len, rows))
    if length > max_length:
        raise UserError(f"a training example of {length} tokens exceeds max_length = {max_length}: raise it in params.yaml")
    ids = torch.full((len(rows), length), policy.pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    positions = torch.zeros(len(prefixes.positions[0]), len(rows), length, dtype=torch.long)
    for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
        place = prefixes.positions[image_of_row[number]].cpu()  # (axes, prefix length)
        positions[:, number, : place.shape[1]] = place
        positions[:, number, place.shape[1] : len(row)] = place.max() + 1 + torch.arange(len(example.ids))
        tokens = torch.tensor(row)
        ids[number, : len(row)], mask[number, : len(row)] = tokens, 1
        learned = torch.tensor([False] * (len(row) - len(example.ids)) + example.is_response)
        labels[number, : len(row)] = tokens.where(learned, torch.tensor(IGNORE))
    return Rows(ids, mask, positions, labels, prefixes.features, image_of_row)


def response_logps(model: Any, rows: Rows, top1: Tensor | None = None) -> Tensor:
    """Sum of the response tokens' log-probs of each row, (rows,); logits are computed from the first response token on.

    In the rows that `top1` marks, (rows,) bool, the model's own top token is scored instead (`losses.top_token_labels`).
    """
    device = next(model.parameters()).device
    labelled = (rows.labels != IGNORE).any(0).nonzero()[:, 0]
    first, length = int(labelled[0]), rows.ids.shape[1]
    output = forward(
        model,
        rows.ids.to(device),
        [None if feature is None else feature.to(device) for feature in (rows.features[image] for image in rows.image_of_row)],
        rows.positions.to(device),
        attention_mask=rows.mask.to(device),
        use_cache=False,
        logits_to_keep=torch.arange(first - 1, length - 1, device=device),
    )
    labels = rows.labels[:, first:].to(device)
    if top1 is not None:
        labels = torch.where(top1.to(device)[:, None], top_token_labels(output.logits, labels), labels)
    return sequence_logps(output.logits, labels)


def lay_out(count: int, batch_size: int, epochs: int, seed: int) -> list[tuple[int, float]]:
    """(item, weight) in training order: each epoch a permutation by seed, its last batch filled up with items of weight 0.

    Every batch of `batch_size` has weights that sum to `batch_size`, so the mean of weighted losses is the mean over real items.
    """
    order = []
    for epoch in range(epochs):
        items = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for start in range(0, count, batch_size):
            batch = items[start : start + batch_size]
            order += [(item, batch_size / len(batch)) for item in batch]
            order += [(items[0], 0.0)] * (batch_size - len(batch))
    return order


def micro_batches(batch_size: int, micro_batch_size: int, processes: int) -> tuple[int, int]:
    """Rows per step of one process, and steps to accumulate, so that all processes together take `batch_size`.

    Raises UserError if the batch cannot be dealt out evenly.
    """
    if batch_size % processes:
        raise UserError(f"batch_size = {batch_size} cannot be split over {processes} processes: make it a multiple")
    share = batch_size // processes
    micro = max(size for size in range(1, min(share, micro_batch_size) + 1) if share % size == 0)
    return micro, math.ceil(share / micro)
