"""Scenes and a chart whose truth is plain, and drawn ones that several tests share."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from world.scenes.charts import Bar, Chart, draw_chart
from world.scenes.scene import Scene, Thing, draw_scene
from world.scenes.signs import Sign

SIZE = 64
# A dog, two cats, a red car, and a sign in the center.
SCENE = Scene(
    1,
    "park at night",
    "seen",
    SIZE,
    (
        Thing("dog", (0, 0, 20, 20)),
        Thing("cat", (44, 0, 20, 20)),
        Thing("cat", (0, 44, 20, 20)),
        Thing("car", (44, 44, 20, 20), "red"),
    ),
    Sign(27, (24, 24, 16, 16)),
)
# Each category once: the dog to the left of the car, and above the bed.
TRIO = Scene(
    2,
    "street",
    "seen",
    SIZE,
    (Thing("dog", (0, 0, 20, 20)), Thing("car", (44, 0, 20, 20), "blue"), Thing("bed", (0, 44, 20, 20), "pink")),
)
TWINS = Scene(3, "beach", "seen", SIZE, (Thing("dog", (0, 0, 20, 20)), Thing("dog", (0, 0, 20, 20))))
CHART = Chart(2, SIZE, (Bar("red", 1, (4, 59, 10, 3)), Bar("blue", 20, (40, 2, 8, 60))))


@functools.cache
def drawn_scenes(split: str, count: int) -> list[tuple[Image.Image, Scene]]:
    """The first scenes of a split with their images."""
    return [draw_scene(0, split, index, SIZE) for index in range(count)]


@functools.cache
def scenes(split: str, count: int) -> list[Scene]:
    """The first scenes of a split."""
    return [scene for _, scene in drawn_scenes(split, count)]


@functools.cache
def charts(split: str, count: int) -> list[Chart]:
    """The first charts of a split."""
    return [draw_chart(0, split, index, SIZE)[1] for index in range(count)]


def draws(make, count: int = 60) -> set:
    """What `make(rng)` gives for many seeds."""
    return {make(np.random.default_rng(seed)) for seed in range(count)}
