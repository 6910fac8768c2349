"""Responses of a policy to prompts about images, greedy or sampled, in batches.

A batch prefills each distinct image once, whatever the number of its prompts, and answers two of them in one row of the cache.
Each sampled response draws from a generator of its own, seeded by (seed, request id), so that it does not depend on what else is
in its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookagain.decoder import Branches, Decoder
from lookagain.policy import Policy
from lookagain.records import Decoding
from lookagain.seeds import derive
from lookagain.transforms import Shown

__all__ = ["Decoding", "Request", "choose", "option_losses", "respond", "respond_in_turn"]

TOGETHER = 2  # prompts about an image that one row answers: with more, each token passes over too much that it cannot see


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

    All their images are encoded and prefilled once, before; then come batches of `batch_size` rows, each an image with up to
    TOGETHER of its prompts. Memory holds the caches of these images beside those of the rows, and of the rows alone in the last
    batch.
    """
    prefilled, image_of, suffixes = _prefilled(policy, requests, load_image)
    sizes = [(one.max_new_tokens, len(suffix)) for one, suffix in zip(decodings, suffixes, strict=True)]
    batches = _batches(image_of, sizes, batch_size, TOGETHER if policy.shares_prefixes else 1)
    responses = [""] * len(requests)
    for number, batch in enumerate(batches, 1):
        decoder = prefilled if number == len(batches) else prefilled.twin()
        decoder.select(torch.tensor([image_of[asked[0]] for asked in batch]))
        branches, asked = decoder.branches(), list(itertools.chain(*batch))
        rows = [row for row, together in enumerate(batch) for _ in together]
        branches.extend(rows, [suffixes[one] for one in asked])
        how = [decodings[one] for one in asked]
        tokens = _decode(branches, how, _uniforms([requests[one] for one in asked], how, seed))
        for one, written in zip(asked, tokens, strict=True):
            responses[one] = policy.text(written)
    return responses


@torch.inference_mode()
def option_losses(
    policy: Policy, requests: Sequence[Request], options: Sequence[Sequence[str]], load_image: Callable[[Request], Shown]
) -> list[list[float]]:
    """The mean negative log-prob of each option's tokens as the response to its request (without EOS), one list per request.

    The prompt is prefilled once and branches into its options. An option without tokens (an empty response) has none: NaN.
    """
    decoder, image_of, suffixes = _prefilled(policy, requests, load_image)
    branches = decoder.ask(image_of, suffixes).branches()
    ids = [policy.response(request.prompt, text) for request, texts in zip(requests, options, strict=True) for text in texts]
    counts, lengths = [len(texts) for texts in options], torch.tensor([len(tokens) for tokens in ids])
    request = torch.arange(len(requests)).repeat_interleave(torch.tensor(counts))
    # What an option's first token follows is the prompt's last, whose logits are there; the others follow the one before.
    written = (lengths > 0).nonzero()[:, 0].tolist()
    first = torch.tensor([ids[one][0] for one in written], dtype=torch.long, device=policy.device)
    logps = branches.logits[request[written].to(policy.device)].log_softmax(-1).gather(-1, first[:, None])[:, 0]
    total = torch.zeros(len(ids), dtype=torch.float64, device=policy.device)
    total[written] = logps.double()
    longer = (lengths > 1).nonzero()[:, 0].tolist()
    if longer:
        logps = branches.score(request[longer].tolist(), [ids[one][:-1] for one in longer]).log_softmax(-1)
        following = torch.tensor([token for one in longer for token in ids[one][1:]], device=policy.device)
        option = torch.tensor(longer).repeat_interleave(lengths[longer] - 1).to(policy.device)
        total.index_add_(0, option, logps.gather(-1, following[:, None])[:, 0].double())
    means = -total.cpu() / lengths
    return [part.tolist() for part in means.split(counts)]


def _batches(
    image_of: Sequence[int], sizes: Sequence[tuple[int, int]], batch_size: int, together: int
) -> list[list[list[int]]]:
    """Requests in batches of `batch_size` rows, each of one image's, up to `together`, that may write as long as each other.

    sizes: how many tokens each request may write, and its prompt's length. Rows of a batch are about equally long.
    """
    alike: dict[tuple[int, int], list[int]] = {}  # image, tokens that may be written -> requests
    for one in sorted(range(len(sizes)), key=lambda one: sizes[one][1]):
        alike.setdefault((image_of[one], sizes[one][0]), []).append(one)
    rows = [group[start : start + together] for group in alike.values() for start in range(0, len(group), together)]
    rows.sort(key=lambda row: (sizes[row[0]][0], sum(sizes[one][1] for one in row)))
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


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


def _uniforms(requests: Sequence[Request], decodings: Sequence[Decoding], seed: int) -> Tensor:
    """The draws of each request's response, (requests, longest max_new_tokens), by seed and request; 0 where nothing is drawn."""
    draws = []
    for request, decoding in zip(requests, decodings, strict=True):
        generator = torch.Generator().manual_seed(derive(seed, "respond", request.id))
        count = decoding.max_new_tokens if decoding.temperature else 0
        draws.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.nn.utils.rnn.pad_sequence(draws, batch_first=True)


def _decode(branches: Branches, decodings: Sequence[Decoding], uniforms: Tensor) -> list[list[int]]:
    """Token ids that each branch writes by its decoding, up to EOS."""
    responses: list[list[int]] = [[] for _ in decodings]
    kinds = list(dict.fromkeys(decodings))
    kind = torch.tensor([kinds.index(one) for one in decodings])
    limit = torch.tensor([one.max_new_tokens for one in decodings])
    owner = torch.arange(len(decodings))  # which response each branch writes
    for step in itertools.count():
        tokens = torch.empty_like(owner)
        for number in kind[owner].unique().tolist():
            here, decoding = (kind[owner] == number).nonzero()[:, 0], kinds[number]
            drawn = uniforms[owner[here], step] if decoding.temperature else None
            tokens[here] = choose(branches.logits[here.to(branches.logits.device)], decoding, drawn).cpu()
        writes = tokens != branches.policy.eos
        for response, token in zip(owner[writes].tolist(), tokens[writes].tolist(), strict=True):
            responses[response].append(token)
        going = (writes & (step + 1 < limit[owner])).nonzero()[:, 0]
        if not len(going):
            break
        owner = owner[going]
        branches.step(going, tokens[going])
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
