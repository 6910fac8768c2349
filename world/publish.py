"""Publish the small world: images and files as COCO, LLaVA, POPE and seven benchmarks publish theirs, and a checkpoint.

Run:    python -m world.publish NAME          what section publish.NAME of params.yaml says
Reads:  checkpoints/<publish.NAME.checkpoint>/{policy,clip}/
Writes: data/published/NAME/: pool/, instruct/, validation/, test/, policy/, clip/

There is one publication of images: neither `seed` nor the checkpoint changes it, only the counts do, which add or leave out the
last ones.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from lookagain.errors import UserError
from lookagain.seeds import derive
from world.publishing import coco
from world.publishing.suite import SEED, write_suite
from world.scenes.charts import draw_chart
from world.scenes.scene import Scene, draw_scene, to_jpeg
from world.training.conversations import Noise, conversation

IMAGE_SIZE = 64  # px
NOISE = Noise(descriptions=0.35, yes=0.15)  # of the instruction data: as untrue as what the bases were trained on
PARTS = ("policy", "clip")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a publication whole or not at all. Raises UserError if params or checkpoint lack what is asked for."""
    parser = argparse.ArgumentParser("publish")
    parser.add_argument("name")
    name = parser.parse_args(arguments).name
    sections = YAML(typ="safe").load(Path("params.yaml").read_text())["publish"]
    if name not in sections:
        raise UserError(f"publish: params.yaml has no publish.{name}; its publications are {', '.join(sections) or 'none'}")
    settings = sections[name]
    target, temporary = Path("data/published") / name, Path("data/published") / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for part in PARTS:
        copy_checkpoint(Path("checkpoints") / settings["checkpoint"] / part, temporary / part)
    write_images(temporary / "pool", "pool", settings["pool"])
    write_instructions(temporary / "instruct", settings["instruct"])
    for split in ("validation", "test"):
        write_benchmarks(temporary / split, split, settings)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a part of a checkpoint. Raises UserError if it is not there."""
    if not source.is_dir():
        there = ", ".join(sorted(path.name for path in Path("checkpoints").glob("*") if path.is_dir())) or "nothing"
        raise UserError(f"publish: no checkpoint in {source}; checkpoints/ holds {there}")
    shutil.copytree(source, target)


def write_images(folder: Path, split: str, count: int) -> tuple[list[Scene], dict[str, bytes]]:
    """Write a split's images, instances.json and captions.json; returns its scenes and the images' bytes by file name."""
    drawn = [draw_scene(SEED, split, index, IMAGE_SIZE) for index in range(count)]
    images = {scene.file_name: to_jpeg(image) for image, scene in drawn}
    (folder / "images").mkdir(parents=True)
    for name, data in images.items():
        (folder / "images" / name).write_bytes(data)
    scenes = [scene for _, scene in drawn]
    write_json(folder / "instances.json", coco.instances(scenes))
    write_json(folder / "captions.json", coco.captions(scenes))
    return scenes, images


def write_instructions(folder: Path, count: int) -> None:
    """Write images and llava.json, conversations about them as the base was trained on, untrue answers included."""
    scenes, _ = write_images(folder, "instruct", count)
    items = []
    for scene in scenes:
        rng = np.random.default_rng(derive(SEED, "instruct", scene.id))
        turns = conversation(scene, rng, NOISE)
        said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
        said[0]["value"] = f"<image>\n{said[0]['value']}"
        items.append({"id": f"instruct-{scene.id}", "image": scene.file_name, "conversations": said})
    write_json(folder / "llava.json", items)


def write_benchmarks(folder: Path, split: str, settings: dict) -> None:
    """Write a split's images with COCO's and POPE's files, and the seven benchmarks."""
    scenes, images = write_images(folder, split, settings[split])
    (folder / "pope").mkdir()
    for kind in coco.SPLITS:
        lines = map(json.dumps, coco.pope_questions(scenes, kind, settings["pope_per_image"]))
        (folder / "pope" / f"coco_pope_{kind}.json").write_text("\n".join(lines) + "\n")
    charts = [draw_chart(SEED, split, index, IMAGE_SIZE) for index in range(settings["questions"] // 2)]
    images |= {chart.file_name: to_png(image) for image, chart in charts}
    write_suite(folder, scenes, [chart for _, chart in charts], images, settings["questions"])


def to_png(image: Image.Image) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
