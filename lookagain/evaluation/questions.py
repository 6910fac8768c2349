"""What a policy is asked, read from a benchmark folder: POPE's three files, and CHAIR's description prompt for every image.

The folder is one that prepare_data writes: images/, instances.json and captions.json as COCO has them, coco_pope_*.json as POPE
does.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from lookagain.metrics import chair, pope
from lookagain.records import Question, RecordError

CHAIR_SPLIT = "all"  # CHAIR has one list of images
CHAIR_BENCHMARKS = ("chair", "chair_sampled")  # greedy descriptions, and sampled at T = 1


@dataclass(frozen=True)
class Annotations:
    """All that scoring reads: the questions with their official answers, each image's objects, and the world's tags."""

    questions: list[Question]
    objects: dict[str, frozenset[str]]  # image id -> COCO categories, for CHAIR
    art: dict[str, str]  # image id -> "seen" or "novel"; empty where images have no such tag


def read_annotations(folder: Path | str, pope_suffix: str, chair_prompt: str, images: Container[str]) -> Annotations:
    """Read a benchmark folder. `images` holds the ids of the images that can be shown.

    Raises RecordError if a file is missing or malformed, or asks about an image that is not there: a label file that does not
    match its images is an error, never a shift.
    """
    folder = Path(folder)
    objects = chair.read_truth(folder / "instances.json", folder / "captions.json")
    questions = [question for split in pope.SPLITS for question in pope_questions(folder, split, pope_suffix)]
    for benchmark in CHAIR_BENCHMARKS:
        questions += [Question(image, image, benchmark, CHAIR_SPLIT, chair_prompt, "") for image in sorted(objects)]
    if lost := sorted({question.image_id for question in questions if question.image_id not in images}):
        raise RecordError(
            f"{folder}: {len(lost)} images that its questions name are not in images/ ({', '.join(lost[:3])}, ...): "
            "the label files belong to other images"
        )
    return Annotations(questions, objects, _read_art(folder / "instances.json"))


def pope_questions(folder: Path, split: str, suffix: str) -> list[Question]:
    """The questions of one POPE file; the image id is the stem of its file name."""
    return [
        Question(f"{split}-{item.question_id}", Path(item.image).stem, "pope", split, item.text + suffix, item.label)
        for item in pope.read_file(folder / f"coco_pope_{split}.json")
    ]


def _read_art(path: Path) -> dict[str, str]:
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    return {Path(image["file_name"]).stem: image["art"] for image in images if "art" in image}
