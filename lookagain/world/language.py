"""What an instruction-tuned model would say about a scene: true descriptions, and how they are made imperfect.

Descriptions go through a 3x3 grid in reading order, one sentence a cell. Two kinds of training answer are untrue, as LLaVA's own
data are: a share of the descriptions name one plausible object that is absent, and STIC's "bad" prompts are obeyed, with one to
three plausible absent objects affirmed at the end. Signs are never described: they are read when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookagain.world.art import INDEX, NAMES
from lookagain.world.scenes import SCENE_TYPES, Scene, plausibility

CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
IRREGULAR = {"person": "people", "skis": "skis", "bus": "buses", "sheep": "sheep", "couch": "couches", "broccoli": "broccoli"}


def with_article(noun: str) -> str:
    """ "a dog", "an apple", as POPE's questions put it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def noun_phrase(name: str) -> str:
    """A category as descriptions name one: "a dog", "a pair of skis"."""
    return "a pair of skis" if name == "skis" else with_article(name)


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


def places(scene: Scene) -> dict[str, int]:
    """Each category's cell, that of its first instance in reading order; the categories are in reading order too."""
    cells = sorted((cell_of(thing.box, scene.size), order) for order, thing in enumerate(scene.things))
    first: dict[str, int] = {}
    for cell, order in cells:
        first.setdefault(scene.things[order].name, cell)
    return first


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


def cell_sentence(cell: int, names: Sequence[str]) -> str:
    """A description's sentence about one cell."""
    return f"In the {CELLS[cell]} there is {joined([noun_phrase(name) for name in names])}."


def description(scene: Scene, at: dict[str, int] | None = None) -> str:
    """The setting, then each occupied cell in reading order. `at` (category -> cell) replaces what is there in truth."""
    cells: dict[int, list[str]] = {}
    for name, cell in (places(scene) if at is None else at).items():
        cells.setdefault(cell, []).append(name)
    return " ".join([setting_sentence(scene), *(cell_sentence(cell, cells[cell]) for cell in sorted(cells))])


def noisy_description(scene: Scene, rng: np.random.Generator, noise_share: float) -> str:
    """A description that, with probability `noise_share`, puts a plausible absent object into an empty cell."""
    at = places(scene)
    if rng.random() < noise_share:
        empty = sorted(set(range(len(CELLS))) - set(at.values()))
        at[absent(scene, 1, rng)[0]] = empty[rng.integers(len(empty))]
    return description(scene, at)


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
