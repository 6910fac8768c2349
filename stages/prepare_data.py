"""Index the pool of unlabeled images, the instruction data and the benchmarks, in the layouts of their publishers.

Run:    python -m lookagain.launch prepare_data
Reads:  the folders and files that the params section `data` names
Writes: data/instruct/, data/pool/, data/pool_truth/, data/benchmarks/{validation,test}/

Images stay where they are: shards hold their paths and hashes, and ids are paths in their folder without the suffix
(lookagain/pools.py). All files of annotations and questions are read before the first image is, which may take hours.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.evaluation.imports import Imported, import_benchmark, locate
from lookagain.images import ImageError, ImageStore
from lookagain.metrics import chair, pope
from lookagain.params import PUBLISHED, flatten, load_params
from lookagain.pools import Item, index, index_pool
from lookagain.records import Conversation, Turn, atomic_write, write_records
from lookagain.schema import Data, PoolData, SplitData
from lookagain.seeds import derive

POPE_FILES = [f"coco_pope_{split}.json" for split in pope.SPLITS]
BENCHMARKS, TRUTH, INSTRUCT = Path("data/benchmarks"), Path("data/pool_truth"), Path("data/instruct")
ORIGINS = {
    "pool.images": "COCO's train2014.zip, https://cocodataset.org/#download, or any folder of images, tars or parquet files",
    "instruct.json": "LLaVA's llava_v1_5_mix665k.json, https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    "instruct.images": "the image folders that LLaVA's README lists for its 665k file",
    "images": "COCO's val2014.zip, https://cocodataset.org/#download",
    "instances_json": "COCO's annotations_trainval2014.zip, https://cocodataset.org/#download",
    "captions_json": "COCO's annotations_trainval2014.zip, https://cocodataset.org/#download",
    "pope_dir": "output/coco of https://github.com/RUCAIBox/POPE",
}


def main() -> None:
    """Prepare all data."""
    params = load_params()
    used = {"seed": params.seed, "data": params.data}
    with (
        runtime.stage("prepare_data", used, [PUBLISHED]) as run,
        tracking.child("prepare_data", flatten(params.data, "data."), enabled=run.is_main) as track,
    ):
        if run.is_main:
            counts = prepare(params.data, params.seed, run)
            track.metrics(counts)
            print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def prepare(data: Data, seed: int, run: runtime.Run) -> dict[str, int]:
    """Index everything, or nothing if a file is missing or has another layout; returns how many images or questions each has."""
    check_present(data)
    for folder in (INSTRUCT, Path("data/pool"), TRUTH, BENCHMARKS):
        shutil.rmtree(folder, ignore_errors=True)
    shown = {name: write_split(BENCHMARKS / name, split, seed) for name, split in data.splits.items()}
    if data.validation is None:
        write_nothing(BENCHMARKS / "validation", "data.validation is null: there is no validation split")
    if data.pool.instances_json is None:
        write_nothing(TRUTH, "data.pool.instances_json is null: it is not known what the pool's images show")
    else:
        write_annotations(TRUTH, data.pool)
    names = sorted({image for _, image, _ in conversations(Path(data.instruct.json))})
    imported = {
        f"{name}/{benchmark}": prepare_official(benchmark, source, BENCHMARKS / name, data)
        for name, split in data.splits.items()
        for benchmark, source in split.benchmarks.items()
    }
    counts = {name: found.questions for name, found in imported.items()}
    if other := [
        f"{name} ({found.published})" for name, found in imported.items() if found.published not in (None, counts[name])
    ]:
        print(f"other numbers of questions than in the versions that the papers used: {', '.join(other)}")
    checks = data.max_image_pixels, data.max_bad_images, run.map_batches
    for name, split in data.splits.items():
        items = [Item(Path(image).stem, str(Path(split.images) / image)) for image in shown[name]]
        counts[name] = index(items, BENCHMARKS / name / "images", *checks, name)
    items = [Item(str(Path(image).with_suffix("")), str(Path(data.instruct.images) / image)) for image in names]
    counts["instruct"] = index(items, INSTRUCT / "images", *checks, "instruct")
    write_conversations(Path(data.instruct.json))
    counts["pool"] = index_pool(data.pool.images, Path("data/pool/images"), *checks, run.resume_folder / "stored")
    return counts


def check_present(data: Data) -> None:
    """Raise UserError with a line for each file or folder that is not there, and where its publisher offers it."""
    needed = {
        f"{section}.{key}": value for section in ("pool", "instruct") for key, value in vars(getattr(data, section)).items()
    }
    for name, split in data.splits.items():
        needed |= {f"{name}.{key}": value for key, value in vars(split).items() if key in ORIGINS and key != "pope_dir"}
        needed |= {f"{name}.pope_dir/{file}": str(Path(split.pope_dir) / file) for file in POPE_FILES}
        for benchmark, source in split.benchmarks.items():
            locate(benchmark, source)
    lost = []
    for key, value in needed.items():
        if value is not None and not value.startswith("hub:") and not Path(value).exists():
            origin = ORIGINS.get(key) or ORIGINS[key.partition(".")[2].partition("/")[0]]
            lost.append(f"{value} (data.{key}): {origin}")
    if lost:
        raise UserError(f"{len(lost)} missing:\n  " + "\n  ".join(lost))


def write_nothing(folder: Path, reason: str) -> None:
    """A folder for what there is none of."""
    with atomic_write(folder / "none.txt") as file:
        file.write(reason + "\n")


def write_split(folder: Path, split: SplitData, seed: int) -> list[str]:
    """POPE's files as they are, and the annotations of the images that CHAIR is measured on; returns the images of both."""
    named = {item.image for name in POPE_FILES for item in pope.read_file(Path(split.pope_dir) / name)}
    named |= write_annotations(folder, split, split.chair_images, seed)
    for name in POPE_FILES:
        shutil.copyfile(Path(split.pope_dir) / name, folder / name)
    return sorted(named)


def write_annotations(folder: Path, source: PoolData | SplitData, count: int | None = None, seed: int = 0) -> set[str]:
    """COCO's instances and captions, of all images or of `count` drawn by seed; returns the images' file names."""
    chair.read_truth(str(source.instances_json), str(source.captions_json))  # they are COCO's, and belong to each other
    instances, captions = (chair.read_json(str(path)) for path in (source.instances_json, source.captions_json))
    drawn = instances["images"]
    if count is not None:
        drawn = sorted(drawn, key=lambda image: derive(seed, "chair", image["file_name"]))[:count]
    kept = {image["id"] for image in drawn}
    for name, raw in (("instances.json", instances), ("captions.json", captions)):
        annotations = [entry for entry in raw["annotations"] if entry["image_id"] in kept]
        with atomic_write(folder / name) as file:
            file.write(json.dumps(raw | {"images": drawn, "annotations": annotations}))
    return {image["file_name"] for image in drawn}


def prepare_official(name: str, source: str, folder: Path, data: Data) -> Imported:
    """Import an official benchmark. Raises ImageError for too many unusable images."""
    found = import_benchmark(name, source, folder / name, data.max_image_pixels)
    if len(found.unusable) > data.max_bad_images:
        raise ImageError(
            f"{name}: {len(found.unusable)} unusable images, data.max_bad_images = {data.max_bad_images}: {found.unusable[0]}"
        )
    return found


def write_conversations(path: Path) -> None:
    """LLaVA's JSON as conversations, without its items about no image, or about one that cannot be used."""
    usable = ImageStore(INSTRUCT / "images")
    records = (Conversation(name, str(Path(image).with_suffix("")), turns) for name, image, turns in conversations(path))
    write_records(INSTRUCT / "conversations.jsonl", (record for record in records if record.image_id in usable))


def conversations(path: Path) -> Iterator[tuple[str, str, list[Turn]]]:
    """(id, image, turns) of LLaVA's items about an image; an id that comes again gets its number. Raises UserError for another
    format."""
    times: Counter[str] = Counter()
    try:
        for item in json_items(path):
            if "image" in item:
                name = str(item["id"])
                times[name] += 1
                unique = name if times[name] == 1 else f"{name}#{times[name]}"
                yield unique, item["image"], turns_of(item["conversations"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not in LLaVA's format (id, image, conversations of from and value): {error!r}") from error


def json_items(path: Path, chunk: int = 2**20) -> Iterator[Any]:
    """The items of a JSON list, one at a time: LLaVA's 665k file would take 4 GB of memory as a whole. Raises ValueError."""
    decoder, text, place = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8") as file:
        text = file.read(chunk).lstrip()
        if not text.startswith("["):
            raise ValueError(f"not a list: {text[:40]!r}")
        place = 1
        while True:
            place += len(text[place : place + 64]) - len(text[place : place + 64].lstrip(" \t\r\n,"))
            if text.startswith("]", place):
                return
            try:
                item, end = decoder.raw_decode(text, place)
            except ValueError:
                if not (read := file.read(chunk)):
                    raise
                text, place = text[place:] + read, 0
            else:
                yield item
                place = end


def turns_of(conversation: list[dict]) -> list[Turn]:
    """Turns of human and gpt in pairs, without LLaVA's image tokens."""
    texts = [entry["value"].replace("<image>", "").strip() for entry in conversation]
    return [Turn(prompt, response) for prompt, response in zip(texts[::2], texts[1::2], strict=True)]
