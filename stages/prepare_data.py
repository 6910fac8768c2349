"""The pool of unlabeled images, the instruction data and the benchmarks: rendered, or indexed where they lie.

Run:    python -m lookagain.launch prepare_data
Reads:  world: nothing. coco: the files that data.coco names
Writes: data/policy/, data/instruct/, data/pool/, data/pool_truth/, data/benchmarks/{validation,test}/

With data.source = coco, images stay where they are: shards hold their paths and hashes, and ids are paths in their folder without
the suffix (lookagain/pools.py).
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.evaluation import suite
from lookagain.evaluation.imports import import_benchmark, locate
from lookagain.images import ImageError, ImageStore
from lookagain.params import flatten, load_params
from lookagain.pools import Item, index, index_pool
from lookagain.records import Conversation, Turn, atomic_write, write_records
from lookagain.schema import Data, Params
from lookagain.seeds import derive
from lookagain.world import benchmarks, official, splits
from lookagain.world.scenes import Scene

POPE_FILES = [f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")]
ORIGINS = {
    "pool_images": "COCO's train2014.zip, https://cocodataset.org/#download, or any folder of images, tars or parquet files",
    "instruct_json": "LLaVA's llava_v1_5_mix665k.json, https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    "instruct_images": "the image folders that LLaVA's README lists for its 665k file",
    "test_images": "COCO's val2014.zip, https://cocodataset.org/#download",
    "instances_json": "COCO's annotations_trainval2014.zip, https://cocodataset.org/#download",
    "captions_json": "COCO's annotations_trainval2014.zip, https://cocodataset.org/#download",
    "pope_dir": "output/coco of https://github.com/RUCAIBox/POPE",
}


def main() -> None:
    """Prepare all data."""
    params = load_params()
    used = {
        "seed": params.seed,
        "data": params.data,
        "noise_share": params.policy.world.noise_share,
        "per_image": params.evaluate.pope.per_image,
        "benchmarks": (params.evaluate.benchmarks, params.evaluate.prompts),
    }
    with (
        runtime.stage("prepare_data", used) as run,
        tracking.child("prepare_data", flatten(params.data, "data."), enabled=run.is_main) as track,
    ):
        if run.is_main:
            counts = prepare_world(params) if params.data.source == "world" else prepare_coco(params, run)
            track.metrics(counts)
            print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def prepare_world(params: Params) -> dict[str, int]:
    """Render every split; returns how many scenes each has."""
    world, seed = params.data.world, params.seed
    folders = {
        "policy": ("data/policy", world.policy_scenes),
        "instruct": ("data/instruct", world.instruct_scenes),
        "pool": ("data/pool", world.pool_scenes),
        "validation": ("data/benchmarks/validation", world.validation_scenes),
        "test": ("data/benchmarks/test", world.test_scenes),
    }
    scenes = {split: splits.write_split(folder, split, n, world.image_size, seed) for split, (folder, n) in folders.items()}
    splits.write_charts("data/policy/charts", "policy", world.policy_charts, world.image_size, seed)
    splits.write_conversations("data/instruct/conversations.jsonl", scenes["instruct"], params.policy.world.noise_share, seed)
    write_pool_truth(scenes["pool"])
    for split in ("validation", "test"):
        folder, asked = folders[split][0], world.benchmark_questions
        splits.write_benchmarks(folder, scenes[split], params.evaluate.pope.per_image, seed)
        charts = splits.write_charts(f"{folder}/chartqa", split, asked // 2, world.image_size, seed)
        official.write_suite(folder, scenes[split], charts, asked, seed)
    return {split: len(drawn) for split, drawn in scenes.items()}


def write_pool_truth(scenes: Sequence[Scene]) -> None:
    """What the unlabeled images show, apart from them: the figures of diagnose_pairs read it, no method does."""
    target = Path("data/pool_truth")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.move("data/pool/instances.json", target / "instances.json")
    splits.write_json(target / "captions.json", benchmarks.captions(scenes))


def prepare_coco(params: Params, run: runtime.Run) -> dict[str, int]:
    """Index the pool, the instruction data and the benchmark, or nothing if a file is missing; returns how many images each has."""
    data = params.data
    needed = {key: [Path(getattr(data.coco, key))] for key in ORIGINS}
    needed["pope_dir"] = [Path(data.coco.pope_dir) / name for name in POPE_FILES]
    for name in dict.fromkeys(suite.module(name).NAME for name in params.evaluate.benchmarks):
        locate(name, data.coco.benchmarks[name])
    if data.coco.pool_images.startswith("hub:"):
        del needed["pool_images"]
    lost = [f"{path} (data.coco.{key}): {ORIGINS[key]}" for key, paths in needed.items() for path in paths if not path.exists()]
    if lost:
        raise UserError(f"{len(lost)} missing:\n  " + "\n  ".join(lost))
    for folder in ("data/policy", "data/instruct", "data/pool", "data/pool_truth", "data/benchmarks"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in ("data/policy", "data/pool_truth", "data/benchmarks/validation"):
        Path(folder).mkdir(parents=True)
        Path(folder, "none.txt").write_text(
            "data.source is coco: no base to train, no labels of the pool, no validation split\n"
        )
    limits = data.max_image_pixels, data.max_bad_images, run.map_batches
    pool = index_pool(data.coco.pool_images, Path("data/pool/images"), *limits, run.resume_folder / "stored")
    counts = {"pool": pool, "instruct": prepare_instructions(data, run), "test": prepare_benchmark(data, params.seed, run)}
    for name in dict.fromkeys(suite.module(name).NAME for name in params.evaluate.benchmarks):
        counts[name] = prepare_official(name, data, params.evaluate.prompts)
    return counts


def prepare_official(name: str, data: Data, preset: str) -> int:
    """Import an official benchmark; returns how many questions it has. Raises ImageError for too many unusable images."""
    found = import_benchmark(
        name, data.coco.benchmarks[name], Path("data/benchmarks/test") / name, preset, data.max_image_pixels
    )
    if len(found.unusable) > data.max_bad_images:
        raise ImageError(
            f"{name}: {len(found.unusable)} unusable images, data.max_bad_images = {data.max_bad_images}: {found.unusable[0]}"
        )
    if found.published not in (None, found.questions):
        print(f"warning: {name} has {found.questions} questions here, {found.published} as published", file=sys.stderr)
    return found.questions


def prepare_instructions(data: Data, run: runtime.Run) -> int:
    """LLaVA's JSON as conversations, without its items about no image, and its images; returns how many images."""
    path, root, target = Path(data.coco.instruct_json), Path(data.coco.instruct_images), Path("data/instruct/images")
    names = sorted({image for _, image, _ in conversations(path)})
    items = [Item(str(Path(image).with_suffix("")), str(root / image)) for image in names]
    count = index(items, target, data.max_image_pixels, data.max_bad_images, run.map_batches, "instruct")
    usable = ImageStore(target)
    records = (Conversation(name, str(Path(image).with_suffix("")), turns) for name, image, turns in conversations(path))
    write_records("data/instruct/conversations.jsonl", (record for record in records if record.image_id in usable))
    return count


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


def prepare_benchmark(data: Data, seed: int, run: runtime.Run) -> int:
    """POPE's files as they are, and COCO's annotations of the images that CHAIR is measured on, drawn by seed."""
    target, root = Path("data/benchmarks/test"), Path(data.coco.test_images)
    target.mkdir(parents=True, exist_ok=True)
    named: set[str] = set()
    for name in POPE_FILES:
        source = Path(data.coco.pope_dir) / name
        named.update(json.loads(line)["image"] for line in source.read_text().splitlines() if line.strip())
        shutil.copyfile(source, target / name)
    instances = json.loads(Path(data.coco.instances_json).read_text())
    drawn = sorted(instances["images"], key=lambda image: derive(seed, "chair", image["file_name"]))[: data.coco.chair_images]
    kept = {image["id"] for image in drawn}
    captions = json.loads(Path(data.coco.captions_json).read_text())
    for name, raw in (("instances.json", instances), ("captions.json", captions)):
        annotations = [entry for entry in raw["annotations"] if entry["image_id"] in kept]
        with atomic_write(target / name) as file:
            json.dump(raw | {"images": drawn, "annotations": annotations}, file)
    names = sorted(named | {image["file_name"] for image in drawn})
    items = [Item(Path(name).stem, str(root / name)) for name in names]
    return index(items, target / "images", data.max_image_pixels, data.max_bad_images, run.map_batches, "test")
