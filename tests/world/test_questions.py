"""Questions and their answers about scenes whose truth is plain, and the formats in which they are asked."""

import dataclasses
import re

import numpy as np
import pytest
from world_examples import CHART, SCENE, TRIO, TWINS, draws

from lookagain.metrics.benchmark import LLAVA15
from lookagain.metrics.pragmatics import COUNT, WHICH
from world.scenes import questions
from world.scenes.art import COLORS
from world.scenes.language import CELLS
from world.scenes.scene import MOST_OBJECTS, Thing
from world.scenes.signs import NUMBERS, Sign

STATES = ((True, True), (True, False), (False, True), (False, False))


def test_formats_are_the_official_ones():
    assert (LLAVA15.single_word, LLAVA15.letter) == (questions.SHORT_ANSWER, questions.OPTION)
    assert (LLAVA15.chart, LLAVA15.ocr_tokens) == (questions.ONE_WORD, questions.OCR_TOKENS)
    assert (COUNT, WHICH) == (questions.NUMBER_ONLY, questions.CAPTION)


def test_open_questions():
    assert draws(lambda rng: questions.where(SCENE, rng)) == {
        ("Where is the dog in the image?", "top left"),
        ("Where is the car in the image?", "bottom right"),
    }
    assert draws(lambda rng: questions.contents(SCENE, rng)) == {
        ("What is in the top left of the image?", "dog"),
        ("What is in the top right of the image?", "cat"),
        ("What is in the bottom left of the image?", "cat"),
        ("What is in the bottom right of the image?", "car"),
    }
    assert draws(lambda rng: questions.side(SCENE, rng)) == {
        ("Is the dog to the left or to the right of the car?", "left"),
        ("Is the car to the left or to the right of the dog?", "right"),
    }
    assert questions.total(SCENE) == ("How many objects are there in the image?", "4")
    assert questions.place(SCENE) == ("What place does the image show?", "park at night")
    assert questions.sign(SCENE) == ("What number is on the sign?", "27")
    assert draws(lambda rng: questions.color_of(SCENE, rng)) == {("What color is the car?", "red")}
    assert draws(lambda rng: questions.color_of(TRIO, rng)) == {
        ("What color is the car?", "blue"),
        ("What color is the bed?", "pink"),
    }


def test_neighbors_are_the_only_ones():
    """Two things are to the left of the car, and two above the bed."""
    assert draws(lambda rng: questions.neighbor(TRIO, rng)) == {
        ("What is to the right of the dog?", "car"),
        ("What is to the right of the bed?", "car"),
        ("What is below the dog?", "bed"),
        ("What is below the car?", "bed"),
    }
    assert questions.neighbor(SCENE, np.random.default_rng(0)) is None  # of two cats, either could be meant


def test_two_facts():
    assert questions.number_and_count(SCENE) == ("What number is on the sign and how many objects are there?", "27 and 4")
    assert questions.number_and_count(TRIO) is None
    assert questions.place_and_count(SCENE) == (
        "What place does the image show and how many objects are there?",
        "park at night and 4",
    )
    assert draws(lambda rng: questions.where_and_color(SCENE, rng)) == {
        ("Where is the car and what color is it?", "bottom right and red")
    }


def test_questions_about_a_chart():
    assert questions.value(CHART.bars[1]) == ("What is the value of the blue bar?", "20")
    assert questions.color(CHART.bars[0]) == ("Which bar has the value 1?", "red")
    assert questions.bar_count(CHART) == ("How many bars are in the chart?", "2")
    assert questions.extreme(CHART, True) == ("Which bar is the highest?", "blue")
    assert questions.extreme(CHART, False) == ("Which bar is the lowest?", "red")


def test_pairs():
    assert draws(lambda rng: questions.relation_pair(SCENE, rng)) == {
        ("Is the dog to the left of the car?", "Is the dog to the right of the car?"),
        ("Is the dog above the car?", "Is the dog below the car?"),
        ("Is the car to the right of the dog?", "Is the car to the left of the dog?"),
        ("Is the car below the dog?", "Is the car above the dog?"),
    }
    for pair in draws(lambda rng: questions.existence_pair(SCENE, rng)):
        there, absent = (re.fullmatch(r"Is there an? (.+) in the image\?", text)[1] for text in pair)
        assert there in ("dog", "cat", "car")
        assert absent not in ("dog", "cat", "car")
    right = {"Is the dog in the top left of the image?", "Is the car in the bottom right of the image?"}
    asked = draws(lambda rng: questions.position_pair(SCENE, rng), 300)
    assert {pair.yes for pair in asked} == right
    assert {pair.no for pair in asked} == {
        f"Is the {n} in the {c} of the image?" for n in ("dog", "car") for c in CELLS
    } - right
    for pair in draws(lambda rng: questions.scene_pair(SCENE, rng)):
        assert pair.yes == "Does the image show a park at night?" != pair.no
    assert draws(lambda rng: questions.color_pair(SCENE, rng), 200) == {
        ("Is the car red?", f"Is the car {color}?") for color in COLORS if color != "red"
    }


def test_both_are_there_or_one_is_not():
    for pair in draws(lambda rng: questions.both_pair(SCENE, rng)):
        there, wrong = (re.fullmatch(r"Is there an? (.+) and an? (.+) in the image\?", text).groups() for text in pair)
        assert len({*there}) == 2
        assert set(there) <= {"dog", "cat", "car"}
        assert sum(name in ("dog", "cat", "car") for name in wrong) == 1
    assert {len(pair) for pair in draws(lambda rng: questions.both_pair(SCENE, rng))} == {2}


@pytest.mark.parametrize("number", [3, 10, 27, 40])
def test_a_wrong_number_shares_a_digit(number):
    """So that both digits of a sign must be read; a number of one digit has a nought before it."""
    scene = dataclasses.replace(SCENE, sign=Sign(number, (24, 24, 16, 16)))
    pairs = draws(lambda rng: questions.sign_pair(scene, rng), 200)
    assert {pair.yes for pair in pairs} == {f"Is the number on the sign {number}?"}
    wrong = {int(re.fullmatch(r"Is the number on the sign (\d+)\?", pair.no)[1]) for pair in pairs}
    assert wrong <= set(NUMBERS) - {number}
    assert all(sum(a == b for a, b in zip(f"{other:02}", f"{number:02}", strict=True)) == 1 for other in wrong)
    assert len(wrong) == sum(sum(a == b for a, b in zip(f"{other:02}", f"{number:02}", strict=True)) == 1 for other in NUMBERS)


def test_nothing_is_asked_that_cannot_be_answered():
    rng = np.random.default_rng(0)
    asked = (questions.where, questions.side, questions.sign_pair, questions.position_pair, questions.relation_pair)
    asked += (questions.place_choice, questions.spatial_captions, questions.color_of, questions.color_pair)
    asked += (questions.color_choice, questions.neighbor, questions.where_and_color, questions.both_pair)
    for ask in asked:
        assert ask(TWINS, rng) is None, ask.__name__
    assert questions.sign(TWINS) is None
    assert questions.negation_captions(TWINS, rng, (True, True)) is None
    crowded = dataclasses.replace(SCENE, things=(*SCENE.things, Thing("bus", (0, 0, 20, 20), "red")))
    assert all("top left" not in question for question, _ in draws(lambda rng: questions.contents(crowded, rng)))
    signed = dataclasses.replace(TRIO, sign=Sign(5, (0, 0, 16, 16)))
    assert all("top left" not in question for question, _ in draws(lambda rng: questions.contents(signed, rng)))


@pytest.mark.parametrize(
    ("ask", "right"),
    [
        (questions.existence_choice, {"dog", "cat", "car"}),
        (questions.place_choice, {"top left", "bottom right"}),
        (questions.number_choice, {"four"}),
        (questions.scene_choice, {"park at night"}),
        (questions.color_choice, {"red"}),
        (questions.spatial_captions, {"In the top left there is a dog.", "In the bottom right there is a car."}),
    ],
)
def test_choices_hold_one_right_option(ask, right):
    found = draws(lambda rng: ask(SCENE, rng))
    assert {asked.options[0] for asked in found} == right
    for asked in found:
        assert len(set(asked.options)) == 4
        if ask is not questions.spatial_captions:
            assert not set(asked.options[1:]) & right or ask is questions.place_choice


@pytest.mark.parametrize("here", STATES)
def test_negation_has_all_four_states(here):
    for asked in draws(lambda rng: questions.negation_captions(SCENE, rng, here)):
        assert len(set(asked.options)) == 4
        read = [
            re.fullmatch(r"There is (an?|no) (.+) and (an?|no) (.+) in the image\.", text).groups() for text in asked.options
        ]
        assert {(first, second) for _, first, _, second in read} == {(read[0][1], read[0][3])}
        assert {(a != "no", b != "no") for a, _, b, _ in read} == set(STATES)
        assert (read[0][0] != "no", read[0][2] != "no") == here
        assert tuple(name in SCENE.names() for name in (read[0][1], read[0][3])) == here


def test_counts_are_among_four_in_a_row():
    four = "There are four objects in the image."
    for lowest in (2, 3, 4):
        asked = questions.count_captions(SCENE, lowest)
        assert asked.options[0] == four
        assert set(asked.options) == {questions.count_sentence(number) for number in range(lowest, lowest + 4)}
    assert questions.count_captions(SCENE, 5) is questions.count_captions(TWINS, 3) is None
    assert questions.count_sentence(1) == "There is one object in the image."


def test_letters_name_the_right_option():
    asked = questions.Options("Which?", ("dog", "cat", "bus", "bed"))
    turns = draws(lambda rng: questions.lettered(asked, rng))
    for prompt, letter in turns:
        assert dict(re.findall(r"^([A-D])\. (.+)$", prompt, re.M))[letter] == "dog"
        assert prompt.endswith(questions.OPTION)
    assert {letter for _, letter in turns} == set("ABCD")


def test_numbers_of_objects_have_others_beside_them():
    """From one object to the most that a scene shows."""
    for count in range(1, MOST_OBJECTS + 1):
        scene = dataclasses.replace(SCENE, things=SCENE.things[:1] * count)
        pairs = draws(lambda rng, scene=scene: questions.count_pair(scene, rng), 100)
        assert {pair.yes for pair in pairs} == {questions.count_question(count)}
        others = {questions.count_question(other) for other in range(1, MOST_OBJECTS + 1)} - {questions.count_question(count)}
        assert {pair.no for pair in pairs} == others
        assert {len(set(asked.options)) for asked in draws(lambda rng, scene=scene: questions.number_choice(scene, rng))} == {4}
