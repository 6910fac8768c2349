"""The two words of each patch, derived by hand for a scene and a chart."""

import torch

from lookagain.world.charts import Bar, Chart
from lookagain.world.labels import (
    FIRST_WORDS,
    GROUND_WEIGHT,
    GROUNDS,
    MIRRORED,
    SECOND_WORDS,
    first_weights,
    grounds,
    mirrorable,
    patch_words,
)
from lookagain.world.optimise import IGNORED
from lookagain.world.scenes import Scene, Thing
from lookagain.world.signs import Sign
from lookagain.world.tokenizer import build_tokenizer
from lookagain.world.tower import _mirrored, _mirrored_words

# The dog's ellipse holds the patch centres (36, 36), (36, 44), (44, 36) and (44, 44); the sign's box those at 4 and 12.
SCENE = Scene(1, "snow", "seen", 64, (Thing("dog", (32, 32, 16, 16)),), Sign(7, (0, 0, 16, 16)))
CHART = Chart(2, 64, (Bar("red", 1, (5, 56, 10, 6)), Bar("blue", 2, (40, 50, 8, 12))))


def words(one):
    """{(row, column): (first word, second word or None)} of an image's patches."""
    first, second = (table[0].tolist() for table in patch_words([one]))
    told = [(FIRST_WORDS[a], None if b == IGNORED else SECOND_WORDS[b]) for a, b in zip(first, second, strict=True)]
    return {(place // 8, place % 8): pair for place, pair in enumerate(told)}


def test_words_of_a_scene():
    found = words(SCENE)
    assert {place: pair for place, pair in found.items() if pair != ("snowy slope", None)} == {
        **{(row, column): ("dog", "center") for row in (4, 5) for column in (4, 5)},
        **{(row, column): ("7", "sign") for row in (0, 1) for column in (0, 1)},
    }


def test_words_of_a_chart():
    found = words(CHART)
    assert {place: pair for place, pair in found.items() if pair != ("chart", None)} == {
        (7, 1): ("red", "1"),
        (6, 5): ("blue", "2"),
        (7, 5): ("blue", "2"),
    }


def test_words_are_single_tokens_of_the_vocabulary():
    tokenizer = build_tokenizer()
    for tokens in (FIRST_WORDS, SECOND_WORDS):
        assert len(set(tokens)) == len(tokens)
        for word in tokens:
            ids = tokenizer(word, add_special_tokens=False).input_ids
            assert ids == [tokenizer.convert_tokens_to_ids(word)] != [tokenizer.unk_token_id], word


def test_backgrounds_weigh_less():
    light = {FIRST_WORDS[place] for place in torch.nonzero(first_weights() == GROUND_WEIGHT).flatten()}
    assert light == set(GROUNDS)
    assert [GROUNDS[kind] for kind in grounds([SCENE, CHART])] == ["snowy slope", "chart"]


def test_mirroring_turns_cells_and_spares_digits():
    plain = Scene(1, "snow", "seen", 64, (Thing("dog", (0, 0, 16, 16)), Thing("cat", (48, 32, 16, 16))))
    other = Scene(1, "snow", "seen", 64, (Thing("dog", (48, 0, 16, 16)), Thing("cat", (0, 32, 16, 16))))
    assert mirrorable([plain, SCENE, CHART]).tolist() == [True, False, True]
    images = torch.arange(2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    mirrored = torch.tensor([True, False])
    assert torch.equal(_mirrored(images, mirrored), torch.stack([images[0].flip(2), images[1]]))
    for found, wanted in zip(_mirrored_words(*patch_words([plain, plain]), mirrored), patch_words([other, plain]), strict=True):
        assert torch.equal(found, wanted)
    assert [SECOND_WORDS[place] for place in MIRRORED[[0, 4, 5]]] == ["top right", "center", "left"]
    assert MIRRORED[9:].tolist() == list(range(9, len(SECOND_WORDS)))
