"""Responses of a policy to prompts about images, greedy or sampled, in batches.

A batch prefills each distinct image once, whatever the number of its prompts. Each sampled row draws from a generator of its
own, seeded by (seed, request id), so that a response does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookagain.decoder import Decoder
from lookagain.policy import Policy
from lookagain.records import Decoding
from lookagain.seeds import derive
from lookagain.transforms import Shown

__all__ = ["Decoding", "Request", "choose", "option_losses", "respond"]


@dataclass(frozen=True)
class Request:
    """A prompt about an image; `id` seeds its sampling."""

    id: str
    image_id: str
    prompt: str


@torch.inference_mode()
def respond(
    policy: Policy, requests: Sequence[Request], load_image: Callable[[Request], Shown], decoding: Decoding, seed: int
) -> list[str]:
    """The policy's responses to one batch of requests, in order.

    `load_image` gives a request's image as the policy shall see it (corrupted, say, or None for none); requests whose images are
    the same object share its encoding. Responses are cut at max_new_tokens.
    """
    decoder = _prefilled(policy, requests, load_image)
    uniforms = None
    if decoding.temperature > 0:
        generators = [torch.Generator().manual_seed(derive(seed, "respond", request.id)) for request in requests]
        uniforms = torch.stack([torch.rand(decoding.max_new_tokens, generator=one, dtype=torch.float64) for one in generators])
    return [policy.text(row) for row in _decode(decoder, decoding, uniforms)]


@torch.inference_mode()
def option_losses(
    policy: Policy, requests: Sequence[Request], options: Sequence[Sequence[str]], load_image: Callable[[Request], Shown]
) -> list[list[float]]:
    """The mean negative log-prob of each option's tokens as the response to its request (without EOS), one list per request.

    The prompt is prefilled once and branches into its options.
    """
    decoder = _prefilled(policy, requests, load_image)
    counts = [len(texts) for texts in options]
    decoder.select(torch.arange(len(requests)).repeat_interleave(torch.tensor(counts)))
    rows = [policy.response(request.prompt, text) for request, texts in zip(requests, options, strict=True) for text in texts]
    lengths = torch.tensor([len(row) for row in rows], device=policy.device)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(policy.device)
    total = torch.zeros(len(rows), dtype=torch.float64, device=policy.device)
    for step in range(ids.shape[1]):
        writes = step < lengths
        logps = decoder.logits.log_softmax(-1).gather(-1, ids[:, step, None])[:, 0].double()
        total -= torch.where(writes, logps, 0.0)
        if step < ids.shape[1] - 1:
            decoder.feed(ids[:, step], writes)
    means = (total / lengths).cpu()
    return [part.tolist() for part in means.split(counts)]


def _prefilled(policy: Policy, requests: Sequence[Request], load_image: Callable[[Request], Shown]) -> Decoder:
    """A row for each request, up to where its response begins; equal images are encoded once."""
    distinct: dict[int, Shown] = {}
    keys = []
    for request in requests:
        image = load_image(request)
        distinct.setdefault(id(image), image)
        keys.append(id(image))
    index = {key: number for number, key in enumerate(distinct)}
    suffixes = [policy.suffix(request.prompt) for request in requests]
    return Decoder(policy, list(distinct.values()), [index[key] for key in keys], suffixes)


def _decode(decoder: Decoder, decoding: Decoding, uniforms: Tensor | None) -> list[list[int]]:
    """Token ids of every row up to EOS; finished rows leave the batch once they are half of it."""
    responses: list[list[int]] = [[] for _ in range(decoder.rows)]
    owner = torch.arange(decoder.rows)  # which response each row writes
    active = torch.ones(decoder.rows, dtype=torch.bool)
    for step in range(decoding.max_new_tokens):
        drawn = None if uniforms is None else uniforms[owner, step]
        tokens = choose(decoder.logits, decoding, drawn)
        active &= tokens.cpu() != decoder.policy.eos
        for row in active.nonzero()[:, 0].tolist():
            responses[owner[row]].append(int(tokens[row]))
        if not active.any() or step == decoding.max_new_tokens - 1:
            break
        if active.sum() <= decoder.rows // 2:
            kept = active.nonzero()[:, 0]
            decoder.select(kept)
            owner, tokens, active = owner[kept], tokens[kept.to(tokens.device)], active[kept]
        decoder.feed(tokens, active.to(tokens.device))
    return responses


def choose(logits: Tensor, decoding: Decoding, uniforms: Tensor | None) -> Tensor:
    """One token per row: the most likely, or where `uniforms` (rows,) in [0, 1) fall in the nucleus's cumulative distribution.

    logits: (rows, vocabulary). Returns (rows,).
    """
    if uniforms is None:
        return logits.argmax(-1)
    probabilities = (logits.double() / decoding.temperature).softmax(-1)
    if decoding.top_p < 1:
        ranked, tokens = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        outside = ranked.cumsum(-1) - ranked >= decoding.top_p  # the first token is always inside
        probabilities = probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, tokens, outside), 0)
    # In the vocabulary's order, not the ranked one: a near-tie that rounding turns round must not change the draw.
    cumulative = probabilities.cumsum(-1)
    drawn = uniforms.to(logits.device)[:, None] * cumulative[:, -1:]
    return (cumulative <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)
