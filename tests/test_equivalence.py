"""Every fast path against its slow twin, in fp32: the same tokens, the same figures."""

import dataclasses

import pytest
import torch
from test_generation import GREEDY, answer, requests  # noqa: F401
from test_policy import PROMPTS, logits
from test_search import SAMPLE, SETTINGS, found, trees_of
from test_training import HOW, pairs  # noqa: F401
from transformers.cache_utils import DynamicLayer

from benchmarks.peers import FreshGrower
from lookagain import decoder
from lookagain.losses import dpo_margins, regularised_dpo
from lookagain.policy import add_adapter, load_policy
from lookagain.training.collate import collate, response_logps
from lookagain.training.dpo import pair_examples


def test_greedy_is_transformers_greedy(policy, images, requests):  # noqa: F811
    """The slow twin: `generate`, one prompt at a time."""
    for request, response in zip(requests[:6], answer(policy, requests[:6], images, GREEDY), strict=True):
        text = policy._chat([(request.prompt, None)])
        image = images[int(request.image_id)]
        inputs = policy.processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
        ids = policy.model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
        assert policy.text(ids) == response


def test_twins_with_room_in_their_caches_write_as_decoders_of_their_own(policy, images, monkeypatch):
    """The slow twin: transformers' own cache, which is copied at every step, and a prefill for each decoder."""
    suffixes = [policy.suffix(text) for text in PROMPTS[:2]]

    def written(branches, tokens):
        logits = []
        for token in tokens:
            branches.step(torch.tensor([0, 1]), torch.tensor([token, token + 1]))
            logits.append(branches.logits)
        return torch.stack(logits)

    def started():
        return decoder.Decoder(policy, images[:2]).ask([0, 1], suffixes)

    with torch.inference_mode():
        monkeypatch.setattr(decoder, "ROOM", 3)
        one = started()
        twin = one.twin()
        one.ask([0, 1], [[20], [21]])
        first, second = one.twin().branches(), twin.branches()
        found = written(first, range(30, 35)), written(second, range(40, 45)), written(one.branches(), range(50, 55))
        monkeypatch.setattr(decoder, "RoomyLayer", DynamicLayer)
        alone, other, third = (started() for _ in range(3))
        for fresh in (alone, third):
            fresh.ask([0, 1], [[20], [21]])
        expected = tuple(
            written(fresh.branches(), range(start, start + 5)) for fresh, start in ((alone, 30), (other, 40), (third, 50))
        )
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-5, atol=1e-5)


def test_branches_of_a_row_write_as_rows_of_their_own(policy, images, monkeypatch):
    """The slow twin: a copy of the row's cache for each branch. The decoder that they branch from stays as it is."""
    pieces = [[20, 21, 22], [23], [24, 25], [26], [27, 28, 29, 30]]
    steps = [[0, 0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 2], [2, 3], [0, 0]]  # two thirds of the rows end by and by

    def written(shares):
        monkeypatch.setattr(policy, "shares_prefixes", shares)
        one = decoder.Decoder(policy, images[:3]).ask([0, 1, 2], [policy.suffix(text) for text in (*PROMPTS, "A dog.")])
        branches = one.twin().branches()
        found = [branches.score([0, 0, 0, 1, 2], pieces)]
        branches.extend([0, 0, 1, 3, 4], [[31], [32, 33], [34, 35, 36], [37], [38]])
        found.append(branches.logits)
        for number, rows in enumerate(steps):
            branches.step(torch.tensor(rows), torch.arange(len(rows)) + 20 + number)
            found.append(branches.logits)
        rest = one.branches()
        rest.step(torch.tensor([0, 1, 2]), torch.tensor([30, 31, 32]))
        return torch.cat([*found, rest.logits]), branches.rows

    with torch.inference_mode():
        (together, rows), (alone, copies) = written(True), written(False)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert (rows, copies) == (1, 2)


@pytest.mark.parametrize("settings", [SETTINGS, SAMPLE], ids=lambda one: one.proposal)
def test_cache_reuse_finds_what_a_fresh_prefill_of_every_node_finds(policy, images, settings):
    """The slow twin: every node's prompt and response so far are prefilled again."""
    assert found(trees_of(policy, images, settings)) == found(trees_of(policy, images, settings, grower=FreshGrower))


def of_groups(policy, images, pairs, shared):  # noqa: F811
    """Log-probs of all responses, in rows of a whole pair or of one response."""
    groups = [pair_examples(policy, pair) for pair in pairs]
    groups = groups if shared else [[example] for group in groups for example in group]
    return response_logps(policy.model, collate(policy, groups, lambda one: images[int(one)], 256))


def test_response_logps_are_those_of_each_row_alone(policy, images, pairs):  # noqa: F811
    """The slow twin: one row at a time, all logits."""
    examples = [example for pair in pairs[:3] for example in pair_examples(policy, pair)]
    with torch.no_grad():
        for shared in (False, True):
            together = of_groups(policy, images, pairs[:3], shared)
            for example, value in zip(examples, together, strict=True):
                prefixes, features, _ = policy.prefixes([images[int(example.image_id)]])
                ids = torch.tensor([prefixes[0] + example.ids])
                logps = policy.forward(ids, features).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
                scored = torch.tensor([False] * (len(prefixes[0]) - 1) + example.is_response)
                torch.testing.assert_close(value, logps[scored].sum(), rtol=1e-5, atol=1e-4)


def test_a_shared_prefix_gives_the_losses_and_gradients_of_separate_rows(policy_folder, images, pairs):  # noqa: F811
    """The slow twin: a row for each response; pairs of two and of three responses, of different lengths."""
    pairs = [*pairs[:2], dataclasses.replace(pairs[2], rejected=["no.", "there is a red dog."], rejected_provenance=[HOW, HOW])]
    policy = load_policy(policy_folder)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    weights = [value for value in policy.model.parameters() if value.requires_grad]
    for value in weights:
        torch.nn.init.normal_(value, std=0.1)
    assert policy.shares_prefixes
    found = []
    for shared in (False, True):
        logps = of_groups(policy, images, pairs, shared)
        owner, chosen = torch.tensor([0, 0, 1, 1, 2, 2, 2]), torch.tensor([1, 0, 1, 0, 1, 0, 0]).bool()
        margins = dpo_margins(logps, torch.zeros(7), owner, chosen, 3, 0.1)
        loss = regularised_dpo(margins, logps[chosen], 1 / 1024).mean()
        found.append((loss, torch.autograd.grad(loss, weights)))
    (loss, gradients), (twin, twins) = found
    torch.testing.assert_close(loss, twin, rtol=1e-5, atol=0)
    for one, other in zip(gradients, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_precomputed_features_give_the_models_own_logits(policy, images):
    whole = policy.processor(
        images=images[0], text=policy._chat([(PROMPTS[0], None)]), add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(logits(policy, images[:1], PROMPTS[0]), policy.model(**whole).logits)
