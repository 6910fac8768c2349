"""The three words of each patch, derived by hand for a scene and a chart."""

import pytest
import torch

from world.scenes.charts import Bar, Chart
from world.scenes.scene import Scene, Thing
from world.scenes.signs import Sign
from world.training.labels import (
    GROUND_WEIGHT,
    GROUNDS,
    MIRRORED,
    WORDS,
    first_weights,
    grounds,
    mirrorable,
    patch_words,
)
from world.training.optimise import IGNORED
from world.training.tokenizer import build_tokenizer
from world.training.tower import _mirrored, _mirrored_words

# The car's ellipse holds the patch centres (36, 36), (36, 44), (44, 36) and (44, 44), the dog's (52, 4), (52, 12), (60, 4) and
# (60, 12); the sign's box those at 4 and 12.
SCENE = Scene(
    1,
    "snow",
    "seen",
    64,
    (Thing("car", (32, 32, 16, 16), "red"), Thing("dog", (0, 48, 16, 16))),
    Sign(27, (0, 0, 16, 16)),
)
CHART = Chart(2, 64, (Bar("red", 2, (5, 56, 10, 6)), Bar("blue", 4, (40, 50, 8, 12))))


def words(shown) -> dict[tuple[int, int], tuple]:
    """{(row, column): (first word, second word, third word)} of an image's patches; None where there is none."""
    tables = [table[0].tolist() for table in patch_words([shown])]
    named = [
        [None if index == IGNORED else known[index] for index in table] for table, known in zip(tables, WORDS, strict=True)
    ]
    return {(place // 8, place % 8): triple for place, triple in enumerate(zip(*named, strict=True))}


def test_words_of_a_scene():
    assert {place: told for place, told in words(SCENE).items() if told != ("snowy slope", None, None)} == {
        **{(row, column): ("car", "center", "red") for row in (4, 5) for column in (4, 5)},
        **{(row, column): ("dog", "bottom left", None) for row in (6, 7) for column in (0, 1)},
        **{(row, column): ("27", "sign", None) for row in (0, 1) for column in (0, 1)},
    }


def test_words_of_a_chart():
    assert {place: told for place, told in words(CHART).items() if told != ("chart", None, None)} == {
        (7, 1): ("red", "2", None),
        (6, 5): ("blue", "4", None),
        (7, 5): ("blue", "4", None),
    }


def test_what_is_drawn_later_hides_what_was_there():
    hidden = Scene(1, "snow", "seen", 64, (Thing("car", (32, 32, 16, 16), "red"), Thing("dog", (32, 32, 16, 16))))
    assert words(hidden)[4, 4] == ("dog", "center", None)


@pytest.mark.parametrize("known", WORDS)
def test_words_are_single_tokens_of_the_vocabulary(known):
    tokenizer = build_tokenizer()
    assert len(set(known)) == len(known)
    for word in known:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert ids == [tokenizer.convert_tokens_to_ids(word)] != [tokenizer.unk_token_id], word


def test_backgrounds_weigh_less():
    light = {WORDS[0][place] for place in torch.nonzero(first_weights() == GROUND_WEIGHT).flatten()}
    assert light == set(GROUNDS)
    assert [GROUNDS[kind] for kind in grounds([SCENE, CHART])] == ["snowy slope", "chart"]


def test_mirroring_turns_cells_and_spares_digits():
    plain = Scene(1, "snow", "seen", 64, (Thing("car", (0, 0, 16, 16), "red"), Thing("cat", (48, 32, 16, 16))))
    other = Scene(1, "snow", "seen", 64, (Thing("car", (48, 0, 16, 16), "red"), Thing("cat", (0, 32, 16, 16))))
    assert mirrorable([plain, SCENE, CHART]).tolist() == [True, False, True]
    images = torch.arange(2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    mirrored = torch.tensor([True, False])
    assert torch.equal(_mirrored(images, mirrored), torch.stack([images[0].flip(2), images[1]]))
    for found, wanted in zip(_mirrored_words(patch_words([plain, plain]), mirrored), patch_words([other, plain]), strict=True):
        assert torch.equal(found, wanted)
    assert [WORDS[1][place] for place in MIRRORED[[0, 4, 5]]] == ["top right", "center", "left"]
    assert MIRRORED[9:].tolist() == list(range(9, len(WORDS[1])))
