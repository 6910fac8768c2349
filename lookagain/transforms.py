"""Image transforms by their recorded parameters, so that a record alone is enough to make a corrupted image again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torchvision.transforms.v2 import functional


def apply(image: Image.Image, transform: Mapping[str, Any]) -> Image.Image:
    """The image as a transform of `Provenance.image_transform` shows it.

    low_resolution: the shorter side resized to `size` px and not scaled back (STIC); colour_jitter: brightness by a factor, then
    hue by a share of the colour circle (STIC). Raises ValueError for an unknown name.
    """
    name = transform["name"]
    if name == "none":
        return image
    if name == "low_resolution":
        return functional.resize(image, [transform["size"]])
    if name == "colour_jitter":
        return functional.adjust_hue(functional.adjust_brightness(image, transform["brightness"]), transform["hue"])
    raise ValueError(f"unknown image transform {name!r}; known: none, low_resolution, colour_jitter")
