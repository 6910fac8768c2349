"""The small world's LLaVA: how conversations are packed and learned, on a tower of two steps."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.testing import assert_close
from transformers.modeling_outputs import BaseModelOutputWithPooling
from world_examples import charts, drawn_scenes, scenes

from lookagain.policy import Lineage, Policy
from world.scenes.scene import to_jpeg
from world.training import llava, packed
from world.training.conversations import Noise, Turn
from world.training.data import draw_conversations, draw_training
from world.training.labels import PATCH
from world.training.tokenizer import build_processor, build_tokenizer
from world.training.tower import new_tower, normalised, tower_features, train_tower
from world.training.wordings import SYSTEM

NOISE = Noise(0.35, 0.15)
IMAGE_TOKENS = 64


def silent(label, step, steps, loss):
    """Report nothing."""


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def world():
    """4 scenes and 2 charts, their pixels, and a tower of two steps."""
    shown, pixels = draw_training(4, 2, 0)
    return shown, pixels, train_tower(pixels, shown, 2, 0, silent)


@pytest.fixture(scope="module")
def about(world):
    """The conversations about each image."""
    return draw_conversations(world[0], NOISE, 0)


@pytest.fixture
def share(monkeypatch):
    """Set the share of rows that begin with the system message."""
    return lambda value: monkeypatch.setattr(llava, "SYSTEM_SHARE", value)


def test_training_images_and_conversations_are_functions_of_seed_and_image(world, about):
    shown, pixels, _ = world
    fewer, first = draw_training(2, 2, 0)
    assert fewer == [*shown[:2], *shown[4:]] == [*scenes("training", 2), *charts("training", 2)]
    assert np.array_equal(first, pixels[[0, 1, 4, 5]])
    assert draw_conversations(fewer, NOISE, 0) == [*about[:2], *about[4:]]
    assert draw_conversations(fewer, NOISE, 1) != [*about[:2], *about[4:]]
    assert draw_training(2, 0, 1)[0] != shown[:2]
    for number, (image, _) in enumerate(drawn_scenes("training", 2)):  # as they are published, not as they are drawn
        with Image.open(io.BytesIO(to_jpeg(image))) as stored:
            assert np.array_equal(pixels[number], np.asarray(stored))


def test_tower_training_depends_on_seed_and_steps_alone(world):
    shown, pixels, tower = world
    again, other = (train_tower(pixels, shown, 2, seed, silent) for seed in (0, 1))
    for (name, value), same, different in zip(tower.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(value, same)
        assert not torch.equal(value, different) or value.ndim == 1, name


def test_patches_are_embedded_as_by_a_convolution():
    embedding = new_tower(64).embeddings.patch_embedding
    images = torch.randn(2, 3, 64, 64)
    assert_close(embedding(images), torch.nn.Conv2d.forward(embedding, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", [0.0, 1.0])
def test_training_text_is_the_chat_templates(world, about, tokenizer, share, tmp_path, system):
    """Training encodes turns on its own, for speed; a policy goes through the template."""
    _, pixels, tower = world
    share(system)
    processor = build_processor(tokenizer, 64, PATCH)
    (example,) = llava.encode(tokenizer, [about[0]], [0], IMAGE_TOKENS, 0)
    image, messages = Image.fromarray(pixels[0]), []
    if system:
        messages.append({"role": "system", "content": [{"type": "text", "text": SYSTEM}]})
    messages.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": about[0][0][0].prompt}]})
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = processor(images=[image], text=[text], return_tensors="pt")["input_ids"][0].tolist()
    assert example.ids[: len(ids)] == ids
    assert example.prefix == 1 + ids.index(processor.image_token_id) + IMAGE_TOKENS - 1
    policy = Policy(llava.new_llava(tower, tokenizer).eval(), processor, Lineage(tmp_path, tmp_path, "", [], ""))
    for part, turns in enumerate(about[0], 1):
        ids, is_response = policy.conversation([(turn.prompt, turn.response) for turn in turns])
        here = [place for place, one in enumerate(example.parts) if one == part]
        assert [example.ids[place] for place in here] == ids
        assert [example.positions[place] for place in here] == list(range(example.prefix, example.prefix + len(ids)))
        answered = [place for place, kept in zip(here, is_response, strict=True) if kept]
        learned = dict(zip(example.before, example.labels, strict=True))
        assert [learned[place - 1] for place in answered] == [example.ids[place] for place in answered]
        assert len(answered) == sum(place + 1 in here for place in learned)


def test_a_quarter_of_the_rows_begin_with_the_system_message(tokenizer):
    talks = [[[Turn("Is there a dog in the image?", "Yes.")]]] * 600
    examples = llava.encode(tokenizer, talks, range(600), IMAGE_TOKENS, 0)
    message = tokenizer(SYSTEM, add_special_tokens=False).input_ids
    begun = [example.ids[1 : 1 + len(message)] == message for example in examples]
    assert 0.2 < np.mean(begun) < 0.3
    assert {example.prefix for example in examples} == {2 + IMAGE_TOKENS, 2 + IMAGE_TOKENS + len(message)}
    other = llava.encode(tokenizer, talks, range(600), IMAGE_TOKENS, 1)
    assert [example.prefix for example in other] != [example.prefix for example in examples]


def test_batches_have_equal_prefixes_and_hold_each_example_once_an_epoch(tokenizer):
    talks = [[[Turn("Is there a dog in the image?", "Yes.")] * (1 + row % 3)] for row in range(100)]
    examples = llava.encode(tokenizer, talks, range(100), IMAGE_TOKENS, 0)
    batches, seen = llava._batches(examples, 6, np.random.default_rng(0)), []
    while len(seen) < len(examples):
        batch = next(batches)
        assert len({example.prefix for example in batch}) == 1
        assert 1 <= len(batch) <= 6
        seen += [example.row for example in batch]
    assert sorted(seen) == list(range(100))
    assert seen != sorted(seen)


@pytest.mark.parametrize(("window", "system"), [(8, 0.0), (64, 0.0), (64, 1.0), (1000, 1.0)])
def test_packed_rows_are_learned_as_each_conversation_alone(world, about, tokenizer, share, monkeypatch, window, system):
    """Logits, loss and gradients are those of transformers' own model on one conversation at a time."""
    _, pixels, tower = world
    share(system)
    monkeypatch.setattr(packed, "WINDOW", window)
    features = tower_features(tower, pixels[:2]).float()[:, 1:]
    torch.manual_seed(0)
    model = llava.new_llava(tower, tokenizer)
    talks = [talks[:6] for talks in about[:2]]
    examples = llava.encode(tokenizer, talks, range(2), IMAGE_TOKENS, 0)
    ids, parts, positions, before, labels, _ = llava.padded(examples)
    assert len({len(example.ids) for example in examples}) == 2  # one is padded
    logits = packed.Answering(model)(ids, features, parts, positions, before)
    alone, losses = [], []
    for row, conversations in enumerate(talks):
        for turns in conversations:
            (example,) = llava.encode(tokenizer, [[turns]], [row], IMAGE_TOKENS, 0)
            shown = {"image": BaseModelOutputWithPooling(pooler_output=[model.model.multi_modal_projector(features[row])])}
            alone.append(model(input_ids=torch.tensor([example.ids]), mm_encoder_outputs=shown).logits[0, example.before])
            losses.append(functional.cross_entropy(alone[-1], torch.tensor(example.labels), reduction="sum"))
    together = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=llava.IGNORED, reduction="sum")
    assert_close(logits[labels != llava.IGNORED], torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert_close(together, sum(losses), rtol=1e-5, atol=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours, theirs = (torch.autograd.grad(loss / labels.numel(), trained) for loss in (together, sum(losses)))
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert min(gradient.abs().max() for gradient in theirs) > 1e-5


def test_untrained_attention_matches_like_with_like_and_copies_it(world, tokenizer):
    torch.manual_seed(0)
    decoder, own = llava.new_llava(world[2], tokenizer).model.language_model, new_tower(64)
    attention = decoder.layers[0].self_attn
    tokens = torch.randn(50, llava.WIDTH)
    scores = attention.q_proj(tokens) @ attention.k_proj(tokens).T
    assert (scores.argmax(1) == torch.arange(50)).all()
    same = [torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight) for layer in decoder.layers]
    assert same == [True, True, False]
    assert all(torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight) for layer in own.encoder.layers)
    copied = attention.o_proj(attention.v_proj(tokens))
    assert (functional.cosine_similarity(copied, tokens) > 0.5).all()


def test_short_answers_weigh_more_than_descriptions(tokenizer):
    turns = [
        Turn("Is there a dog?", "Yes."),
        Turn("Describe this image.", "The image shows a beach. In the top there is a dog."),
    ]
    (example,) = llava.encode(tokenizer, [[[turn] for turn in turns]], [0], IMAGE_TOKENS, 0)
    parts = [example.parts[place] for place in example.before]
    assert set(zip(parts, example.weights, strict=True)) == {(1, 1.0), (2, llava.LONG_WEIGHT)}
    assert llava.LONG_WEIGHT < 1


def test_all_phases_train_projector_and_decoder_and_leave_the_tower(world, about, tokenizer):
    shown, pixels, tower = world
    features = tower_features(tower, pixels)
    model = llava.train_llava(tower, tokenizer, features, shown, about, (1, 1, 1), 99.0, 0, silent)
    torch.manual_seed(llava.derive(0, "decoder"))
    before = llava.new_llava(tower, tokenizer).state_dict()
    moved = {name: not torch.equal(value, before[name]) for name, value in model.state_dict().items()}
    assert all(changed != ("vision_tower" in name) for name, changed in moved.items())
    states = [one(normalised(pixels[:1])).last_hidden_state for one in (tower, model.model.vision_tower)]
    assert_close(*states, rtol=1e-4, atol=1e-4)  # eager attention and the saved model's own


def test_base_that_does_not_look_is_an_error(world, about, tokenizer):
    shown, pixels, tower = world
    features = tower_features(tower, pixels)
    with pytest.raises(llava.TrainingError, match=r"policy\.max_yesno_steps"):
        llava.train_llava(tower, tokenizer, features, shown, about, (1, 1, 1), 0.0, 0, silent)
