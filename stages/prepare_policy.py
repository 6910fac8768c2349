"""The base policy and the reward's CLIP: trained from scratch on the world, or pinned by id and revision.

Run:    python -m lookagain.launch prepare_policy
Reads:  data/policy/, data/instruct/, data/benchmarks/validation/ (the world alone)
Writes: models/base/, models/reward/

Each trained part (tower, policy, reward) is kept in the resume folder, and not trained again after a kill.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import model_info
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import Progress
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.params import Params, flatten, load_params
from lookagain.records import Conversation, Turn, atomic_write, read_records
from lookagain.world import reward as reward_training
from lookagain.world import splits
from lookagain.world.charts import Chart
from lookagain.world.labels import PATCH
from lookagain.world.measure import measure
from lookagain.world.optimise import Report
from lookagain.world.pretrain import pretrain
from lookagain.world.scenes import Scene
from lookagain.world.tokenizer import build_processor, build_tokenizer
from lookagain.world.tower import tower_features, train_tower

WORLD_INPUTS = ["data/policy", "data/instruct", "data/benchmarks/validation"]
MEASURED_SCENES = 300


def main() -> None:
    """Prepare the base policy and the reward."""
    params = load_params()
    trains = params.policy.source == "world"
    used = {"seed": params.seed, "policy": params.policy, "reward": params.reward}
    flat = flatten(params.policy, "policy.") | flatten(params.reward, "reward.")
    with (
        runtime.stage("prepare_policy", used, WORLD_INPUTS if trains else []) as run,
        tracking.child("prepare_policy", flat, enabled=run.is_main) as track,
    ):
        if run.is_main:
            if trains:
                train_world(params, run, track)
            else:
                pinned = pin_policy(params.policy.hub.id, params.policy.hub.revision)
                shutil.rmtree("models/base", ignore_errors=True)
                write_json("models/base", "lineage.json", pinned)
            if params.reward.source == "open_clip":
                chosen = pin_reward(params.reward.open_clip.name, params.reward.open_clip.pretrained)
                shutil.rmtree("models/reward", ignore_errors=True)
                write_json("models/reward", "reward.json", chosen)


def train_world(params: Params, run: runtime.Run, track: tracking.Child) -> None:
    """Train tower, policy and reward, measure the latter two on validation scenes, and write them."""
    settings, seed, device = params.policy.world, params.seed, run.device
    scenes, conversations, pixels = training_data(settings.noise_share, seed)
    processor = build_processor(build_tokenizer(), scenes[0].size, PATCH)

    def make_tower(folder: Path) -> None:
        train_tower(pixels, scenes, settings.tower_steps, seed, report, device).save_pretrained(folder)

    def make_policy(folder: Path) -> None:
        steps = (settings.align_steps, settings.max_yesno_steps, settings.mixed_steps)
        tokenizer = processor.tokenizer
        model = pretrain(tower, tokenizer, features, scenes, conversations, steps, settings.yesno_loss, seed, report)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    with progress(track) as report:
        kept_tower = kept(run, "tower", make_tower)
        tower = CLIPVisionModel.from_pretrained(kept_tower).to(device).eval().requires_grad_(False)
        features = tower_features(tower, pixels)
        runtime.release_memory()
        reward = run.resume_folder / "reward" if params.reward.source == "world" else None
        with aside(reward, kept_tower, params):  # a second thread speeds one training up by a third, a second training by half
            base = kept(run, "base", make_policy)
    shown = splits.read_split("data/benchmarks/validation")
    model = LlavaForConditionalGeneration.from_pretrained(base).to(device).eval()
    figures = measured(model, processor, *shown, seed)
    track.metrics(figures)
    print("base:", figures)
    fingerprint = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    lineage = {"base": "world", "fingerprint": fingerprint, "params": dataclasses.asdict(settings), "metrics": figures}
    write_json(base, "lineage.json", lineage)
    replace("models/base", base)
    if reward is not None:
        reward_figures = json.loads((reward / "reward.json").read_text())["metrics"]
        track.metrics({f"reward/{key}": value for key, value in reward_figures.items()})
        print("reward:", reward_figures)
        replace("models/reward", reward)


@contextmanager
def aside(reward: Path | None, tower: Path, params: Params) -> Iterator[None]:
    """Train the reward in a process of its own while the block runs; the process ends with this one."""
    if reward is None or reward.is_dir():
        yield
        return
    world = params.reward.world
    task = {
        "tower": str(tower),
        "folder": str(reward),
        "steps": world.steps,
        "batch_size": world.batch_size,
        "seed": params.seed,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    command = [sys.executable, "-m", reward_training.__name__, json.dumps(task)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads // 2))}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    try:
        yield
        if process.wait() != 0:
            raise RuntimeError("the reward's training failed; its error is above")
    finally:
        process.kill()
        torch.set_num_threads(threads)


def training_data(noise_share: float, seed: int) -> tuple[list[Scene | Chart], list[list[Turn]], np.ndarray]:
    """The scenes of the policy and the instruction split and the charts, a conversation about each, and their pixels."""
    own, own_pixels = splits.read_split("data/policy")
    instruct, instruct_pixels = splits.read_split("data/instruct")
    charts, chart_pixels = splits.read_chart_split("data/policy/charts")
    given = {record.image_id: record.turns for record in read_records("data/instruct/conversations.jsonl", Conversation)}
    conversations = [splits.training_conversation(scene, noise_share, seed) for scene in own]
    conversations += [given[scene.image_id] for scene in instruct]
    conversations += [splits.training_chart_conversation(chart, seed) for chart in charts]
    return [*own, *instruct, *charts], conversations, np.concatenate([own_pixels, instruct_pixels, chart_pixels])


def measured(model: Any, processor: Any, scenes: list[Scene], pixels: np.ndarray, seed: int) -> dict[str, float]:
    """The base's figures on the first validation scenes."""
    rows = {scene.file_name: row for row, scene in enumerate(scenes[:MEASURED_SCENES])}
    lines = Path("data/benchmarks/validation/coco_pope_adversarial.json").read_text().splitlines()
    asked = [line for line in map(json.loads, lines) if line["image"] in rows]
    questions = [(rows[line["image"]], line["text"], line["label"]) for line in asked]
    images = [PILImage.fromarray(image) for image in pixels[:MEASURED_SCENES]]
    return measure(model, processor, scenes[:MEASURED_SCENES], images, questions, seed)


def kept(run: runtime.Run, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of a part, made whole or not at all, unless an earlier run made it."""
    folder, temporary = run.resume_folder / name, run.resume_folder / f".{name}.tmp"
    if not folder.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        make(temporary)
        temporary.rename(folder)
    return folder


def replace(target: str, source: Path) -> None:
    """Put a copy of a folder in a place, whole."""
    temporary = Path(target).with_name(f".{Path(target).name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


@contextmanager
def progress(track: tracking.Child) -> Iterator[Report]:
    """A progress bar for each phase of training, and its loss every 50 steps."""
    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, step: int, steps: int, loss: float) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=steps)
            bars.update(tasks[label], completed=step, description=f"{label}, loss {loss:.3f}")
            if step % 50 == 0 or step == steps:
                track.metrics({f"{label.replace(' ', '_')}/loss": loss}, step)
                runtime.release_memory()  # batches of many lengths leave holes behind

        yield report


def pin_policy(name: str, revision: str) -> dict[str, Any]:
    """What lineage.json says of a published checkpoint, or of a local folder. Raises UserError if there is none."""
    folder = Path(name)
    if folder.is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(
                f"policy.hub.id = {name}: the folder holds no *.safetensors (other formats can run code, and are refused)"
            )
        digest = hashlib.sha256()
        for path in weights:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return {"base": name, "revision": None, "fingerprint": digest.hexdigest()}
    try:
        commit = model_info(name, revision=revision).sha
    except Exception as error:  # of the hub's, or of whichever HTTP library it uses
        raise UserError(f"policy.hub.id = {name}, revision = {revision}: not found, or no network: {error}") from error
    return {"base": name, "revision": commit, "fingerprint": commit}


def pin_reward(name: str, pretrained: str) -> dict[str, Any]:
    """What reward.json says of one of open_clip's models. Raises UserError if open_clip has no such weights."""
    if (name, pretrained) not in open_clip.list_pretrained():
        tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
        raise UserError(
            f"reward.open_clip: open_clip has no {name!r} with pretrained {pretrained!r}; "
            + (f"{name} comes with {', '.join(tags)}" if tags else "open_clip.list_pretrained() lists all")
        )
    return {"model": name, "pretrained": pretrained}


def write_json(folder: Path | str, name: str, content: dict[str, Any]) -> None:
    """Write a JSON file into a folder."""
    with atomic_write(Path(folder) / name) as file:
        json.dump(content, file, indent=1)
