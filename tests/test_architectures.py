"""Every architecture the presets name: small random checkpoints with their own processors, through the library and every stage."""

import dataclasses
import runpy

import architectures
import numpy as np
import pytest
import torch
from PIL import Image
from project import build_project
from test_search import SETTINGS, found, trees_of
from test_training import optimisation
from transformers.models.smolvlm import processing_smolvlm

from benchmarks.peers import FreshGrower, generate
from lookagain import policy as policies
from lookagain.attention import Text, attention
from lookagain.generation import Decoding, Request, respond
from lookagain.policy import PolicyError, add_adapter, load_policy
from lookagain.records import Answer, Pair, Provenance, read_metrics, read_records
from lookagain.schema import Loading
from lookagain.training.dpo import reference_logps, train_dpo
from lookagain.transforms import Noised

PROMPT = "Describe the following image."
HOW = Provenance(PROMPT, {"name": "none"}, {}, 0)


@pytest.fixture(scope="module", params=architectures.NAMES)
def folder(request, tmp_path_factory):
    return architectures.build(request.param, tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture
def policy(folder):
    return load_policy(folder)


@pytest.fixture(scope="module")
def images():
    """Of shapes that give anyres, mrope and split images different numbers of tokens."""
    rng = np.random.default_rng(0)
    shapes = [(24, 20), (20, 60), (60, 20), (16, 16), (40, 44), (30, 70)]
    return [Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def test_prompts_and_logits_are_the_models_own(policy, images):
    ids, features, positions = policy.prefixes(images)
    assert [len(row) for row in ids] == [place.shape[1] for place in positions]
    text = policy._chat([(PROMPT, None)])
    for image, prefix, feature, place in zip(images, ids, features, positions, strict=True):
        whole = policy.processor(images=[image], text=text, add_special_tokens=False, return_tensors="pt")
        row = prefix + policy.suffix(PROMPT)
        assert row == whole["input_ids"][0].tolist()
        rest = torch.arange(len(row) - len(prefix)).expand(len(place), -1) + place.max() + 1
        with torch.no_grad():
            ours = policy.forward(torch.tensor([row]), [feature], torch.cat([place, rest], -1)[:, None]).logits
            torch.testing.assert_close(ours, policy.model(**whole).logits, rtol=1e-4, atol=1e-4)


def test_greedy_is_transformers_greedy_whatever_the_batch(policy, images):
    requests = [Request(str(number), str(number), PROMPT) for number in range(len(images))]
    together = respond(policy, requests, lambda one: images[int(one.image_id)], Decoding(0.0, 1.0, 12), 0)
    assert len(set(together)) > 1
    assert together == generate(policy, requests, {one.id: images[int(one.id)] for one in requests}, 12, 1)


def test_other_dtypes_and_attention_answer_too(folder, images):
    requests = [Request(str(number), str(number), PROMPT) for number in range(len(images))]

    def answers(loading):
        loaded = load_policy(folder, loading)
        assert loaded.model.dtype == getattr(torch, loading.dtype)
        return respond(loaded, requests, lambda one: images[int(one.image_id)], Decoding(0.0, 1.0, 4), 0)

    assert answers(Loading(attention="eager")) == answers(Loading())
    assert len(answers(Loading("bfloat16"))) == len(images)


def test_attention_is_shared_out_whole_whatever_the_batch(folder, images):
    policy = load_policy(folder, Loading("float32", "eager", False))
    texts = [Text(str(place), str(place), PROMPT, "a dog on the beach") for place in range(3)]
    together = attention(policy, texts, lambda image: images[int(image)])
    for text, shares in zip(texts, together, strict=True):
        (alone,) = attention(policy, [text], lambda image: images[int(image)])
        np.testing.assert_allclose(shares["layers"], alone["layers"], atol=1e-5)
        np.testing.assert_allclose(np.sum(shares["layers"], axis=1), 1, atol=1e-5)
        assert np.min(shares["layers"]) > 0


def test_noise_is_each_images_own(policy, images):
    shown = [Noised(images[0], 600, 1), images[1], None, Noised(images[1], 600, 2)]
    together = policy.prefixes(shown)
    assert not torch.equal(together.features[1], together.features[3])
    for number, one in enumerate(shown):
        ids, (features,), (positions,) = policy.prefixes([one])
        assert ids[0] == together.ids[number]
        assert torch.equal(positions, together.positions[number][: len(positions)])
        if one is None:
            assert features is None
            assert policy._inner().config.image_token_id not in ids[0]
        else:
            torch.testing.assert_close(features, together.features[number], rtol=1e-4, atol=1e-4)


def test_search_does_not_depend_on_the_batch_or_on_the_cache(policy, images):
    few = dataclasses.replace(SETTINGS, candidates=3, keep_top=1, keep_bottom=1, max_sentence_tokens=6, max_sentences=2)
    together = found(trees_of(policy, images[:2], few))
    assert together == [found(trees_of(policy, [image], few, start=number))[0] for number, image in enumerate(images[:2])]
    assert together == found(trees_of(policy, images[:2], few, grower=FreshGrower))
    policy.shares_prefixes = False
    assert together == found(trees_of(policy, images[:2], few))


def test_a_dpo_step_trains_the_language_models_adapter_alone(folder, images, tmp_path):
    policy = load_policy(folder)
    pairs = [
        Pair(str(number), str(number), "stic", PROMPT, "there is a dog.", ["a cat is in the street."], HOW, [HOW])
        for number in range(4)
    ]
    ids, is_response = policy.conversation([(PROMPT, "there is a dog."), (PROMPT, "no.")])
    assert [token for token, yes in zip(ids, is_response, strict=True) if yes].count(policy.eos) == 2
    assert ids[-1] == policy.eos

    def load(image_id):
        return images[int(image_id)]

    references = reference_logps(policy, pairs, load, 256)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    log = train_dpo(policy, pairs, references, load, 0.1, 0.0, optimisation(tmp_path, epochs=3), lambda *_: None)
    assert log[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert log[-1]["reward_margin"] > log[0]["reward_margin"]
    decoder = policy.model.get_base_model().get_decoder()
    linears = sum(
        isinstance(module, torch.nn.Linear) for name, module in decoder.named_modules() if name.endswith("base_layer")
    )
    assert linears == 2 * 7  # q, k, v, o, gate, up, down of two layers
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, before[name]) != ("lora_" in name), name


@pytest.mark.parametrize("name", architectures.NAMES[1:])  # llava goes through test_processes
def test_every_stage(name, tmp_path, monkeypatch):
    base = architectures.build(name, tmp_path / "base")
    few = {"csr__images": 2, "stic__describe__items": 2, "evaluate__chair__max_new_tokens": 4}
    project = build_project(tmp_path / "project", base, images=4, **few)
    monkeypatch.chdir(project)
    stages = [
        ("generate_pairs", "stic"),
        ("train_dpo", "stic", "stic-stage1"),
        ("describe_images",),
        ("train_sft",),
        ("search", "1", "base"),
        ("evaluate", "stic", "stic", "--dar"),
    ]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("ACCELERATE_CONFIG", raising=False)
    (project / "data/answers").mkdir(parents=True)
    for stage, *arguments in [*stages[:-1], ("evaluate", "base", "base"), stages[-1]]:
        runpy.run_path(f"stages/{stage}.py")["main"](*arguments)
    assert len(read_records("data/pairs/stic/pairs.jsonl", Pair)) == 4
    assert all(answer.reason or answer.score is not None for answer in read_records("data/answers/stic.jsonl", Answer))
    assert read_metrics("reports/metrics/stic.json")["pope/random/accuracy"].value is not None


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    folder = architectures.build("llava", tmp_path / "base")
    monkeypatch.setattr(policies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PolicyError, match="needs the package flash-attn"):
        load_policy(folder, Loading(attention="flash_attention_2"))
    with pytest.raises(PolicyError, match="needs the package bitsandbytes"):
        load_policy(folder, Loading(four_bit=True))
    smol = architectures.build("smolvlm", tmp_path / "smol")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(PolicyError, match="num2words"):
        load_policy(smol)
