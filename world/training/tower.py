"""The vision tower: a CLIPVisionModel trained with dense supervision to tell what is where.

Contrastive training, as CLIP's, needs far more data and time for less. Here every patch names its words (`labels.py`): an object's
category, the cell of its centre and its colour, a sign's number, a bar's colour and value; and the class token names the type of
image. The heads that do so are thrown away. Decoder and CLIP are trained on the frozen tower's last hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from lookagain.seeds import derive
from world.scenes.charts import Chart
from world.scenes.scene import Scene
from world.training.labels import GROUNDS, MIRRORED, PATCH, SHARES, WORDS, first_weights, grounds, mirrorable, patch_words
from world.training.optimise import IGNORED, Report, hidden_matrices, in_bfloat16, minimise

WIDTH, LAYERS, HEADS = 128, 3, 4
BATCH = 64
MATCHING_SCALE = 3.0  # the loss is a fifth less after 600 steps than with keys of their own; with 2, nearly so
LEARNING_RATE = 2e-3


class PatchEmbedding(torch.nn.Conv2d):
    """The tower's convolution as one matrix product: the same weights and outputs, a backward 20 times faster on CPUs."""

    def forward(self, images: Tensor) -> Tensor:
        """(images, 3, size, size) -> (images, width, grid, grid)."""
        size = self.kernel_size[0]
        grid = images.shape[-1] // size
        patches = images.unflatten(3, (grid, size)).unflatten(2, (grid, size))  # (images, 3, grid, size, grid, size)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return functional.linear(patches, self.weight.flatten(1)).permute(0, 3, 1, 2)


def new_tower(image_size: int) -> CLIPVisionModel:
    """An untrained tower for square images of `image_size` px."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=image_size,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )
    config._attn_implementation = "eager"  # the fused attention's backward is slow on CPUs; a saved tower forgets this
    tower = CLIPVisionModel(config)
    tower.embeddings.patch_embedding = PatchEmbedding(3, WIDTH, PATCH, PATCH, bias=False)
    torch.nn.init.normal_(tower.embeddings.patch_embedding.weight, std=0.05)
    start_matching(tower.encoder.layers, MATCHING_SCALE)
    return tower


def start_matching(layers: Iterable[Any], scale: float) -> None:
    """Let untrained attention match like with like: key projections as the query ones, these `scale` times as large as drawn."""
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.q_proj.weight.mul_(scale)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def normalised(pixels: np.ndarray | Tensor) -> Tensor:
    """(images, size, size, 3) bytes as the processor gives them to the tower: (images, 3, size, size) in [-1, 1]."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_tower(pixels: np.ndarray, shown: Sequence[Scene | Chart], steps: int, seed: int, report: Report) -> CLIPVisionModel:
    """Train a tower on (images, size, size, 3) bytes of scenes and charts for `steps` batches of 64 images."""
    torch.manual_seed(derive(seed, "tower"))
    generator = torch.Generator().manual_seed(derive(seed, "tower batches"))
    tower = new_tower(shown[0].size)
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(words)) for words in (*WORDS, GROUNDS))
    words, types, may_mirror = patch_words(shown), grounds(shown), mirrorable(shown)
    weights = (first_weights(), None, None)
    seeing = in_bfloat16(tower)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(shown), (BATCH,), generator=generator)
        mirrored = (torch.rand(BATCH, generator=generator) < 0.5) & may_mirror[rows]
        contrast = 1 + 0.1 * torch.randn(BATCH, 1, 1, 1, generator=generator)
        noise = torch.randn(BATCH, 3, *pixels.shape[1:3], generator=generator)
        images = _mirrored(normalised(pixels[rows.numpy()]), mirrored) * contrast + 0.06 * noise
        states = seeing(images).last_hidden_state.float()
        loss = 0.3 * functional.cross_entropy(heads[-1](states[:, 0]), types[rows])
        labels = _mirrored_words([part[rows] for part in words], mirrored)
        for head, label, weight, share in zip(heads, labels, weights, SHARES, strict=False):
            named = head(states[:, 1:]).flatten(0, 1)
            loss = loss + share * functional.cross_entropy(named, label.flatten(), weight=weight, ignore_index=IGNORED)
        return loss

    trained = [*tower.parameters(), *heads.parameters()]
    minimise("vision tower", trained, hidden_matrices(tower), loss_at, steps, LEARNING_RATE, report)
    return tower.requires_grad_(False).eval()


def _mirrored(images: Tensor, mirrored: Tensor) -> Tensor:
    """(images, 3, size, size), those of `mirrored` (images,) left to right."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _mirrored_words(words: Sequence[Tensor], mirrored: Tensor) -> list[Tensor]:
    """The words of patches (images, patches) when the images of `mirrored` (images,) are mirrored."""
    grid = math.isqrt(words[0].shape[1])
    flipped = [part.unflatten(1, (grid, grid)).flip(2).flatten(1) for part in words]
    flipped[1] = torch.where(flipped[1] == IGNORED, flipped[1], MIRRORED[flipped[1].clamp(min=0)])
    return [torch.where(mirrored[:, None], other, part) for part, other in zip(words, flipped, strict=True)]


@torch.inference_mode()
def tower_features(tower: CLIPVisionModel, pixels: np.ndarray) -> Tensor:
    """The last hidden states (images, 1 + patches, width) in bfloat16: what the frozen tower gives in training."""
    batches = []
    for start in range(0, len(pixels), 256):
        with torch.autocast("cpu", torch.bfloat16):
            states = tower(normalised(pixels[start : start + 256])).last_hidden_state
        batches.append(states.to(torch.bfloat16))
    return torch.cat(batches)
