"""What each patch of a scene or a chart shows, in words of the vocabulary: the dense supervision of tower and projector.

An object's patch has its category, the cell of its object's centre and, of painted things, a colour; a sign's its number and
"sign"; a bar's its colour and its value; any other the type of place (or "chart") alone. So every question asks the same of the
base: to match a word of the question with one word of a patch, and to say another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from world.scenes.art import COLORS, NAMES
from world.scenes.charts import VALUES, Chart
from world.scenes.language import CELLS, cell_of
from world.scenes.scene import SCENE_TYPES, Scene
from world.scenes.signs import NUMBERS
from world.training.optimise import IGNORED

PATCH = 8  # px
GROUNDS = (*(kind.noun for kind in SCENE_TYPES.values()), "chart")
WORDS = (  # the first, second and third word of a patch
    (*NAMES, *map(str, NUMBERS), *COLORS, *GROUNDS),
    (*CELLS, "sign", *map(str, VALUES)),
    tuple(COLORS),
)
SHARES = (1.0, 0.7, 0.5)  # of the three words in a loss
GROUND_WEIGHT = 0.3  # of the background's classes in a loss: two patches of three show no object
_MIRRORED_CELLS = (2, 1, 0, 5, 4, 3, 8, 7, 6)
MIRRORED = torch.tensor([*_MIRRORED_CELLS, *range(len(CELLS), len(WORDS[1]))])  # second words in a mirrored image
_INDEX = tuple({word: index for index, word in enumerate(words)} for words in WORDS)


def patch_words(shown: Sequence[Scene | Chart]) -> list[Tensor]:
    """The three words of each patch, as indices of WORDS or IGNORED: three tensors (images, patches)."""
    grid = shown[0].size // PATCH
    words = np.full((len(WORDS), len(shown), grid, grid), IGNORED, dtype=np.int64)
    for number, image in enumerate(shown):
        words[0, number] = _INDEX[0][ground(image)]
        if isinstance(image, Scene):
            _scene_words(image, words[:, number])
        else:
            for bar in image.bars:
                _label(words[:, number], _in_box(bar.box, grid), bar.color, str(bar.value))
    return [torch.from_numpy(part).flatten(1) for part in words]


def first_weights() -> Tensor:
    """The weights of first words in a loss: GROUND_WEIGHT for backgrounds."""
    weights = torch.ones(len(WORDS[0]))
    weights[[_INDEX[0][word] for word in GROUNDS]] = GROUND_WEIGHT
    return weights


def grounds(shown: Sequence[Scene | Chart]) -> Tensor:
    """Each image's type, as an index of GROUNDS."""
    return torch.tensor([GROUNDS.index(ground(image)) for image in shown])


def mirrorable(shown: Sequence[Scene | Chart]) -> Tensor:
    """Whether an image may be mirrored: not with a sign, whose number would be none."""
    return torch.tensor([not isinstance(image, Scene) or image.sign is None for image in shown])


def ground(image: Scene | Chart) -> str:
    """The type of place that an image shows, or "chart"."""
    return SCENE_TYPES[image.type].noun if isinstance(image, Scene) else "chart"


def _scene_words(scene: Scene, words: np.ndarray) -> None:
    grid = words.shape[-1]
    rows, columns = (np.mgrid[:grid, :grid] + 0.5) * PATCH
    for thing in scene.things:
        x, y, width, height = thing.box
        inside = (2 * (columns - x) / width - 1) ** 2 + (2 * (rows - y) / height - 1) ** 2 < 1.15
        _label(words, inside, thing.name, CELLS[cell_of(thing.box, scene.size)], thing.color)
    if scene.sign:
        _label(words, _in_box(scene.sign.box, grid), str(scene.sign.number), "sign")


def _label(words: np.ndarray, inside: np.ndarray, first: str, second: str, third: str | None = None) -> None:
    words[0][inside], words[1][inside] = _INDEX[0][first], _INDEX[1][second]
    words[2][inside] = IGNORED if third is None else _INDEX[2][third]


def _in_box(box: tuple[int, int, int, int], grid: int) -> np.ndarray:
    """(grid, grid): whether a patch's centre lies in a box."""
    rows, columns = (np.mgrid[:grid, :grid] + 0.5) * PATCH
    x, y, width, height = box
    return (x <= columns) & (columns < x + width) & (y <= rows) & (rows < y + height)
