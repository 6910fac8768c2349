"""Bar charts: images of their own, two to four bars in different colours and of different heights on a common baseline.

A chart is a pure function of (seed, split, index), as a scene is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lookagain.seeds import derive
from lookagain.world.scenes import OFFSETS

COLORS = {
    "red": (215, 50, 45),
    "blue": (45, 85, 205),
    "green": (45, 155, 65),
    "yellow": (240, 205, 50),
    "purple": (145, 65, 175),
    "black": (35, 35, 35),
}
VALUES = tuple("123456789")
BARS = (2, 3, 4)
UNITS = 10  # of a value, in the chart's height


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
    def image_id(self) -> str:
        """The records' image id, unlike any scene's."""
        return f"chart-{self.id}"


def draw_chart(seed: int, split: str, index: int, size: int) -> tuple[Image.Image, Chart]:
    """The chart number `index` of a split: its image, RGB, and what it shows."""
    rng = np.random.default_rng(derive(seed, "chart", split, index))
    count = BARS[rng.integers(len(BARS))]
    colors = rng.permutation(list(COLORS))[:count]
    values = 1 + rng.permutation(len(VALUES))[:count]
    pixels = np.full((size, size, 3), rng.uniform(225, 250)) + rng.normal(0, rng.uniform(1, 4), (size, size, 3))
    slot, unit, baseline = size // count, size // UNITS, size - 2
    bars = []
    for place, (color, value) in enumerate(zip(colors, values, strict=True)):
        width, height = int(rng.integers(size // 8, size // 5)), int(value) * unit
        x, y = place * slot + int(rng.integers(1, slot - width)), baseline - height
        pixels[y:baseline, x : x + width] = np.array(COLORS[color]) + rng.normal(0, 12, 3)
        bars.append(Bar(str(color), int(value), (x, y, width, height)))
    pixels[baseline:] = 90
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Chart(OFFSETS[split] + index, size, tuple(bars))


def to_json(charts: Iterable[Chart]) -> list[dict]:
    """Charts as JSON holds them."""
    return [dataclasses.asdict(chart) for chart in charts]


def read_charts(path: Path | str) -> list[Chart]:
    """The charts of a file that holds what `to_json` made."""
    return [
        Chart(row["id"], row["size"], tuple(Bar(bar["color"], bar["value"], tuple(bar["box"])) for bar in row["bars"]))
        for row in json.loads(Path(path).read_text())
    ]
