"""Image transforms by their recorded parameters, so that a record alone is enough to make a corrupted image again.

Those that draw (crops, jitter) are torchvision's own, run under the record's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

NOISE_STEPS = 1000


@dataclass(frozen=True)
class Noised:
    """An image that is shown with diffusion noise, which acts on the processor's normalised pixels (`diffuse`)."""

    image: Image.Image
    step: int
    seed: int


Shown = Image.Image | Noised | None  # what a policy is shown; None: no image at all


def apply(image: Image.Image, transform: Mapping[str, Any]) -> Image.Image | Noised:
    """The image as a transform of `Provenance.image_transform` shows it.

    low_resolution: the shorter side resized to `size` px and not scaled back (STIC); colour_jitter: brightness by a factor, then
    hue by a share of the colour circle (STIC); the others are SeVa's (`augmentations.py`). Raises ValueError for an unknown
    name.
    """
    name = transform["name"]
    if name == "none":
        return image
    if name == "diffusion":
        return Noised(image, transform["step"], transform["seed"])
    if name not in TRANSFORMS:
        raise ValueError(f"unknown image transform {name!r}; known: none, diffusion, {', '.join(TRANSFORMS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(transform.get("seed", 0))
        return TRANSFORMS[name](image, transform)


def diffuse(pixels: Tensor, step: int, seed: int) -> Tensor:
    """Normalised pixels after `step` of 1,000 steps of diffusion, in one jump: sqrt(abar) * x + sqrt(1 - abar) * noise.

    beta_t = sigmoid(-6..6) * (0.005 - 1e-5) + 1e-5, abar the product of 1 - beta up to the step (SeVa, after VCD). The noise is
    drawn on the CPU in float32, so that it is one on every device.
    """
    betas = torch.linspace(-6, 6, NOISE_STEPS, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    signal = float((1 - betas).cumprod(0)[step])
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels)
    return signal**0.5 * pixels + (1 - signal) ** 0.5 * noise


def _low_resolution(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    return functional.resize(image, [record["size"]])


def _colour_jitter(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    return functional.adjust_hue(functional.adjust_brightness(image, record["brightness"]), record["hue"])


def _crop(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    """A share of each side: at the centre, or where the seed puts it."""
    size = [max(1, round(side * record["share"])) for side in (image.height, image.width)]
    return (v2.CenterCrop(size) if record["name"] == "center_crop" else v2.RandomCrop(size))(image)


def _resized_crop(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    return v2.RandomResizedCrop((image.height, image.width), scale=tuple(record["crop"]))(image)


def _affine(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    turn = v2.RandomAffine(record["degrees"], tuple(record["translate"]), tuple(record["scale"]), record["shear"])
    return turn(image)


def _view(image: Image.Image, record: Mapping[str, Any]) -> Image.Image:
    """A view of contrastive learning. The blur's kernel is a tenth of the image, as SimCLR has it (23 of 224 px)."""
    kernel = max(3, min(image.size) // 20 * 2 + 1)
    steps = [
        v2.RandomResizedCrop((image.height, image.width), scale=tuple(record["crop"])),
        v2.RandomApply([v2.ColorJitter(*record["jitter"])], p=record["jitter_p"]),
        v2.RandomGrayscale(record["grey_p"]),
        v2.RandomApply([v2.GaussianBlur(kernel, tuple(record["blur"]))], p=record["blur_p"]),
        v2.RandomSolarize(128, p=record["solarize_p"]),
        v2.RandomHorizontalFlip(record["flip_p"]),
    ]
    return v2.Compose(steps)(image)


TRANSFORMS: dict[str, Callable[[Image.Image, Mapping[str, Any]], Image.Image]] = {
    "low_resolution": _low_resolution,
    "colour_jitter": _colour_jitter,
    "flip": lambda image, _: functional.horizontal_flip(image),
    "invert": lambda image, _: functional.invert(image),
    "center_crop": _crop,
    "random_crop": _crop,
    "rr_crop": _resized_crop,
    "affine": _affine,
    "auto_augment": lambda image, _: v2.AutoAugment()(image),
    "moco": _view,
    "byol": _view,
    "simclr": _view,
}
