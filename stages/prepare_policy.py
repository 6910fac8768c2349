"""The base policy and the reward's CLIP: trained from scratch on the world, or pinned by id and revision.

Run:    python -m lookagain.launch prepare_policy
Reads:  data/policy/, data/instruct/, data/benchmarks/validation/ (the world alone)
Writes: models/base/, models/reward/

Each trained part (tower, policy, reward) is kept in the resume folder, and not trained again after a kill. Several processes train
data-parallel.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import open_clip
from huggingface_hub import model_info
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import Progress
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.params import flatten, load_params
from lookagain.records import Conversation, Turn, atomic_write, read_records
from lookagain.schema import Params
from lookagain.seeds import derive
from lookagain.world import splits
from lookagain.world.charts import Chart
from lookagain.world.labels import PATCH
from lookagain.world.measure import measure, responses
from lookagain.world.optimise import Report
from lookagain.world.pretrain import pretrain
from lookagain.world.reward import measure_reward, save_reward, train_reward
from lookagain.world.scenes import Scene
from lookagain.world.tokenizer import build_processor, build_tokenizer
from lookagain.world.tower import tower_features, train_tower

WORLD_INPUTS = ["data/policy", "data/instruct", "data/benchmarks/validation"]
MEASURED_SCENES, MEASURED_BATCH = 200, 100
Part = TypeVar("Part")
Reward = tuple[open_clip.CustomTextCLIP, PreTrainedTokenizerFast, dict[str, float]]  # its tokenizer, and how good it is


class Asked(NamedTuple):
    """A question of the base's measurement: `row` is its scene's."""

    id: str
    row: int
    prompt: str


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
        if trains:
            train_world(params, run, track)
        if run.is_main:
            if not trains:
                pinned = pin_policy(params.policy.hub.id, params.policy.hub.revision)
                shutil.rmtree("models/base", ignore_errors=True)
                write_json("models/base", "lineage.json", pinned)
            if params.reward.source == "open_clip":
                chosen = pin_reward(params.reward.open_clip.name, params.reward.open_clip.pretrained)
                shutil.rmtree("models/reward", ignore_errors=True)
                write_json("models/reward", "reward.json", chosen)


def train_world(params: Params, run: runtime.Run, track: tracking.Child) -> None:
    """Train tower, policy and reward, measure the latter two on validation scenes, and write them."""
    shown, pixels = splits.read_split("data/benchmarks/validation")
    processor = build_processor(build_tokenizer(), shown[0].size, PATCH)
    with progress(track, run) as report:
        base, reward = trained(params, run, processor, (shown, pixels), report)
    runtime.release_memory()
    model = LlavaForConditionalGeneration.from_pretrained(base).to(run.device).eval()
    figures = measured(run, model, processor, shown, pixels, params.seed)
    if not run.is_main:
        return
    track.metrics(figures)
    print("base:", figures)
    fingerprint = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    settings = dataclasses.asdict(params.policy.world)
    write_json(base, "lineage.json", {"base": "world", "fingerprint": fingerprint, "params": settings, "metrics": figures})
    replace("models/base", base)
    if reward is not None:
        reward_figures = json.loads((reward / "reward.json").read_text())["metrics"]
        track.metrics({f"reward/{key}": value for key, value in reward_figures.items()})
        print("reward:", reward_figures)
        replace("models/reward", reward)


def trained(
    params: Params, run: runtime.Run, processor: Any, shown: tuple[list[Scene], np.ndarray], report: Report
) -> tuple[Path, Path | None]:
    """The folders of the base and of the reward, if that is the world's; `shown` are scenes and pixels to measure it on."""
    settings, seed, device = params.policy.world, params.seed, run.device
    images, conversations, pixels = training_data(settings.noise_share, seed)
    scenes = [image for image in images if isinstance(image, Scene)]  # the first ones: charts follow
    steps = (settings.align_steps, settings.max_yesno_steps, settings.mixed_steps)

    def make_base() -> LlavaForConditionalGeneration:
        tokenizer, enough = processor.tokenizer, settings.yesno_loss
        return pretrain(tower, tokenizer, features, images, conversations, steps, enough, seed, report)

    def make_reward() -> Reward:
        world = params.reward.world
        clip, tokenizer = train_reward(tower, features[: len(scenes)], scenes, world.steps, world.batch_size, seed, report)
        return clip, tokenizer, measure_reward(clip, tokenizer, tower_features(tower, shown[1]), shown[0], seed)

    def save_tower(tower: CLIPVisionModel, folder: Path) -> None:
        tower.save_pretrained(folder)

    def save_base(model: LlavaForConditionalGeneration, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    kept_tower = kept(run, "tower", lambda: train_tower(pixels, images, settings.tower_steps, seed, report, device), save_tower)
    tower = CLIPVisionModel.from_pretrained(kept_tower).to(device).eval().requires_grad_(False)
    tower.config.name_or_path = ""  # the base is the same wherever it was trained
    features = tower_features(tower, pixels)
    runtime.release_memory()
    base = kept(run, "base", make_base, save_base)
    return base, kept(run, "reward", make_reward, save_made_reward) if params.reward.source == "world" else None


def save_made_reward(made: Reward, folder: Path) -> None:
    """Write a reward as open_clip reads it, with reward.json."""
    clip, tokenizer, figures = made
    save_reward(clip, tokenizer, folder)
    write_json(folder, "reward.json", {"model": "local-dir:models/reward", "pretrained": None, "metrics": figures})


def training_data(noise_share: float, seed: int) -> tuple[list[Scene | Chart], list[list[list[Turn]]], np.ndarray]:
    """The scenes of the policy and the instruction split and the charts, the conversations about each, and their pixels."""
    own, own_pixels = splits.read_split("data/policy")
    instruct, instruct_pixels = splits.read_split("data/instruct")
    charts, chart_pixels = splits.read_chart_split("data/policy/charts")
    given = {record.image_id: record.turns for record in read_records("data/instruct/conversations.jsonl", Conversation)}
    conversations = [splits.training_conversations(scene, noise_share, seed) for scene in own]
    conversations += [splits.training_conversations(scene, noise_share, seed, given[scene.image_id]) for scene in instruct]
    conversations += [splits.training_chart_conversations(chart, seed) for chart in charts]
    return [*own, *instruct, *charts], conversations, np.concatenate([own_pixels, instruct_pixels, chart_pixels])


def measured(
    run: runtime.Run, model: Any, processor: Any, scenes: list[Scene], pixels: np.ndarray, seed: int
) -> dict[str, float]:
    """The base's figures on the first validation scenes; the processes share the questions."""
    scenes, images = scenes[:MEASURED_SCENES], [PILImage.fromarray(image) for image in pixels[:MEASURED_SCENES]]
    rows = {scene.file_name: row for row, scene in enumerate(scenes)}
    lines = Path("data/benchmarks/validation/coco_pope_adversarial.json").read_text().splitlines()
    asked = [line for line in map(json.loads, lines) if line["image"] in rows]
    pope = [(rows[line["image"]], line["text"], line["label"]) for line in asked]

    def respond(kind: str, questions: Sequence[tuple[int, str]], max_new_tokens: int, sampled: bool) -> list[str]:
        asks = [Asked(f"{kind}/{number}", *question) for number, question in enumerate(questions)]
        batches = [asks[start : start + MEASURED_BATCH] for start in range(0, len(asks), MEASURED_BATCH)]

        def work(batch: Sequence[Asked]) -> list[str]:
            drawn = derive(seed, "measure", batch[0].id) if sampled else None
            shown = [images[one.row] for one in batch]
            return responses(model, processor, shown, [one.prompt for one in batch], max_new_tokens, drawn)

        return run.map_batches(batches, work, kind)

    return measure(respond, scenes, pope)


def kept(run: runtime.Run, name: str, make: Callable[[], Part], save: Callable[[Part, Path], None]) -> Path:
    """The folder of a part, made by all processes together and saved whole or not at all, unless an earlier run did."""
    folder, temporary = run.resume_folder / name, run.resume_folder / f".{name}.tmp"
    done = folder.is_dir()
    run.wait()
    if not done:
        part = make()
        if run.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save(part, temporary)
            temporary.rename(folder)
        run.wait()
    return folder


def replace(target: str, source: Path) -> None:
    """Put a copy of a folder in a place, whole."""
    temporary = Path(target).with_name(f".{Path(target).name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


@contextmanager
def progress(track: tracking.Child, run: runtime.Run) -> Iterator[Report]:
    """A progress bar for each phase of training, and its loss every 50 steps; the main process shows it."""
    with Progress(console=Console(stderr=True), disable=not run.is_main) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, step: int, steps: int, loss: float) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=steps)
            bars.update(tasks[label], completed=step, description=f"{label}, loss {loss:.3f}")
            if step % 50 == 0 or step == steps:
                track.metrics({f"{label.replace(' ', '_')}/loss": loss}, step)

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
    """What reward.json says of one of open_clip's models.

    Raises UserError if open_clip has no such weights, or they were trained with another activation than the name stands for.
    """
    if (name, pretrained) not in open_clip.list_pretrained():
        tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
        raise UserError(
            f"reward.open_clip: open_clip has no {name!r} with pretrained {pretrained!r}; "
            + (f"{name} comes with {', '.join(tags)}" if tags else "open_clip.list_pretrained() lists all")
        )
    trained, built = (
        bool(one.get("quick_gelu"))
        for one in (open_clip.get_pretrained_cfg(name, pretrained), open_clip.get_model_config(name))
    )
    if trained != built:  # open_clip would warn, and compute other embeddings
        raise UserError(
            f"reward.open_clip: {pretrained!r} was trained {'with' if trained else 'without'} QuickGELU, and {name!r} is built "
            f"{'with' if built else 'without'} it; use {name + '-quickgelu' if trained else name.removesuffix('-quickgelu')}"
        )
    return {"model": name, "pretrained": pretrained}


def write_json(folder: Path | str, name: str, content: dict[str, Any]) -> None:
    """Write a JSON file into a folder."""
    with atomic_write(Path(folder) / name) as file:
        json.dump(content, file, indent=1)
