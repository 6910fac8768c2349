import pytest
import torch

from lookagain.decoder import Branches
from lookagain.generation import Decoding, Request, choose, respond, respond_in_turn
from lookagain.runtime import Run

PROMPTS = ["Describe the following image.", "What's happening in the scene?"]
GREEDY, SAMPLED = Decoding(0.0, 1.0, 16), Decoding(1.0, 0.9, 16)


@pytest.fixture
def requests():
    return [Request(str(number), str(number % 6), PROMPTS[number % 2]) for number in range(12)]


def answer(policy, requests, images, decoding, seed=0):
    return respond(policy, requests, lambda one: images[int(one.image_id)], decoding, seed)


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_batches_do_not_change_responses(policy, images, requests, decoding):
    together = answer(policy, requests, images, decoding)
    alone = [answer(policy, [request], images, decoding)[0] for request in requests]
    assert together == alone
    assert answer(policy, requests[::-1], images, decoding) == together[::-1]


def test_one_prefill_of_the_images_serves_batches_of_several_decodings(policy, images, requests, monkeypatch):
    decodings = [(GREEDY, SAMPLED, Decoding(0.0, 1.0, 40))[number % 3] for number in range(len(requests))]
    alone = [answer(policy, [one], images, decoding)[0] for one, decoding in zip(requests, decodings, strict=True)]
    encoded = []
    original = type(policy).prefixes
    monkeypatch.setattr(type(policy), "prefixes", lambda self, shown: encoded.append(len(shown)) or original(self, shown))
    together = respond_in_turn(policy, requests, decodings, lambda one: images[int(one.image_id)], 0, 4)
    assert together == alone
    assert encoded == [6]


@pytest.mark.parametrize("shares", [True, False])
def test_batches_have_as_many_rows_whether_prompts_share_them_or_not(policy, images, requests, monkeypatch, shares):
    """The slow twin: a row for each prompt."""
    alone = [answer(policy, [one], images, GREEDY)[0] for one in requests]
    monkeypatch.setattr(policy, "shares_prefixes", shares)
    rows, original = [], Branches._place
    monkeypatch.setattr(Branches, "_place", lambda self, row: original(self, row) or rows.append((self.rows, len(row))))
    together = respond_in_turn(policy, requests, [GREEDY] * 12, lambda one: images[int(one.image_id)], 0, 4)
    assert together == alone
    assert max(rows) == (4, 8 if shares else 4)


def test_samples_depend_on_seed_and_id(policy, images, requests):
    first = answer(policy, requests, images, SAMPLED)
    assert answer(policy, requests, images, SAMPLED) == first
    assert answer(policy, requests, images, SAMPLED, seed=1) != first
    same_prompt = [Request(name, "0", PROMPTS[0]) for name in "abcd"]
    assert len(set(answer(policy, same_prompt, images, SAMPLED))) > 1


def test_choose_follows_the_distribution_and_the_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(1001, 3)
    uniforms = torch.linspace(0, 0.9999, 1001, dtype=torch.float64)
    counts = choose(logits, Decoding(1.0, 1.0, 1), uniforms).bincount(minlength=3) / 1001
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.3, 0.2]), atol=2e-3, rtol=0)
    nucleus = choose(logits, Decoding(1.0, 0.6, 1), uniforms).bincount(minlength=3) / 1001
    torch.testing.assert_close(nucleus, torch.tensor([0.625, 0.375, 0.0]), atol=2e-3, rtol=0)


def test_each_image_is_encoded_once(policy, images, requests, monkeypatch):
    seen = []
    original = policy.model.get_image_features

    def counted(**inputs):
        seen.append(len(inputs["pixel_values"]))
        return original(**inputs)

    monkeypatch.setattr(policy.model, "get_image_features", counted)
    answer(policy, requests, images, GREEDY)
    assert seen == [6]


def test_running_out_of_memory_changes_no_answer(policy, images, requests, tmp_path):
    def work(batch):
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answer(policy, batch, images, SAMPLED)

    assert Run("x", 0, 1, tmp_path).map_batches([requests], work, "x") == answer(policy, requests, images, SAMPLED)
