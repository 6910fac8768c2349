"""The word-level tokenizers: no text that world/ writes has an unknown word, and text comes back as it was."""

import numpy as np
import pytest
from world_examples import charts, scenes

from lookagain import prompts
from world.scenes.art import NAMES
from world.scenes.language import CELLS
from world.scenes.scene import SCENE_TYPES
from world.training.clip import CONTEXT_LENGTH, true_text
from world.training.conversations import Noise, about
from world.training.tokenizer import build_text_tokenizer, build_tokenizer
from world.training.wordings import SYSTEM, TAGS

LATER = (  # what later work writes
    "plus minus sum difference total together equal same different more fewer higher highest lower lowest than first second so "
    "because therefore step both neither shared"
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def turns():
    """All that is taught about 300 scenes and 100 charts."""
    shown = [*scenes("training", 300), *charts("training", 100)]
    talks = [talk for image in shown for talk in about(image, np.random.default_rng(image.id), Noise(0.35, 0.15))]
    return [turn for talk in talks for turn in talk]


def unknown(tokenizer, texts) -> list[str]:
    """The texts that hold a word that the tokenizer does not know."""
    texts = sorted(set(texts))
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    return [text for text, ids in zip(texts, rows, strict=True) if tokenizer.unk_token_id in ids]


def test_unknown_words_are_seen(tokenizer):
    assert tokenizer.tokenize("a xylophone") == ["a", "<unk>"]
    assert unknown(tokenizer, ["a dog", "a xylophone", "41"]) == ["41", "a xylophone"]


def test_training_texts_are_known(tokenizer, turns):
    assert len(turns) > 5000
    assert unknown(tokenizer, [text for turn in turns for text in turn]) == []


def test_prompts_of_the_papers_and_the_system_message_are_known(tokenizer):
    values = [value for name, value in vars(prompts).items() if name.isupper()]
    texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
    texts = [text for text in texts if text != prompts.JUDGE_PAIR]
    assert {*prompts.STIC_BAD, prompts.STIC_STEP_BY_STEP} <= set(texts)
    judged = prompts.judge_pair("The image shows a street.", "In the top there is a red car.")
    infused = [
        prompts.infuse("The image shows a street.", "What is in this picture?", form) for form in ("paper", "as_released")
    ]
    assert unknown(tokenizer, [*texts, judged, *infused, SYSTEM]) == []


def test_what_later_work_writes_is_single_tokens(tokenizer):
    words = [*TAGS, *map(str, range(41)), *LATER.split()]
    assert TAGS == ("<think>", "</think>", "<answer>", "</answer>")
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert [row for row in ids if len(row) != 1 or row[0] == tokenizer.unk_token_id] == []
    assert len({row[0] for row in ids}) == len(words)
    sentence = "So the sum of 12 and 7 is 19, because 12 plus 7 is equal to 19. Neither number is higher than 20."
    assert unknown(tokenizer, [sentence]) == []
    assert tokenizer.decode(tokenizer(sentence, add_special_tokens=False).input_ids) == sentence


def test_names_of_several_words_are_one_token(tokenizer):
    for name in (*NAMES, *CELLS, *(kind.noun for kind in SCENE_TYPES.values())):
        assert tokenizer.tokenize(name) == [name]
    assert tokenizer.tokenize("a TRAFFIC light. Top left") == ["a", "traffic light", ".", "top left"]


def test_bos_comes_before_and_only_the_clips_texts_end_with_eos(tokenizer):
    assert tokenizer("a dog").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in tokenizer("a dog").input_ids
    text = build_text_tokenizer(CONTEXT_LENGTH)
    assert text("a dog").input_ids == [*tokenizer("a dog").input_ids, tokenizer.eos_token_id]


def test_decoded_text_encodes_to_the_same_ids(tokenizer, turns):
    texts = sorted({text for turn in turns for text in turn})
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    assert tokenizer(tokenizer.batch_decode(ids), add_special_tokens=False).input_ids == ids


def test_responses_decode_as_they_are_written(tokenizer, turns):
    plain = sorted({turn.response for turn in turns if not turn.response.startswith("<think>")})
    assert tokenizer.batch_decode(tokenizer(plain, add_special_tokens=False).input_ids) == plain


def test_the_clips_texts_are_known_and_whole():
    tokenizer = build_text_tokenizer(CONTEXT_LENGTH)
    texts = [true_text(scene, np.random.default_rng(seed)) for scene in scenes("training", 300) for seed in range(5)]
    assert unknown(tokenizer, texts) == []
    assert max(map(len, tokenizer(texts).input_ids)) <= CONTEXT_LENGTH
