"""The small world's CLIP: an open_clip model on the policy's frozen tower, trained with the plain contrastive loss of CLIP.

Its image side is the tower and open_clip's attentional pooler; its text side is open_clip's causal transformer,
pooled at EOS. It learns from true sentences and short descriptions, one for each image of a batch. Saved as an open_clip folder, it
loads through `local-dir:` as any published CLIP does by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from world.scenes.language import caption, cell_sentence, mentions, setting_sentence
from world.scenes.scene import Scene
from world.training import tower as towers
from world.training.labels import PATCH
from world.training.optimise import Report, hidden_matrices, in_bfloat16, minimise
from world.training.tokenizer import build_text_tokenizer

CONTEXT_LENGTH = 64  # tokens
WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 2, 4
POOLER_HEADS = 8
LEARNING_RATE = 2e-3
LARGEST_SCALE = 50.0  # of the logits; CLIP's own bound is 100
LENGTH_GROUPS = 4  # of a batch's texts


def model_config(image_size: int, tokenizer: PreTrainedTokenizerFast) -> dict:
    """The open_clip_config.json of a CLIP for square images of `image_size` px."""
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
    config: dict = model_config(tower.config.image_size, tokenizer)["model_cfg"]
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
    for cell, phrase in mentions(scene):
        cells.setdefault(cell, []).append(phrase)
    sentences = [setting_sentence(scene), *(cell_sentence(cell, phrases) for cell, phrases in sorted(cells.items()))]
    drawn = rng.random()
    if drawn < 0.7:  # the first sentence is the same for many scenes: it comes more rarely
        return sentences[0] if rng.random() < 0.1 else sentences[rng.integers(1, len(sentences))]
    if drawn < 0.85:
        return caption(scene)
    first = int(rng.integers(len(sentences)))
    return " ".join(sentences[first : first + 3])


def train_clip(
    tower: CLIPVisionModel, features: Tensor, scenes: Sequence[Scene], steps: int, batch_size: int, seed: int, report: Report
) -> tuple[open_clip.CustomTextCLIP, PreTrainedTokenizerFast]:
    """Train a CLIP on scenes and their tower features (scenes, 1 + patches, width)."""
    torch.manual_seed(derive(seed, "clip"))
    rng = np.random.default_rng(derive(seed, "clip batches"))
    tokenizer = build_text_tokenizer(CONTEXT_LENGTH)
    clip = new_clip(tower, tokenizer)
    embedding, contrast = in_bfloat16(_Embedding(clip)), ClipLoss()

    def loss_at(step: int) -> Tensor:
        rows = rng.integers(len(scenes), size=batch_size)
        texts = [true_text(scenes[row], rng) for row in rows]
        images, named = embedding(features[torch.from_numpy(rows)], tokenize(tokenizer, texts))
        return contrast(images.float(), named.float(), clip.logit_scale.exp().clamp(max=LARGEST_SCALE))

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's backward is slow on CPUs: without it, a step takes two thirds
        minimise("CLIP", clip.parameters(), hidden_matrices(clip), loss_at, steps, LEARNING_RATE, report, weight_decay=0.05)
    return clip.eval(), tokenizer


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """(texts, context length) ids, as open_clip's own tokenizer gives them."""
    encoded = tokenizer(list(texts), max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids


def save_clip(clip: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, folder: Path | str) -> None:
    """Write the files that `open_clip.create_model_and_transforms("local-dir:<folder>")` and `get_tokenizer` read, in float16."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = model_config(clip.visual.image_size[0], tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = folder / "open_clip_model.safetensors"
    save_model(clip.half(), str(weights))
    weights.chmod(0o644)
