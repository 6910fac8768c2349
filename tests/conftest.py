"""Fixtures: a LLaVA with random weights, small enough to build in every test session."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lookagain import prompts

CARD = "---\nlicense: mit\nmodel_name: random\npublisher: nobody\n---\nRandom weights.\n"
WORDS = (
    "the image shows a beach street dog cat car in left right there is and of USER ASSISTANT : . , ? yes no description".split()
)


def build_policy_folder(folder: Path, seed: int = 0) -> Path:
    """A base policy folder with a random LLaVA of 16 px images (4 image tokens) and a word-level tokenizer."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    text = " ".join([*prompts.STIC_CAPTION, *prompts.STIC_BAD, prompts.STIC_STEP_BY_STEP, *prompts.CSR_DESCRIBE])
    split = pre_tokenizers.Split(Regex(r"[A-Za-z']+|[^\sA-Za-z']"), "removed", invert=True)
    words = [*WORDS, *(piece for piece, _ in split.pre_tokenize_str(text))]
    vocabulary = {
        token: index for index, token in enumerate(dict.fromkeys(["<pad>", "<s>", "</s>", "<image>", "<unk>", *words]))
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}{% endfor %}"
        "{% else %}ASSISTANT: {{ message['content'][0]['text'] }} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
            ),
            text_config=LlamaConfig(
                vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=4, max_position_embeddings=512, initializer_range=0.2,
                bos_token_id=1, eos_token_id=2, pad_token_id=0,
            ),
            image_token_index=vocabulary["<image>"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    ).eval()  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "lineage.json").write_text(json.dumps({"base": str(folder), "revision": None, "fingerprint": f"random-{seed}"}))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Models this small lose more to a second thread than they win, the more so where something else is running."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory):
    return build_policy_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def policy(policy_folder):
    from lookagain.policy import load_policy

    return load_policy(policy_folder)


@pytest.fixture(scope="session")
def images():
    """Six different images."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (24, 20 + number, 3), dtype=np.uint8)) for number in range(6)]
