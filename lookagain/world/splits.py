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
from lookagain.records import Conversation, atomic_write, write_records
from lookagain.seeds import derive
from lookagain.world import benchmarks
from lookagain.world.language import conversation
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
    _write_json(folder / "instances.json", to_coco(scenes))
    return scenes


def write_conversations(path: Path | str, scenes: Sequence[Scene], noise_share: float, seed: int) -> None:
    """Write instruction data about scenes: the kind that the base policy is trained on, its share of untrue answers included."""
    records = (
        Conversation(f"instruct-{scene.image_id}", scene.image_id, training_conversation(scene, noise_share, seed))
        for scene in scenes
    )
    write_records(path, records)


def training_conversation(scene: Scene, noise_share: float, seed: int) -> list:
    """The training conversation about a scene, a function of (seed, scene)."""
    return conversation(scene, np.random.default_rng(derive(seed, "conversation", scene.id)), noise_share)


def write_benchmarks(folder: Path | str, scenes: Sequence[Scene], per_image: int, seed: int) -> None:
    """Write captions.json and POPE's three files beside a split's instances.json."""
    folder = Path(folder)
    _write_json(folder / "captions.json", benchmarks.captions(scenes))
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


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as file:
        json.dump(content, file)
