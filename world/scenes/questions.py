"""Questions with short true answers, in the wording of benchmarks: what they ask of a scene or a chart, whoever asks.

Training puts them into conversations, publishing into the official files of benchmarks. A question about one object is about a
category that the scene shows once, and places are cells, so that every answer is one word or two.
A new kind of question that no base is trained on belongs to publishing: an edit of this file makes the checkpoints stale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from world.scenes.art import COLORS
from world.scenes.charts import BARS, VALUES, Bar, Chart
from world.scenes.language import CELLS, NUMBERS, absent, cell_of, cell_sentence, noun_phrase, with_article
from world.scenes.scene import MOST_OBJECTS, SCENE_TYPES, TYPES, Scene
from world.scenes.signs import NUMBERS as SIGN_NUMBERS

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
COLOR = "What color is the {}?"
IS_COLOR = "Is the {} {}?"
BOTH = "Is there {} and {} in the image?"
NEIGHBOR = "What is {} the {}?"
NUMBER_AND_COUNT = "What number is on the sign and how many objects are there?"
PLACE_AND_COUNT = "What place does the image show and how many objects are there?"
WHERE_AND_COLOR = "Where is the {} and what color is it?"
IS_IN = "Is the {} in the {} of the image?"
SHOWS = "Does the image show {}?"
SIGN_SAYS = "Is the number on the sign {}?"
RELATION = "Is the {} {} the {}?"
SIDE = "Is the {} to the left or to the right of the {}?"
WHICH = "Which of these is in the image?"
CAPTION = "Which caption describes the image?"
VALUE = "What is the value of the {} bar?"
BAR = "Which bar has the value {}?"
BAR_COUNT = "How many bars are in the chart?"
HIGHEST = "Which bar is the highest?"
LOWEST = "Which bar is the lowest?"
OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}


class Open(NamedTuple):
    """An open question without its format, and its answer: a word or two in lower case."""

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


def where(scene: Scene, rng: np.random.Generator) -> Open | None:
    """Where a category is; None if the scene shows none once."""
    cells = alone(scene)
    if not cells:
        return None
    name = list(cells)[rng.integers(len(cells))]
    return Open(WHERE.format(name), CELLS[cells[name]])


def contents(scene: Scene, rng: np.random.Generator) -> Open | None:
    """What is in a cell that holds one category; None if there is no such cell."""
    held = single_contents(scene)
    if not held:
        return None
    cell = sorted(held)[rng.integers(len(held))]
    return Open(CONTENTS.format(CELLS[cell]), held[cell])


def single_contents(scene: Scene) -> dict[int, str]:
    """The cells that hold one category and no sign, with it."""
    held: dict[int, set[str]] = {}
    for thing in scene.things:
        held.setdefault(cell_of(thing.box, scene.size), set()).add(thing.name)
    taken = cell_of(scene.sign.box, scene.size) if scene.sign else None
    return {cell: next(iter(names)) for cell, names in held.items() if len(names) == 1 and cell != taken}


def place(scene: Scene) -> Open:
    """Which type of place it is."""
    return Open(PLACE, SCENE_TYPES[scene.type].noun)


def total(scene: Scene) -> Open:
    """How many objects there are."""
    return Open(HOW_MANY, str(len(scene.things)))


def sign(scene: Scene) -> Open | None:
    """Which number is on the sign; None if there is no sign."""
    return Open(ON_SIGN, str(scene.sign.number)) if scene.sign else None


def side(scene: Scene, rng: np.random.Generator) -> Open | None:
    """Which of two categories is on the left; None if no two stand in different columns."""
    related = relation(scene, rng, ("to the left of", "to the right of"))
    return related and Open(SIDE.format(related[0], related[2]), related[1].split()[2])


def colored(scene: Scene) -> dict[str, str]:
    """The colours of the painted categories that a scene shows once."""
    single = alone(scene)
    return {thing.name: thing.color for thing in scene.things if thing.color and thing.name in single}


def color_of(scene: Scene, rng: np.random.Generator) -> Open | None:
    """Which colour a category has; None if the scene shows no painted one once."""
    colors = colored(scene)
    if not colors:
        return None
    name = list(colors)[rng.integers(len(colors))]
    return Open(COLOR.format(name), colors[name])


def neighbor(scene: Scene, rng: np.random.Generator) -> Open | None:
    """Which category stands in a relation to another, where it is the only one; None if there is no such pair."""
    cells = alone(scene)
    if len(scene.names()) < 2 or len(cells) < len(scene.names()):
        return None
    related: dict[tuple[str, str], list[str]] = {}
    for first, between, second in relations(cells, tuple(OPPOSITE)):
        related.setdefault((between, second), []).append(first)
    single = [(key, firsts[0]) for key, firsts in related.items() if len(firsts) == 1]
    if not single:
        return None
    (between, second), first = single[rng.integers(len(single))]
    return Open(NEIGHBOR.format(between, second), first)


def number_and_count(scene: Scene) -> Open | None:
    """The number on the sign and how many objects there are; None if there is no sign."""
    return Open(NUMBER_AND_COUNT, f"{scene.sign.number} and {len(scene.things)}") if scene.sign else None


def place_and_count(scene: Scene) -> Open:
    """The type of place and how many objects there are."""
    return Open(PLACE_AND_COUNT, f"{SCENE_TYPES[scene.type].noun} and {len(scene.things)}")


def where_and_color(scene: Scene, rng: np.random.Generator) -> Open | None:
    """A category's cell and colour; None if the scene shows no painted one once."""
    colors = colored(scene)
    if not colors:
        return None
    name = list(colors)[rng.integers(len(colors))]
    return Open(WHERE_AND_COLOR.format(name), f"{CELLS[alone(scene)[name]]} and {colors[name]}")


def value(bar: Bar) -> Open:
    """The value of a bar."""
    return Open(VALUE.format(bar.color), str(bar.value))


def color(bar: Bar) -> Open:
    """Which bar has a value."""
    return Open(BAR.format(bar.value), bar.color)


def bar_count(chart: Chart) -> Open:
    """How many bars there are."""
    return Open(BAR_COUNT, str(len(chart.bars)))


def extreme(chart: Chart, highest: bool) -> Open:
    """Which bar is the highest, or the lowest."""
    bar = (max if highest else min)(chart.bars, key=lambda bar: bar.value)
    return Open(HIGHEST if highest else LOWEST, bar.color)


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
    number = scene.sign.number
    near = [other for other in SIGN_NUMBERS if other != number and (other % 10 == number % 10 or other // 10 == number // 10)]
    other = near[rng.integers(len(near))]  # one of its digits is another: both must be read
    return Pair(*(SIGN_SAYS.format(shown) for shown in (number, other)))


def color_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """A category's colour, and another; None if the scene shows no painted one once."""
    colors = colored(scene)
    if not colors:
        return None
    name = list(colors)[rng.integers(len(colors))]
    others = [color for color in COLORS if color != colors[name]]
    return Pair(*(IS_COLOR.format(name, color) for color in (colors[name], others[rng.integers(len(others))])))


def both_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """Two categories that are there, and one of them beside a plausible one that is not; None if there is only one."""
    names = scene.names()
    if len(names) < 2:
        return None
    first, second = (names[place] for place in rng.permutation(len(names))[:2])
    other = absent(scene, 1, rng)[0]
    wrong = [first, other] if rng.random() < 0.5 else [other, first]
    return Pair(*(BOTH.format(*map(with_article, pair)) for pair in ((first, second), wrong)))


def relation_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """A relation of two categories, and its opposite; None if no two stand in different rows or columns."""
    related = relation(scene, rng, tuple(OPPOSITE))
    if related is None:
        return None
    first, between, second = related
    return Pair(RELATION.format(first, between, second), RELATION.format(first, OPPOSITE[between], second))


def relation(scene: Scene, rng: np.random.Generator, allowed: tuple[str, ...]) -> tuple[str, str, str] | None:
    """(category, how it stands to the next, category), one of the allowed relations that hold between cells; None if none does."""
    found = relations(alone(scene), allowed)
    return found[rng.integers(len(found))] if found else None


def relations(cells: dict[str, int], allowed: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """All (category, relation, category) that hold between categories' cells."""
    found = []
    for first in cells:
        for second in cells:
            rows, columns = cells[first] // 3 - cells[second] // 3, cells[first] % 3 - cells[second] % 3
            holds = {"to the left of": columns < 0, "to the right of": columns > 0, "above": rows < 0, "below": rows > 0}
            found += [(first, between, second) for between in allowed if holds[between]]
    return found


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


def color_choice(scene: Scene, rng: np.random.Generator) -> Options | None:
    """A category's colour among four; None if the scene shows no painted one once."""
    asked = color_of(scene, rng)
    return asked and Options(asked.question, (asked.answer, *_others(list(COLORS), asked.answer, rng)))


def spatial_captions(scene: Scene, rng: np.random.Generator) -> Options | None:
    """Captions that put one category into four cells; None if the scene shows none once."""
    cells = alone(scene)
    if not cells:
        return None
    name = list(cells)[rng.integers(len(cells))]
    others = _others([str(cell) for cell in range(len(CELLS))], str(cells[name]), rng)
    sentences = [cell_sentence(cell, [noun_phrase(name)]) for cell in (cells[name], *map(int, others))]
    return Options(CAPTION, tuple(sentences))


def negation_captions(scene: Scene, rng: np.random.Generator, here: tuple[bool, bool]) -> Options | None:
    """Which of two categories are there: both, the first, the second or neither. `here` says which are in truth.

    Absent ones are plausible. None if the scene has too few categories.
    """
    names, missing = scene.names(), absent(scene, 4, rng)
    if len(names) < sum(here):
        return None
    drawn = [str(name) for name in rng.permutation(names)], [str(name) for name in rng.permutation(missing)]
    first, second = (drawn[0].pop() if there else drawn[1].pop() for there in here)
    captions = {
        states: f"There is {_a_or_no(first, states[0])} and {_a_or_no(second, states[1])} in the image."
        for states in ((True, True), (True, False), (False, True), (False, False))
    }
    return Options(CAPTION, (captions.pop(here), *captions.values()))


def _a_or_no(name: str, there: bool) -> str:
    return with_article(name) if there else f"no {name}"


def count_captions(scene: Scene, lowest: int) -> Options | None:
    """How many objects there are, among the four numbers from `lowest`; None if the truth is none of them."""
    truth = len(scene.things)
    numbers = range(lowest, lowest + len(LETTERS))
    if truth not in numbers:
        return None
    return Options(HOW_MANY, tuple(map(count_sentence, [truth, *(number for number in numbers if number != truth)])))


def count_sentence(count: int) -> str:
    """ "There are three objects in the image." """
    return f"There {'is' if count == 1 else 'are'} {NUMBERS[count]} object{'' if count == 1 else 's'} in the image."


def count_question(count: int) -> str:
    """ "Are there three objects in the image?" """
    return f"{'Is' if count == 1 else 'Are'} there {NUMBERS[count]} object{'' if count == 1 else 's'} in the image?"


def lettered(asked: Options, rng: np.random.Generator) -> tuple[str, str]:
    """(prompt, letter): a question of multiple choice in its official format, its options in any order."""
    order = list(rng.permutation(len(asked.options)))
    lines = [f"{letter}. {asked.options[place]}" for letter, place in zip(LETTERS, order, strict=False)]
    return "\n".join([asked.question, *lines]) + OPTION, LETTERS[order.index(0)]


def texts() -> list[str]:
    """Texts that hold every word of this module's questions and answers."""
    questions = [value for name, value in globals().items() if name.isupper() and isinstance(value, str)]
    answers = [*map(str, SIGN_NUMBERS), *map(str, VALUES), *COLORS, *map(str, BARS), *OPPOSITE, *LETTERS]
    counts = [*map(count_sentence, range(len(NUMBERS))), *map(count_question, range(1, MOST_OBJECTS + 1))]
    return [*questions, *answers, *counts, "Yes, no. There is no. Sign, chart, number, and."]


def _others(known: list[str] | tuple[str, ...], right: str, rng: np.random.Generator) -> list[str]:
    """Three of the other entries."""
    wrong = [entry for entry in known if entry != right]
    return [wrong[place] for place in rng.permutation(len(wrong))[:3]]
