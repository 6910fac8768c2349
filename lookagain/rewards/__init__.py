"""CSR's calibrated reward: how likely a sentence is to the policy, calibrated by how well it fits the image.

R_T (Eq. 2), R_I (Eq. 3) and R (Eq. 4) as printed are `value.py`. Printed so, a product of probabilities (below 1) stands
beside 100 times a cosine, which all but removes R_T; the released code therefore ranks siblings on each part and mixes the
ranks: `rank.py`. lambda = 1 is R_I alone, lambda = 0 is R_T alone (the rows "Only R_I" and "Only R_T" of CSR's Table 2).
A file of your own beside them is another reward: `csr.search.reward` names it (docs/own-method.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from lookagain.errors import UserError

ENDS = ("argmax", "eos")  # open_clip's names for text towers whose embedding is that of EOS


class ScorerError(UserError):
    """A scorer that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Candidate:
    """A proposed sentence, beside its siblings, as a reward sees it."""

    text: str
    logps: list[float]  # of its tokens under the policy
    cosine: float  # between its image and its text, by the scorer
    relevance: float  # R_I, Eq. 3
    language: float  # R_T, Eq. 2


def language_score(token_logps: Sequence[float]) -> float:
    """R_T, Eq. 2: the product of the sentence's token probabilities under the policy, in [0, 1]."""
    return math.exp(math.fsum(token_logps))


def mean_logp(token_logps: Sequence[float]) -> float:
    """R_T of the released code: the log-prob by length. There it adds up over a node's parents; here a sentence has its own."""
    return math.fsum(token_logps) / max(1, len(token_logps))


def image_relevance(cosine: float, scale: float) -> float:
    """R_I, Eq. 3: max(scale * cos(image, sentence), 0); the paper's scale is 100."""
    return max(scale * cosine, 0.0)


def calibrated(relevance: float, language: float, lambda_: float) -> float:
    """R, Eq. 4: lambda * R_I + (1 - lambda) * R_T."""
    return lambda_ * relevance + (1 - lambda_) * language


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value among its siblings, from 0 (lowest) to 1 (highest); equal values share their mean rank."""
    if len(values) < 2:
        return [0.5] * len(values)
    return [
        (sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2) / (len(values) - 1)
        for value in values
    ]


class ImageTextScorer:
    """Cosines between images and sentences by an open_clip model: images are encoded once, and then their sentences, each once."""

    def __init__(self, folder: Path | str, device: str = "cpu"):
        """Load the model that `scorer.json` in `folder` names. Raises ScorerError if it is not there, or has other weights."""
        file = Path(folder) / "scorer.json"
        if not file.is_file():
            raise ScorerError(f"no scorer in {folder} ({file.name} is missing); run `dvc repro prepare_scorer`")
        spec = json.loads(file.read_text())
        name = spec["model"] if spec["pretrained"] else f"local-dir:{spec['model']}"
        try:
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                name, pretrained=spec["pretrained"], device=device, require_pretrained=True
            )
            self.tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # whatever open_clip raises on a file that it cannot read, or on weights that do not fit
            raise ScorerError(
                f"{spec['model']}: not a model that open_clip can load: {' '.join(str(error).split())}"
            ) from error
        self.model.eval()
        self.device = device
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Normalised image embeddings, (images, width). Forgets the sentences of the images before.

        Else those would decide which sentences are encoded together from now on, and the last bits of a score would tell which
        images this process had scored before.
        """
        self.forget()
        pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
        return self.model.encode_image(pixels, normalize=True).float().cpu()

    def forget(self) -> None:
        """Drop the sentences' embeddings."""
        self._texts.clear()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Normalised text embeddings, (texts, width); a sentence seen since the last images is not encoded again."""
        new = sorted(set(texts) - self._texts.keys())
        for start in range(0, len(new), batch_size):
            part = new[start : start + batch_size]
            embeddings = self._embedded(self.tokenizer(part).to(self.device)).float().cpu()
            self._texts.update(zip(part, embeddings, strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids (texts, context), without what stands behind the last EOS where the tower never looks there."""
        tower = getattr(self.model, "text", self.model)
        pool = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", None)
        if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None or pool not in ENDS:
            return self.model.encode_text(tokens, normalize=True)
        eos: Any = getattr(tower, "eos_id", None) or getattr(tower, "text_eos_id", None)
        ends = (tokens if pool == "argmax" else (tokens == eos).int()).argmax(-1)
        length = int(ends.max()) + 1
        with _context(tower, length):
            return self.model.encode_text(tokens[:, :length], normalize=True)


@contextmanager
def _context(tower: Any, length: int) -> Iterator[None]:
    """A causal text tower of open_clip with a shorter context: of itself it adds all its positions and masks to every text."""
    positions, mask = tower.positional_embedding, tower.attn_mask
    tower.positional_embedding = torch.nn.Parameter(positions[:length], requires_grad=False)
    tower.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        tower.positional_embedding, tower.attn_mask = positions, mask
