"""Training as DVC starts it, in a few steps: the same bytes twice, files that plain libraries load, in llava-hf's names."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration
from world_examples import drawn_scenes

from world.training import train_clip, train_policy
from world.training.clip import embed_features, embed_tokens, new_clip, open_clip_weights, save_clip, tokenize
from world.training.tower import normalised

ROOT = Path(__file__).parents[2]
FEW = {
    "worlds": {"world-0": 0, "world-1": 1},
    "scenes": 6,
    "charts": 2,
    "policy": {"tower_steps": 2, "align_steps": 2, "max_yesno_steps": 2, "yesno_loss": 99.0, "mixed_steps": 2},
    "clip": {"steps": 2, "batch_size": 4},
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder where world-0's policy and CLIP were trained twice, and world-1's policy once, with few steps."""
    folder = tmp_path_factory.mktemp("trained")
    params = YAML(typ="safe").load((ROOT / "world/params.yaml").read_text())
    few = params | FEW | {part: params[part] | FEW[part] for part in ("policy", "clip")}
    assert few.keys() == params.keys()
    assert all(few[part].keys() == params[part].keys() for part in ("policy", "clip"))
    (folder / "world").mkdir()
    with (folder / "world/params.yaml").open("w") as file:
        YAML().dump(few, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, out in (("world-0", []), ("world-0", ["--out", "again/policy"]), ("world-1", [])):
            torch.manual_seed(len(out))  # what came before in the process must not count
            train_policy.main([name, *out])
        train_clip.main(["world-0"])
        train_clip.main(["world-0", "--policy", "again/policy", "--out", "again/clip"])
    return folder


@pytest.fixture(scope="module")
def policy(trained):
    return trained / "checkpoints/world-0/policy"


@pytest.fixture(scope="module")
def clip(trained):
    return trained / "checkpoints/world-0/clip"


@pytest.mark.parametrize("part", ["policy", "clip"])
def test_training_twice_gives_the_same_bytes(trained, part):
    first, second = (
        {path.name: path.read_bytes() for path in (folder / part).iterdir()}
        for folder in (trained / "checkpoints/world-0", trained / "again")
    )
    assert first == second


def test_a_world_is_its_seed(trained):
    first, second = (trained / f"checkpoints/world-{seed}/policy" for seed in (0, 1))
    for name in ("config.json", "tokenizer.json", "processor_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()


@pytest.mark.parametrize("part", ["policy", "clip"])
def test_dvc_names_the_files_that_training_writes(trained, part):
    stage = YAML(typ="safe").load((ROOT / "world/dvc.yaml").read_text())["stages"][f"train_{part}"]["do"]
    outs = {path: settings for out in stage["outs"] for path, settings in out.items()}
    written = {path.name for path in (trained / "checkpoints/world-0" / part).iterdir()}
    assert outs.keys() == {f"checkpoints/${{key}}/{part}/{name}" for name in written}
    assert all(settings == {"cache": False} for settings in outs.values())


def test_a_card_in_the_folder_stays(trained, tmp_path):
    """DVC removes none of the files that it does not name, and saving none of those that it does not write."""
    folder = shutil.copytree(trained / "checkpoints/world-0/policy", tmp_path / "policy")
    (folder / "README.md").write_text("card")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    weights = (folder / "model.safetensors").read_bytes()
    train_policy.save(model, AutoProcessor.from_pretrained(folder), folder)
    assert (folder / "README.md").read_text() == "card"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_tensors_have_llava_hfs_names_in_float16(policy):
    with safe_open(policy / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    layer = r"\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|post_attention_layernorm)\.weight"
    vision = r"\d+\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12]|layer_norm[12])\.(weight|bias)"
    names = [
        rf"language_model\.model\.(embed_tokens\.weight|norm\.weight|layers\.{layer})",
        r"language_model\.lm_head\.weight",
        rf"vision_tower\.vision_model\.encoder\.layers\.{vision}",
        r"vision_tower\.vision_model\.embeddings\.(class_embedding|(patch|position)_embedding\.weight)",
        r"vision_tower\.vision_model\.(pre_layrnorm|post_layernorm)\.(weight|bias)",
        r"multi_modal_projector\.linear_[12]\.(weight|bias)",
    ]
    assert [name for name in tensors if not re.fullmatch("|".join(names), name)] == []
    for name in (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
    ):
        assert name in tensors


def test_a_world_is_small(policy, clip):
    """What git keeps of it: sizes are those of the architecture, whatever the steps."""
    assert sum(path.stat().st_size for folder in (policy, clip) for path in folder.iterdir()) < 12e6


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("model.vision_tower.pre_layrnorm.bias", "vision_tower.vision_model.pre_layrnorm.bias"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.vision_model.pre_layrnorm.bias"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_names_of_this_transformers_become_the_published_ones(ours, theirs):
    assert train_policy.published_name(ours) == theirs


@pytest.mark.parametrize("dtype", DTYPES)
def test_policy_loads_with_every_key_and_answers(policy, dtype):
    model, report = AutoModelForImageTextToText.from_pretrained(policy, dtype=dtype, output_loading_info=True)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with safe_open(policy / "model.safetensors", "pt") as file:
        saved = file.get_tensor("multi_modal_projector.linear_1.weight")
    assert torch.equal(model.model.multi_modal_projector.linear_1.weight, saved.to(dtype))
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    processor = AutoProcessor.from_pretrained(policy)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image."}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[drawn_scenes("training", 1)[0][0]], text=[text], return_tensors="pt").to(dtype)
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits
        written = model.generate(**inputs, max_new_tokens=3)
    assert logits.isfinite().all()
    assert logits.shape[-1] == len(processor.tokenizer)
    assert 1 <= written.shape[1] - inputs["input_ids"].shape[1] <= 3
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert not model.generation_config.do_sample


def test_clip_loads_through_open_clip(policy, clip, tmp_path):
    """With the embeddings that training computed, and texts cut and padded alike."""
    tower = LlavaForConditionalGeneration.from_pretrained(policy, dtype=torch.float32).model.vision_tower.eval()
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    loaded.eval()
    state = loaded.visual.state_dict()
    assert all(torch.equal(state[name], value) for name, value in open_clip_weights(tower).items())
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    long = "In the top left there is a traffic light and a red car."
    texts = ["The image shows a beach.", long, "In the top there is a cat.", f"{long} {long}", "A cat.", f"{long} " * 9]
    tokens = tokenizer(texts)
    assert torch.equal(tokens, tokenize(tokenizer.tokenizer, texts))
    assert ((tokens == tokenizer.tokenizer.eos_token_id).sum(1) == 1).all()
    assert tokenizer.tokenizer.unk_token_id not in tokens
    images = [image for image, _ in drawn_scenes("training", 4)]
    with torch.inference_mode():
        seen = loaded.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        states = tower(normalised(np.stack([np.asarray(image) for image in images]))).last_hidden_state
        assert_close(seen, embed_features(loaded, states), atol=1e-5, rtol=0)
        assert_close(loaded.encode_text(tokens, normalize=True), embed_tokens(loaded, tokens), atol=1e-5, rtol=0)
    assert_close(seen.norm(dim=-1), torch.ones(4))
    assert json.loads((clip / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["pool_type"] == "eos"
    untrained = new_clip(tower, tokenizer.tokenizer)
    save_clip(untrained, tokenizer.tokenizer, tmp_path)
    other, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    assert not torch.equal(other.text.token_embedding.weight, loaded.text.token_embedding.weight)


def test_clip_is_float16_and_trains_what_is_not_the_tower(policy, clip):
    with safe_open(clip / "open_clip_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    tower = LlavaForConditionalGeneration.from_pretrained(policy, dtype=torch.float32).model.vision_tower
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}").tokenizer
    model = new_clip(tower, tokenizer)
    frozen = {name for name, value in model.visual.named_parameters() if not value.requires_grad}
    assert frozen == set(open_clip_weights(tower))
    assert all(value.requires_grad for value in model.text.parameters())


@pytest.mark.parametrize("size", [(30, 20), (64, 64)])
def test_clip_takes_images_of_any_size(clip, size):
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    assert preprocess(Image.new("RGB", size)).shape == (3, 64, 64)
    assert loaded.encode_image(preprocess(Image.new("RGB", size))[None]).isfinite().all()
