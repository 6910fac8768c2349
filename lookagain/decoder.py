"""Incremental decoding of many rows with one KV cache: prefill an image once, branch, feed tokens, keep some rows.

The one place that handles caches, padding masks and positions; greedy and sampled responses and the sentence search stand on it.
"""

from __future__ import annotations

import copy
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
        self.room = 0  # tokens that the tensors behind `keys` and `values` can hold
        self.all_keys, self.all_values = self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, tokens, width) to keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        length = before + key_states.shape[-2]
        if length > self.room:
            self.room = length + (ROOM if before else 0)  # an image's prefix gets none: it branches next, which is a copy
            held = self.keys, self.values
            self.all_keys, self.all_values = (
                new.new_empty(*new.shape[:2], self.room, new.shape[-1]) for new in (key_states, value_states)
            )
            if before:
                self.all_keys[:, :, :before], self.all_values[:, :, :before] = held
        self.all_keys[:, :, before:length], self.all_values[:, :, before:length] = key_states, value_states
        self.keys, self.values = self.all_keys[:, :, :length], self.all_values[:, :, :length]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, without room; what they were taken from stays as it is."""
        super().batch_select_indices(indices)
        self.room, self.all_keys, self.all_values = 0, self.keys, self.values


class Decoder:
    """Rows of one batch: their cache, and the logits of their next token."""

    def __init__(self, policy: Policy, images: Sequence[Shown]):
        """Prefill each image's prefix: a row for each."""
        self.policy = policy
        prefixes = policy.prefixes(images)
        self.cache = DynamicCache(config=policy.model.config.get_text_config())
        self.cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.mask = torch.zeros(len(images), 0, dtype=torch.long, device=policy.device)  # (rows, cached tokens)
        self.next = torch.zeros(len(images), 1, dtype=torch.long, device=policy.device)  # (rows, 1), each row's next position
        self.logits = torch.empty(0)  # (rows, vocabulary), of each row's next token
        self._extend(prefixes.ids, prefixes.features, prefixes.positions)

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

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.mask)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row named twice branches."""
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.next, self.logits = self.mask[rows], self.next[rows], self.logits[rows]

    def repeat(self, times: int) -> None:
        """Branch each row into `times` adjacent rows."""
        self.select(torch.arange(self.rows).repeat_interleave(times))

    def feed(self, tokens: Tensor, active: Tensor) -> None:
        """Append one token to each active row and take its next logits; the others stay as they are. tokens, active: (rows,)."""
        logits = self._forward(tokens[:, None], active[:, None].long())
        self.logits = torch.where(active[:, None], logits, self.logits)

    def _extend(
        self,
        pieces: Sequence[Sequence[int]],
        features: Sequence[Tensor | None] | None = None,
        positions: Sequence[Tensor] | None = None,
    ) -> None:
        """Append a piece of token ids to each row, padded on the left; without positions they count on."""
        width = max(map(len, pieces))
        ids = torch.full((len(pieces), width), self.policy.pad)
        mask = torch.zeros(len(pieces), width, dtype=torch.long)
        for row, piece in enumerate(pieces):
            ids[row, width - len(piece) :] = torch.tensor(piece)
            mask[row, width - len(piece) :] = 1
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
