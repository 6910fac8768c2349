"""What each patch of a scene or a chart shows, in two words of the vocabulary: the dense supervision of tower and projector.

An object's patch has its category and the cell of its object's centre; a sign's its digit and "sign"; a bar's its colour and its
value; any other the type of place (or "chart"), and no second word. So every question asks the same of the base: to match a word
of the question with one word of a patch, and to say the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lookagain.world.art import NAMES
from lookagain.world.charts import COLORS, VALUES, Chart
from lookagain.world.language import CELLS, cell_of
from lookagain.world.optimise import IGNORED
from lookagain.world.scenes import SCENE_TYPES, Scene
from lookagain.world.signs import DIGITS

PATCH = 8  # px
GROUNDS = (*(kind.noun for kind in SCENE_TYPES.values()), "chart")
FIRST_WORDS = (*NAMES, *DIGITS, *COLORS, *GROUNDS)
SECOND_WORDS = (*CELLS, "sign", *VALUES)
GROUND_WEIGHT = 0.3  # of the background's classes in a loss: two patches of three show no object
_MIRRORED_CELLS = (2, 1, 0, 5, 4, 3, 8, 7, 6)
MIRRORED = torch.tensor([*_MIRRORED_CELLS, *range(len(CELLS), len(SECOND_WORDS))])  # second words in a flipped image
_FIRST = {word: index for index, word in enumerate(FIRST_WORDS)}
_SECOND = {word: index for index, word in enumerate(SECOND_WORDS)}


def patch_words(shown: Sequence[Scene | Chart]) -> tuple[Tensor, Tensor]:
    """Per patch, in reading order, its first word and its second (or IGNORED), as indices: both (images, patches).

    An object covers the patches whose centre lies in the ellipse in its box, a sign or a bar those in its box; later objects
    cover earlier ones, and the sign covers all.
    """
    grid = shown[0].size // PATCH
    first, second = np.zeros((2, len(shown), grid, grid), dtype=np.int64)
    for number, one in enumerate(shown):
        if isinstance(one, Scene):
            _scene_words(one, first[number], second[number])
        else:
            _chart_words(one, first[number], second[number])
    return torch.from_numpy(first).flatten(1), torch.from_numpy(second).flatten(1)


def first_weights() -> Tensor:
    """The weights of first words in a loss: GROUND_WEIGHT for backgrounds."""
    weights = torch.ones(len(FIRST_WORDS))
    weights[[_FIRST[word] for word in GROUNDS]] = GROUND_WEIGHT
    return weights


def grounds(shown: Sequence[Scene | Chart]) -> Tensor:
    """Each image's type, as an index of GROUNDS."""
    return torch.tensor([GROUNDS.index(_ground(one)) for one in shown])


def mirrorable(shown: Sequence[Scene | Chart]) -> Tensor:
    """Whether an image may be mirrored: not with a sign, whose digit would be no digit."""
    return torch.tensor([not isinstance(one, Scene) or one.sign is None for one in shown])


def _ground(one: Scene | Chart) -> str:
    return SCENE_TYPES[one.type].noun if isinstance(one, Scene) else "chart"


def _scene_words(scene: Scene, first: np.ndarray, second: np.ndarray) -> None:
    first[:], second[:] = _FIRST[_ground(scene)], IGNORED
    rows, columns = (np.mgrid[: len(first), : len(first)] + 0.5) * PATCH
    for thing in scene.things:
        x, y, width, height = thing.box
        inside = (2 * (columns - x) / width - 1) ** 2 + (2 * (rows - y) / height - 1) ** 2 < 1.15
        first[inside], second[inside] = _FIRST[thing.name], cell_of(thing.box, scene.size)
    if scene.sign:
        inside = _in_box(scene.sign.box, len(first))
        first[inside], second[inside] = _FIRST[DIGITS[scene.sign.digit]], _SECOND["sign"]


def _chart_words(chart: Chart, first: np.ndarray, second: np.ndarray) -> None:
    first[:], second[:] = _FIRST[_ground(chart)], IGNORED
    for bar in chart.bars:
        inside = _in_box(bar.box, len(first))
        first[inside], second[inside] = _FIRST[bar.color], _SECOND[VALUES[bar.value - 1]]


def _in_box(box: tuple[int, int, int, int], grid: int) -> np.ndarray:
    """(grid, grid): whether a patch's centre lies in a box."""
    rows, columns = (np.mgrid[:grid, :grid] + 0.5) * PATCH
    x, y, width, height = box
    return (x <= columns) & (columns < x + width) & (y <= rows) & (rows < y + height)
