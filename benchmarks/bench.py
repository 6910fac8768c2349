"""What the rows of `make bench` share: the model, images, and how a row is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from PIL import Image

from benchmarks.timing import Row, Side, machine, side_by_side
from lookagain.generation import Decoding, Request, respond_in_turn
from lookagain.images import ImageStore
from lookagain.policy import load_policy
from lookagain.prompts import STIC_CAPTION
from lookagain.schema import Params
from lookagain.sizes import shape_from_config


class Bench:
    """What rows share: the model, images, and the machine's peak."""

    def __init__(self, params: Params, peak: float):
        self.params, self.peak = params, peak
        self.policy = load_policy("models/base", params.policy.loading)
        store = ImageStore("data/sample/images", params.data.max_image_pixels)
        self.images: dict[str, Image.Image] = {image_id: store.load(image_id) for image_id in store.ids[:512]}
        self.shape = shape_from_config(self.policy.model.config.to_dict())
        self.encoding = 2 * self.shape.vision * self.shape.patches  # FLOPs of an image
        self.token = 2 * self.shape.parameters  # FLOPs of a token

    def tokens(self, text: str) -> int:
        """A response's length, with EOS."""
        return len(self.policy.tokenizer(text, add_special_tokens=False).input_ids) + 1

    def row(
        self, path: str, unit: str, at_least: float, peer: tuple[str, Side], ours: Side, floor: tuple[float | None, str],
        rounds: int = 5, agree: Callable[[Any, Any], bool] = lambda one, other: one == other,
    ) -> Row:  # fmt: skip
        """Measure a row. floor: the FLOPs that one unit takes at the least, and the formula; None and the reason if unknown."""
        slow, fast = side_by_side(path, peer[1], ours, rounds, agree)
        flops, formula = floor
        reached = None if flops is None else fast * flops / self.peak
        return Row(path, slow, fast, fast / slow, at_least, reached, unit, peer[0], formula, machine())

    @functools.cached_property
    def asked(self) -> list[Request]:
        """Two prompts about each image, as STIC asks them."""
        prompts = self.params.evaluate.chair.prompt, STIC_CAPTION[0]
        return [Request(f"{image}/{number}", image, text) for image in self.images for number, text in enumerate(prompts)]

    def image_of(self, request: Request) -> Image.Image:
        """The image that a request is about."""
        return self.images[request.image_id]

    def answer(self, requests: list[Request], decoding: Decoding) -> list[str]:
        """Our responses at batch 64, 64 images and all that is asked about them at a time, as stages have it."""
        responses, step = [], 64 * len(requests) // len({request.image_id for request in requests})
        for start in range(0, len(requests), step):
            part = requests[start : start + step]
            responses += respond_in_turn(self.policy, part, [decoding] * len(part), self.image_of, 0, 64)
        return responses
