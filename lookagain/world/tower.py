"""The vision tower: a CLIPVisionModel trained with dense supervision to tell what is where.

Contrastive training, as CLIP's own, needs far more data and time for less. Here every patch names its two words (`labels.py`): an
object's category and the cell of its centre, a sign's digit, a bar's colour and value; and the class token names the type of
image. The heads that do so are thrown away. Decoder and reward are trained on the frozen tower's last hidden states.
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
from lookagain.world.charts import Chart
from lookagain.world.labels import (
    FIRST_WORDS,
    GROUNDS,
    MIRRORED,
    PATCH,
    SECOND_WORDS,
    first_weights,
    grounds,
    mirrorable,
    patch_words,
)
from lookagain.world.optimise import IGNORED, Report, hidden_matrices, in_bfloat16, mean_cross_entropy, minimise
from lookagain.world.scenes import Scene
from lookagain.world.together import gathered, own, processes

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


def train_tower(
    pixels: np.ndarray, shown: Sequence[Scene | Chart], steps: int, seed: int, report: Report, device: str = "cpu"
) -> CLIPVisionModel:
    """Train a tower on (images, size, size, 3) bytes of scenes and charts for `steps` batches of 64 images."""
    torch.manual_seed(derive(seed, "tower"))
    generator = torch.Generator().manual_seed(derive(seed, "tower batches"))
    tower = new_tower(shown[0].size).to(device)
    heads = torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(WIDTH, size)
            for name, size in (("first", len(FIRST_WORDS)), ("second", len(SECOND_WORDS)), ("ground", len(GROUNDS)))
        }
    ).to(device)
    firsts, seconds = patch_words(shown)
    types, may_mirror = grounds(shown), mirrorable(shown)
    weight = first_weights().to(device)
    seeing = in_bfloat16(tower)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(shown), (BATCH,), generator=generator)
        mirrored = (torch.rand(BATCH, generator=generator) < 0.5) & may_mirror[rows]
        contrast = 1 + 0.1 * torch.randn(BATCH, 1, 1, 1, generator=generator)
        noise = torch.randn(BATCH, 3, *pixels.shape[1:3], generator=generator)
        images = _mirrored(normalised(pixels[own(rows).numpy()]), own(mirrored)) * own(contrast) + 0.06 * own(noise)
        first, second = _mirrored_words(firsts[rows], seconds[rows], mirrored)
        states = seeing(images.to(device)).last_hidden_state.float()
        named, told, seen = heads["first"](states[:, 1:]), heads["second"](states[:, 1:]), heads["ground"](states[:, 0])
        ground = types[rows]
        return (
            mean_cross_entropy(named.flatten(0, 1), own(first).flatten().to(device), first, weight)
            + 0.7 * mean_cross_entropy(told.flatten(0, 1), own(second).flatten().to(device), second)
            + 0.3 * mean_cross_entropy(seen, own(ground).to(device), ground)
        )

    trained = [*tower.parameters(), *heads.parameters()]
    minimise("vision tower", trained, hidden_matrices(tower), loss_at, steps, LEARNING_RATE, report)
    return tower.requires_grad_(False).eval()


def _mirrored(images: Tensor, mirrored: Tensor) -> Tensor:
    """(images, 3, size, size), those of `mirrored` (images,) left to right."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _mirrored_words(first: Tensor, second: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """The words of patches (images, patches) when the images of `mirrored` (images,) are mirrored."""
    grid = math.isqrt(first.shape[1])
    other_first, other_second = (words.unflatten(1, (grid, grid)).flip(2).flatten(1) for words in (first, second))
    other_second = torch.where(other_second == IGNORED, other_second, MIRRORED[other_second.clamp(min=0)])
    return torch.where(mirrored[:, None], other_first, first), torch.where(mirrored[:, None], other_second, second)


@torch.inference_mode()
def tower_features(tower: CLIPVisionModel, pixels: np.ndarray) -> Tensor:
    """The last hidden states (images, 1 + patches, width) in bfloat16, on the CPU: what the frozen tower gives in training.

    Each process encodes a part of the images, and gets all.
    """
    device = next(tower.parameters()).device
    index, count = processes()
    size = -(-len(pixels) // count)
    mine = pixels[index * size : (index + 1) * size]
    batches = [torch.empty(0, 1 + (mine.shape[1] // PATCH) ** 2, WIDTH, dtype=torch.bfloat16)]
    for start in range(0, len(mine), 256):
        with torch.autocast(device.type, torch.bfloat16):
            states = tower(normalised(mine[start : start + 256]).to(device)).last_hidden_state
        batches.append(states.to(torch.bfloat16).cpu())
    return gathered(torch.cat(batches), len(pixels))
