"""What a policy is asked, read from a benchmark folder: POPE's three files, CHAIR's description prompt for every image, and more.

The folder is one that prepare_data writes: images/, instances.json and captions.json as COCO has them, coco_pope_*.json as POPE
does.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from lookagain.evaluation import suite
from lookagain.images import ImageStore
from lookagain.metrics import chair, pope
from lookagain.records import Question, RecordError

CHAIR_SPLIT = "all"  # CHAIR has one list of images
TRUNCATED_BASE = "truncated_base"  # CHAIR of the base's descriptions, cut to the length of this model's
CHAIR_BENCHMARKS = ("chair", "chair_sampled")  # greedy descriptions, and sampled at T = 1


@dataclass(frozen=True)
class Annotations:
    """All that scoring reads: the questions with their official answers, each image's objects, and named subsets of the images."""

    questions: list[Question]
    objects: dict[str, frozenset[str]]  # image id -> COCO categories, for CHAIR
    subsets: dict[str, frozenset[str]]  # name -> image ids; figures of each are reported apart


class BenchmarkImages:
    """The images of a benchmark folder: POPE and CHAIR share images/, every other benchmark has <name>/images/.

    An image's place is "" or its benchmark's folder, with "//" and its id: what the engine names it by.
    """

    def __init__(self, folder: Path | str, max_pixels: int):
        self._folder, self._max_pixels = Path(folder), max_pixels
        self._stores: dict[str, ImageStore] = {}

    def place(self, question: Question) -> str:
        """The place of a question's image."""
        return f"{self._part(question.benchmark)}//{question.image_id}"

    def __contains__(self, image: object) -> bool:
        if not isinstance(image, tuple):
            return False
        benchmark, image_id = image
        return image_id in self._store(self._part(benchmark))

    def load(self, place: str) -> Image:
        """The image at a place, RGB. Raises ImageError."""
        part, _, image_id = place.partition("//")
        return self._store(part).load(image_id)

    def sha256(self, place: str) -> str:
        """The hash of the image's bytes."""
        part, _, image_id = place.partition("//")
        return self._store(part).row(image_id)["sha256"]

    def _part(self, benchmark: str) -> str:
        return "" if benchmark in ("pope", *CHAIR_BENCHMARKS) else suite.module(benchmark).NAME

    def _store(self, part: str) -> ImageStore:
        if part not in self._stores:
            self._stores[part] = ImageStore(self._folder / part / "images", self._max_pixels)
        return self._stores[part]


def read_annotations(
    folder: Path | str,
    pope_suffix: str,
    chair_prompt: str,
    images: Container[tuple[str, str]],
    others: Sequence[str] = (),
    preset: str = "llava15",
) -> Annotations:
    """Read a benchmark folder, with the benchmarks of `others` (`suite.py`) in folders of their names.

    `images` holds the images that can be shown, as (benchmark, image id).

    Raises RecordError if a file is missing or malformed, or asks about an image that is not there: a label file that does not
    match its images is an error, never a shift.
    """
    folder = Path(folder)
    objects = chair.read_truth(folder / "instances.json", folder / "captions.json")
    questions = [question for split in pope.SPLITS for question in pope_questions(folder, split, pope_suffix)]
    for benchmark in CHAIR_BENCHMARKS:
        questions += [Question(image, image, benchmark, CHAIR_SPLIT, chair_prompt, "") for image in sorted(objects)]
    questions += suite.read_questions(folder, others, preset, chair_prompt)
    for benchmark in dict.fromkeys(question.benchmark for question in questions):
        named = {question.image_id for question in questions if question.benchmark == benchmark}
        if lost := sorted(image for image in named if (benchmark, image) not in images):
            raise RecordError(
                f"{folder}: {len(lost)} images that {benchmark}'s questions name are not in its images/ ({', '.join(lost[:3])}, "
                "...): the label files belong to other images"
            )
    return Annotations(questions, objects, read_subsets(folder / "instances.json"))


def pope_questions(folder: Path, split: str, suffix: str) -> list[Question]:
    """The questions of one POPE file; the image id is the stem of its file name."""
    return [
        Question(f"{split}-{item.question_id}", Path(item.image).stem, "pope", split, item.text + suffix, item.label)
        for item in pope.read_file(folder / f"coco_pope_{split}.json")
    ]


def read_subsets(path: Path) -> dict[str, frozenset[str]]:
    """Image ids by the named subsets that COCO's `images` entries may list. Raises RecordError for a name that figures have."""
    found: dict[str, set[str]] = {}
    for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
        for name in image.get("subsets", ()):
            found.setdefault(name, set()).add(Path(image["file_name"]).stem)
    if wrong := [name for name in found if not name.isidentifier() or name in (CHAIR_SPLIT, TRUNCATED_BASE, *pope.SPLITS)]:
        raise RecordError(f"{path}: subset {wrong[0]!r} must be named by letters, digits and _, and not as other figures are")
    return {name: frozenset(found[name]) for name in sorted(found)}
