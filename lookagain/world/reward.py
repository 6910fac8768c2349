"""The reward's CLIP: an open_clip model on the policy's frozen tower, trained with the plain contrastive loss of CLIP.

Its image side is the tower and open_clip's attentional pooler; its text side is open_clip's causal transformer,
pooled at EOS. It learns from true sentences and short descriptions, one for each image of a batch. Saved as an open_clip folder, it
loads through `local-dir:` as any published CLIP does by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_model
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from lookagain.seeds import derive
from lookagain.world import tower as towers
from lookagain.world.labels import PATCH
from lookagain.world.language import absent, caption, cell_sentence, places, setting_sentence
from lookagain.world.optimise import Report, hidden_matrices, in_bfloat16, minimise
from lookagain.world.scenes import Scene
from lookagain.world.together import own, processes
from lookagain.world.tokenizer import build_text_tokenizer

CONTEXT_LENGTH = 48  # tokens
WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 2, 4
POOLER_HEADS = 8
LEARNING_RATE = 2e-3
LARGEST_SCALE = 50.0  # of the logits; CLIP's own bound is 100
LENGTH_GROUPS = 4  # of a batch's texts


def model_config(image_size: int, tokenizer: PreTrainedTokenizerFast) -> dict:
    """The open_clip_config.json of the reward for square images of `image_size` px."""
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "custom_text": True,
            "vision_cfg": {
                "image_size": image_size,
                "patch_size": PATCH,
                "width": towers.WIDTH,
                "layers": towers.LAYERS,
                "head_width": towers.WIDTH // towers.HEADS,
                "attentional_pool": True,
                "attn_pooler_queries": 1,
                "attn_pooler_heads": POOLER_HEADS,
            },
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": len(tokenizer),
                "hf_tokenizer_name": "word-level",  # any name: the tokenizer lies beside this file
                "width": WIDTH,
                "heads": TEXT_HEADS,
                "layers": TEXT_LAYERS,
                "pad_id": tokenizer.pad_token_id,
                "eos_id": tokenizer.eos_token_id,
                "pool_type": "eos",
            },
        },
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def new_clip(tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> open_clip.CustomTextCLIP:
    """A CLIP whose image side begins with this tower, frozen; the rest is untrained."""
    config = model_config(tower.config.image_size, tokenizer)["model_cfg"]
    custom = {key: value for key, value in config.items() if key != "custom_text"}
    clip = open_clip.CustomTextCLIP(**custom)
    frozen = open_clip_weights(tower)
    clip.visual.load_state_dict(frozen, strict=False)
    for name, parameter in clip.visual.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return clip


def open_clip_weights(tower: CLIPVisionModel) -> dict[str, Tensor]:
    """A transformers tower's weights under the names of open_clip's VisionTransformer, up to the last hidden state."""
    given = {name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
    weights = {
        "conv1.weight": given["embeddings.patch_embedding.weight"],
        "class_embedding": given["embeddings.class_embedding"],
        "positional_embedding": given["embeddings.position_embedding.weight"],
    }
    kinds = ("weight", "bias")
    weights |= {f"ln_pre.{kind}": given[f"pre_layrnorm.{kind}"] for kind in kinds}
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for layer in range(tower.config.num_hidden_layers):
        ours, theirs = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        weights |= {f"{ours}.{new}.{kind}": given[f"{theirs}.{old}.{kind}"] for new, old in names.items() for kind in kinds}
        for kind in kinds:
            parts = [given[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
    return weights


def embed_features(clip: open_clip.CustomTextCLIP, features: Tensor) -> Tensor:
    """Normalised image embeddings from the tower's last hidden states (images, 1 + patches, width)."""
    visual = clip.visual
    pooled, _ = visual._pool(features)
    return functional.normalize(pooled @ visual.proj, dim=-1)


def embed_tokens(clip: open_clip.CustomTextCLIP, ids: Tensor) -> Tensor:
    """Normalised text embeddings of (texts, context length) ids: texts of about the same length together, their padding cut.

    No token sees the padding on its right, and most texts are a third as long as the longest.
    """
    lengths = (ids != clip.text.pad_id).sum(1)
    order = lengths.argsort()
    parts = [_embed_cut(clip, ids[rows, : int(lengths[rows].max())]) for rows in order.chunk(LENGTH_GROUPS)]
    return functional.normalize(torch.cat(parts)[order.argsort()], dim=-1)


def _embed_cut(clip: open_clip.CustomTextCLIP, ids: Tensor) -> Tensor:
    """Text embeddings of ids with less padding than open_clip's context has, (texts, width)."""
    text, length = clip.text, ids.shape[1]
    mask, text.attn_mask = text.attn_mask, text.attn_mask[:length, :length]
    try:
        return text(ids)
    finally:
        text.attn_mask = mask


class _Embedding(torch.nn.Module):
    """Image and text embeddings of a batch from tower features and token ids."""

    def __init__(self, clip: open_clip.CustomTextCLIP):
        super().__init__()
        self.clip = clip

    def forward(self, features: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both (rows, width)."""
        return embed_features(self.clip, features), embed_tokens(self.clip, ids)


def true_text(scene: Scene, rng: np.random.Generator) -> str:
    """A true sentence about a scene, or sometimes up to three in a row, or a caption."""
    cells: dict[int, list[str]] = {}
    for name, cell in places(scene).items():
        cells.setdefault(cell, []).append(name)
    sentences = [setting_sentence(scene), *(cell_sentence(cell, names) for cell, names in sorted(cells.items()))]
    drawn = rng.random()
    if drawn < 0.7:  # the first sentence is the same for many scenes: it comes more rarely
        return sentences[0] if rng.random() < 0.1 else sentences[rng.integers(1, len(sentences))]
    if drawn < 0.85:
        return caption(scene)
    first = int(rng.integers(len(sentences)))
    return " ".join(sentences[first : first + 3])


def train_reward(
    tower: CLIPVisionModel, features: Tensor, scenes: Sequence[Scene], steps: int, batch_size: int, seed: int, report: Report
) -> tuple[open_clip.CustomTextCLIP, PreTrainedTokenizerFast]:
    """Train the reward on scenes and their tower features (scenes, 1 + patches, width)."""
    torch.manual_seed(derive(seed, "reward"))
    rng = np.random.default_rng(derive(seed, "reward batches"))
    device = tower.device
    tokenizer = build_text_tokenizer(CONTEXT_LENGTH)
    clip = new_clip(tower, tokenizer).to(device)
    index, count = processes()
    embedding = in_bfloat16(_Embedding(clip))
    contrast = ClipLoss(gather_with_grad=True, rank=index, world_size=count)
    batch_size -= batch_size % count  # open_clip gathers equally many from each process

    def loss_at(step: int) -> Tensor:
        rows = rng.integers(len(scenes), size=batch_size)
        texts = [true_text(scenes[row], rng) for row in rows]
        seen = features[torch.from_numpy(own(rows))].to(device)
        images, named = embedding(seen, tokenize(tokenizer, own(texts)).to(device))
        return contrast(images.float(), named.float(), clip.logit_scale.exp().clamp(max=LARGEST_SCALE))

    slow_if_fused = device.type == "cpu"  # its backward: without it, a step takes two thirds of the time
    with sdpa_kernel(SDPBackend.MATH) if slow_if_fused else nullcontext():
        minimise("reward", clip.parameters(), hidden_matrices(clip), loss_at, steps, LEARNING_RATE, report, weight_decay=0.05)
    return clip.eval(), tokenizer


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """(texts, context length) ids, as open_clip's own tokenizer gives them."""
    encoded = tokenizer(list(texts), max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids


@torch.inference_mode()
def measure_reward(
    clip: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, features: Tensor, scenes: Sequence[Scene], seed: int
) -> dict[str, float]:
    """How often (percent) a true sentence about a scene scores above the same with a plausible absent object, or any absent one."""
    rng = np.random.default_rng(derive(seed, "measure reward"))
    texts: dict[str, list[str]] = {"true": [], "plausible": [], "random": []}
    for scene in scenes:
        name, cell = list(places(scene).items())[rng.integers(len(places(scene)))]
        swaps = {"true": name, "plausible": absent(scene, 1, rng)[0], "random": absent(scene, 1, rng, plausible=False)[0]}
        for kind, noun in swaps.items():
            texts[kind].append(cell_sentence(cell, [noun]))
    images = embed_features(clip, features.to(clip.logit_scale.device).float())
    cosines = {
        kind: (images * embed_tokens(clip, tokenize(tokenizer, rows).to(images.device))).sum(-1) for kind, rows in texts.items()
    }
    hits = {f"true_over_{kind}": 100 * (cosines["true"] > cosines[kind]).float().mean() for kind in ("plausible", "random")}
    means = {f"cosine_{kind}": value.mean() for kind, value in cosines.items()}
    return {key: round(float(value), 3) for key, value in (hits | means).items()}


def save_reward(clip: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, folder: Path | str) -> None:
    """Write the files that `open_clip.create_model_and_transforms("local-dir:<folder>")` and `get_tokenizer` read."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = model_config(clip.visual.image_size[0], tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_model(clip.cpu(), str(folder / "open_clip_model.safetensors"))
