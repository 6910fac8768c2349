"""Questions with short true answers, in the wording of benchmarks: what they ask of a scene or a chart, whoever asks.

Training puts them into conversations (`conversations.py`), the world's benchmarks into official files (`official.py`). A question
about one object is about a category that the scene shows once, and places are cells, so that every answer is one word or two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lookagain.records import Turn
from lookagain.world.charts import BARS, COLORS, VALUES, Bar, Chart
from lookagain.world.language import CELLS, NUMBERS, absent, cell_of, cell_sentence, sentence, with_article
from lookagain.world.scenes import MOST_OBJECTS, SCENE_TYPES, TYPES, Scene
from lookagain.world.signs import DIGITS

LETTERS = ("A", "B", "C", "D")
# The formats of answers, word for word as the LLaVA-1.5 scripts and pragmatics ask for them; a test compares.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
ONE_WORD = "\nAnswer the question with a single word."
OPTION = "\nAnswer with the option's letter from the given choices directly."
OCR_TOKENS = "\nReference OCR token: "  # none are given
NUMBER_ONLY = "\nAnswer with the number only, from 2-10."

IS_THERE = "Is there {} in the image?"  # POPE's wording
HOW_MANY = "How many objects are there in the image?"
WHERE = "Where is the {} in the image?"
CONTENTS = "What is in the {} of the image?"
PLACE = "What place does the image show?"
ON_SIGN = "What number is on the sign?"
IS_IN = "Is the {} in the {} of the image?"
SHOWS = "Does the image show {}?"
SIGN_SAYS = "Is the number on the sign {}?"
RELATION = "Is the {} {} the {}?"
SIDE = "Is the {} to the left or to the right of the {}?"
WHICH = "Which of these is in the image?"
CAPTION = "Which caption describes the image?"  # pragmatics' own
VALUE = "What is the value of the {} bar?"
BAR = "Which bar has the value {}?"
BAR_COUNT = "How many bars are in the chart?"
SOMETIMES = 0.3  # share of the kinds of question that are learned soon
OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}


class Asked(NamedTuple):
    """A question without its format, and its answer: a word or two in lower case."""

    question: str
    answer: str


class Pair(NamedTuple):
    """Two questions of one kind about one image."""

    yes: str
    no: str


class Options(NamedTuple):
    """A question of multiple choice, the right option first; all differ."""

    question: str
    options: tuple[str, ...]


def alone(scene: Scene) -> dict[str, int]:
    """The cells of the categories that a scene shows once."""
    names = [thing.name for thing in scene.things]
    return {thing.name: cell_of(thing.box, scene.size) for thing in scene.things if names.count(thing.name) == 1}


# Open questions.


def where(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """Where a category is; None if the scene shows none once."""
    cells = alone(scene)
    if not cells:
        return None
    name = list(cells)[rng.integers(len(cells))]
    return Asked(WHERE.format(name), CELLS[cells[name]])


def contents(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """What is in a cell that holds one category; None if there is no such cell."""
    held = single_contents(scene)
    if not held:
        return None
    cell = sorted(held)[rng.integers(len(held))]
    return Asked(CONTENTS.format(CELLS[cell]), held[cell])


def single_contents(scene: Scene) -> dict[int, str]:
    """The cells that hold one category and no sign, with it."""
    held: dict[int, set[str]] = {}
    for thing in scene.things:
        held.setdefault(cell_of(thing.box, scene.size), set()).add(thing.name)
    taken = cell_of(scene.sign.box, scene.size) if scene.sign else None
    return {cell: next(iter(names)) for cell, names in held.items() if len(names) == 1 and cell != taken}


def place(scene: Scene) -> Asked:
    """Which type of place it is."""
    return Asked(PLACE, SCENE_TYPES[scene.type].noun)


def total(scene: Scene) -> Asked:
    """How many objects there are."""
    return Asked(HOW_MANY, str(len(scene.things)))


def sign(scene: Scene) -> Asked | None:
    """Which number is on the sign; None if there is no sign."""
    return Asked(ON_SIGN, DIGITS[scene.sign.digit]) if scene.sign else None


def side(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """Which of two categories is on the left; None if no two stand in different columns."""
    related = relation(scene, rng, ("to the left of", "to the right of"))
    return related and Asked(SIDE.format(related[0], related[2]), related[1].split()[2])


def lookups(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Short open questions: the sign's number, each category's place or a place's category, how many objects there are, and by
    chance the type of place."""
    asked: list[Asked | None] = [sign(scene), total(scene)]
    asked += [place(scene)] if rng.random() < SOMETIMES else []
    held = single_contents(scene)
    for name, cell in alone(scene).items():
        by_place = held.get(cell) == name and rng.random() < SOMETIMES
        asked.append(Asked(CONTENTS.format(CELLS[cell]), name) if by_place else Asked(WHERE.format(name), CELLS[cell]))
    return [Turn(one.question, sentence(one.answer)) for one in asked if one]


def value(bar: Bar) -> Asked:
    """The value of a bar."""
    return Asked(VALUE.format(bar.color), VALUES[bar.value - 1])


def color(bar: Bar) -> Asked:
    """Which bar has a value."""
    return Asked(BAR.format(bar.value), bar.color)


def bar_count(chart: Chart) -> Asked:
    """How many bars there are."""
    return Asked(BAR_COUNT, str(len(chart.bars)))


def chart_lookups(chart: Chart, rng: np.random.Generator) -> list[Turn]:
    """Short questions about a chart: each bar's value or colour, and how many there are, in any order."""
    asked = [*((value if rng.random() < 0.5 else color)(bar) for bar in chart.bars), bar_count(chart)]
    return [Turn(asked[place].question, sentence(asked[place].answer)) for place in rng.permutation(len(asked))]


# Yes/no questions, in pairs.


def existence_pair(scene: Scene, rng: np.random.Generator) -> Pair:
    """A category that is there, and a plausible one that is not."""
    names = scene.names()
    asked = names[rng.integers(len(names))], absent(scene, 1, rng)[0]
    return Pair(*(IS_THERE.format(with_article(name)) for name in asked))


def count_pair(scene: Scene, rng: np.random.Generator) -> Pair:
    """How many objects there are, and another number of them."""
    truth = len(scene.things)
    other = (truth - 1 + int(rng.integers(1, MOST_OBJECTS))) % MOST_OBJECTS + 1
    return Pair(*(count_question(count) for count in (truth, other)))


def position_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """A category's cell, and another cell; None if the scene shows no category once."""
    cells = alone(scene)
    if not cells:
        return None
    name = list(cells)[rng.integers(len(cells))]
    other = (cells[name] + int(rng.integers(1, len(CELLS)))) % len(CELLS)
    return Pair(*(IS_IN.format(name, CELLS[cell]) for cell in (cells[name], other)))


def scene_pair(scene: Scene, rng: np.random.Generator) -> Pair:
    """The type of place, and another type."""
    other = TYPES[(TYPES.index(scene.type) + int(rng.integers(1, len(TYPES)))) % len(TYPES)]
    return Pair(*(SHOWS.format(SCENE_TYPES[kind].phrase) for kind in (scene.type, other)))


def sign_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """The number on the sign, and another; None if there is no sign."""
    if not scene.sign:
        return None
    other = (scene.sign.digit + int(rng.integers(1, len(DIGITS)))) % len(DIGITS)
    return Pair(*(SIGN_SAYS.format(DIGITS[digit]) for digit in (scene.sign.digit, other)))


def relation_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """A relation of two categories, and its opposite; None if no two stand in different rows or columns."""
    related = relation(scene, rng, tuple(OPPOSITE))
    if related is None:
        return None
    first, between, second = related
    return Pair(RELATION.format(first, between, second), RELATION.format(first, OPPOSITE[between], second))


def relation(scene: Scene, rng: np.random.Generator, allowed: tuple[str, ...]) -> tuple[str, str, str] | None:
    """(category, how it stands to the next, category), one of the allowed relations that hold between cells; None if none does."""
    cells = alone(scene)
    found = []
    for first in cells:
        for second in cells:
            rows, columns = cells[first] // 3 - cells[second] // 3, cells[first] % 3 - cells[second] % 3
            holds = {"to the left of": columns < 0, "to the right of": columns > 0, "above": rows < 0, "below": rows > 0}
            found += [(first, between, second) for between in allowed if holds[between]]
    return found[rng.integers(len(found))] if found else None


# Multiple choice.


def existence_choice(scene: Scene, rng: np.random.Generator) -> Options:
    """One category that is there and three plausible ones that are not."""
    names = scene.names()
    return Options(WHICH, (names[rng.integers(len(names))], *absent(scene, 3, rng)))


def place_choice(scene: Scene, rng: np.random.Generator) -> Options | None:
    """A category's cell among four; None if the scene shows no category once."""
    asked = where(scene, rng)
    return asked and Options(asked.question, (asked.answer, *_others(CELLS, asked.answer, rng)))


def number_choice(scene: Scene, rng: np.random.Generator) -> Options:
    """How many objects there are, among four numbers."""
    right = NUMBERS[len(scene.things)]
    return Options(HOW_MANY, (right, *_others(NUMBERS[1 : MOST_OBJECTS + 1], right, rng)))


def scene_choice(scene: Scene, rng: np.random.Generator) -> Options:
    """The type of place among four."""
    right = SCENE_TYPES[scene.type].noun
    return Options(PLACE, (right, *_others([kind.noun for kind in SCENE_TYPES.values()], right, rng)))


def spatial_captions(scene: Scene, rng: np.random.Generator) -> Options | None:
    """Captions that put one category into four cells; None if the scene shows none once."""
    cells = alone(scene)
    if not cells:
        return None
    name = list(cells)[rng.integers(len(cells))]
    others = _others([str(cell) for cell in range(len(CELLS))], str(cells[name]), rng)
    return Options(CAPTION, tuple(cell_sentence(cell, [name]) for cell in (cells[name], *map(int, others))))


def negation_captions(scene: Scene, rng: np.random.Generator, present: bool) -> Options:
    """Whether there is a category or not, of one that is there or of a plausible one that is not."""
    names = scene.names() if present else absent(scene, 5, rng)
    name = names[rng.integers(len(names))]
    there, not_there = f"There is {with_article(name)} in the image.", f"There is no {name} in the image."
    return Options(CAPTION, (there, not_there) if present else (not_there, there))


def count_captions(scene: Scene, rng: np.random.Generator) -> Options:
    """How many objects there are, among four numbers."""
    truth = len(scene.things)
    numbers = (truth, *(truth + step for step in (-1, 1, 2)))
    return Options(HOW_MANY, tuple(count_sentence(one) for one in numbers))


def count_sentence(count: int) -> str:
    """ "There are three objects in the image." """
    return f"There {'is' if count == 1 else 'are'} {NUMBERS[count]} object{'' if count == 1 else 's'} in the image."


def count_question(count: int) -> str:
    """ "Are there three objects in the image?" """
    return f"{'Is' if count == 1 else 'Are'} there {NUMBERS[count]} object{'' if count == 1 else 's'} in the image?"


def lettered(asked: Options, rng: np.random.Generator) -> Turn:
    """A question of multiple choice in its official format, its options in any order, with its letter."""
    order = list(rng.permutation(len(asked.options)))
    lines = [f"{letter}. {asked.options[place]}" for letter, place in zip(LETTERS, order, strict=False)]
    return Turn("\n".join([asked.question, *lines]) + OPTION, LETTERS[order.index(0)])


def short(asked: Asked, suffix: str = SHORT_ANSWER) -> Turn:
    """An open question in its official format."""
    return Turn(asked.question + suffix, asked.answer[0].upper() + asked.answer[1:])


def texts() -> list[str]:
    """Texts that hold every word of this module's questions and answers."""
    questions = [IS_THERE, HOW_MANY, WHERE, CONTENTS, PLACE, ON_SIGN, IS_IN, SHOWS, SIGN_SAYS, RELATION, SIDE]
    questions += [WHICH, CAPTION, VALUE, BAR, BAR_COUNT, *OPPOSITE]
    formats = [SHORT_ANSWER, ONE_WORD, OCR_TOKENS, OPTION, NUMBER_ONLY, " ".join(LETTERS)]
    answers = [*DIGITS, *VALUES, *COLORS, *map(str, BARS), "Yes, no. There is no. Sign, chart."]
    counts = [*map(count_sentence, range(len(NUMBERS))), *map(count_question, range(1, MOST_OBJECTS + 1))]
    return [*questions, *formats, *answers, *counts]


def _others(known: list[str] | tuple[str, ...], right: str, rng: np.random.Generator) -> list[str]:
    """Three of the other entries."""
    wrong = [one for one in known if one != right]
    return [wrong[place] for place in rng.permutation(len(wrong))[:3]]
