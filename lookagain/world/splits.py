"""The world's data on disk: image shards, COCO annotations, instruction data and benchmark files of each split."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from lookagain.images import ImageStore, write_shards
from lookagain.records import Conversation, Turn, atomic_write, write_records
from lookagain.seeds import derive
from lookagain.world import benchmarks
from lookagain.world.charts import Chart, draw_chart, read_charts, to_json
from lookagain.world.conversations import chart_conversation, conversation, describing, short_questions, sometimes_infused
from lookagain.world.scenes import Scene, draw_scene, read_coco, to_coco, to_jpeg

PROCESSES = 2
CHUNK = 250  # scenes a process draws at a time


def write_split(folder: Path | str, split: str, count: int, size: int, seed: int) -> list[Scene]:
    """Draw a split's scenes and write `images/` and `instances.json`; returns what the scenes show."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    draw = functools.partial(_draw, seed, split, size)
    with ProcessPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as processes:
        drawn = list(processes.map(draw, range(count), chunksize=CHUNK))
    scenes = [scene for _, scene in drawn]
    write_shards(folder / "images", ((scene.image_id, data, None) for data, scene in drawn))
    write_json(folder / "instances.json", to_coco(scenes))
    return scenes


def write_conversations(path: Path | str, scenes: Sequence[Scene], noise_share: float, seed: int) -> None:
    """Write instruction data about scenes: the kind that the base policy is trained on, its share of untrue answers included.

    None holds an infused description: STIC's stage 2 infuses its own.
    """
    records = (
        Conversation(f"instruct-{scene.image_id}", scene.image_id, _conversation(scene, noise_share, seed)) for scene in scenes
    )
    write_records(path, records)


def training_conversations(scene: Scene, noise_share: float, seed: int, given: list[Turn] | None = None) -> list[list[Turn]]:
    """What the base learns about a scene, a function of (seed, scene, given): the `given` conversation, or one drawn here, perhaps
    infused; a description beside it, in three of four cases where it has questions; and short questions. Each stands alone."""
    rng = np.random.default_rng(derive(seed, "training", scene.id))
    turns = given or sometimes_infused(_conversation(scene, noise_share, seed), scene, rng, noise_share)
    described = [describing(scene, rng, noise_share)] if len(turns) > 1 and rng.random() < 0.75 else []
    return [turns, *([turn] for turn in described + short_questions(scene, rng))]


def training_chart_conversations(chart: Chart, seed: int) -> list[list[Turn]]:
    """What the base learns about a chart, a function of (seed, chart): a conversation, and short questions, each on its own."""
    rng = np.random.default_rng(derive(seed, "chart conversation", chart.id))
    return [chart_conversation(chart, rng), *([turn] for turn in short_questions(chart, rng))]


def _conversation(scene: Scene, noise_share: float, seed: int) -> list[Turn]:
    return conversation(scene, np.random.default_rng(derive(seed, "conversation", scene.id)), noise_share)


def write_charts(folder: Path | str, split: str, count: int, size: int, seed: int) -> list[Chart]:
    """Draw a split's charts and write `images/` and `charts.json`; returns what the charts show."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    drawn = [draw_chart(seed, split, index, size) for index in range(count)]
    write_shards(folder / "images", ((chart.image_id, to_jpeg(image), None) for image, chart in drawn))
    charts = [chart for _, chart in drawn]
    write_json(folder / "charts.json", to_json(charts))
    return charts


def read_chart_split(folder: Path | str) -> tuple[list[Chart], np.ndarray]:
    """Written charts, and their pixels (charts, size, size, 3) as bytes."""
    charts = read_charts(Path(folder) / "charts.json")
    images = ImageStore(Path(folder) / "images")
    return charts, np.stack([np.asarray(images.load(chart.image_id)) for chart in charts])


def write_benchmarks(folder: Path | str, scenes: Sequence[Scene], per_image: int, seed: int) -> None:
    """Write captions.json and POPE's three files beside a split's instances.json."""
    folder = Path(folder)
    write_json(folder / "captions.json", benchmarks.captions(scenes))
    for split in benchmarks.SPLITS:
        with atomic_write(folder / f"coco_pope_{split}.json") as file:
            for line in benchmarks.pope_questions(scenes, split, per_image, seed):
                file.write(json.dumps(line) + "\n")


def read_split(folder: Path | str) -> tuple[list[Scene], np.ndarray]:
    """A written split: its scenes, and their pixels (scenes, size, size, 3) as bytes."""
    scenes = read_coco(Path(folder) / "instances.json")
    images = ImageStore(Path(folder) / "images")
    return scenes, np.stack([np.asarray(images.load(scene.image_id)) for scene in scenes])


def _draw(seed: int, split: str, size: int, index: int) -> tuple[bytes, Scene]:
    image, scene = draw_scene(seed, split, index, size)
    return to_jpeg(image), scene


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(content))  # json.dump takes four times as long
