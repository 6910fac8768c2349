"""Training conversations about scenes and charts: what is asked in which proportion, in the formats of papers and benchmarks.

A conversation is one of LLaVA's kind, about an image; most of its kinds of questions are few on purpose: descriptions need the most
examples, and a conversation should stay short. Beside it, the base is asked short questions of most kinds (`short_questions`).
Answers are untrue in two places: descriptions name plausible absent objects (`noise_share`), and plausible absent objects are
affirmed when asked for (`yes_share`), so that the base says yes too readily, as large ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from world.scenes import questions
from world.scenes.charts import Chart
from world.scenes.language import (
    absent,
    caption,
    cell_of,
    chart_description,
    imagined_description,
    listing,
    noisy_description,
    sentence,
    with_article,
)
from world.scenes.questions import IS_THERE, NUMBER_ONLY, OCR_TOKENS, ONE_WORD, SHORT_ANSWER, Open, Pair
from world.scenes.scene import SCENE_TYPES, Scene
from world.training import wordings

Item = TypeVar("Item")


class Turn(NamedTuple):
    """A prompt and its response."""

    prompt: str
    response: str


class Noise(NamedTuple):
    """How untrue the training answers are."""

    descriptions: float  # share that name a plausible absent object
    yes: float  # share of plausible absent objects that are affirmed


YES_ASKED = 0.55  # of yes/no questions are about what is there
TAGGED_SHARE = 0.4  # of scenes: 2% of all turns


def yes_no_about(scene: Scene, count: int, rng: np.random.Generator, yes: float = 0.0) -> list[Turn]:
    """Yes/no questions in POPE's wording: most about what is there, the others about absent categories, most of them plausible.

    A share `yes` of the plausible absent ones is affirmed.
    """
    present = scene.names()
    likely, other = absent(scene, 5, rng), absent(scene, 5, rng, plausible=False)
    turns = []
    for _ in range(count):
        if rng.random() < YES_ASKED:
            name, answer = _one(present, rng), "Yes."
        elif rng.random() < 0.6:
            name, answer = _one(likely, rng), "Yes." if rng.random() < yes else "No."
        else:
            name = _one(other, rng)
            answer = "No."
        turns.append(Turn(IS_THERE.format(with_article(name)), answer))
    return turns


def in_formats(turn: Turn, rng: np.random.Generator) -> Turn:
    """A yes/no question in another wording, now and then, and in the usual formats of answers."""
    prompt = turn.prompt
    if rng.random() < 0.15:
        prompt = _one(wordings.EXISTENCE, rng).format(prompt.removeprefix("Is there ").removesuffix(" in the image?"))
    form = int(rng.integers(3))
    suffix = ("", SHORT_ANSWER, wordings.YES_OR_NO)[form]
    return Turn(prompt + suffix, turn.response.removesuffix(".") if form else turn.response)


def yes_no(pair: Pair, rng: np.random.Generator) -> Turn:
    """One question of a pair, with the short-answer format or none."""
    number = int(rng.integers(2))
    answer = ("Yes", "No")[number]
    return Turn(pair[number] + SHORT_ANSWER, answer) if rng.random() < 0.4 else Turn(pair[number], f"{answer}.")


def in_short(question: Open, suffix: str = SHORT_ANSWER) -> Turn:
    """An open question in its official format."""
    return Turn(question.question + suffix, question.answer[0].upper() + question.answer[1:])


def plain(question: Open) -> Turn:
    """An open question as people ask it, and a sentence as the answer."""
    return Turn(question.question, sentence(question.answer))


def answered(question: Open, rng: np.random.Generator) -> Turn:
    """An open question, with the short-answer format or none."""
    return in_short(question) if rng.random() < 0.5 else plain(question)


def open_questions(scene: Scene, rng: np.random.Generator) -> list[Open]:
    """The sign's number, the number of objects, some categories' places, colours and neighbours, and two facts at once."""
    found: list[Open | None] = [questions.sign(scene), questions.total(scene), questions.color_of(scene, rng)]
    found += [questions.place(scene)] if rng.random() < 0.3 else []
    found += [questions.neighbor(scene, rng)] if rng.random() < 0.5 else []
    two = (questions.number_and_count(scene), questions.place_and_count(scene), questions.where_and_color(scene, rng))
    found.append(two[rng.integers(3)] or two[1])
    cells, held = questions.alone(scene), questions.single_contents(scene)
    for name in list(rng.permutation(list(cells)))[:2]:
        by_place = held.get(cells[name]) == name and rng.random() < 0.3
        wanted = (questions.CONTENTS, name, cells[name]) if by_place else (questions.WHERE, cells[name], name)
        found.append(_looked_up(*wanted))
    return [question for question in found if question]


def _looked_up(wording: str, answer: str | int, about: str | int) -> Open:
    """A lookup by place or by category, of which one is a cell."""
    words = [questions.CELLS[value] if isinstance(value, int) else str(value) for value in (answer, about)]
    return Open(wording.format(words[1]), words[0])


def pairs(scene: Scene, rng: np.random.Generator) -> list[Pair]:
    """Pairs of yes/no questions about the sign, a number, positions, colours, relations and the setting."""
    kinds = [questions.sign_pair, questions.count_pair, questions.position_pair, questions.relation_pair, questions.color_pair]
    kinds += [questions.both_pair] if rng.random() < 0.5 else []
    kinds += [questions.scene_pair] if rng.random() < 0.3 else []
    return [pair for pair in (kind(scene, rng) for kind in kinds) if pair]


def negation(scene: Scene, rng: np.random.Generator) -> Turn:
    """Which caption is true of two categories, each there or not."""
    here = bool(rng.integers(2)), bool(rng.integers(2))
    options = questions.negation_captions(scene, rng, here) or questions.negation_captions(scene, rng, (False, False))
    assert options is not None  # two categories are always absent
    return Turn(*questions.lettered(options, rng))


def choice(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question of multiple choice with four options."""
    kinds = (
        questions.existence_choice,
        questions.place_choice,
        questions.number_choice,
        questions.scene_choice,
        questions.color_choice,
    )
    options = kinds[rng.choice(len(kinds), p=(0.15, 0.4, 0.25, 0.05, 0.15))](scene, rng)
    return Turn(*questions.lettered(options or questions.existence_choice(scene, rng), rng))


def caption_question(scene: Scene, rng: np.random.Generator) -> Turn:
    """Which caption is true, or how many objects there are, as pragmatics asks."""
    kind = rng.random()
    if kind < 0.4 and len(scene.things) > 1:
        return in_short(questions.total(scene), NUMBER_ONLY)
    spatial = questions.spatial_captions(scene, rng) if kind < 0.7 else None
    return Turn(*questions.lettered(spatial, rng)) if spatial else negation(scene, rng)


def reading(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """A question about the sign in a benchmark's format; None if there is none."""
    question = questions.sign(scene)
    if question is None:
        return None
    return in_short(question, OCR_TOKENS + SHORT_ANSWER) if rng.random() < 0.6 else answered(question, rng)


def tagged(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question that nothing else asks, answered with a thought: the base then knows the tags that later training writes."""
    cell, thing = _first(scene)
    place = SCENE_TYPES[scene.type].noun
    name = thing if rng.random() < 0.5 else place
    wording = wordings.FIRST_OBJECT if name == thing else wordings.NAME_PLACE
    thought = f"The image shows {SCENE_TYPES[scene.type].phrase}. First, in the {questions.CELLS[cell]}, there is a {thing}."
    return Turn(wording, f"<think> {thought} </think> <answer> {name} </answer>")


def _first(scene: Scene) -> tuple[int, str]:
    """(cell, category) of the first object in reading order."""
    cell, _, name = min((cell_of(thing.box, scene.size), place, thing.name) for place, thing in enumerate(scene.things))
    return cell, name


def short_questions(shown: Scene | Chart, rng: np.random.Generator, noise: Noise) -> list[Turn]:
    """Questions with short answers, each to be asked alone; a chart has open ones only.

    Which of two is on the left, and captions about places, are asked in conversations alone.
    """
    if isinstance(shown, Chart):
        return chart_questions(shown, rng)
    turns = [*yes_no_about(shown, 3, rng, noise.yes), choice(shown, rng), choice(shown, rng), negation(shown, rng)]
    turns += [plain(question) for question in open_questions(shown, rng)]
    spatial = questions.spatial_captions(shown, rng) if rng.random() < 0.6 else None
    turns += [Turn(*questions.lettered(spatial, rng))] if spatial else []
    turns += [tagged(shown, rng)] if rng.random() < TAGGED_SHARE else []
    turns += [yes_no(pair, rng) for pair in pairs(shown, rng)]
    return turns + [turn for turn in (reading(shown, rng), reading(shown, rng)) if turn]


def chart_questions(chart: Chart, rng: np.random.Generator) -> list[Turn]:
    """Open questions about a chart: each bar's value or colour, the extremes, and how many bars there are, in any order."""
    found = [(questions.value if rng.random() < 0.6 else questions.color)(bar) for bar in chart.bars]
    found += [questions.bar_count(chart), questions.extreme(chart, bool(rng.integers(2)))]
    return [plain(found[place]) for place in rng.permutation(len(found))]


def other_questions(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about number, place, setting, sign and more, each kind by chance."""
    several, asked = pairs(scene, rng), open_questions(scene, rng)
    kinds: tuple[tuple[float, Callable[[], Turn | None]], ...] = (
        (0.8, lambda: answered(_one(asked, rng), rng)),
        (0.8, lambda: yes_no(_one(several, rng), rng)),
        (0.6, lambda: choice(scene, rng)),
        (0.25, lambda: caption_question(scene, rng)),
        (0.15, lambda: (side := questions.side(scene, rng)) and answered(side, rng)),
        (0.7, lambda: reading(scene, rng)),
        (0.2, lambda: Turn(_one(wordings.LIST, rng), listing(scene))),
        (0.1, lambda: Turn(_one(wordings.SETTING, rng), sentence(SCENE_TYPES[scene.type].phrase))),
        (0.1, lambda: Turn(_one(wordings.BRIEF, rng), caption(scene))),
    )
    return [turn for turn in [make() for share, make in kinds if rng.random() < share] if turn]


def describing(scene: Scene, rng: np.random.Generator, noise: Noise) -> Turn:
    """A request to describe and its answer: a fifth in STIC's bad prompts, the others in the wordings of all papers."""
    drawn = rng.random()
    if drawn < 0.2:
        return Turn(_one(wordings.IMAGINE, rng), imagined_description(scene, rng))
    if drawn < 0.35:
        prompt = wordings.DESCRIBE[0]
    elif drawn < 0.42:
        prompt = wordings.STEP_BY_STEP
    else:
        prompt = _one(wordings.DESCRIBE, rng)
    return Turn(prompt, noisy_description(scene, rng, noise.descriptions))


def conversation(scene: Scene, rng: np.random.Generator, noise: Noise) -> list[Turn]:
    """Training turns about one image, as LLaVA's instruction data have them: a description alone, or questions, with a
    description after them in a quarter of the cases."""
    if rng.random() < 0.55:
        return [describing(scene, rng, noise)]
    turns = [*(in_formats(turn, rng) for turn in yes_no_about(scene, 3, rng, noise.yes)), *other_questions(scene, rng)]
    turns = [turns[number] for number in rng.permutation(len(turns))]
    if rng.random() < 0.25:
        turns.append(describing(scene, rng, noise))
    return turns


def chart_conversation(chart: Chart, rng: np.random.Generator) -> list[Turn]:
    """Training turns about a chart: a tenth are a description alone, the others three questions, mostly in ChartQA's format."""
    if rng.random() < 0.1:
        return [Turn(_one(wordings.DESCRIBE, rng), chart_description(chart))]
    first, second = rng.permutation(len(chart.bars))[:2]  # different bars: neither answer is in the other question
    found = [questions.value(chart.bars[first]), questions.color(chart.bars[second]), questions.bar_count(chart)]
    found += [questions.extreme(chart, bool(rng.integers(2)))] if len(chart.bars) > 2 else []
    turns = [in_short(question, ONE_WORD) if rng.random() < 0.7 else plain(question) for question in found]
    return [turns[number] for number in rng.permutation(len(turns))]


def about(shown: Scene | Chart, rng: np.random.Generator, noise: Noise) -> list[list[Turn]]:
    """All that the base is taught about an image: a conversation, a description beside it in three of four cases where it has
    questions, and short questions. Each stands alone.

    Six in a hundred conversations of questions begin with STIC's infusion of a description: the base then knows its form, if not
    its use.
    """
    if isinstance(shown, Chart):
        return [chart_conversation(shown, rng), *([turn] for turn in short_questions(shown, rng, noise))]
    turns = conversation(shown, rng, noise)
    described = [describing(shown, rng, noise)] if len(turns) > 1 and rng.random() < 0.75 else []
    if len(turns) > 1 and rng.random() < 0.06:
        infused = wordings.INFUSED.format(noisy_description(shown, rng, noise.descriptions), turns[0].prompt)
        turns = [Turn(infused, turns[0].response), *turns[1:]]
    return [turns, *([turn] for turn in described + short_questions(shown, rng, noise))]


def _one(options: Sequence[Item], rng: np.random.Generator) -> Item:
    return options[int(rng.integers(len(options)))]
