"""The world's models: a real LLaVA and a real CLIP, on one tower, that plain libraries load."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.testing import assert_close
from transformers import AutoProcessor, CLIPVisionModel, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lookagain.policy import Lineage, Policy
from lookagain.records import Turn
from lookagain.world import packed, pretrain, reward, splits
from lookagain.world.charts import draw_chart
from lookagain.world.labels import PATCH
from lookagain.world.measure import hallucination
from lookagain.world.optimise import hidden_matrices, minimise
from lookagain.world.scenes import draw_scene
from lookagain.world.tokenizer import build_processor, build_tokenizer
from lookagain.world.tower import new_tower, normalised, tower_features, train_tower


def silent(label, step, steps, loss):
    """No progress bar."""


@pytest.fixture(scope="module")
def world():
    """16 scenes, their pixels, and a tower of two steps as it is loaded again."""
    return trained([draw_scene(0, "policy", index, 64) for index in range(16)])


def trained(drawn):
    scenes, pixels = [scene for _, scene in drawn], np.stack([np.asarray(image) for image, _ in drawn])
    return scenes, pixels, train_tower(pixels, scenes, 2, 0, silent)


def test_tower_loads_with_the_same_outputs(world, tmp_path):
    _, pixels, tower = world
    tower.save_pretrained(tmp_path)
    loaded = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        ours, theirs = (one(normalised(pixels[:2])).last_hidden_state for one in (tower, loaded))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_tower_training_depends_on_seed_and_steps_alone(world):
    scenes, pixels, tower = world
    again, other = (train_tower(pixels, scenes, 2, seed, silent) for seed in (0, 1))
    weights = [one.embeddings.patch_embedding.weight for one in (tower, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_base_learns_from_charts_too():
    """All phases with charts among the scenes."""
    shown, pixels, tower = trained([draw(0, "policy", index, 64) for draw in (draw_scene, draw_chart) for index in range(4)])
    conversations = [splits.training_conversations(scene, 0.5, 0) for scene in shown[:4]]
    conversations += [splits.training_chart_conversations(chart, 0) for chart in shown[4:]]
    features = tower_features(tower, pixels)
    pretrain.pretrain(tower, build_tokenizer(), features, shown, conversations, (1, 1, 1), 99.0, 0, silent)


def test_llava_saves_and_loads_plainly(world, tmp_path):
    scenes, pixels, tower = world
    tokenizer = build_tokenizer()
    features = tower_features(tower, pixels)
    conversations = [splits.training_conversations(scene, 0.5, 0) for scene in scenes]
    model = pretrain.pretrain(tower, tokenizer, features, scenes, conversations, (2, 2, 2), 99.0, 0, silent)
    model.save_pretrained(tmp_path)
    build_processor(tokenizer, 64, PATCH).save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image."}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[Image.fromarray(pixels[0])], text=[text], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    frozen = dict(tower.named_parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in loaded.model.vision_tower.named_parameters())


def test_training_text_is_the_chat_templates(world, tmp_path):
    """Training encodes turns on its own, for speed; the policy goes through the template."""
    scenes, pixels, tower = world
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer, 64, PATCH)
    policy = Policy(pretrain.new_llava(tower, tokenizer).eval(), processor, Lineage(tmp_path, tmp_path, "", [], ""))
    conversations = splits.training_conversations(scenes[0], 0.5, 0)
    (example,) = pretrain.encode(tokenizer, [conversations], [0], 64)
    (prefix,), *_ = policy.prefixes([Image.fromarray(pixels[0])])
    assert example.ids[: len(prefix)] == prefix
    for part, turns in enumerate(conversations, 1):
        ids, is_response = policy.conversation([(turn.prompt, turn.response) for turn in turns])
        here = [place for place, one in enumerate(example.parts) if one == part]
        assert [example.ids[place] for place in here] == ids
        assert [example.positions[place] for place in here] == list(range(len(prefix), len(prefix) + len(ids)))
        answered = [place for place, kept in zip(here, is_response, strict=True) if kept]
        learned = dict(zip(example.before, example.labels, strict=True))
        assert [learned[place - 1] for place in answered] == [example.ids[place] for place in answered]
        assert len(answered) == sum(place + 1 in here for place in learned)


@pytest.mark.parametrize("window", [8, 64, 1000])
def test_packed_rows_are_learned_as_each_conversation_alone(world, window, monkeypatch):
    """Loss and gradients are those of transformers' own model on one conversation at a time."""
    scenes, pixels, tower = world
    monkeypatch.setattr(packed, "WINDOW", window)
    tokenizer, features = build_tokenizer(), tower_features(tower, pixels[:2]).float()[:, 1:]
    model = pretrain.new_llava(tower, tokenizer)
    about = [splits.training_conversations(scene, 0.5, 0) for scene in scenes[:2]]
    examples = pretrain.encode(tokenizer, about, range(2), 64)
    ids, parts, positions, before, labels, _ = pretrain.padded(examples)
    assert len({len(one.ids) for one in examples}) == 2  # one is padded
    logits = packed.Answering(model)(ids, features, parts, positions, before)
    together = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pretrain.IGNORED, reduction="sum")
    alone = torch.zeros(())
    for row, conversations in enumerate(about):
        for turns in conversations:
            (example,) = pretrain.encode(tokenizer, [[turns]], [row], 64)
            shown = {"image": BaseModelOutputWithPooling(pooler_output=[model.model.multi_modal_projector(features[row])])}
            given = model(input_ids=torch.tensor([example.ids]), mm_encoder_outputs=shown).logits[0, example.before]
            alone += functional.cross_entropy(given, torch.tensor(example.labels), reduction="sum")
    assert_close(together, alone, rtol=1e-5, atol=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours, theirs = (torch.autograd.grad(loss / labels.numel(), trained) for loss in (together, alone))
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_untrained_attention_matches_like_with_like_and_copies_it(world):
    _, _, tower = world
    torch.manual_seed(0)
    attention = pretrain.new_llava(tower, build_tokenizer()).model.language_model.layers[0].self_attn
    tokens = torch.randn(50, pretrain.WIDTH)
    scores = attention.q_proj(tokens) @ attention.k_proj(tokens).T
    assert (scores.argmax(1) == torch.arange(50)).all()
    decoder, own = pretrain.new_llava(tower, build_tokenizer()).model.language_model, new_tower(64)
    same = [torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight) for layer in decoder.layers]
    assert same == [True, True, False]
    assert all(torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight) for layer in own.encoder.layers)
    copied = attention.o_proj(attention.v_proj(tokens))
    assert (torch.nn.functional.cosine_similarity(copied, tokens) > 0.5).all()


def test_short_answers_weigh_more_than_descriptions():
    turns = [
        Turn("Is there a dog?", "Yes."),
        Turn("Describe this image.", "The image shows a beach. In the top there is a dog."),
    ]
    (example,) = pretrain.encode(build_tokenizer(), [[[turn] for turn in turns]], [0], 64)
    parts = [example.parts[place] for place in example.before]
    assert set(zip(parts, example.weights, strict=True)) == {(1, 1.0), (2, pretrain.LONG_WEIGHT)}
    assert pretrain.LONG_WEIGHT < 1


def test_base_that_does_not_look_is_an_error(world):
    scenes, pixels, tower = world
    conversations = [splits.training_conversations(scene, 0.5, 0) for scene in scenes]
    features = tower_features(tower, pixels)
    with pytest.raises(pretrain.PretrainError, match="max_yesno_steps"):
        pretrain.pretrain(tower, build_tokenizer(), features, scenes, conversations, (1, 1, 1), 0.0, 0, silent)


def test_reward_loads_through_open_clip(world, tmp_path):
    scenes, pixels, tower = world
    features = tower_features(tower, pixels)
    clip, tokenizer = reward.train_reward(tower, features, scenes, 2, 8, 0, silent)
    reward.save_reward(clip, tokenizer, tmp_path)
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    loaded.eval()
    long = "In the top left there is a traffic light and a dog."
    texts = ["The image shows a beach.", long, "In the top there is a cat.", "A beach with a dog.", f"{long} {long}", "A cat."]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts)
    assert torch.equal(tokens, reward.tokenize(tokenizer, texts))
    assert (tokens[0] == tokenizer.eos_token_id).sum() == 1
    with torch.inference_mode():
        images = loaded.encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in pixels[:4]]), normalize=True)
        states = tower(normalised(pixels[:4])).last_hidden_state
        assert torch.allclose(images, reward.embed_features(clip, states), atol=1e-5)
        assert torch.allclose(loaded.encode_text(tokens, normalize=True), reward.embed_tokens(clip, tokens), atol=1e-5)
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["pool_type"] == "eos"


def test_reward_leaves_the_tower_as_it_is(world):
    scenes, pixels, tower = world
    clip, _ = reward.train_reward(tower, tower_features(tower, pixels), scenes, 2, 8, 0, silent)
    state = clip.visual.state_dict()
    assert all(torch.equal(state[name], value) for name, value in reward.open_clip_weights(tower).items())


def test_muon_trains_matrices_and_adamw_the_rest():
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(64, 8, generator=generator), torch.randn(4, 8, generator=generator)
    module = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 4)]), "head": torch.nn.Linear(8, 4)})
    matrix, *_ = matrices = hidden_matrices(module)
    assert len(matrices) == 1
    assert matrix is module["layers"][0].weight

    def loss_at(step):
        return (module["layers"][0](inputs) - inputs @ true.T).square().mean() + module["head"].weight.square().sum()

    seen = []
    minimise("x", module.parameters(), matrices, loss_at, 200, 0.05, lambda *now: seen.append(now[3]))
    assert seen[-1] < 0.02 * seen[0]


def test_training_stops_when_the_loss_is_enough():
    weight = torch.nn.Parameter(torch.ones(1))
    seen = []
    minimise("x", [weight], [], lambda step: weight.square().sum(), 500, 0.1, lambda *now: seen.append(now[3]), enough=0.5)
    assert seen[-1] < 0.5 <= seen[-2]
    assert len(seen) < 500


def test_hallucination_counts():
    _, scene = draw_scene(0, "policy", 3, 64)
    names = scene.names()
    absent = "zebra" if "zebra" not in names else "kite"
    found = hallucination([scene], [f"There is a {names[0]} and a {names[0]} and a {absent}."])
    assert found["chair_s"] == 100
    assert found["chair_i"] == pytest.approx(100 / 3)
    assert found["repeats"] == 1
    assert found["recall"] == pytest.approx(100 / len(names))
