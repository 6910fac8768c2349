"""What the base is taught: answers that are true but for the noise, in the formats and shares that are meant."""

import re
from collections import Counter

import numpy as np
from world_examples import CHART, SCENE, charts, scenes

from lookagain import prompts
from lookagain.metrics import chair, pope
from world.scenes import questions
from world.scenes.language import description
from world.training import wordings
from world.training.conversations import (
    Noise,
    about,
    chart_conversation,
    conversation,
    describing,
    in_formats,
    negation,
    short_questions,
    tagged,
    yes_no_about,
)

COUNT = 300
NOISE, TRUE = Noise(0.35, 0.15), Noise(0.0, 0.0)


def each(make, count=COUNT):
    """What `make(scene, rng)` gives for training scenes, with draws of their own."""
    return [make(scene, np.random.default_rng(scene.id)) for scene in scenes("training", count)]


def test_existence_is_told_truly_without_noise():
    labels = []
    for scene, turns in zip(scenes("training", COUNT), each(lambda scene, rng: yes_no_about(scene, 5, rng)), strict=True):
        for turn in [*turns, *(in_formats(turn, np.random.default_rng(0)) for turn in turns)]:
            (name,) = chair.mentions(turn.prompt.split("?")[0])
            labels.append(pope.parse_answer(turn.response))
            assert labels[-1] == ("yes" if name in scene.names() else "no")
    assert 0.5 < np.mean([label == "yes" for label in labels]) < 0.6  # YES_ASKED


def test_a_share_of_plausible_absent_objects_is_affirmed():
    def affirmed(share):
        """Of the absent objects asked about, those that are affirmed."""
        asked = each(lambda scene, rng: yes_no_about(scene, 5, rng, share))
        absent = [
            turn.response
            for scene, turns in zip(scenes("training", COUNT), asked, strict=True)
            for turn in turns
            if chair.mentions(turn.prompt)[0] not in scene.names()
        ]
        return np.mean([response == "Yes." for response in absent])

    assert affirmed(0.0) == 0
    assert 0.04 < affirmed(0.15) < 0.14  # six in ten of the absent are plausible ones
    assert 0.5 < affirmed(1.0) < 0.7


def test_descriptions_are_noisy_in_their_share_and_bad_prompts_are_a_fifth():
    turns = each(lambda scene, rng: describing(scene, rng, NOISE))
    bad = [turn.prompt in wordings.IMAGINE for turn in turns]
    assert 0.14 < np.mean(bad) < 0.27
    shown = scenes("training", COUNT)
    untrue = [turn.response != description(scene) for scene, turn, is_bad in zip(shown, turns, bad, strict=True) if not is_bad]
    assert 0.25 < np.mean(untrue) < 0.45
    assert all(turn.prompt in (*wordings.DESCRIBE, *wordings.IMAGINE, wordings.STEP_BY_STEP) for turn in turns)
    assert wordings.STEP_BY_STEP in {turn.prompt for turn in turns}


def test_prompts_of_the_papers_are_trained_on_word_for_word():
    assert wordings.IMAGINE == prompts.STIC_BAD
    assert wordings.STEP_BY_STEP == prompts.STIC_STEP_BY_STEP
    assert {*prompts.STIC_CAPTION, *prompts.CSR_DESCRIBE, chair.PROMPT} <= set(wordings.DESCRIBE)
    assert wordings.INFUSED.format("A dog.", "What?") == prompts.infuse("A dog.", "What?")


def test_half_of_the_conversations_are_descriptions_and_questions_stay_few():
    talks = each(lambda scene, rng: conversation(scene, rng, NOISE))
    assert 0.45 < np.mean([len(turns) == 1 for turns in talks]) < 0.65
    assert np.mean([len(turns) for turns in talks]) < 4.5
    asked = "\n".join(turn.prompt for turns in talks for turn in turns)
    for start in (questions.ON_SIGN, questions.PLACE, "Is the number", "What is in the", "Which caption", "What color is"):
        assert start in asked


def test_short_questions_are_of_every_kind():
    asked = "\n".join(turn.prompt for turns in each(lambda scene, rng: short_questions(scene, rng, NOISE)) for turn in turns)
    fixed = (questions.ON_SIGN, questions.HOW_MANY, questions.PLACE, questions.NUMBER_AND_COUNT, questions.PLACE_AND_COUNT)
    starts = (
        "Is there a",
        "Are there ",
        "Is the number",
        "Which caption",
        "Where is the",
        "What is in the",
        "What color is the",
    )
    parts = (
        "A. ",
        "Does the image show",
        "in the center of the image?",
        "to the left of the",
        "and what color is it?",
        "What is ",
    )
    for text in (*fixed, *starts, *parts):
        assert text in asked, text
    assert re.search(r"Is there an? [a-z ]+ and an? [a-z ]+ in the image\?", asked)
    assert re.search(r"Is the [a-z ]+ (red|blue|green)\?", asked)
    assert len(short_questions(CHART, np.random.default_rng(0), NOISE)) == len(CHART.bars) + 2


def test_negation_is_asked_in_all_states():
    kinds = Counter()
    for prompt, letter in each(negation, 200):
        right = dict(re.findall(r"^([A-D])\. (.+)$", prompt, re.M))[letter]
        first, second = re.fullmatch(r"There is (an?|no) .+ and (an?|no) .+ in the image\.", right).groups()
        kinds[first == "no", second == "no"] += 1
    assert len(kinds) == 4
    assert min(kinds.values()) > 30


def test_charts_are_asked_about_truly():
    for seed in range(30):
        for prompt, response in chart_conversation(CHART, np.random.default_rng(seed)):
            answer = response.rstrip(".").lower()
            if match := re.search(r"value of the (\w+) bar", prompt):
                assert {bar.color: str(bar.value) for bar in CHART.bars}[match[1]] == answer
            elif match := re.search(r"has the value (\d+)\?", prompt):
                assert {str(bar.value): bar.color for bar in CHART.bars}[match[1]] == answer
            else:
                assert response.startswith("The image shows a chart.") or (questions.BAR_COUNT in prompt and answer == "2")
    three = next(chart for chart in charts("training", 20) if len(chart.bars) == 3)
    asked = "".join(turn.prompt for seed in range(20) for turn in chart_conversation(three, np.random.default_rng(seed)))
    assert questions.HIGHEST in asked
    assert questions.LOWEST in asked


def test_tags_are_in_two_of_a_hundred_turns_that_nothing_else_asks():
    turns = [turn for talks in each(lambda scene, rng: about(scene, rng, NOISE)) for turns in talks for turn in turns]
    turns += [
        t for chart in charts("training", 60) for talk in about(chart, np.random.default_rng(chart.id), NOISE) for t in talk
    ]
    with_tags = [turn for turn in turns if any(tag in turn.response for tag in wordings.TAGS)]
    assert 0.015 < len(with_tags) / len(turns) < 0.025
    assert {turn.prompt for turn in with_tags} == {wordings.FIRST_OBJECT, wordings.NAME_PLACE}
    assert all(turn in with_tags for turn in turns if turn.prompt in (wordings.FIRST_OBJECT, wordings.NAME_PLACE))
    told = {tagged(SCENE, np.random.default_rng(seed)) for seed in range(20)}
    thought = "<think> The image shows a park at night. First, in the top left, there is a dog. </think> "
    assert told == {
        (wordings.FIRST_OBJECT, f"{thought}<answer> dog </answer>"),
        (wordings.NAME_PLACE, f"{thought}<answer> park at night </answer>"),
    }


def test_infused_descriptions_begin_a_few_conversations():
    begun = [talks[0] for talks in each(lambda scene, rng: about(scene, rng, TRUE))]
    infused = [
        (scene, turns)
        for scene, turns in zip(scenes("training", COUNT), begun, strict=True)
        if turns[0].prompt.startswith("Image description: ")
    ]
    assert 1 <= len(infused) < 0.06 * COUNT
    for scene, turns in infused:
        assert turns[0].prompt.startswith(f"Image description: {description(scene)}\n")
        assert len(turns) > 1
