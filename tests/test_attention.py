"""Shares of attention: by hand against whole maps, and what is made of them over images."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from lookagain.attention import BIN, Text, attention, summary
from lookagain.policy import PolicyError, load_policy
from lookagain.schema import Loading

PROMPT = "the image shows"
STAGE = runpy.run_path(str(Path(__file__).parents[1] / "stages/measure_attention.py"))


@pytest.fixture(scope="module")
def eager(policy_folder):
    return load_policy(policy_folder, Loading("float32", "eager", False))


def text(response, image="0"):
    return Text(f"{image}/{response}", image, PROMPT, response)


def by_hand(policy, image, response):
    """The shares of one text from the maps that transformers gives out, token by token."""
    prefix = policy.prefixes([image])
    suffix, written = policy.suffix(PROMPT), policy.response(PROMPT, response)
    ids = torch.tensor([[*prefix.ids[0], *suffix, *written]])
    with torch.no_grad():
        output = policy.forward(ids, prefix.features, output_attentions=True, use_cache=False)
    start = len(prefix.ids[0]) + len(suffix)
    image_token = policy.model.config.image_token_id
    found = []
    for layer in output.attentions:
        sums = np.zeros(3)
        for query in range(start - 1, ids.shape[1] - 1):  # each looks in order to write the next token
            for key in range(query + 1):
                kind = 0 if ids[0, key] == image_token else 2 if key >= start else 1
                sums[kind] += float(layer[0, :, query, key].mean())
        found.append(sums / len(written))
    return np.array(found)


def test_shares_are_those_of_the_whole_maps_whatever_the_batch(eager, images):
    texts = [text("a dog left", "0"), text("a beach and a cat and a car", "1"), text("dog", "0")]
    found = attention(eager, texts, lambda image: images[int(image)])
    for one, shares in zip(texts, found, strict=True):
        layers = np.array(shares["layers"])
        np.testing.assert_allclose(layers, by_hand(eager, images[int(one.image_id)], one.response), atol=1e-6)
        np.testing.assert_allclose(layers.sum(1), 1, atol=1e-6)
        alone = attention(eager, [one], lambda image: images[int(image)])[0]
        np.testing.assert_allclose(layers, alone["layers"], atol=1e-6)


def test_positions_are_bins_of_the_response(eager, images):
    words = ["dog"] * (BIN + 2)
    whole = attention(eager, [text(" ".join(words))], lambda _: images[0])[0]
    short = attention(eager, [text(" ".join(words[:BIN]))], lambda _: images[0])[0]
    assert len(whole["positions"]) == 2
    assert whole["positions"][0] == pytest.approx(short["positions"][0], abs=1e-6)  # what follows is not seen
    mean = np.array(whole["layers"])[:, 0].mean()
    assert (BIN * whole["positions"][0] + 2 * whole["positions"][1]) / (BIN + 2) == pytest.approx(mean, abs=1e-6)


def test_a_model_without_maps_is_refused(policy, images):
    with pytest.raises(PolicyError, match="eager"):
        attention(policy, [text("dog")], lambda _: images[0])


def shares(*by_image, bins=1):
    """One layer whose share on the image is given, the rest being the prompt's."""
    return [{"layers": [[share, 1 - share, 0.0]], "positions": [share] * bins} for share in by_image]


def test_summary_by_hand():
    own = {"base": shares(0.2, 0.4), "csr-1": shares(0.3, 0.5)}
    same = {"base": own["base"], "csr-1": shares(0.2, 0.4)}
    found = summary(own, same, 200, 0)
    assert found["base"]["figures"]["own/image"].value == pytest.approx(30)
    assert found["base"]["figures"]["own/prompt"].value == pytest.approx(70)
    gap = found["csr-1"]["figures"]["own/image_vs_base"]
    assert (gap.value, gap.se, gap.low, gap.n) == (pytest.approx(10), pytest.approx(0), pytest.approx(10), 2)
    assert found["csr-1"]["figures"]["same/image_vs_base"].value == pytest.approx(0)
    assert "own/image_vs_base" not in found["base"]["figures"]
    assert found["csr-1"]["layers"]["own"] == [[pytest.approx(40), pytest.approx(10)]]  # sd of 30 and 50 is 14.1


def test_a_bin_that_few_descriptions_reach_is_left_out():
    own = {"base": [*shares(0.2, 0.4, bins=1), *shares(0.6, bins=3)]}
    assert summary(own, own, 50, 0)["base"]["positions"]["own"] == [[pytest.approx(40), pytest.approx(11.547, abs=1e-3)]]


def test_texts_are_of_images_that_all_models_describe_and_have_ids_of_their_own(tmp_path):
    def write(model, responses):
        lines = [
            {"id": image, "image_id": image, "benchmark": benchmark, "prompt": PROMPT, "response": response}
            for image, response in responses.items()
            for benchmark in ("chair", "chair_sampled")
        ]
        (tmp_path / f"{model}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return STAGE["descriptions"](tmp_path / f"{model}.jsonl", model)

    found = STAGE["drawn"](
        {"base": write("base", {"1": "a dog", "2": "a cat"}), "seva": write("seva", {"1": "a dog", "2": " "})}, 0
    )
    assert {model: [(one.image_id, one.response) for one in texts] for model, texts in found.items()} == {
        "base": [("1", "a dog")],
        "seva": [("1", "a dog")],
    }
    assert found["base"][0].id != found["seva"][0].id  # batches are kept by their items' ids
