"""CSR Algorithm 1: sentence-level beam search, guided by the calibrated reward.

Every live node (a response so far) proposes `candidates` sentences. With proposal `sample` they are drawn from the policy at a
temperature (the paper's section 3.2.1); with `group_beam` they come from group beam search (its appendix and the released
code): groups of one beam each, which choose their tokens in turn, each taking a penalty off the tokens that earlier groups
chose at the same step (Hamming diversity). The image is prefilled once; a node's cache serves all its candidates, and lives on
in those that are kept with their sentences' token ids, which are never tokenised again. Trees of several images grow in
lockstep, as rows of one batch.

As in the paper: sentences end at ".", each gets R (Eq. 4), the top and bottom ones by R go on, the responses with the highest
and lowest cumulative R make the pair. Deviations: equal candidates of a node count once; a response that only ends (EOS at
once) adds no sentence; responses that are not finished after `max_sentences` are used only where fewer than two are finished.
The released code's ways (rank reward, R_T as a mean log-prob, mean over sentences, pruning by R_T so far) are switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from lookagain.decoder import Branches, Decoder
from lookagain.extensions import find
from lookagain.generation import Request, choose
from lookagain.policy import Policy
from lookagain.records import Decoding
from lookagain.rewards import Candidate, ImageTextScorer, image_relevance, language_score, mean_logp
from lookagain.schema import SearchSettings
from lookagain.seeds import derive

RELEASED_PRUNES_FROM = 5  # nodes: with `prune_by: R_T`, fewer all go on


@dataclass(frozen=True)
class Growth:
    """A sentence grown from a node."""

    tokens: list[int]  # with the full stop, without EOS
    logps: list[float]  # of those tokens under the policy itself, without temperature or penalty
    ends_response: bool


@dataclass(frozen=True)
class Sentence:
    """A scored sentence."""

    tokens: list[int]
    text: str
    language: float  # R_T
    relevance: float  # R_I
    reward: float  # R


@dataclass(frozen=True)
class Node:
    """A response so far."""

    tree: int
    sentences: tuple[Sentence, ...] = ()
    row: int = 0  # of the decoder's cache that holds it, up to its last sentence where that was just written

    @property
    def tokens(self) -> list[int]:
        """The response's token ids so far."""
        return [token for sentence in self.sentences for token in sentence.tokens]


@dataclass
class Tree:
    """All responses found for one prompt, with their cumulative rewards."""

    finished: list[Node] = field(default_factory=list)
    unfinished: list[Node] = field(default_factory=list)

    def responses(self) -> list[Node]:
        """Finished responses; with fewer than two of them, also those that max_sentences cut."""
        return self.finished if len(self.finished) > 1 else self.finished + self.unfinished


def search(
    policy: Policy,
    images: Sequence[Image.Image],
    requests: Sequence[Request],
    scorer: ImageTextScorer,
    settings: SearchSettings,
    lambda_: float,
    seed: int,
    grower: type[CachedGrower] | None = None,
) -> list[Tree]:
    """One tree per request and its image. `grower` decides how nodes grow; the default keeps every node's cache."""
    trees = [Tree() for _ in images]
    nodes = [Node(tree=number, row=number) for number in range(len(images))]
    growing = (grower or CachedGrower)(policy, images, [request.prompt for request in requests], settings)
    embeddings = scorer.encode_images(images)
    for depth in range(settings.max_sentences):
        grown = growing.grow(nodes, _uniforms(nodes, requests, settings, seed))
        candidates = _scored(policy, grown, nodes, embeddings, scorer, settings, lambda_)
        for node, ends in candidates:
            if ends:
                trees[node.tree].finished.append(node)
        alive = [node for node, ends in candidates if not ends]
        nodes = [node for tree in range(len(images)) for node in _kept([n for n in alive if n.tree == tree], settings)]
        if not nodes or depth == settings.max_sentences - 1:
            break
        nodes = growing.keep(nodes)
    for node in nodes:
        trees[node.tree].unfinished.append(node)
    return trees


def cumulative(node: Node, aggregate: str) -> float:
    """A response's reward: the sum over its sentences (paper), or their mean (released code)."""
    total = sum(sentence.reward for sentence in node.sentences)
    return total if aggregate == "sum" else total / max(1, len(node.sentences))


def best_and_worst(tree: Tree, aggregate: str) -> tuple[Node, Node] | None:
    """The responses with the highest and lowest cumulative reward; None if all responses are equal in reward or there are none."""
    ranked = sorted((node for node in tree.responses() if node.sentences), key=lambda node: cumulative(node, aggregate))
    if not ranked or cumulative(ranked[0], aggregate) == cumulative(ranked[-1], aggregate):
        return None
    return ranked[-1], ranked[0]


class CachedGrower:
    """Grows sentences from nodes whose caches are rows of one decoder; a sentence's is computed again where it is kept."""

    def __init__(self, policy: Policy, images: Sequence[Image.Image], prompts: Sequence[str], settings: SearchSettings):
        self.settings = settings
        self.stops = full_stops(policy)
        suffixes = [policy.suffix(prompt) for prompt in prompts]
        with torch.inference_mode():
            self.decoder = Decoder(policy, images).ask(range(len(images)), suffixes)

    @torch.inference_mode()
    def grow(self, nodes: Sequence[Node], uniforms: Tensor) -> list[list[Growth]]:
        """The distinct candidate sentences of each node; node i is row i of the decoder."""
        rows = torch.arange(len(nodes)).repeat_interleave(self.settings.candidates)
        return grow_sentences(self.decoder.twin().branches(), rows, self.settings, self.stops, uniforms)

    def keep(self, nodes: Sequence[Node]) -> list[Node]:
        """Keep the caches of these nodes alone, with the sentences they just grew; returns the nodes with their new rows."""
        with torch.inference_mode():
            self.decoder.ask([node.row for node in nodes], [node.sentences[-1].tokens for node in nodes])
        return [Node(node.tree, node.sentences, row) for row, node in enumerate(nodes)]


def full_stops(policy: Policy) -> list[int]:
    """Ids of the tokens that end a sentence: those that are "." by themselves."""
    ids = {policy.tokenizer.convert_tokens_to_ids("."), policy.tokenizer("a.", add_special_tokens=False).input_ids[-1]}
    return sorted(token for token in ids if token is not None and policy.text([token]) == ".")


def _uniforms(nodes: Sequence[Node], requests: Sequence[Request], settings: SearchSettings, seed: int) -> Tensor:
    """The draws of every candidate, (nodes * candidates, max_sentence_tokens): seeded by request, response so far, candidate."""
    if settings.proposal == "group_beam":
        return torch.empty(len(nodes) * settings.candidates, settings.max_sentence_tokens)  # nothing is drawn
    draws = []
    for node in nodes:
        for candidate in range(settings.candidates):
            one = torch.Generator().manual_seed(derive(seed, "search", requests[node.tree].id, *node.tokens, candidate))
            draws.append(torch.rand(settings.max_sentence_tokens, generator=one, dtype=torch.float64))
    return torch.stack(draws)


def grow_sentences(
    decoder: Branches, rows: Tensor, settings: SearchSettings, stops: Sequence[int], uniforms: Tensor
) -> list[list[Growth]]:
    """The sentence that each candidate writes from its row of the decoder; equal ones of a node count once.

    rows: (nodes * candidates,), a node's adjacent. Candidates of one row stay one until their tokens part; those that end leave.
    uniforms: (nodes * candidates, max_sentence_tokens), the draws of proposal `sample`.
    """
    sampling = Decoding(settings.temperature, 1.0, settings.max_sentence_tokens)
    device, vocabulary = decoder.logits.device, decoder.logits.shape[-1]
    stop = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    stop[list(stops)] = True
    row, active = rows.to(device), torch.ones(len(rows), dtype=torch.bool, device=device)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # tokens, log-probs, whether the candidate wrote: (candidates,) each
    ends = torch.zeros_like(active)  # EOS was chosen
    for step in range(settings.max_sentence_tokens):
        logits = decoder.logits[row]
        logps = logits.log_softmax(-1)
        if settings.proposal == "sample":
            tokens = choose(logits, sampling, uniforms[:, step])
        else:
            tokens = _diverse(logps, active, settings.candidates, settings.diversity_penalty)
        over = active & (tokens == decoder.policy.eos)
        ends |= over
        writes = active & ~over
        steps.append((tokens, logps.gather(-1, tokens[:, None])[:, 0], writes))
        active = writes & ~stop[tokens]
        if not active.any() or step == settings.max_sentence_tokens - 1:
            break
        going, place = (row * vocabulary + tokens)[active].unique(return_inverse=True)
        decoder.step(going // vocabulary, going % vocabulary)
        row = torch.zeros_like(row).masked_scatter(active, place)  # what has ended looks at any row
    tokens, logps, writes = (torch.stack(part, -1).cpu() for part in zip(*steps, strict=True))  # (candidates, steps)
    lengths = writes.sum(-1).tolist()
    sentences = [
        Growth(ids[:length], values[:length], over)
        for ids, values, length, over in zip(tokens.tolist(), logps.tolist(), lengths, ends.tolist(), strict=True)
    ]
    return [_distinct(sentences[start : start + settings.candidates]) for start in range(0, len(rows), settings.candidates)]


def _distinct(siblings: Sequence[Growth]) -> list[Growth]:
    """The first of each kind."""
    first: dict[tuple, Growth] = {}
    for one in siblings:
        first.setdefault((*one.tokens, one.ends_response), one)
    return list(first.values())


def _diverse(logps: Tensor, active: Tensor, groups: int, penalty: float) -> Tensor:
    """Each row's token: the most likely after `penalty` for every earlier, still writing group of its node that chose it now."""
    logps, active = logps.view(-1, groups, logps.shape[-1]), active.view(-1, groups)
    taken = torch.zeros_like(logps[:, 0])  # (nodes, vocabulary)
    chosen = []
    for group in range(groups):
        tokens = (logps[:, group] - penalty * taken).argmax(-1, keepdim=True)
        taken = taken.scatter_add(-1, tokens, active[:, group, None].to(taken.dtype))
        chosen.append(tokens)
    return torch.cat(chosen, -1).view(-1)


def _scored(
    policy: Policy,
    grown: Sequence[Sequence[Growth]],
    nodes: Sequence[Node],
    embeddings: Tensor,
    scorer: ImageTextScorer,
    settings: SearchSettings,
    lambda_: float,
) -> list[tuple[Node, bool]]:
    """Children of all nodes with their sentences' rewards, and whether they end the response."""
    texts = [[policy.text(growth.tokens) for growth in siblings] for siblings in grown]
    wanted = [(node.tree, text) for node, row in zip(nodes, texts, strict=True) for text in row if text]
    cosines = {}
    if wanted:
        trees = torch.tensor([tree for tree, _ in wanted])
        values = (embeddings[trees] * scorer.encode_texts([text for _, text in wanted])).sum(-1).tolist()
        cosines = dict(zip(wanted, values, strict=True))
    rewards = find("rewards", settings.reward, "rewards").rewards
    score = language_score if settings.language == "product" else mean_logp
    children = []
    for node, siblings, row in zip(nodes, grown, texts, strict=True):
        written = [growth for growth, text in zip(siblings, row, strict=True) if text]
        candidates = []
        for growth, text in zip(written, filter(None, row), strict=True):
            cosine = cosines[node.tree, text]
            relevance = image_relevance(cosine, settings.image_scale)
            candidates.append(Candidate(text, growth.logps, cosine, relevance, score(growth.logps)))
        for growth, one, reward in zip(written, candidates, rewards(candidates, lambda_), strict=True):
            sentence = Sentence(growth.tokens, one.text, one.language, one.relevance, reward)
            children.append((Node(node.tree, (*node.sentences, sentence), node.row), growth.ends_response))
        if any(growth.ends_response and not text for growth, text in zip(siblings, row, strict=True)):
            children.append((node, True))
    return children


def _kept(nodes: Sequence[Node], settings: SearchSettings) -> list[Node]:
    """The top and bottom nodes by their last sentence's R, or by R_T as it adds up over all sentences; all of them if few."""
    few = settings.keep_top + settings.keep_bottom
    if settings.prune_by == "R":
        ranked = sorted(nodes, key=lambda node: node.sentences[-1].reward, reverse=True)
    else:
        ranked, few = sorted(nodes, key=_language_so_far, reverse=True), max(few, RELEASED_PRUNES_FROM - 1)
    if len(ranked) <= few:
        return ranked
    return ranked[: settings.keep_top] + ranked[len(ranked) - settings.keep_bottom :]


def _language_so_far(node: Node) -> float:
    return sum(sentence.language for sentence in node.sentences)
