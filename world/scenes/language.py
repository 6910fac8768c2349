"""How the world is put into words: true descriptions of scenes and charts, and how they are made imperfect.

Descriptions go through a 3x3 grid in reading order, one sentence a cell, with colours and the number on a sign. Two kinds of
training answer are untrue, as LLaVA's data are: a share of the descriptions name one plausible object that is absent, and STIC's
"bad" prompts are obeyed, with one to three plausible absent objects affirmed at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from world.scenes.art import INDEX, NAMES
from world.scenes.charts import Chart
from world.scenes.scene import SCENE_TYPES, Scene, Thing, plausibility

CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
IRREGULAR = {"person": "people", "skis": "skis", "bus": "buses", "sheep": "sheep", "couch": "couches", "broccoli": "broccoli"}


def with_article(noun: str) -> str:
    """ "a dog", "an apple", as POPE's questions put it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def noun_phrase(name: str, color: str | None = None) -> str:
    """A category as descriptions name one: "a dog", "a red car", "a pair of skis"."""
    return "a pair of skis" if name == "skis" else with_article(f"{color} {name}" if color else name)


def plural(name: str) -> str:
    """The plural of a category's name."""
    return IRREGULAR.get(name, f"{name}s")


def joined(phrases: Sequence[str]) -> str:
    """ "a dog", "a dog and a cat", "a dog, a cat and a bus"."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def cell_of(box: tuple[int, int, int, int], size: int) -> int:
    """The cell, as an index of `CELLS`, that holds the centre of a box (x, y, width, height)."""
    x, y, width, height = box
    column, row = int((x + width / 2) * 3 / size), int((y + height / 2) * 3 / size)
    return min(row, 2) * 3 + min(column, 2)


def first_instances(scene: Scene) -> list[tuple[int, Thing]]:
    """(cell, thing) of each category's first instance in reading order, in that order."""
    ordered = sorted((cell_of(thing.box, scene.size), place) for place, thing in enumerate(scene.things))
    found: dict[str, tuple[int, Thing]] = {}
    for cell, place in ordered:
        found.setdefault(scene.things[place].name, (cell, scene.things[place]))
    return list(found.values())


def places(scene: Scene) -> dict[str, int]:
    """Each category's cell: its first instance's, in reading order."""
    return {thing.name: cell for cell, thing in first_instances(scene)}


def absent(scene: Scene, count: int, rng: np.random.Generator, plausible: bool = True) -> list[str]:
    """Categories that the scene lacks: such as its type would have, or any."""
    waits = rng.exponential(size=len(NAMES))  # the first to come are drawn by their rates: as `choice` without replacement
    if plausible:
        waits /= plausibility(scene.type)
    waits[[INDEX[name] for name in scene.names()]] = np.inf
    drawn = waits.argsort()[:count]
    if np.isinf(waits[drawn]).any():
        raise ValueError(f"a scene of {len(scene.names())} categories lacks fewer than {count}")
    return [NAMES[number] for number in drawn]


def setting_sentence(scene: Scene) -> str:
    """The first sentence of a description."""
    return f"The image shows {SCENE_TYPES[scene.type].phrase}."


def cell_sentence(cell: int, phrases: Sequence[str]) -> str:
    """A description's sentence about one cell."""
    return f"In the {CELLS[cell]} there is {joined(phrases)}."


def mentions(scene: Scene) -> list[tuple[int, str]]:
    """(cell, noun phrase) of all that a description names: each category once, and the sign after the objects of its cell."""
    named = [(cell, noun_phrase(thing.name, thing.color)) for cell, thing in first_instances(scene)]
    if scene.sign:
        named.append((cell_of(scene.sign.box, scene.size), f"a sign with the number {scene.sign.number}"))
    return named


def description(scene: Scene, named: Sequence[tuple[int, str]] | None = None) -> str:
    """The setting, then each occupied cell in reading order. `named` replaces the scene's own mentions."""
    cells: dict[int, list[str]] = {}
    for cell, phrase in mentions(scene) if named is None else named:
        cells.setdefault(cell, []).append(phrase)
    return " ".join([setting_sentence(scene), *(cell_sentence(cell, cells[cell]) for cell in sorted(cells))])


def noisy_description(scene: Scene, rng: np.random.Generator, noise_share: float) -> str:
    """A description that, with probability `noise_share`, puts a plausible absent object into an empty cell, if there is one."""
    named = mentions(scene)
    empty = sorted(set(range(len(CELLS))) - {cell for cell, _ in named})
    if rng.random() < noise_share and empty:
        named.append((empty[rng.integers(len(empty))], noun_phrase(absent(scene, 1, rng)[0])))
    return description(scene, named)


def imagined_description(scene: Scene, rng: np.random.Generator) -> str:
    """The answer to a bad prompt: true, but for a last sentence that affirms one to three plausible absent objects."""
    names = absent(scene, int(rng.integers(1, 4)), rng)
    return f"{description(scene)} Nearby there is {joined([noun_phrase(name) for name in names])}."


def caption(scene: Scene) -> str:
    """A caption of one sentence, as COCO's are."""
    return sentence(f"{SCENE_TYPES[scene.type].phrase} with {joined([noun_phrase(name) for name in places(scene)])}")


def listing(scene: Scene) -> str:
    """All categories in reading order."""
    return sentence(joined([noun_phrase(name) for name in places(scene)]))


def chart_description(chart: Chart) -> str:
    """What a chart shows, bar by bar."""
    return " ".join(["The image shows a chart.", *(f"The {bar.color} bar has the value {bar.value}." for bar in chart.bars)])
