"""Plates with one digit, which some scenes carry: what benchmarks of reading ask about. The font is our own, for 8-px patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

PLATE = 16  # px, square: two patches
DIGITS = tuple("0123456789")
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
PLATES = (((245, 245, 240), (25, 25, 25)), ((250, 215, 60), (25, 25, 25)), ((30, 70, 160), (245, 245, 245)))  # plate, digit


@dataclass(frozen=True)
class Sign:
    """A plate in a scene; the box is (x, y, width, height) in pixels, inside the image."""

    digit: int
    box: tuple[int, int, int, int]


def draw_plate(digit: int, rng: np.random.Generator) -> Image.Image:
    """A plate of 16x16 px with a frame and a digit of 8x12 px, RGBA, in one of three colourings of varying brightness."""
    plate, ink = (np.array(color) for color in PLATES[rng.integers(len(PLATES))])
    mask = np.zeros((PLATE, PLATE), dtype=bool)
    glyph = np.array([[cell == "#" for cell in row] for row in GLYPHS[digit].split()])
    mask[2:14, 4:12] = glyph.repeat(2, axis=0).repeat(2, axis=1)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    pixels = np.where(mask[..., None], ink, plate) * rng.uniform(0.85, 1.05)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGBA")
