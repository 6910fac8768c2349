"""Train a world's CLIP on its policy's tower and write it in open_clip's format, in float16.

Run:    python -m world.training.train_clip NAME [--policy FOLDER] [--out FOLDER]
Reads:  checkpoints/NAME/policy/
Writes: checkpoints/NAME/clip/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from ruamel.yaml import YAML
from transformers import LlavaForConditionalGeneration

from world.scenes.scene import Scene
from world.training.clip import save_clip, train_clip
from world.training.data import draw_training
from world.training.optimise import THREADS, progress
from world.training.tower import tower_features


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write one CLIP."""
    parser = argparse.ArgumentParser("train_clip")
    parser.add_argument("name")
    parser.add_argument("--policy")
    parser.add_argument("--out")
    chosen = parser.parse_args(arguments)
    params = YAML(typ="safe").load(Path("world/params.yaml").read_text())
    seed, settings = params["worlds"][chosen.name], params["clip"]
    torch.set_num_threads(THREADS)
    policy = LlavaForConditionalGeneration.from_pretrained(
        chosen.policy or f"checkpoints/{chosen.name}/policy", dtype=torch.float32
    )
    tower = policy.model.vision_tower.requires_grad_(False).eval()
    shown, pixels = draw_training(params["scenes"], 0, seed)
    scenes = [image for image in shown if isinstance(image, Scene)]
    features = tower_features(tower, pixels)
    clip, tokenizer = train_clip(tower, features, scenes, settings["steps"], settings["batch_size"], seed, progress())
    save_clip(clip, tokenizer, Path(chosen.out or f"checkpoints/{chosen.name}/clip"))


if __name__ == "__main__":
    main()
