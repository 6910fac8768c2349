"""Descriptions are true and whole, and untrue where they should be."""

import re
from collections import Counter

import numpy as np
import pytest
from world_examples import CHART, SCENE, scenes

from lookagain.metrics import chair
from world.scenes import language
from world.scenes.art import NAMES, PAINTED
from world.scenes.language import CELLS, cell_of, noun_phrase
from world.scenes.scene import SCENE_TYPES, plausibility

COUNT = 200


def told(text: str) -> list[tuple[str, str]]:
    """(cell, noun phrase) of all that a description names after its first sentence."""
    found = []
    for sentence in re.findall(r"[^.]+\.", text)[1:]:
        cell, phrases = re.fullmatch(r" In the ([a-z ]+) there is (.+)\.", sentence).groups()
        found += [(cell, phrase) for phrase in re.split(r", | and ", phrases)]
    return found


def test_description_of_a_plain_scene():
    assert language.description(SCENE) == (
        "The image shows a park at night. In the top left there is a dog. In the top right there is a cat. In the center there is "
        "a sign with the number 27. In the bottom right there is a red car."
    )


def test_descriptions_are_true_and_name_all_with_color_and_number():
    for scene in scenes("validation", COUNT):
        text = language.description(scene)
        assert text.startswith(f"The image shows {SCENE_TYPES[scene.type].phrase}. In the ")
        true = {(CELLS[cell_of(thing.box, 64)], noun_phrase(thing.name, thing.color)) for thing in scene.things}
        sign = {(CELLS[cell_of(scene.sign.box, 64)], f"a sign with the number {scene.sign.number}")} if scene.sign else set()
        named = told(text)
        assert len(set(named)) == len(named)
        assert set(named) <= true | sign
        assert sign <= set(named)
        assert sorted(chair.mentions(text)) == sorted(scene.names())
        assert [CELLS.index(cell) for cell, _ in named] == sorted(CELLS.index(cell) for cell, _ in named)
        assert sorted(chair.mentions(language.caption(scene))) == sorted(scene.names())
        assert sorted(chair.mentions(language.listing(scene))) == sorted(scene.names())


def test_phrases_hold_the_color_of_what_is_painted():
    assert noun_phrase("car", "red") == "a red car"
    assert noun_phrase("umbrella") == "an umbrella"
    assert noun_phrase("skis") == "a pair of skis"
    texts = " ".join(language.description(scene) for scene in scenes("validation", COUNT))
    for name in PAINTED:
        assert not re.search(rf"\b(?:a|an) {name}\b", texts)
    assert re.search(r"\ba blue car\b", texts)


def test_a_chart_is_described_bar_by_bar():
    assert language.chart_description(CHART) == (
        "The image shows a chart. The red bar has the value 1. The blue bar has the value 20."
    )


@pytest.mark.parametrize("plausible", [True, False])
def test_absent_categories_are_drawn_by_plausibility_without_replacement(plausible):
    scene, rng = scenes("validation", COUNT)[0], np.random.default_rng(0)
    weights = np.array(plausibility(scene.type) if plausible else np.ones(len(NAMES)))
    weights[[NAMES.index(name) for name in scene.names()]] = 0
    drawn = [language.absent(scene, 2, rng, plausible) for _ in range(3000)]
    assert all(len({*names}) == 2 and not {*names} & {*scene.names()} for names in drawn)
    expected = [rng.choice(len(NAMES), 2, replace=False, p=weights / weights.sum()) for _ in range(3000)]
    for place in (0, 1):
        counts = [Counter(names[place] for names in drawn), Counter(NAMES[numbers[place]] for numbers in expected)]
        assert all(abs(counts[0][name] - counts[1][name]) < 5 * (counts[1][name] + 10) ** 0.5 for name in NAMES)
    with pytest.raises(ValueError, match="lacks fewer than"):
        language.absent(scene, len(NAMES), rng)


def test_noise_adds_one_absent_object_to_its_share():
    shown = scenes("validation", COUNT)

    def noisy(scene, share):
        return language.noisy_description(scene, np.random.default_rng(scene.id), share)

    added = [len(set(chair.mentions(noisy(scene, 0.5))) - set(scene.names())) for scene in shown]
    assert set(added) == {0, 1}
    assert 0.4 < np.mean(added) < 0.6
    assert [noisy(scene, 0.0) for scene in shown] == [language.description(scene) for scene in shown]
    for scene in shown:
        assert set(told(language.description(scene))) < set(told(noisy(scene, 1.0)))


def test_bad_prompts_are_obeyed():
    rng, counts = np.random.default_rng(0), set()
    for scene in scenes("validation", COUNT):
        text = language.imagined_description(scene, rng)
        true, _, imagined = text.partition(" Nearby there is ")
        assert true == language.description(scene)
        absent = chair.mentions(imagined)
        assert not set(absent) & set(scene.names())
        counts.add(len(set(absent)))
    assert counts == {1, 2, 3}
