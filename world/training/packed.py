"""Projector and decoder over rows of packed conversations, which compute what training needs and no more.

The conversations about an image stand in one row behind it, and none sees another. So attention goes window by window: a window's
tokens are compared with the image and with what stands between the begin of their conversations and the window's end. And the
last layer works on those tokens alone whose logits are wanted. Weights and results are those of transformers' Llama on whole rows,
with as many key as query heads and no dropout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import rotate_half

WINDOW = 64  # tokens


class Window(NamedTuple):
    """A stretch of tokens, the same in all rows, and the stretches that hold all that they see."""

    asking: slice
    keys: tuple[slice, ...]
    hidden: Tensor  # (rows, 1, asking, keys), added to the scores: 0 where a token sees a key


class Answering(torch.nn.Module):
    """A LLaVA's projector and decoder on precomputed tower features."""

    def __init__(self, model: LlavaForConditionalGeneration):
        super().__init__()
        self.image_token = model.config.image_token_id
        self.projector, self.decoder, self.head = model.model.multi_modal_projector, model.model.language_model, model.lm_head

    def forward(self, ids: Tensor, features: Tensor, parts: Tensor, positions: Tensor, before: Tensor) -> Tensor:
        """Logits of the tokens that follow those at the places `before`, (rows, places, vocabulary).

        ids, positions and parts: (rows, length); parts as in `shared_prefix_mask`, the prefix as long in all rows. features: (rows,
        patches, width). before: (rows, places).
        """
        states = self.decoder.embed_tokens(ids)
        states = states.masked_scatter((ids == self.image_token)[..., None], self.projector(features))
        angles = self.decoder.rotary_emb(states, positions)
        seen = shared_prefix_mask(parts)
        windows = _windows(parts, seen, states.dtype)
        *layers, last = self.decoder.layers
        for layer in layers:
            states = _layer(layer, states, angles, states, angles, windows)
        window = Window(slice(None), (slice(None),), _hidden(_at(seen, before), states.dtype))
        states = _layer(last, _at(states, before), tuple(_at(one, before) for one in angles), states, angles, [window])
        return self.head(self.decoder.norm(states))


def shared_prefix_mask(parts: Tensor) -> Tensor:
    """(rows, length, length) bool: tokens see the prefix (part 0) and their part (rows, length), up to themselves; so does
    padding, part -1."""
    seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    return seen & torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool).tril()


def _windows(parts: Tensor, seen: Tensor, dtype: torch.dtype) -> list[Window]:
    """The prefix, and stretches of WINDOW tokens behind it. `seen`: (rows, length, length)."""
    prefix, length = int((parts[0] == 0).sum()), parts.shape[1]
    places = torch.arange(length, device=parts.device)
    begins = functional.pad(parts[:, 1:] != parts[:, :-1], (1, 0), value=True)
    since = torch.where(begins, places, 0).cummax(1).values.amin(0).tolist()  # where the first of a place's parts begins
    windows = [Window(slice(prefix), (slice(prefix),), _hidden(seen[:, :prefix, :prefix], dtype))]
    for start in range(prefix, length, WINDOW):
        asking, keys = slice(start, start + WINDOW), (slice(prefix), slice(since[start], start + WINDOW))
        windows.append(Window(asking, keys, _hidden(torch.cat([seen[:, asking, one] for one in keys], 2), dtype)))
    return windows


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, tokens, keys) mask -> what is added to the scores of all heads, (rows, 1, tokens, keys)."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """(rows, length, width) and (rows, places) -> (rows, places, width)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def _layer(layer: Any, asking: Tensor, turned: Any, states: Tensor, angles: Any, windows: list[Window]) -> Tensor:
    """A decoder layer's states of the asking tokens (rows, asking, width), which see among (rows, length, width).

    `turned` and `angles` are their cosines and sines, (rows, asking or length, head width).
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    own = normed if asking is states else layer.input_layernorm(asking)
    query, key, value = (
        project(given).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project, given in ((attention.q_proj, own), (attention.k_proj, normed), (attention.v_proj, normed))
    )
    seen = _attend(_turn(query, *turned) * attention.scaling, _turn(key, *angles), value, windows)
    asking = asking + attention.o_proj(seen.transpose(1, 2).flatten(2))
    return asking + layer.mlp(layer.post_attention_layernorm(asking))


def _turn(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions: (rows, heads, length, head width), turned."""
    return heads * cosines[:, None] + rotate_half(heads) * sines[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, windows: list[Window]) -> Tensor:
    """Plain attention, window by window: torch's fused one has a slow backward on CPUs. (rows, heads, length, head width)."""
    given = []
    for window in windows:
        keys, values = (torch.cat([one[:, :, stretch] for stretch in window.keys], 2) for one in (key, value))
        scores = query[:, :, window.asking] @ keys.transpose(2, 3) + window.hidden
        given.append(torch.softmax(scores, -1) @ values)
    return torch.cat(given, 2)
