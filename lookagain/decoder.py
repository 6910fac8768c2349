"""Incremental decoding of many rows with one KV cache: prefill an image once, branch, feed tokens, keep some rows.

The one place that handles caches, padding masks and positions; greedy and sampled responses and the sentence search stand on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from lookagain.policy import Policy
from lookagain.transforms import Shown


class Decoder:
    """Rows of one batch: their cache, and the logits of their next token."""

    def __init__(self, policy: Policy, images: Sequence[Shown], image_of_row: Sequence[int], suffixes: Sequence[Sequence[int]]):
        """Prefill: each distinct image's prefix once, then each row's suffix (token ids after the image).

        images: distinct; image_of_row: (rows,) indices into them.
        """
        self.policy = policy
        prefixes = policy.prefixes(images)
        self.cache = DynamicCache(config=policy.model.config.get_text_config())
        self.mask = torch.zeros(len(images), 0, dtype=torch.long, device=policy.device)  # (rows, cached tokens)
        self.next = torch.zeros(len(images), 1, dtype=torch.long, device=policy.device)  # (rows, 1), each row's next position
        self.logits = torch.empty(0)  # (rows, vocabulary), of each row's next token
        self._extend(prefixes.ids, prefixes.features, prefixes.positions)
        self.select(torch.as_tensor(image_of_row))
        self._extend(suffixes)

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
