import dataclasses
import zlib

import pytest
import torch

from lookagain.decoder import Branches
from lookagain.errors import UserError
from lookagain.generation import Request
from lookagain.rewards import ranks
from lookagain.schema import SearchSettings
from lookagain.search import Node, Sentence, Tree, _diverse, _kept, best_and_worst, cumulative, full_stops, search

SETTINGS = SearchSettings(
    candidates=5, proposal="group_beam", temperature=1.0, diversity_penalty=3.0, keep_top=2, keep_bottom=2,
    max_sentence_tokens=12, max_sentences=4, reward="value", image_scale=100.0, aggregate="sum", prune_by="R", language="product",
)  # fmt: skip
SAMPLE = dataclasses.replace(SETTINGS, proposal="sample")
REQUESTS = [Request(f"csr/{number}", str(number), "Describe the following image.") for number in range(6)]


class Scorer:
    """Fixed pseudo-random embeddings."""

    def encode_images(self, images):
        return self._embed([str(image.size) for image in images])

    def encode_texts(self, texts):
        return self._embed(texts)

    def _embed(self, texts):
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(zlib.crc32(text.encode()))) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def found(trees):
    return [
        [([s.text for s in node.sentences], round(cumulative(node, "sum"), 3)) for node in tree.responses()] for tree in trees
    ]


def trees_of(policy, images, settings=SETTINGS, lambda_=0.9, seed=0, grower=None, start=0):
    requests = REQUESTS[start : start + len(images)]
    return search(policy, images, requests, Scorer(), settings, lambda_, seed, grower)


@pytest.mark.parametrize("settings", [SETTINGS, SAMPLE], ids=lambda one: one.proposal)
def test_trees_do_not_depend_on_their_batch(policy, images, settings):
    together = found(trees_of(policy, images, settings))
    alone = [found(trees_of(policy, [image], settings, start=number))[0] for number, image in enumerate(images)]
    assert together == alone


def test_sampled_candidates_follow_the_seed(policy, images):
    assert found(trees_of(policy, images[:2], SAMPLE)) == found(trees_of(policy, images[:2], SAMPLE))
    assert found(trees_of(policy, images[:2], SAMPLE)) != found(trees_of(policy, images[:2], SAMPLE, seed=1))


def test_sampling_at_a_low_temperature_proposes_the_greedy_sentence(policy, images):
    cold = trees_of(policy, images, dataclasses.replace(SAMPLE, temperature=1e-4))
    greedy = trees_of(policy, images, dataclasses.replace(SETTINGS, diversity_penalty=0.0))
    assert found(cold) == found(greedy)


def test_candidates_that_wrote_the_same_so_far_are_one_branch(policy, images, monkeypatch):
    sizes = []
    step = Branches.step
    monkeypatch.setattr(Branches, "step", lambda self, rows, tokens: sizes.append(len(tokens)) or step(self, rows, tokens))
    trees_of(policy, images[:2], dataclasses.replace(SAMPLE, temperature=1e-4, max_sentences=1))
    assert max(sizes) == 2  # five candidates of each of two nodes


def test_groups_avoid_what_earlier_groups_chose():
    logps = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(3, 1)
    everyone = torch.ones(3, dtype=torch.bool)
    assert _diverse(logps, everyone, groups=3, penalty=3.0).tolist() == [0, 1, 2]
    assert _diverse(logps, everyone, groups=3, penalty=0.0).tolist() == [0, 0, 0]
    # a group that has ended takes nothing from the others
    assert _diverse(logps, torch.tensor([False, True, True]), groups=3, penalty=3.0)[1:].tolist() == [0, 1]


def test_sentences_end_at_full_stops_and_rewards_are_eq_4(policy, images):
    (stop,) = full_stops(policy)
    for node in (node for tree in trees_of(policy, images) for node in tree.responses()):
        for sentence in node.sentences:
            assert stop not in sentence.tokens[:-1]
            assert sentence.reward == pytest.approx(0.9 * sentence.relevance + 0.1 * sentence.language)
            assert 0 <= sentence.language <= 1


def test_language_score_alone_at_lambda_0(policy, images):
    tree = trees_of(policy, images[:1], lambda_=0.0)[0]
    assert all(s.reward == pytest.approx(s.language) for node in tree.responses() for s in node.sentences)


def test_lambda_0_is_only_r_t_and_lambda_1_only_r_i(policy, images):
    """CSR Table 2: the reward, the pruning and the choice of the pair follow one part alone."""
    for lambda_, part in ((0.0, "language"), (1.0, "relevance")):
        for tree in trees_of(policy, images[:2], SAMPLE, lambda_):
            sentences = [s for node in tree.responses() for s in node.sentences]
            assert all(s.reward == pytest.approx(getattr(s, part)) for s in sentences)
            best, worst = best_and_worst(tree, "mean")

            def mean(node, part=part):
                return sum(getattr(s, part) for s in node.sentences) / len(node.sentences)

            values = [mean(node) for node in tree.responses() if node.sentences]
            assert (mean(best), mean(worst)) == (pytest.approx(max(values)), pytest.approx(min(values)))


def test_r_t_of_the_released_code_is_a_mean_log_prob(policy, images):
    released = dataclasses.replace(SETTINGS, language="mean_logp", reward="rank", prune_by="R_T")
    for node in trees_of(policy, images[:1], released)[0].responses():
        assert all(s.language < 0 for s in node.sentences)


def test_unknown_rewards_are_named(policy, images):
    with pytest.raises(UserError, match=r"no file lookagain/rewards/best\.py; there are: rank, value"):
        trees_of(policy, images[:1], dataclasses.replace(SETTINGS, reward="best"))


def test_rank_rewards_lie_between_0_and_1(policy, images):
    tree = trees_of(policy, images[:1], dataclasses.replace(SETTINGS, reward="rank"))[0]
    rewards = [s.reward for node in tree.responses() for s in node.sentences]
    assert 0 <= min(rewards) < max(rewards) <= 1
    assert ranks([1.0, 2.0]) == [0.0, 1.0]


def node(*rewards):
    return Node(0, tuple(Sentence([1], "a.", 0.5, 10.0, reward) for reward in rewards))


def test_best_and_worst_by_sum_and_by_mean():
    tree = Tree(finished=[node(1.0, 1.0, 1.0), node(2.0), node(1.5)])
    assert best_and_worst(tree, "sum") == (node(1.0, 1.0, 1.0), node(1.5))
    assert best_and_worst(tree, "mean") == (node(2.0), node(1.0, 1.0, 1.0))


def test_no_pair_from_equal_responses():
    assert best_and_worst(Tree(finished=[node(1.0)]), "sum") is None
    assert best_and_worst(Tree(), "sum") is None


def test_pruning_by_r_t_adds_up_over_sentences_from_five_nodes_on():
    nodes = [
        Node(0, (Sentence([1], "a.", before, 0.0, 0.0), Sentence([1], "b.", last, 0.0, 0.0)))
        for before, last in ((0.9, 0.1), (0.5, 0.4), (0.1, 0.7), (0.1, 0.6), (0.1, 0.2))
    ]
    released = dataclasses.replace(SETTINGS, prune_by="R_T", keep_top=1, keep_bottom=2)
    assert _kept(nodes, released) == [nodes[0], nodes[3], nodes[4]]
    assert sorted(map(id, _kept(nodes[:4], released))) == sorted(map(id, nodes[:4]))
