"""Word-level tokenizers of the small world, the words that they know, and the processor of its LLaVA.

A category or a cell of several words ("traffic light", "top left") is one token, the full stop is one, and case carries no meaning:
text is read in lower case and written with capitals after full stops. Text that was decoded encodes to the same ids.
"""

from __future__ import annotations

import re
import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from world.scenes import questions
from world.scenes.art import NAMES
from world.scenes.language import CELLS, NUMBERS, noun_phrase, plural
from world.scenes.scene import SCENE_TYPES
from world.training import wordings

PAD, BOS, EOS, IMAGE, UNKNOWN, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "<unk>", "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, IMAGE, UNKNOWN, USER, ASSISTANT)

# LLaVA-1.5's chat template: writes what llava-hf's writes. Responses close with EOS where they are trained on, not here.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] }} {% endgeneration %}"
    "{% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The policy's tokenizer: BOS before, nothing after."""
    return _wrapped(f"{BOS} $A", (BOS,), padding_side="left")


def build_text_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the CLIP's text encoder: BOS before, EOS after, as open_clip's pooling at EOS needs it."""
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


def vocabulary_texts() -> list[str]:
    """Texts that hold every word of all prompts, questions and answers, and the words that later work needs."""
    given = [value for name, value in vars(wordings).items() if name.isupper()]
    own = [text for value in given for text in ([value] if isinstance(value, str) else value)]
    nouns = [text for name in NAMES for text in (name, plural(name), noun_phrase(name))]
    scenes = [kind.phrase for kind in SCENE_TYPES.values()]
    answers = ["The image shows. In the there is and. Nearby. The bar has the value. With. A sign with the number.", *NUMBERS]
    numbers = [str(number) for number in range(41)]
    return [*nouns, *CELLS, *scenes, *answers, *numbers, *questions.texts(), *own]


def multiword_tokens() -> list[str]:
    """Names of several words that are one token each: categories, their plurals, cells, and types of place."""
    names = [*CELLS, *NAMES, *map(plural, NAMES), *(kind.noun for kind in SCENE_TYPES.values())]
    return sorted({name for name in names if " " in name}, key=lambda name: (-len(name), name))


def _backend() -> Tokenizer:
    """Words, and the names of several words, of all texts that the world knows; decoding puts blanks and capitals back."""
    names = multiword_tokens()
    pattern = "|".join(wordings.TAGS) + r"|\b(?:" + "|".join(names) + r")\b|\w+(?:['’]\w+)*|[^\w\s]"
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
