"""A publication of random images in the layouts that their publishers have: the inputs of a whole run, in seconds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from project import write_scorer
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
BENCHMARKS = ("mme", "seedbench")
IMAGES = 6


def write_publication(folder: Path, checkpoint: Path) -> Path:
    """Pool, instructions, both splits, a policy and a scorer; `checkpoint` is the policy."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("pool", "instruct", "validation", "test")):
        images = [f"{1000 * number + row:012d}.jpg" for row in range(IMAGES)]
        for image in images:
            write(folder / name / "images" / image, picture(rng))
        if name == "instruct":
            turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
            items = [{"id": f"i{row}", "image": image, "conversations": turns} for row, image in enumerate(images)]
            write(folder / name / "llava.json", [*items, {"id": "text", "conversations": turns}])
        else:
            write_coco(folder / name, images)
        if name in ("validation", "test"):
            write_questions(folder / name, images, rng)
    shutil.copytree(checkpoint, folder / "policy", ignore=shutil.ignore_patterns("lineage.json"))
    write_scorer(folder / "clip")
    (folder / "clip/scorer.json").unlink()
    return folder


def write_coco(folder: Path, images: list[str]) -> None:
    """COCO's instances and captions: a dog in each image, and a subset of one."""
    shown: list[dict[str, Any]] = [{"id": row, "file_name": image} for row, image in enumerate(images)]
    shown[1]["subsets"] = ["novel_art"]
    dogs = [{"id": row, "image_id": row, "category_id": 1, "segmentation": [[1, 2]]} for row in range(len(images))]
    categories = [{"id": 1, "name": "dog"}]
    write(folder / "instances.json", {"images": shown, "categories": categories, "annotations": dogs})
    captions = [{"id": row, "image_id": row, "caption": "A dog."} for row in range(len(images))]
    write(folder / "captions.json", {"images": shown, "annotations": captions})


def write_questions(folder: Path, images: list[str], rng: np.random.Generator) -> None:
    """POPE's files, and two benchmarks in their publishers' folders."""
    lines = [
        {"question_id": row, "image": image, "text": "Is there a dog?", "label": "yes"} for row, image in enumerate(images)
    ]
    for split in ("random", "popular", "adversarial"):
        write(folder / f"pope/coco_pope_{split}.json", "\n".join(map(json.dumps, lines)))
    for row in range(IMAGES):
        write(folder / f"mme/existence/{row}.txt", "Is there a dog?\tYes\nIs there a cat?\tNo\n")
        write(folder / f"mme/existence/{row}.jpg", picture(rng))
    options = {f"choice_{letter}": word for letter, word in zip("abcd", ("one", "two", "three", "four"), strict=True)}
    asked = options | {"answer": "B", "data_id": "0", "question": "How many?", "question_id": "0", "question_type_id": 5}
    write(folder / "seedbench/SEED-Bench.json", {"question_type": {"Counting": 5}, "questions": [asked]})
    write(folder / "seedbench/SEED-Bench-image/0.jpg", picture(rng))


def published_params(root: Path, **changes: Any) -> dict[str, Any]:
    """Preset `smoke` about a publication at `root`, as a user of COCO names files; changes by dotted keys, `__` for the dot."""
    text = (ROOT / "presets/smoke.yaml").read_text().replace("data/published/world", str(root))
    params = YAML().load(text)
    for split in ("validation", "test"):
        params["data"][split]["benchmarks"] = {name: f"{root}/{split}/{name}" for name in BENCHMARKS}
    changes = {
        "sample__images": IMAGES, "csr__images": IMAGES, "evaluate__benchmarks": list(BENCHMARKS),
        "povid__pairs__images": IMAGES, "self_rewarding__pairs__images": IMAGES,
    } | changes  # fmt: skip
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = params
        for section in sections:
            place = place[section]
        place[last] = value
    return params


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    with path.open("w") as file:
        YAML().dump(content, file)


def picture(rng: np.random.Generator) -> bytes:
    """A random JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 28, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: Any) -> None:
    """Bytes, text, or JSON of anything else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
