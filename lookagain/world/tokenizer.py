"""Word-level tokenizers of the small world, and the processor of its LLaVA.

A category or a cell of several words ("traffic light", "top left") is one token, the full stop is one, and case carries no meaning:
text is read in lower case and written with capitals after full stops. Text that was decoded encodes to the same ids.
"""

from __future__ import annotations

import re
import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from lookagain.world.conversations import multiword_tokens, vocabulary_texts

PAD, BOS, EOS, IMAGE, UNKNOWN, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "<unk>", "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, IMAGE, UNKNOWN, USER, ASSISTANT)

# LLaVA-1.5's conversation, each response ended by EOS.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% else %}ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% generation %}{{ part['text'] }}</s>{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The policy's tokenizer: BOS before, nothing after."""
    return _wrapped(f"{BOS} $A", (BOS,), padding_side="left")


def build_text_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the reward's text encoder: BOS before, EOS after, as open_clip's pooling at EOS needs it."""
    return _wrapped(f"{BOS} $A {EOS}", (BOS, EOS), padding_side="right", max_length=context_length)


def build_processor(tokenizer: PreTrainedTokenizerFast, image_size: int, patch_size: int) -> LlavaProcessor:
    """The policy's processor. An image of any size is resized to a square, so that nothing at its edge is lost."""
    square = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessor(
        size=square, do_center_crop=False, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,  # the class token, which "default" drops
        chat_template=CHAT_TEMPLATE,
    )


def _backend() -> Tokenizer:
    """Words, and the names of several words, of all texts that the world knows; decoding puts blanks and capitals back."""
    names = multiword_tokens()
    pattern = r"\b(?:" + "|".join(names) + r")\b|\w+(?:'\w+)*|[^\w\s]"
    words = [word for text in vocabulary_texts() for word in re.findall(pattern, text.lower())]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    capitals = [decoders.Replace(Regex(rf"(?:^|(?<=[.!?] )){letter}"), letter.upper()) for letter in string.ascii_lowercase]
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r" (?=[.,?!:;)])|(?<=[(]) "), ""),
            decoders.Strip(" ", 1, 0),
            *capitals,
        ]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return backend


def _wrapped(template: str, used: tuple[str, ...], padding_side: str, max_length: int = 2048) -> PreTrainedTokenizerFast:
    backend = _backend()
    pairs = [(token, backend.token_to_id(token)) for token in used]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side=padding_side,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
