"""Responses of a policy to prompts about images, greedy or sampled, in batches.

A batch prefills each distinct image once, whatever the number of its prompts. Each sampled row draws from a generator of its
own, seeded by (seed, request id), so that a response does not depend on what else is in its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookagain.decoder import Decoder
from lookagain.policy import Policy
from lookagain.records import Decoding
from lookagain.seeds import derive
from lookagain.transforms import Shown

__all__ = ["Decoding", "Request", "choose", "option_losses", "respond", "respond_in_turn"]


@dataclass(frozen=True)
class Request:
    """A prompt about an image; `id` seeds its sampling."""

    id: str
    image_id: str
    prompt: str


def respond(
    policy: Policy, requests: Sequence[Request], load_image: Callable[[Request], Shown], decoding: Decoding, seed: int
) -> list[str]:
    """The policy's responses to one batch of requests, in order.

    `load_image` gives a request's image as the policy shall see it (corrupted, say, or None for none); requests whose images are
    the same object share its encoding. Responses are cut at max_new_tokens.
    """
    return respond_in_turn(policy, requests, [decoding] * len(requests), load_image, seed, len(requests))


@torch.inference_mode()
def respond_in_turn(
    policy: Policy,
    requests: Sequence[Request],
    decodings: Sequence[Decoding],
    load_image: Callable[[Request], Shown],
    seed: int,
    batch_size: int,
) -> list[str]:
    """`respond` to more requests about some images than fit into a batch, each with a decoding of its own.

    All their images are encoded and prefilled once, before; then come batches of one decoding, with prompts of like lengths.
    Memory holds the caches of these images beside those of `batch_size` rows, and of the rows alone in the last batch.
    """
    prefilled, image_of_row, suffixes = _prefilled(policy, requests, load_image)
    batches: list[list[int]] = []
    for decoding in dict.fromkeys(decodings):
        rows = [row for row, one in enumerate(decodings) if one == decoding]
        rows.sort(key=lambda row: len(suffixes[row]))
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    responses = [""] * len(requests)
    for number, batch in enumerate(batches, 1):
        decoder = prefilled if number == len(batches) else prefilled.twin()
        decoder.ask([image_of_row[row] for row in batch], [suffixes[row] for row in batch])
        decoding = decodings[batch[0]]
        uniforms = _uniforms([requests[row] for row in batch], decoding, seed)
        for row, tokens in zip(batch, _decode(decoder, decoding, uniforms), strict=True):
            responses[row] = policy.text(tokens)
    return responses


@torch.inference_mode()
def option_losses(
    policy: Policy, requests: Sequence[Request], options: Sequence[Sequence[str]], load_image: Callable[[Request], Shown]
) -> list[list[float]]:
    """The mean negative log-prob of each option's tokens as the response to its request (without EOS), one list per request.

    The prompt is prefilled once and branches into its options.
    """
    decoder, image_of_row, suffixes = _prefilled(policy, requests, load_image)
    decoder.ask(image_of_row, suffixes)
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


def _prefilled(
    policy: Policy, requests: Sequence[Request], load_image: Callable[[Request], Shown]
) -> tuple[Decoder, list[int], list[list[int]]]:
    """A row for each distinct image, which of them is each request's, and the tokens that are left of its prompt.

    Equal images are encoded once, and what all prompts begin with is read once an image.
    """
    images = [load_image(request) for request in requests]  # held here: a freed object's id may come again
    distinct = {id(image): image for image in images}
    number = {key: place for place, key in enumerate(distinct)}
    suffixes = [policy.suffix(request.prompt) for request in requests]
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(suffix[:-1] for suffix in suffixes), strict=False))
    head = [tokens[0] for tokens in alike]  # a token is left to each prompt, for its next logits
    decoder = Decoder(policy, list(distinct.values()), head)
    return decoder, [number[id(image)] for image in images], [suffix[len(head) :] for suffix in suffixes]


def _uniforms(requests: Sequence[Request], decoding: Decoding, seed: int) -> Tensor | None:
    """The draws of each request's response, (requests, max_new_tokens), by seed and request; None where nothing is drawn."""
    if decoding.temperature == 0:
        return None
    generators = [torch.Generator().manual_seed(derive(seed, "respond", request.id)) for request in requests]
    return torch.stack([torch.rand(decoding.max_new_tokens, generator=one, dtype=torch.float64) for one in generators])


def _decode(decoder: Decoder, decoding: Decoding, uniforms: Tensor | None) -> list[list[int]]:
    """Token ids of every row up to EOS; finished rows leave the batch once they are a quarter of it."""
    responses: list[list[int]] = [[] for _ in range(decoder.rows)]
    owner = torch.arange(decoder.rows)  # which response each row writes
    active = torch.ones(decoder.rows, dtype=torch.bool)
    for step in range(decoding.max_new_tokens):
        tokens = choose(decoder.logits, decoding, None if uniforms is None else uniforms[owner, step])
        written = tokens.cpu()
        active &= written != decoder.policy.eos
        for response, token in zip(owner[active].tolist(), written[active].tolist(), strict=True):
            responses[response].append(token)
        if not active.any() or step == decoding.max_new_tokens - 1:
            break
        if active.sum() <= decoder.rows * 3 // 4:
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
