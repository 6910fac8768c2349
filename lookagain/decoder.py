"""Incremental decoding of many rows with one KV cache: prefill an image once, branch, feed tokens, keep some rows.

The one place that handles caches, padding masks and positions; greedy and sampled responses and the sentence search stand on it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lookagain.policy import Policy
from lookagain.transforms import Shown

ROOM = 32  # tokens that a cache can take before all of it is copied


class RoomyLayer(DynamicLayer):
    """A layer's cache with room behind its tokens: a decoding step writes a token there and does not copy those before it."""

    keys: Any
    values: Any

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:  # noqa: D102
        super().lazy_initialization(key_states, value_states)
        self.rows: Tensor | None = None  # those of the held ones that are kept; None: all
        self.room = 0  # tokens that the tensors behind `keys` and `values` can hold
        self.all_keys, self.all_values = self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, tokens, width) to keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        if not before:  # an image's prefix gets no room: it branches next, which is a copy
            self.keys, self.values = key_states.contiguous(), value_states.contiguous()
            return self.keys, self.values
        length = before + key_states.shape[-2]
        if length > self.room:
            self._move(before, length + ROOM)
        self.all_keys[:, :, before:length], self.all_values[:, :, before:length] = key_states, value_states
        self.keys, self.values = self.all_keys[:, :, :length], self.all_values[:, :, :length]
        return self.keys, self.values

    def _move(self, length: int, room: int) -> None:
        """Copy the kept rows to tensors of their own, with that much room."""
        self.all_keys, self.all_values = self._moved(self.keys, length, room), self._moved(self.values, length, room)
        self.rows, self.room = None, room

    def _moved(self, held: Tensor, length: int, room: int) -> Tensor:
        count = len(held) if self.rows is None else len(self.rows)
        moved = held.new_empty(count, held.shape[1], room, held.shape[3])
        if self.rows is None:
            moved[:, :, :length] = held
        else:
            torch.index_select(held, 0, self.rows, out=moved[:, :, :length])
        return moved

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows: from the next tokens on, which is one copy for several selections and for room."""
        self.rows = indices if self.rows is None else self.rows[indices]
        self.room = 0


class Decoder:
    """Rows of one batch: their cache, and the logits of their next token."""

    def __init__(self, policy: Policy, images: Sequence[Shown], head: Sequence[int] = ()):
        """Prefill each image's prefix: a row for each. `head` is what follows it in all rows (token ids)."""
        self.policy = policy
        prefixes = policy.prefixes(images)
        self.cache = DynamicCache(config=policy.model.config.get_text_config())
        self.cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.mask = torch.zeros(len(images), 0, dtype=torch.long, device=policy.device)  # (rows, cached tokens)
        self.next = torch.zeros(len(images), 1, dtype=torch.long, device=policy.device)  # (rows, 1), each row's next position
        self.logits = torch.empty(0)  # (rows, vocabulary), of each row's next token
        positions = [_counted_on(place, len(head)) for place in prefixes.positions]
        self._extend([[*ids, *head] for ids in prefixes.ids], prefixes.features, positions)

    def twin(self) -> Decoder:
        """A decoder of its own with the same rows, whose caches are shared until either takes up tokens."""
        twin = copy.copy(self)
        twin.cache = copy.copy(self.cache)
        twin.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in twin.cache.layers:
            if isinstance(layer, RoomyLayer):
                layer.room = 0  # the room behind the shared tokens is this decoder's
        return twin

    def ask(self, rows: Sequence[int], suffixes: Sequence[Sequence[int]]) -> Decoder:
        """Keep these rows (a row named twice branches), each followed by a suffix (token ids after the image); returns itself."""
        self.select(torch.as_tensor(rows))
        self._extend(suffixes)
        return self

    def branches(self) -> Branches:
        """What continues these rows token by token; it takes the decoder over."""
        return Branches(self)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.mask)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row named twice branches."""
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.next, self.logits = self.mask[rows], self.next[rows], self.logits[rows]

    def _extend(
        self,
        pieces: Sequence[Sequence[int]],
        features: Sequence[Tensor | None] | None = None,
        positions: Sequence[Tensor] | None = None,
    ) -> None:
        """Append a piece of token ids to each row, padded on the left; without positions they count on."""
        width = max(map(len, pieces))
        ids = torch.tensor([[self.policy.pad] * (width - len(piece)) + list(piece) for piece in pieces])
        lengths = torch.tensor([len(piece) for piece in pieces])
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        padded = None
        if positions is not None:
            padded = torch.stack([torch.nn.functional.pad(one, (width - one.shape[1], 0)) for one in positions], dim=1)
        self.logits = self._forward(ids.to(self.mask.device), mask.to(self.mask.device), features, padded)

    def _forward(
        self, ids: Tensor, mask: Tensor, features: Sequence[Tensor | None] | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Logits of the last token of ids (rows, width); positions: (axes, rows, width)."""
        if positions is None:
            positions = (self.next + mask.cumsum(-1) - 1).clamp(min=0)[None]
        self.next = torch.maximum(self.next, ((positions.amax(0) + 1) * mask).amax(-1, keepdim=True))
        self.mask = torch.cat([self.mask, mask], dim=-1)
        output = self.policy.forward(
            ids,
            features,
            positions,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()


def _counted_on(positions: Tensor, more: int) -> Tensor:
    """Positions (axes, length) and those of `more` tokens behind them."""
    first = positions.max() + 1 if positions.numel() else 0
    behind = torch.arange(more, device=positions.device) + first
    return torch.cat([positions, behind.expand(len(positions), -1)], -1)


class Branches:
    """Continuations of a decoder's rows within these rows: a mask says which of a row's tokens each of them consists of.

    So a row's cache is held once and read once for all that branches off it, and no branch copies it. Models that know no such
    mask (`Policy.shares_prefixes`) get a row for each branch. Branches are named by their place; those of one row are adjacent.
    """

    def __init__(self, decoder: Decoder):
        """Take over a decoder: each of its rows has one branch at first."""
        self.policy, self.cache, self.rows, self.logits = decoder.policy, decoder.cache, decoder.rows, decoder.logits
        self.row = torch.arange(decoder.rows)  # (branches,), rising: where each one stands; on the CPU
        self.seen = decoder.mask.bool()  # (branches, cached tokens)
        self.next = decoder.next[:, 0]  # (branches,), each one's next position

    def step(self, branches: Tensor, tokens: Tensor) -> None:
        """Continue branches, in rising order, by a token each: one named twice branches, one not named leaves."""
        self._write(branches, tokens, torch.ones(len(branches), dtype=torch.long), every=False)

    def extend(self, branches: Sequence[int], pieces: Sequence[Sequence[int]]) -> None:
        """Continue branches, in rising order, by some token ids each: one named twice branches, one not named leaves."""
        self._write(*_flat(branches, pieces), every=False)

    def score(self, branches: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
        """As `extend`; returns the logits behind each token of all pieces, one after the other: (tokens, vocabulary)."""
        return self._write(*_flat(branches, pieces), every=True)

    def _write(self, branches: Tensor, tokens: Tensor, lengths: Tensor, every: bool) -> Tensor:
        """Continue branches by `lengths` tokens each; returns the logits behind `every` token, or behind each branch's last."""
        device, branches = self.seen.device, branches.cpu()
        self._place(self.row[branches])
        branch, ordinal, column = _columns(self.row, lengths, self.rows)
        width, last = int(column.max()) + 1, lengths.cumsum(0) - 1
        own = torch.zeros(len(lengths), width, dtype=torch.bool)  # the columns of each branch
        own[branch, column] = True
        earlier = own[branch] & (torch.arange(width) <= column[:, None])  # what each token sees of its own piece
        wanted = torch.arange(len(branch)) if every else last
        kept, among = column[wanted].unique(return_inverse=True)

        seen, following = self.seen[branches.to(device)], self.next[branches.to(device)]
        self.seen, self.next = torch.cat([seen, own.to(device)], -1), following + lengths.to(device)
        owner, row, column = branch.to(device), self.row[branch].to(device), column.to(device)
        ids = torch.full((self.rows, width), self.policy.pad, device=device)
        positions = torch.zeros_like(ids)
        ids[row, column], positions[row, column] = tokens.to(device), following[owner] + ordinal.to(device)
        # What only pads, or idles, sees something too: else it would be NaN, and so would all that it is added to.
        if self.policy.shares_prefixes:
            mask = self.seen.new_zeros(self.rows, 1, width, self.seen.shape[1])
            mask[:, 0, :, 0] = True
            mask[row, 0, column] = torch.cat([seen[owner], earlier.to(device)], -1)
        else:
            mask = torch.zeros(self.rows, self.seen.shape[1], dtype=torch.long, device=device)
            mask[:, 0] = 1
            mask[self.row.to(device)] = self.seen.long()
        output = self.policy.forward(
            ids, None, positions[None], attention_mask=mask, past_key_values=self.cache, use_cache=True,
            logits_to_keep=kept.to(device),
        )  # fmt: skip
        logits = output.logits[row[wanted.to(device)], among.to(device)].float()
        self.logits = logits[last.to(device)] if every else logits
        return logits

    def _place(self, row: Tensor) -> None:
        """The branches stand in these rows from now on. Rows without any idle till they are a quarter: to leave is a copy."""
        going, place = row.unique_consecutive(return_inverse=True)
        crowded = len(going) < len(row) and not self.policy.shares_prefixes
        if crowded:
            going, place = row, torch.arange(len(row))
        if crowded or len(going) <= self.rows * 3 // 4:
            self.cache.batch_select_indices(going.to(self.seen.device))
            self.rows, row = len(going), place
        self.row = row


def _columns(row: Tensor, lengths: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each new token: its branch, its place among that branch's, and its column behind the cache.

    row: where each branch stands, rising; lengths: how many tokens it gets. A row's tokens stand one after the other, at the end
    of as many columns as the fullest row needs.
    """
    branch = torch.arange(len(lengths)).repeat_interleave(lengths)
    number, ends = torch.arange(len(branch)), lengths.cumsum(0)
    filled = torch.zeros(rows, dtype=torch.long).scatter_add_(0, row, lengths)
    column = int(filled.max()) - filled.cumsum(0)[row[branch]] + number
    return branch, number - (ends - lengths)[branch], column


def _flat(branches: Sequence[int], pieces: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Branches, the tokens of all pieces one after the other, and the length of each piece."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    return torch.tensor(branches), torch.tensor(list(itertools.chain(*pieces))), lengths
