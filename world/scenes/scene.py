"""Scenes of the small world: a background of one of 12 types with 1 to 8 objects, annotated as COCO annotates its images.

Half of the scenes carry a sign with a number (`signs.py`) beside their objects; it is no object of COCO's. Objects that people
paint have one of eight colours. Objects may be small, or half hidden by others.
A scene is a pure function of (seed, split, index). Most objects come from their scene type's distribution, so that a language
prior exists as in COCO: a street makes a car likely, whether there is one or not.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from lookagain.seeds import derive
from world.scenes.art import COLORS, NAMES, PAINTED, paint, sprites
from world.scenes.signs import NUMBERS, Sign, draw_sign

OFFSETS = {"training": 1_000_000, "instruct": 2_000_000, "pool": 3_000_000, "validation": 4_000_000, "test": 5_000_000}
EVALUATION = ("validation", "test")  # the splits that show held-out sprites
NOVEL_EVERY = 4  # one evaluation scene of so many is drawn with them
CATEGORY_COUNTS = (0.12, 0.18, 0.22, 0.19, 0.14, 0.09, 0.06)  # of 1 to 7 categories
SECOND_INSTANCE = 0.25  # share of scenes that show one category twice
MOST_OBJECTS = len(CATEGORY_COUNTS) + 1  # as many categories, one of them twice
SIGN_SHARE = 0.5  # of scenes carry a sign, where there is room for it
PRIOR = 0.93  # weight of the scene type's own objects against all categories alike
SIZES = (0.2, 0.45)  # of an object's longer side, as a share of the image's
MAX_OVERLAP = 0.4  # of the smaller box
MAX_SIGN_OVERLAP = 0.1
JPEG_QUALITY = 95
Color = tuple[int, int, int]


@dataclass(frozen=True)
class SceneType:
    """What a type of scene looks like and holds; `phrase` is how a description names it."""

    phrase: str
    sky: Color
    ground: Color
    horizon: float  # as a share of the height
    objects: dict[str, int]  # category -> relative frequency

    @property
    def noun(self) -> str:
        """The phrase without its article, one token of the world's vocabulary."""
        return self.phrase.partition(" ")[2]


def _type(phrase: str, sky: Color, ground: Color, horizon: float, objects: str) -> SceneType:
    pairs = (entry.rsplit(" ", 1) for entry in objects.split(", "))
    return SceneType(phrase, sky, ground, horizon, {name: int(weight) for name, weight in pairs})


SCENE_TYPES = {
    "street": _type(
        "a street",
        *((150, 190, 230), (110, 110, 115), 0.45),
        "person 8, car 8, bus 4, truck 4, bicycle 4, motorcycle 3, traffic light 6, stop sign 3, dog 2, handbag 2",
    ),
    "beach": _type(
        "a beach",
        *((120, 200, 240), (235, 215, 160), 0.5),
        "person 7, umbrella 7, boat 5, kite 3, bird 3, dog 2, sports ball 3, chair 2, bottle 1",
    ),
    "snow": _type(
        "a snowy slope",
        *((190, 210, 235), (240, 245, 250), 0.4),
        "skis 8, person 8, dog 2, backpack 3, bear 2, bird 1",
    ),
    "meadow": _type(
        "a green meadow",
        *((140, 205, 245), (110, 180, 80), 0.4),
        "horse 5, sheep 5, cow 6, dog 4, bird 3, person 4, kite 3, sports ball 3, bicycle 1",
    ),
    "savanna": _type(
        "a dry savanna",
        *((240, 200, 130), (200, 170, 90), 0.45),
        "elephant 6, giraffe 6, zebra 6, bird 3, person 1, truck 1",
    ),
    "kitchen": _type(
        "a kitchen",
        *((245, 235, 215), (190, 140, 95), 0.5),
        "pizza 5, cup 6, spoon 5, apple 4, banana 4, cake 4, donut 3, bottle 5, broccoli 3, carrot 3, person 3",
    ),
    "living room": _type(
        "a living room",
        *((225, 205, 190), (150, 105, 75), 0.6),
        "couch 7, tv 6, potted plant 5, cat 5, book 3, clock 4, teddy bear 2, dog 2, person 3, chair 3",
    ),
    "office": _type(
        "an office",
        *((210, 215, 225), (120, 125, 140), 0.55),
        "laptop 8, cell phone 5, book 5, cup 5, chair 6, clock 3, backpack 2, potted plant 2, person 4",
    ),
    "bedroom": _type(
        "a bedroom",
        *((200, 190, 225), (170, 150, 180), 0.55),
        "bed 8, teddy bear 5, book 4, clock 4, cat 3, cell phone 3, person 2, handbag 2",
    ),
    "station": _type(
        "a station",
        *((175, 180, 190), (140, 130, 120), 0.5),
        "train 8, suitcase 6, person 6, backpack 4, clock 3, handbag 3, cell phone 2",
    ),
    "airport": _type(
        "an airport",
        *((185, 215, 240), (165, 165, 170), 0.5),
        "airplane 8, suitcase 5, bus 3, truck 3, person 3, backpack 2",
    ),
    "park at night": _type(
        "a park at night",
        *((20, 25, 60), (30, 60, 45), 0.45),
        "person 5, dog 4, bicycle 3, skateboard 4, bird 2, cat 3, car 2, motorcycle 2, traffic light 2",
    ),
}
TYPES = tuple(SCENE_TYPES)


@dataclass(frozen=True)
class Thing:
    """An object in a scene; the box is (x, y, width, height) in pixels, inside the image."""

    name: str
    box: tuple[int, int, int, int]
    color: str | None = None  # of PAINTED categories


@dataclass(frozen=True)
class Scene:
    """What is known of a scene beside its pixels."""

    id: int  # COCO's integer image id
    type: str
    art: str  # "seen" or "novel" sprites
    size: int  # px
    things: tuple[Thing, ...]
    sign: Sign | None = None

    @property
    def file_name(self) -> str:
        """COCO's file name."""
        return f"{self.id:012d}.jpg"

    def names(self) -> list[str]:
        """The categories of its objects, each once, in order of drawing."""
        return list(dict.fromkeys(thing.name for thing in self.things))


@functools.cache
def plausibility(scene_type: str) -> np.ndarray:
    """The probability of each category (in the order of `NAMES`) in a scene of this type."""
    weights = SCENE_TYPES[scene_type].objects
    own = np.array([weights.get(name, 0) for name in NAMES], dtype=float)
    return PRIOR * own / own.sum() + (1 - PRIOR) / len(NAMES)


def draw_scene(seed: int, split: str, index: int, size: int) -> tuple[Image.Image, Scene]:
    """The scene number `index` of a split: its image, RGB, and what it shows."""
    rng = np.random.default_rng(derive(seed, "scene", split, index))
    scene_type = TYPES[rng.integers(len(TYPES))]
    novel = split in EVALUATION and index % NOVEL_EVERY == NOVEL_EVERY - 1
    count = 1 + rng.choice(len(CATEGORY_COUNTS), p=CATEGORY_COUNTS)
    names = [NAMES[number] for number in rng.choice(len(NAMES), count, replace=False, p=plausibility(scene_type))]
    if rng.random() < SECOND_INSTANCE:
        names.append(names[0])
    image = _background(rng, SCENE_TYPES[scene_type], size)
    things: list[Thing] = []
    for name in names:
        _place(rng, image, things, name, novel)
    sign = _place_sign(np.random.default_rng(derive(seed, "sign", split, index)), image, things)
    art = "novel" if novel else "seen"
    return image.convert("RGB"), Scene(OFFSETS[split] + index, scene_type, art, size, tuple(things), sign)


def _background(rng: np.random.Generator, kind: SceneType, size: int) -> Image.Image:
    """Sky over ground with a soft horizon, in noisy colours of varying brightness."""
    sky, ground = np.array(kind.sky) + rng.normal(0, 10, 3), np.array(kind.ground) + rng.normal(0, 10, 3)
    horizon = np.clip(kind.horizon + rng.normal(0, 0.06), 0.2, 0.8)
    height = np.linspace(0, 1, size)[:, None, None]
    below = 1 / (1 + np.exp(-40 * (height - horizon)))
    rows = sky * (1 - 0.25 * height / horizon * (below < 0.5)) * (1 - below) + ground * (0.8 + 0.2 * height) * below
    noise = rng.normal(0, rng.uniform(3, 9), (size, size, 3))
    pixels = (rows + noise) * rng.uniform(0.85, 1.12)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGBA")


def _place(rng: np.random.Generator, image: Image.Image, things: list[Thing], name: str, novel: bool) -> None:
    """Draw one object where it hides little of the others; after 12 tries the scene does without it."""
    size = image.width
    choices = sprites(name, novel)
    color = str(rng.choice(list(COLORS))) if name in PAINTED else None
    for _ in range(12):
        sprite = choices[rng.integers(len(choices))]
        scale = rng.integers(int(SIZES[0] * size), int(SIZES[1] * size)) / max(sprite.size)
        width, height = max(6, int(sprite.width * scale)), max(6, int(sprite.height * scale))
        x, y = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
        if all(_overlap((x, y, width, height), thing.box) <= MAX_OVERLAP for thing in things):
            painted = paint(sprite, COLORS[color]) if color else sprite
            image.alpha_composite(_vary(rng, painted.resize((width, height), Image.Resampling.BILINEAR)), (x, y))
            things.append(Thing(name, (x, y, width, height), color))
            return


def _place_sign(rng: np.random.Generator, image: Image.Image, things: list[Thing]) -> Sign | None:
    """Draw a sign in a share of the scenes, with draws of its own: the rest of the scene is the same with it and without."""
    if rng.random() >= SIGN_SHARE:
        return None
    number = int(rng.choice(NUMBERS))
    plate = draw_sign(number, rng)
    for _ in range(40):
        x, y = int(rng.integers(0, image.width - plate.width + 1)), int(rng.integers(0, image.height - plate.height + 1))
        box = (x, y, plate.width, plate.height)
        if all(_overlap(box, thing.box) <= MAX_SIGN_OVERLAP for thing in things):
            image.alpha_composite(plate, (x, y))
            return Sign(number, box)
    return None


def _vary(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite flipped, tilted, and with other brightness, by chance."""
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        sprite = ImageEnhance.Brightness(sprite).enhance(rng.uniform(0.7, 1.2))
    return sprite


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """The shared area of two boxes, as a share of the smaller one."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    width = max(0, min(x1 + w1, x2 + w2) - max(x1, x2))
    height = max(0, min(y1 + h1, y2 + h2) - max(y1, y2))
    return width * height / min(w1 * h1, w2 * h2)


def to_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes with full colour resolution: sprites are small, and halved colour would blur them."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
