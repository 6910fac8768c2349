"""The vision tower: a CLIPVisionModel trained with dense supervision to tell what is where.

Contrastive training, as CLIP's own, needs far more data and time for less. Here every patch names its object's category and the
cell of that object's centre, and the class token names the scene type; the heads that do so are thrown away. Decoder and reward are
trained on the frozen tower's last hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from lookagain.seeds import derive
from lookagain.world.art import INDEX, NAMES
from lookagain.world.language import cell_of
from lookagain.world.optimise import IGNORED, Report, gathered, in_bfloat16, mean_cross_entropy, minimise, own, processes
from lookagain.world.scenes import TYPES, Scene

PATCH = 8  # px
WIDTH, LAYERS, HEADS = 128, 4, 4
BATCH = 64
LEARNING_RATE = 2e-3
BACKGROUND = len(NAMES)  # the patch label of no object
BACKGROUND_WEIGHT = 0.3  # two patches of three show no object
MIRRORED = torch.tensor([2, 1, 0, 5, 4, 3, 8, 7, 6])  # each cell's place in a flipped image


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
    return tower


def normalised(pixels: np.ndarray | Tensor) -> Tensor:
    """(images, size, size, 3) bytes as the processor gives them to the tower: (images, 3, size, size) in [-1, 1]."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_labels(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Per patch, in reading order, the category (or BACKGROUND) and its object's cell (or IGNORED): both (scenes, patches).

    An object covers the patches whose centre lies in the ellipse in its box; later objects cover earlier ones.
    """
    grid = scenes[0].size // PATCH
    categories = np.full((len(scenes), grid, grid), BACKGROUND)
    cells = np.full((len(scenes), grid, grid), IGNORED)
    rows, columns = (np.mgrid[0:grid, 0:grid] + 0.5) * PATCH
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            x, y, width, height = thing.box
            inside = (2 * (columns - x) / width - 1) ** 2 + (2 * (rows - y) / height - 1) ** 2 < 1.15
            categories[number][inside] = INDEX[thing.name]
            cells[number][inside] = cell_of(thing, scene.size)
    return torch.from_numpy(categories).flatten(1), torch.from_numpy(cells).flatten(1)


def train_tower(
    pixels: np.ndarray, scenes: Sequence[Scene], steps: int, seed: int, report: Report, device: str = "cpu"
) -> CLIPVisionModel:
    """Train a tower on (scenes, size, size, 3) bytes for `steps` batches of 64 scenes."""
    torch.manual_seed(derive(seed, "tower"))
    generator = torch.Generator().manual_seed(derive(seed, "tower batches"))
    tower = new_tower(scenes[0].size).to(device)
    heads = torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(WIDTH, size)
            for name, size in (("category", BACKGROUND + 1), ("cell", 9), ("setting", len(TYPES)))
        }
    ).to(device)
    categories, cells = patch_labels(scenes)
    types = torch.tensor([TYPES.index(scene.type) for scene in scenes])
    weight = torch.ones(BACKGROUND + 1, device=device)
    weight[BACKGROUND] = BACKGROUND_WEIGHT
    seeing = in_bfloat16(tower)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        images, category, cell = normalised(pixels[rows.numpy()]), categories[rows], cells[rows]
        if torch.rand((), generator=generator) < 0.5:
            images, category, cell = _flipped(images, category, cell)
        states = seeing(own(_perturbed(images, generator)).to(device)).last_hidden_state.float()
        named, placed, seen = heads["category"](states[:, 1:]), heads["cell"](states[:, 1:]), heads["setting"](states[:, 0])
        setting = types[rows]
        return (
            mean_cross_entropy(named.flatten(0, 1), own(category).flatten().to(device), category, weight)
            + 0.7 * mean_cross_entropy(placed.flatten(0, 1), own(cell).flatten().to(device), cell)
            + 0.3 * mean_cross_entropy(seen, own(setting).to(device), setting)
        )

    minimise("vision tower", [*tower.parameters(), *heads.parameters()], loss_at, steps, LEARNING_RATE, report)
    return tower.requires_grad_(False).eval()


def _flipped(images: Tensor, category: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch and its labels mirrored left to right."""
    grid = images.shape[-1] // PATCH
    category = category.unflatten(1, (grid, grid)).flip(2).flatten(1)
    cell = cell.unflatten(1, (grid, grid)).flip(2).flatten(1)
    return images.flip(3), category, torch.where(cell == IGNORED, cell, MIRRORED[cell.clamp(min=0)])


def _perturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast, and noise: (images, 3, size, size)."""
    contrast = 1 + 0.1 * torch.randn(len(images), 1, 1, 1, generator=generator)
    return images * contrast + 0.06 * torch.randn(images.shape, generator=generator)


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
