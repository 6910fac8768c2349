import json

import pytest
import torch
from PIL import Image

from lookagain.policy import PolicyError, add_adapter, load_policy, read_lineage, save_adapter, squared
from lookagain.schema import Loading

PROMPTS = ["Describe the following image.", "What's happening in the scene?"]


def logits(policy, images, prompt):
    prefixes, features, _ = policy.prefixes(images)
    ids = torch.tensor([prefix + policy.suffix(prompt) for prefix in prefixes])
    with torch.no_grad():
        return policy.forward(ids, features).logits


def trained(policy, scale=0.1):
    """A policy with an adapter that does something."""
    torch.manual_seed(1)
    add_adapter(policy, 4, 8, 0.0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    return policy


def test_prompt_pieces_are_the_processors_own_prompt(policy, images):
    prefixes, features, _ = policy.prefixes(images[:1])
    whole = policy.processor(images=images[0], text=policy._chat([(PROMPTS[0], None)]), add_special_tokens=False)
    assert prefixes[0] + policy.suffix(PROMPTS[0]) == list(whole["input_ids"][0])
    assert features[0].shape == (4, 32)


def test_conversation_marks_responses_and_ends_them(policy):
    ids, is_response = policy.conversation([(PROMPTS[0], "there is a dog."), (PROMPTS[1], "no.")])
    learned = policy.tokenizer.decode([token for token, yes in zip(ids, is_response, strict=True) if yes])
    assert learned.replace(" ", "") == "thereisadog.</s>no.</s>"
    assert ids[: len(policy.suffix(PROMPTS[0]))] == policy.suffix(PROMPTS[0])


def test_an_image_token_that_is_missing_is_an_error(policy):
    policy.processor.chat_template = "{{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(PolicyError, match="image token"):
        policy.suffix("no image here")


def test_adapters_merge_in_order_and_reload(policy, policy_folder, images, tmp_path):
    models = policy_folder.parent
    first = trained(policy)
    expected = logits(first, images, PROMPTS[0])
    save_adapter(first, models / "one", continues=False, record={"method": "test"})
    one = load_policy(models / "one")
    torch.testing.assert_close(logits(one, images, PROMPTS[0]), expected, rtol=1e-5, atol=1e-5)
    second = trained(one)
    expected = logits(second, images, PROMPTS[0])
    lineage = save_adapter(second, models / "two", continues=False, record={"method": "test"})
    assert [path.name for path in lineage.adapters] == ["00-one", "01-two"]
    assert lineage.fingerprint != read_lineage(models / "one").fingerprint
    torch.testing.assert_close(logits(load_policy(models / "two"), images, PROMPTS[0]), expected, rtol=1e-5, atol=1e-5)


def test_a_continued_adapter_takes_its_predecessors_place(policy, policy_folder):
    models = policy_folder.parent
    save_adapter(trained(policy), models / "stage1", continues=False, record={})
    stage1 = load_policy(models / "stage1", merge_last=False)
    assert any(parameter.requires_grad for parameter in stage1.model.parameters())
    assert [path.name for path in save_adapter(stage1, models / "final", True, {}).adapters] == ["00-final"]


def test_only_the_language_models_adapter_trains(policy):
    add_adapter(policy, 4, 8, 0.0)
    trainable = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name and "language_model" in name for name in trainable)


def test_missing_and_mismatched_folders_are_named(policy, policy_folder, tmp_path):
    with pytest.raises(PolicyError, match="no policy in"):
        load_policy(tmp_path / "nothing")
    folder = policy_folder.parent / "other"
    save_adapter(trained(policy), folder, continues=False, record={})
    raw = json.loads((folder / "lineage.json").read_text())
    (folder / "lineage.json").write_text(json.dumps(raw | {"base_fingerprint": "another"}))
    with pytest.raises(PolicyError, match="another base"):
        read_lineage(folder)


def test_padded_images_lie_in_a_square_of_the_mean_colour(policy_folder):
    wide = Image.new("RGB", (40, 20), "red")
    square = squared(wide, [0.5, 0.25, 0.0])
    assert (square.size, square.getpixel((0, 9)), square.getpixel((0, 10))) == ((40, 40), (127, 63, 0), (255, 0, 0))
    assert square.getpixel((39, 29)) == (255, 0, 0) != square.getpixel((39, 30))
    assert squared(square, [0, 0, 0]) is square
    plain, padding = load_policy(policy_folder), load_policy(policy_folder, Loading(pad_images=True))
    seen = padding.prefixes([wide]).features[0]
    torch.testing.assert_close(seen, plain.prefixes([squared(wide, plain.processor.image_processor.image_mean)]).features[0])
    assert not torch.allclose(seen, plain.prefixes([wide]).features[0])
