"""Train a world's policy from scratch and write it as a LLaVA-1.5 checkpoint in llava-hf's format, in float16.

Run:    python -m world.training.train_policy NAME [--out FOLDER]     a name of `worlds` in world/params.yaml
Writes: checkpoints/NAME/policy/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from lookagain.errors import UserError
from world.training.conversations import Noise
from world.training.data import IMAGE_SIZE, draw_conversations, draw_training
from world.training.labels import PATCH
from world.training.llava import train_llava
from world.training.optimise import THREADS, progress
from world.training.tokenizer import build_processor, build_tokenizer
from world.training.tower import tower_features, train_tower


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write one policy."""
    parser = argparse.ArgumentParser("train_policy")
    parser.add_argument("name")
    parser.add_argument("--out")
    chosen = parser.parse_args(arguments)
    params = YAML(typ="safe").load(Path("world/params.yaml").read_text())
    seed, settings = params["worlds"][chosen.name], params["policy"]
    torch.set_num_threads(THREADS)
    shown, pixels = draw_training(params["scenes"], params["charts"], seed)
    report = progress()
    tower = train_tower(pixels, shown, settings["tower_steps"], seed, report)
    processor = build_processor(build_tokenizer(), IMAGE_SIZE, PATCH)
    conversations = draw_conversations(shown, Noise(settings["noise_share"], settings["yes_share"]), seed)
    steps = settings["align_steps"], settings["max_yesno_steps"], settings["mixed_steps"]
    enough, features = settings["yesno_loss"], tower_features(tower, pixels)
    model = train_llava(tower, processor.tokenizer, features, shown, conversations, steps, enough, seed, report)
    save(model, processor, Path(chosen.out or f"checkpoints/{chosen.name}/policy"))


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the checkpoint's files; what else lies in the folder stays."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({published_name(name): value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    weights.chmod(0o644)


def published_name(name: str) -> str:
    """A tensor's name in llava-hf's files, which transformers reads and vLLM insists on."""
    for place in ("language_model.", "vision_tower.", "multi_modal_projector."):
        if name.startswith(f"model.{place}"):
            name = name.removeprefix("model.")
    if name.startswith("language_model.") and not name.startswith("language_model.model."):
        name = name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
