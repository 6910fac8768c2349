"""Small randomly initialised checkpoints of other architectures, with their own processor classes and locally made tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import CARD, WORDS, build_policy_folder

from lookagain import prompts

NAMES = ("llava", "llava_next", "qwen2_5_vl", "smolvlm")
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} [/INST]{% else %} {{ message['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "<|im_start|>system\nthe image shows a dog .<|im_end|>\n{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build(name: str, folder: Path) -> Path:
    """A base policy folder of one architecture."""
    if name == "llava":
        return build_policy_folder(folder)
    import torch

    make = {"llava_next": _llava_next, "qwen2_5_vl": _qwen, "smolvlm": _smolvlm}[name]
    torch.manual_seed(0)
    model, processor = make()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "lineage.json").write_text(json.dumps({"base": str(folder), "revision": None, "fingerprint": f"random-{name}"}))
    return folder


def _tokenizer(specials: list[str], bos: str | None, eos: str, pad: str):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = " ".join([*prompts.STIC_CAPTION, *prompts.STIC_BAD, prompts.STIC_STEP_BY_STEP, *prompts.CSR_DESCRIBE])
    split = pre_tokenizers.Split(Regex(r"[A-Za-z']+|[^\sA-Za-z']"), "removed", invert=True)
    words = [*WORDS, "user", "assistant", "Assistant", *(piece for piece, _ in split.pre_tokenize_str(text))]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([pad, eos, *specials, "<unk>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos, unk_token="<unk>",
        additional_special_tokens=specials,
    )  # fmt: skip


def _ids(tokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def _llava_next():
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        MistralConfig,
    )

    tokenizer = _tokenizer(["<s>", "<image>"], "<s>", "</s>", "<pad>")
    grid = [[16, 32], [32, 16], [32, 32]]
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=4, vision_feature_select_strategy="default", chat_template=MISTRAL,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**CLIP, image_size=16, patch_size=4),
        text_config=MistralConfig(**TEXT, **_ids(tokenizer), sliding_window=None),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _qwen():
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokens = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(tokens, None, "<|im_end|>", "<|endoftext|>")
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 256, "longest_edge": 1024}}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=CHATML
    )
    start, end, image, video = tokenizer.convert_tokens_to_ids(tokens[1:])
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
        },
        text_config=TEXT | _ids(tokenizer) | {
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _smolvlm():
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    tokens = ["<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>", *places]
    tokenizer = _tokenizer(tokens, "<|im_start|>", "<end_of_utterance>", "<pad>")
    images = SmolVLMImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    video = SmolVLMVideoProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, num_frames=4, fps=1,
        video_sampling={"video_size": {"longest_edge": 16}, "max_frames": 4, "fps": 1},
    )  # fmt: skip
    processor = SmolVLMProcessor(images, tokenizer, video, image_seq_len=4, chat_template=SMOL)
    vision = CLIP | {"image_size": 16, "patch_size": 4}
    config = SmolVLMConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT, **_ids(tokenizer)), scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return SmolVLMForConditionalGeneration(config), processor
