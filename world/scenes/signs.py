"""Signs with a number from 1 to 40, which half of the scenes carry: what benchmarks of reading ask about. The font is our own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

NUMBERS = range(1, 41)
MARGIN, GAP = 3, 2  # px, around the digits and between them
GLYPHS = (  # 4 x 6, drawn at twice the size
    ".##. #..# #..# #..# #..# .##.",
    "..#. .##. ..#. ..#. ..#. .###",
    ".##. #..# ...# ..#. .#.. ####",
    "###. ...# .##. ...# ...# ###.",
    "..## .#.# #..# #### ...# ...#",
    "#### #... ###. ...# #..# .##.",
    ".##. #... ###. #..# #..# .##.",
    "#### ...# ..#. ..#. .#.. .#..",
    ".##. #..# .##. #..# #..# .##.",
    ".##. #..# #..# .### ...# .##.",
)
PLATES = (((245, 245, 240), (25, 25, 25)), ((250, 215, 60), (25, 25, 25)), ((30, 70, 160), (245, 245, 245)))  # plate, digits


@dataclass(frozen=True)
class Sign:
    """A sign in a scene; the box is (x, y, width, height) in pixels, inside the image."""

    number: int
    box: tuple[int, int, int, int]


def draw_sign(number: int, rng: np.random.Generator) -> Image.Image:
    """A framed plate with digits of about 8x12 px, RGBA, in one of three colourings, of varying size, tilt and brightness."""
    plate, ink = (np.array(color) for color in PLATES[rng.integers(len(PLATES))])
    digits = [np.array([[cell == "#" for cell in row] for row in GLYPHS[int(digit)].split()]) for digit in str(number)]
    glyphs = [digit.repeat(2, axis=0).repeat(2, axis=1) for digit in digits]
    height, width = glyphs[0].shape
    mask = np.zeros((height + 2 * MARGIN, len(glyphs) * (width + GAP) - GAP + 2 * MARGIN), dtype=bool)
    for place, glyph in enumerate(glyphs):
        left = MARGIN + place * (width + GAP)
        mask[MARGIN : MARGIN + height, left : left + width] = glyph
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    pixels = np.where(mask[..., None], ink, plate) * rng.uniform(0.85, 1.05)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGBA")
    scale = rng.uniform(0.85, 1.2)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    return image.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR, expand=True)
