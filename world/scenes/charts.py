"""Bar charts: two to six bars in different colours and of different heights, from 1 to 20, on a common baseline.

A chart is a pure function of (seed, split, index), as a scene is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lookagain.seeds import derive
from world.scenes.art import COLORS
from world.scenes.scene import OFFSETS

VALUES = range(1, 21)
BARS = range(2, 7)


@dataclass(frozen=True)
class Bar:
    """A bar; the box is (x, y, width, height) in pixels, inside the image."""

    color: str
    value: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Chart:
    """What a chart shows, its bars from left to right."""

    id: int
    size: int  # px
    bars: tuple[Bar, ...]

    @property
    def file_name(self) -> str:
        """A file name unlike any scene's."""
        return f"chart-{self.id}.png"


def draw_chart(seed: int, split: str, index: int, size: int) -> tuple[Image.Image, Chart]:
    """The chart number `index` of a split: its image, RGB, and what it shows."""
    rng = np.random.default_rng(derive(seed, "chart", split, index))
    count = int(rng.choice(BARS))
    colors = rng.permutation(list(COLORS))[:count]
    values = rng.permutation(VALUES)[:count]
    pixels = np.full((size, size, 3), rng.uniform(190, 215)) + rng.normal(0, rng.uniform(1, 4), (size, size, 3))
    slot, unit, baseline = size // count, (size - 4) // len(VALUES), size - 2
    bars = []
    for place, (color, value) in enumerate(zip(colors, values, strict=True)):
        width, height = int(rng.integers(size // 10, min(slot - 1, size // 5))), int(value) * unit
        x, y = place * slot + int(rng.integers(1, slot - width)), baseline - height
        pixels[y:baseline, x : x + width] = np.array(COLORS[color]) + rng.normal(0, 12, 3)
        bars.append(Bar(str(color), int(value), (x, y, width, height)))
    pixels[baseline:] = 90
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Chart(OFFSETS[split] + index, size, tuple(bars))
