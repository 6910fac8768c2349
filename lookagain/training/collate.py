"""Training rows: token ids with labels on responses alone, in batches whose images are encoded once.

The responses of a pair stand in one row behind one prefix (arXiv 2410.20305): a mask keeps them from seeing each other, and each
takes up the positions behind the prefix. Log-probs and gradients are those of separate rows, for a quarter to a third fewer tokens.

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
from lookagain.losses import IGNORE, token_logps, top_token_labels
from lookagain.packing import who_sees_whom
from lookagain.policy import Policy, forward
from lookagain.transforms import Shown

KEPT_BYTES = 2**30  # of image features that a process holds
AHEAD = 16  # images that are encoded together: a few of a micro-batch alone leave a processor idle
Encoding = tuple[list[int], Tensor | None, Tensor]  # of one image: what Prefixes has lists of


@dataclass(frozen=True)
class Example:
    """Tokens after an image: `is_response` marks what is learned from."""

    image_id: str
    ids: list[int]
    is_response: list[bool]


@dataclass(frozen=True)
class Rows:
    """A right-padded batch. A row is an image's prefix and one example or several, none of which sees the others."""

    ids: Tensor  # (rows, length)
    mask: Tensor  # (rows, length), 1 on tokens; (rows, 1, length, length) bool, who sees whom, if a row has several examples
    positions: Tensor  # (axes, rows, length), see policy.Prefixes
    labels: Tensor  # (rows, length), IGNORE off responses
    example: Tensor  # (rows, length), which example of the batch a token belongs to; 0 where it is none's
    examples: int  # in the batch
    features: list[Tensor | None]  # of each row's image (image tokens, width)


class Kept:
    """Encodings of images by id, as many as `most` bytes hold: what reference log-probs encode, training need not again."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self.left = most
        self.encodings: dict[str, Encoding] = {}
        self.coming: dict[str, Encoding] = {}  # what the next rows want

    def of(self, policy: Policy, image_ids: Sequence[str], load_image: Callable[[str], Shown]) -> list[Encoding]:
        """The encodings of images, in order; those that are not kept are made at once. Nothing of the tower may train."""
        known = self.encodings | self.coming
        missing = [image_id for image_id in image_ids if image_id not in known]
        prefixes = policy.prefixes([load_image(image_id) for image_id in missing]) if missing else ([], [], [])
        fresh = dict(zip(missing, zip(*prefixes, strict=True), strict=True))
        known |= fresh
        for image_id, (ids, features, positions) in fresh.items():
            size = 0 if features is None else features.nbytes
            if size <= self.left:
                own = None if features is None else features.clone()  # a view would hold its whole batch
                self.encodings[image_id], self.left = (ids, own, positions), self.left - size
        return [known[image_id] for image_id in image_ids]

    def ahead(self, policy: Policy, image_ids: Sequence[str], now: int, load_image: Callable[[str], Shown]) -> None:
        """Where one of the first `now` images of rows to come is missing, encode the first AHEAD together, until the next call."""
        if any(image_id not in self.encodings and image_id not in self.coming for image_id in image_ids[:now]):
            wanted = list(dict.fromkeys(image_ids))[:AHEAD]
            self.coming = dict(zip(wanted, self.of(policy, wanted, load_image), strict=True))


def collate(
    policy: Policy,
    groups: Sequence[Sequence[Example]],
    load_image: Callable[[str], Shown],
    max_length: int,
    kept: Kept | None = None,
) -> Rows:
    """A batch of groups of examples; those of a group have one image, whose prefix they share where the model can.

    Images that are `kept` are not encoded again. Raises UserError if an example and its image are longer than `max_length`: cutting
    it could cut its image.
    """
    if not policy.shares_prefixes:
        groups = [[example] for group in groups for example in group]
    distinct = list(dict.fromkeys(group[0].image_id for group in groups))
    encoded = dict(zip(distinct, (kept or Kept(0)).of(policy, distinct, load_image), strict=True))
    encodings = [encoded[group[0].image_id] for group in groups]
    heads = [ids for ids, _, _ in encodings]
    longest = max(len(head) + len(example.ids) for head, group in zip(heads, groups, strict=True) for example in group)
    if longest > max_length:
        raise UserError(f"a training example of {longest} tokens exceeds max_length = {max_length}: raise it in params.yaml")
    shape = len(groups), max(len(head) + sum(len(one.ids) for one in group) for head, group in zip(heads, groups, strict=True))
    ids, labels = torch.full(shape, policy.pad), torch.full(shape, IGNORE)
    part, number = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)  # part: 0 is the prefix, -1 is padding
    positions = torch.zeros(max(len(place) for *_, place in encodings), *shape, dtype=torch.long)
    count = 0
    for row, ((head, _, of_image), group) in enumerate(zip(encodings, groups, strict=True)):
        place = of_image.cpu()  # (axes, prefix length)
        ids[row, : len(head)], part[row, : len(head)], positions[:, row, : len(head)] = torch.tensor(head), 0, place
        start = len(head)
        for order, example in enumerate(group, 1):
            here, tokens = slice(start, start + len(example.ids)), torch.tensor(example.ids)
            ids[row, here], part[row, here], number[row, here] = tokens, order, count
            labels[row, here] = tokens.where(torch.tensor(example.is_response), torch.tensor(IGNORE))
            positions[:, row, here] = place.max() + 1 + torch.arange(len(example.ids))
            start, count = here.stop, count + 1
    mask = who_sees_whom(part) if count > len(groups) else (part >= 0).long()
    return Rows(ids, mask, positions, labels, number, count, [features for _, features, _ in encodings])


def response_logps(model: Any, rows: Rows, top1: Tensor | None = None) -> Tensor:
    """Sum of the log-probs of each example's response tokens, (examples,); logits are computed from the first of them on.

    In the examples that `top1` marks, (examples,) bool, the model's own top token is scored instead
    (`losses.top_token_labels`).
    """
    device = next(model.parameters()).device
    labelled = (rows.labels != IGNORE).any(0).nonzero()[:, 0]
    first, length = int(labelled[0]), rows.ids.shape[1]
    output = forward(
        model,
        rows.ids.to(device),
        [None if feature is None else feature.to(device) for feature in rows.features],
        rows.positions.to(device),
        attention_mask=rows.mask.to(device),
        use_cache=False,
        logits_to_keep=torch.arange(first - 1, length - 1, device=device),
    )
    labels, example = rows.labels[:, first:].to(device), rows.example[:, first:].to(device)
    if top1 is not None:
        labels = torch.where(top1.to(device)[example], top_token_labels(output.logits, labels), labels)
    logps = token_logps(output.logits, labels)
    return torch.zeros(rows.examples, device=device).index_add(0, example.flatten(), logps.flatten())


def lay_out(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> list[tuple[int, float]]:
    """(item, weight) in training order: each epoch a permutation by seed, its last batch filled up with items of weight 0.

    Within a batch items stand by their `lengths`, so that its micro-batches pad little; the batch's step is the same. Every
    batch of `batch_size` has weights that sum to `batch_size`, so the mean of weighted losses is the mean over real items.
    """
    order = []
    for epoch in range(epochs):
        items = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for start in range(0, len(items), batch_size):
            batch = sorted(items[start : start + batch_size], key=lambda item: lengths[item])
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
