"""What the rows of `make bench` share: the model, images, and how a row is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from PIL import Image

from benchmarks.timing import Row, Side, machine, side_by_side
from lookagain.generation import Decoding, Request, respond
from lookagain.images import ImageStore
from lookagain.params import Params
from lookagain.plan import shape_from_config
from lookagain.policy import load_policy
from lookagain.prompts import STIC_CAPTION


class Bench:
    """What rows share: the model, images, and the machine's peak."""

    def __init__(self, params: Params, peak: float):
        self.params, self.peak = params, peak
        self.policy = load_policy("models/base", params.policy.loading)
        store = ImageStore("data/sample/images", params.data.max_image_pixels)
        self.images: dict[str, Image.Image] = {image_id: store.load(image_id) for image_id in store.ids[:128]}
        self.shape = shape_from_config(self.policy.model.config.to_dict())
        self.encoding = 2 * self.shape.vision * self.shape.patches  # FLOPs of an image
        self.token = 2 * self.shape.parameters  # FLOPs of a token

    def tokens(self, text: str) -> int:
        """A response's length, with EOS."""
        return len(self.policy.tokenizer(text, add_special_tokens=False).input_ids) + 1

    def row(
        self, path: str, unit: str, at_least: float, peer: tuple[str, Side], ours: Side, floor: tuple[float | None, str],
        rounds: int = 3, agree: Callable[[Any, Any], bool] = lambda one, other: one == other,
    ) -> Row:  # fmt: skip
        """Measure a row. floor: the FLOPs that one unit takes at the least, and the formula; None and the reason if unknown."""
        slow, fast = side_by_side(path, peer[1], ours, rounds, agree)
        flops, formula = floor
        reached = None if flops is None else fast * flops / self.peak
        return Row(path, slow, fast, fast / slow, at_least, reached, unit, peer[0], formula, machine())

    @functools.cached_property
    def asked(self) -> list[Request]:
        """Two prompts about each image, as STIC's two responses of a pair are."""
        one, other = self.params.evaluate.chair.prompt, STIC_CAPTION[0]
        return [Request(f"{image}/{number}", image, text) for number, text in enumerate((one, other)) for image in self.images]

    def answer(self, requests: list[Request], batch_size: int, new_tokens: int) -> list[str]:
        """Our responses, in batches as generate_pairs and describe_images make them."""
        responses, decoding = [], Decoding(0.0, 1.0, new_tokens)
        for start in range(0, len(requests), batch_size):
            part = requests[start : start + batch_size]
            responses += respond(self.policy, part, lambda one: self.images[one.image_id], decoding, 0)
        return responses
