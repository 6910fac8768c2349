"""Official benchmarks as their publishers offer them, brought into a benchmark folder: files copied and hashed, images indexed.

A source is a folder, or `hub:OWNER/NAME@REVISION` for a dataset of the Hugging Face hub, whose revision must be a commit: a branch
may change under a result. Images stay where they are (MMBench's, which are in its table, are stored); an image is found by its id,
as the questions name it, somewhere in the source folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from lookagain.evaluation import suite
from lookagain.images import SUFFIXES, write_shards
from lookagain.metrics import mmbench, mmbench_cn
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError
from lookagain.pools import HUB
from lookagain.records import Question, atomic_write

# Questions (MMBench: rows, a row for each rotation, are not counted) in the published versions that the papers used.
PUBLISHED = {
    "scienceqa": 2017,
    "textvqa": 5000,
    "chartqa": 2500,
    "mathvista": 1000,
    "mme": 2374,
    "seedbench": 14233,
    "vizwiz": 4319,
    "gqa": 12578,
    "llava_bench": 60,
    "mmvet": 218,
    "shr": 200,
    "contextual": 100,
}


@dataclass(frozen=True)
class Imported:
    """What an import found."""

    questions: int
    published: int | None  # how many the published version has; None where that is not known
    unusable: list[str]  # images that cannot be shown, with the reason


def locate(name: str, source: str) -> Path:
    """A source's folder, downloaded if it is on the hub. Raises BenchmarkError if it is missing or its revision is no commit."""
    module = suite.module(name)
    if not source.startswith("hub:"):
        if not Path(source).is_dir():
            raise BenchmarkError(f"benchmark {name}: no folder {source}; it is published at {module.SOURCE}")
        return Path(source)
    match = HUB.fullmatch(source)
    if not match:
        raise BenchmarkError(f"benchmark {name}: {source} must be hub:OWNER/NAME@REVISION, REVISION a commit of 40 digits")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(match["id"], repo_type="dataset", revision=match["revision"]))
    except Exception as error:  # of the hub's, or of whichever HTTP library it uses
        raise BenchmarkError(f"benchmark {name}: {source} not found, or no network: {error}") from error


def import_benchmark(name: str, source: str, target: Path, max_pixels: int) -> Imported:
    """Copy a benchmark's files to `target`, index its images there, and record hashes and counts in source.json.

    Raises BenchmarkError if files are missing or malformed, or an image that a question names is not in the folder.
    """
    folder = locate(name, source)
    questions = suite.module(name).read(folder, LLAVA15)  # of any preset: they differ in the prompts
    images = _image_files(folder, {question.image_id for question in questions})
    shutil.rmtree(target, ignore_errors=True)
    hashes = {}
    for path in sorted({path for path in folder.rglob("*") if path.is_file()} - set(images)):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        hashes[str(path.relative_to(folder))] = hashlib.sha256(copy.read_bytes()).hexdigest()
    usable, unusable = [], []
    for row in _images(name, folder, questions, images):
        if row[1] is None and (fault := _fault(Path(str(row[2])), max_pixels)):
            unusable.append(fault)
        else:
            usable.append(row)
    write_shards(target / "images", usable)
    found = Imported(len(questions), PUBLISHED.get(name), unusable)
    with atomic_write(target / "source.json") as file:
        json.dump(
            {"source": source, "questions": found.questions, "published": found.published, "files": hashes}, file, indent=1
        )
    return found


def _image_files(folder: Path, wanted: Container[str]) -> list[Path]:
    """The images in a folder; one without a suffix, as SEED-Bench has them, is known by the id of a question's image."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix.lower() in SUFFIXES or (not path.suffix and path.name in wanted))
    )


def _images(
    name: str, folder: Path, questions: Sequence[Question], paths: Sequence[Path]
) -> Iterable[tuple[str, bytes | None, str | None]]:
    """(image id, bytes, path) of every image that the questions name."""
    wanted = dict.fromkeys(question.image_id for question in questions)
    if name in (mmbench.NAME, mmbench_cn.NAME):
        stored: dict[str, bytes] = {}
        for path in sorted(folder.glob("*.tsv")):
            stored |= mmbench.images(path)
        return [(image, _found(stored, image, name, folder), None) for image in wanted]
    files: dict[str, list[Path]] = {}
    for path in paths:
        for known_as in _known_as(path):
            files.setdefault(known_as, []).append(path)
    rows = []
    for image in wanted:
        found = _found(files, image if image in files else Path(image).with_suffix("").as_posix(), name, folder)
        if len(found) > 1:
            raise BenchmarkError(
                f"{folder}: several files may be image {image!r}, which {name} asks about: {found[0]}, {found[1]}; leave only one"
            )
        rows.append((image, None, str(found[0])))
    return rows


def _known_as(path: Path) -> set[str]:
    """The ids by which questions may name an image: its name, or its folder and its name.

    ScienceQA has a folder for each image, and some of MME's subtasks hold theirs in a folder images/.
    """
    folder = path.parent
    names = {path.stem, f"{folder.name}/{path.stem}"}
    if path.stem == "image":
        names.add(folder.name)
    if folder.name == "images":
        names.add(f"{folder.parent.name}/{path.stem}")
    return names


def _found(known: dict[str, Any], image: str, name: str, folder: Path) -> Any:
    if image not in known:
        raise BenchmarkError(
            f"{folder}: no image {image!r}, which {name} asks about; it is published at {suite.module(name).SOURCE}"
        )
    return known[image]


def _fault(path: Path, max_pixels: int) -> str:
    """Why an image cannot be shown; empty if it can. Only its header is read."""
    try:
        with PILImage.open(path) as image:
            if image.width * image.height > max_pixels:
                return f"{path}: {image.width}x{image.height} px exceeds data.max_image_pixels = {max_pixels}"
    except (OSError, SyntaxError, PILImage.DecompressionBombError) as error:
        return f"{path}: {error}"
    return ""
