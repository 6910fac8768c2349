"""What the models of a world are trained on: scenes and charts drawn in memory, as their publication would show them."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lookagain.seeds import derive
from world.scenes.charts import Chart, draw_chart
from world.scenes.scene import Scene, draw_scene, to_jpeg
from world.training.conversations import Noise, Turn, about

IMAGE_SIZE = 64  # px


def draw_training(scenes: int, charts: int, seed: int) -> tuple[list[Scene | Chart], np.ndarray]:
    """The training scenes, then the charts of a seed, and their pixels (images, size, size, 3) as bytes."""
    shown: list[Scene | Chart] = []
    pixels = np.empty((scenes + charts, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for image, what in _drawn(scenes, charts, seed):
        pixels[len(shown)] = np.asarray(image)
        shown.append(what)
    return shown, pixels


def _drawn(scenes: int, charts: int, seed: int) -> Iterator[tuple[Image.Image, Scene | Chart]]:
    for index in range(scenes):
        image, scene = draw_scene(seed, "training", index, IMAGE_SIZE)
        yield Image.open(io.BytesIO(to_jpeg(image))), scene
    for index in range(charts):
        yield draw_chart(seed, "training", index, IMAGE_SIZE)


def draw_conversations(shown: list[Scene | Chart], noise: Noise, seed: int) -> list[list[list[Turn]]]:
    """The conversations about each image, a function of (seed, image)."""
    kinds = ("chart" if isinstance(image, Chart) else "scene" for image in shown)
    draws = (
        np.random.default_rng(derive(seed, "conversations", kind, image.id)) for kind, image in zip(kinds, shown, strict=True)
    )
    return [about(image, rng, noise) for image, rng in zip(shown, draws, strict=True)]
