"""The chat template writes what llava-hf/llava-1.5-7b-hf's writes; the processor takes images of any size."""

import pytest
from PIL import Image

from world.training.labels import PATCH
from world.training.tokenizer import build_processor, build_tokenizer
from world.training.wordings import SYSTEM

SIZE = 64


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_tokenizer(), SIZE, PATCH)


def said(role: str, text: str, image: bool = False) -> dict:
    """A chat message. The image stands behind the text: the template puts it before."""
    return {"role": role, "content": [{"type": "text", "text": text}, *([{"type": "image"}] if image else [])]}


ONE = [said("user", "Is there a dog in the image?", image=True)]
TWO = [*ONE, said("assistant", "Yes."), said("user", "Where is the dog?")]


@pytest.mark.parametrize(
    ("messages", "generate", "text"),
    [
        (ONE, True, "USER: <image>\nIs there a dog in the image? ASSISTANT:"),
        (ONE, False, "USER: <image>\nIs there a dog in the image? "),
        (TWO, True, "USER: <image>\nIs there a dog in the image? ASSISTANT: Yes. USER: Where is the dog? ASSISTANT:"),
        (TWO[:2], False, "USER: <image>\nIs there a dog in the image? ASSISTANT: Yes. "),
        (
            [said("system", SYSTEM), *ONE],
            True,
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
            "polite answers to the user's questions. USER: <image>\nIs there a dog in the image? ASSISTANT:",
        ),
        ([said("user", "What is the sum of 2 and 3?")], True, "USER: What is the sum of 2 and 3? ASSISTANT:"),
    ],
)
def test_text_is_llava_hfs(processor, messages, generate, text):
    assert processor.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False) == text


def test_saved_processor_writes_the_same(processor, tmp_path):
    from transformers import AutoProcessor, LlavaProcessor

    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, LlavaProcessor)
    for messages in (ONE, TWO, [said("system", SYSTEM), *TWO]):
        texts = [one.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) for one in (processor, loaded)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (3, 5)])
def test_processor_takes_images_of_any_size(processor, size):
    text = processor.apply_chat_template([said("system", SYSTEM), *ONE], add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[Image.new("RGB", size)], text=[text], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, SIZE, SIZE)
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<image>")) == (SIZE // PATCH) ** 2
    assert ids[0] == processor.tokenizer.bos_token_id
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert processor.tokenizer.unk_token_id not in ids
