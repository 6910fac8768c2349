"""Questions and their answers about a scene whose truth is plain: a dog, two cats, a car, and a sign in the center."""

import dataclasses
import re

import numpy as np
import pytest

from lookagain.metrics.benchmark import LLAVA15
from lookagain.metrics.pragmatics import COUNT, WHICH
from lookagain.world import conversations, lookups
from lookagain.world.charts import Bar, Chart
from lookagain.world.scenes import MOST_OBJECTS, Scene, Thing, draw_scene
from lookagain.world.signs import Sign
from lookagain.world.tokenizer import build_tokenizer

SCENE = Scene(
    1,
    "park at night",
    "seen",
    64,
    (
        Thing("dog", (0, 0, 20, 20)),
        Thing("cat", (44, 0, 20, 20)),
        Thing("cat", (0, 44, 20, 20)),
        Thing("car", (44, 44, 20, 20)),
    ),
    Sign(3, (24, 24, 16, 16)),
)
CHART = Chart(2, 64, (Bar("red", 1, (4, 56, 10, 6)), Bar("blue", 2, (40, 50, 8, 12))))


def draws(make, count=60):
    return {make(np.random.default_rng(seed)) for seed in range(count)}


def test_formats_are_the_official_ones():
    assert (LLAVA15.single_word, LLAVA15.letter, LLAVA15.chart) == (lookups.SHORT_ANSWER, lookups.OPTION, lookups.ONE_WORD)
    assert (LLAVA15.ocr_tokens, COUNT, WHICH) == (lookups.OCR_TOKENS, lookups.NUMBER_ONLY, lookups.CAPTION)


def test_open_questions():
    assert draws(lambda rng: lookups.where(SCENE, rng)) == {
        ("Where is the dog in the image?", "top left"),
        ("Where is the car in the image?", "bottom right"),
    }
    assert draws(lambda rng: lookups.contents(SCENE, rng)) == {
        ("What is in the top left of the image?", "dog"),
        ("What is in the top right of the image?", "cat"),
        ("What is in the bottom left of the image?", "cat"),
        ("What is in the bottom right of the image?", "car"),
    }
    assert draws(lambda rng: lookups.side(SCENE, rng)) == {
        ("Is the dog to the left or to the right of the car?", "left"),
        ("Is the car to the left or to the right of the dog?", "right"),
    }
    assert lookups.total(SCENE) == ("How many objects are there in the image?", "4")
    assert lookups.place(SCENE).answer == "park at night"
    assert lookups.sign(SCENE) == ("What number is on the sign?", "3")


def test_pairs():
    assert draws(lambda rng: lookups.relation_pair(SCENE, rng)) == {
        ("Is the dog to the left of the car?", "Is the dog to the right of the car?"),
        ("Is the dog above the car?", "Is the dog below the car?"),
        ("Is the car to the right of the dog?", "Is the car to the left of the dog?"),
        ("Is the car below the dog?", "Is the car above the dog?"),
    }
    assert draws(lambda rng: lookups.count_pair(SCENE, rng)) == {
        ("Are there four objects in the image?", f"{start} in the image?")
        for start in ("Is there one object", *(f"Are there {count} objects" for count in ("two", "three", "five", "six")))
    }
    signs = draws(lambda rng: lookups.sign_pair(SCENE, rng), 200)
    assert {pair.yes for pair in signs} == {"Is the number on the sign 3?"}
    assert len({pair.no for pair in signs}) == 9
    for pair in draws(lambda rng: lookups.position_pair(SCENE, rng)):
        assert pair.yes in ("Is the dog in the top left of the image?", "Is the car in the bottom right of the image?")
        assert pair.no not in ("Is the dog in the top left of the image?", "Is the car in the bottom right of the image?")
    for pair in draws(lambda rng: lookups.scene_pair(SCENE, rng)):
        assert pair.yes == "Does the image show a park at night?" != pair.no


def test_nothing_is_asked_that_cannot_be_answered():
    twins = Scene(1, "beach", "seen", 64, (Thing("dog", (0, 0, 20, 20)), Thing("dog", (0, 0, 20, 20))))
    rng = np.random.default_rng(0)
    asked = (lookups.where, lookups.side, lookups.sign_pair, lookups.position_pair, lookups.relation_pair)
    assert [ask(twins, rng) for ask in (*asked, lookups.place_choice, lookups.spatial_captions)] == [None] * 7


def test_choices_hold_one_right_option():
    for name, ask, right in (
        ("existence", lookups.existence_choice, set(SCENE.names())),
        ("place", lookups.place_choice, {"top left", "bottom right"}),
        ("number", lookups.number_choice, {"four"}),
        ("scene", lookups.scene_choice, {"park at night"}),
        ("spatial", lookups.spatial_captions, {"In the top left there is a dog.", "In the bottom right there is a car."}),
        ("counting", lookups.count_captions, {"There are four objects in the image."}),
    ):
        found = draws(lambda rng, ask=ask: ask(SCENE, rng))
        assert {asked.options[0] for asked in found} == right, name
        assert all(len(set(asked.options)) == 4 for asked in found), name
    there = lookups.negation_captions(SCENE, np.random.default_rng(0), True)
    assert re.sub("dog|cat|car", "x", there.options[0]) == "There is a x in the image."
    absent = lookups.negation_captions(SCENE, np.random.default_rng(0), False)
    assert not set(re.findall(r"\w+", absent.options[0])) & set(SCENE.names())


def test_letters_name_the_right_option():
    turns = draws(lambda rng: lookups.lettered(lookups.Options("Which?", ("dog", "cat", "bus", "bed")), rng))
    for turn in turns:
        assert dict(re.findall(r"^([A-D])\. (.+)$", turn.prompt, re.M))[turn.response] == "dog"
    assert {turn.response for turn in turns} == set("ABCD")


@pytest.mark.parametrize("seed", range(5))
def test_lookups_answer_none_of_each_other(seed):
    told = [turn.response.rstrip(".").lower() for turn in lookups.lookups(SCENE, np.random.default_rng(seed))]
    assert told[:2] == ["3", "4"]  # the sign, and how many objects there are
    assert set(told[2:-2]) <= {"park at night"}
    assert len({*told} & {"dog", "top left"}) == len({*told} & {"car", "bottom right"}) == 1
    bars = lookups.chart_lookups(CHART, np.random.default_rng(seed))
    assert sorted(turn.response in ("Red.", "1.") for turn in bars) == [False, False, True]


def test_charts_are_described_and_asked_about():
    assert conversations.chart_description(CHART) == (
        "The image shows a chart. The red bar has the value 1. The blue bar has the value 2."
    )
    tokenizer = build_tokenizer()
    for turn in (turn for seed in range(30) for turn in conversations.chart_conversation(CHART, np.random.default_rng(seed))):
        ids = tokenizer(turn.response, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == turn.response
        assert tokenizer.unk_token_id not in tokenizer(turn.prompt + turn.response).input_ids


def test_most_conversations_are_descriptions_and_questions_stay_few():
    scenes = [draw_scene(0, "policy", index, 64)[1] for index in range(300)]
    turns = [conversations.conversation(scene, np.random.default_rng(scene.id), 0.3) for scene in scenes]
    assert 0.45 < np.mean([len(one) == 1 for one in turns]) < 0.65
    assert np.mean([len(one) for one in turns]) < 4
    asked = "\n".join(turn.prompt for one in turns for turn in one)
    for start in (lookups.ON_SIGN, lookups.PLACE, "Is the number", "What is in the", "Which caption", "Does the image show"):
        assert start in asked


def test_numbers_of_objects_have_others_beside_them():
    """From one object to the most that a scene shows."""
    for count in range(1, MOST_OBJECTS + 1):
        scene = dataclasses.replace(SCENE, things=SCENE.things[:1] * count)
        for yes, no in draws(lambda rng, scene=scene: lookups.count_pair(scene, rng)):
            assert yes == lookups.count_question(count)
            assert no in {lookups.count_question(other) for other in range(1, MOST_OBJECTS + 1)} - {yes}
        for ask in (lookups.number_choice, lookups.count_captions):
            assert {len(set(asked.options)) for asked in draws(lambda rng, ask=ask, scene=scene: ask(scene, rng))} == {4}
    assert max(len(draw_scene(0, "policy", index, 64)[1].things) for index in range(300)) == MOST_OBJECTS


def test_short_questions_are_of_many_kinds():
    scenes = [draw_scene(0, "policy", index, 64)[1] for index in range(600)]
    turns = [turn for scene in scenes for turn in conversations.short_questions(scene, np.random.default_rng(scene.id))]
    asked = "\n".join(turn.prompt for turn in turns)
    kinds = (
        lookups.ON_SIGN,
        "Is there a",
        "Are there ",
        "Is the number",
        "Which caption",
        "Where is the",
        "What is in the",
        "How many objects",
    )
    for start in (*kinds, "A. ", "Does the image show", "in the center of the image?", "to the left of the"):
        assert start in asked
    assert len(conversations.short_questions(CHART, np.random.default_rng(0))) == len(CHART.bars) + 1
