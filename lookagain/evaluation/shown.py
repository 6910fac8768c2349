"""Benchmark images as one model is shown them: as they are, all augmented (SeVa Fig. 2), or not at all (blind DaR)."""

from __future__ import annotations

import functools
import json
from typing import Any

from lookagain.augmentations import CLEAN, augmentation
from lookagain.evaluation.engine import NO_IMAGE
from lookagain.evaluation.questions import BenchmarkImages
from lookagain.schema import Augmentation
from lookagain.seeds import derive
from lookagain.transforms import Shown, apply


class ShownImages:
    """Images by place (`BenchmarkImages`). An augmentation's draw depends on the seed and the place, whatever is asked."""

    def __init__(self, images: BenchmarkImages, augment: Augmentation | None, seed: int):
        self._images, self._augment, self._seed = images, augment, seed
        self.load = functools.lru_cache(maxsize=256)(self._load)  # one object per image, so that a batch encodes it once
        self.sha256 = functools.cache(self._sha256)

    def transform(self, place: str) -> dict[str, Any]:
        """The record of what is done to the image at a place."""
        if self._augment is None:
            return CLEAN
        own = derive(self._seed, "augment", place)
        return augmentation(self._augment.name, self._augment.noise_step, self._augment.crop_share, own)

    def _load(self, place: str) -> Shown:
        return None if place == NO_IMAGE else apply(self._images.load(place), self.transform(place))

    def _sha256(self, place: str) -> str:
        """Identifies what is shown: the image's bytes, and the transform if there is one."""
        if place == NO_IMAGE:
            return NO_IMAGE
        transform = self.transform(place)
        return self._images.sha256(place) + ("" if transform == CLEAN else json.dumps(transform, sort_keys=True))
