"""The pool of unlabeled images, the instruction data and the benchmarks: rendered, or indexed where they lie.

Run:    python -m lookagain.launch prepare_data
Reads:  world: nothing. coco: the files that data.coco names
Writes: data/policy/, data/instruct/, data/pool/, data/pool_truth/, data/benchmarks/{validation,test}/

With data.source = coco, images stay where they are: shards hold their paths and hashes, and ids are paths in their folder without
the suffix. Only a file's header is read here; the stages that use an image decode it.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image as PILImage

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.evaluation import suite
from lookagain.evaluation.imports import import_benchmark, locate
from lookagain.images import ImageError, ImageStore, list_images, write_shards
from lookagain.params import Data, Params, flatten, load_params
from lookagain.records import Conversation, Turn, atomic_write, write_records
from lookagain.seeds import derive
from lookagain.world import benchmarks, splits
from lookagain.world.scenes import Scene

POPE_FILES = [f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")]
ORIGINS = {
    "pool_images": "COCO's train2014.zip, https://cocodataset.org/#download, or any folder of images",
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
            counts = (prepare_world if params.data.source == "world" else prepare_coco)(params)
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
    splits.write_conversations("data/instruct/conversations.jsonl", scenes["instruct"], params.policy.world.noise_share, seed)
    write_pool_truth(scenes["pool"])
    for split in ("validation", "test"):
        splits.write_benchmarks(folders[split][0], scenes[split], params.evaluate.pope.per_image, seed)
    return {split: len(drawn) for split, drawn in scenes.items()}


def write_pool_truth(scenes: Sequence[Scene]) -> None:
    """What the unlabeled images show, apart from them: the figures of diagnose_pairs read it, no method does."""
    target = Path("data/pool_truth")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.move("data/pool/instances.json", target / "instances.json")
    with atomic_write(target / "captions.json") as file:
        json.dump(benchmarks.captions(scenes), file)


def prepare_coco(params: Params) -> dict[str, int]:
    """Index the pool, the instruction data and the benchmark, or nothing if a file is missing; returns how many images each has."""
    data = params.data
    needed = {key: [Path(getattr(data.coco, key))] for key in ORIGINS}
    needed["pope_dir"] = [Path(data.coco.pope_dir) / name for name in POPE_FILES]
    for name in dict.fromkeys(suite.module(name).NAME for name in params.evaluate.benchmarks):
        locate(name, data.coco.benchmarks[name])
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
    pool = Path(data.coco.pool_images)
    counts = {"pool": index(Path("data/pool/images"), pool, list_images(pool), data)}
    counts["instruct"] = prepare_instructions(data)
    counts["test"] = prepare_benchmark(data, params.seed)
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


def index(folder: Path, root: Path, paths: Iterable[Path], data: Data, by_stem: bool = False) -> int:
    """Write shards of paths. Raises ImageError if more than data.max_bad_images files are no images or are too large."""
    rows, bad = [], []
    for path in paths:
        try:
            with PILImage.open(path) as image:
                if image.width * image.height > data.max_image_pixels:
                    raise ImageError(f"{image.width}x{image.height} px exceeds data.max_image_pixels = {data.max_image_pixels}")
        except (OSError, SyntaxError, ImageError, PILImage.DecompressionBombError) as error:
            bad.append(f"{path}: {error}")
        else:
            rows.append((path.stem if by_stem else str(path.relative_to(root).with_suffix("")), None, str(path)))
    if len(bad) > data.max_bad_images:
        raise ImageError(f"{len(bad)} unusable images, data.max_bad_images = {data.max_bad_images}: {'; '.join(bad[:3])}")
    if not rows:
        raise ImageError(f"{root}: no usable image")
    return write_shards(folder, rows)


def prepare_instructions(data: Data) -> int:
    """LLaVA's JSON as conversations, without its items about no image, and its images."""
    path, root = Path(data.coco.instruct_json), Path(data.coco.instruct_images)
    try:
        items = [item for item in json.loads(path.read_text()) if "image" in item]
        read = [(str(item["id"]), item["image"], turns_of(item["conversations"])) for item in items]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not in LLaVA's format (id, image, conversations of from and value): {error!r}") from error
    count = index(Path("data/instruct/images"), root, [root / image for image in sorted({image for _, image, _ in read})], data)
    usable = set(ImageStore("data/instruct/images").ids)
    records = [Conversation(name, str(Path(image).with_suffix("")), turns) for name, image, turns in read]
    write_records("data/instruct/conversations.jsonl", [record for record in records if record.image_id in usable])
    return count


def turns_of(conversation: list[dict]) -> list[Turn]:
    """Turns of human and gpt in pairs, without LLaVA's image tokens."""
    texts = [entry["value"].replace("<image>", "").strip() for entry in conversation]
    return [Turn(prompt, response) for prompt, response in zip(texts[::2], texts[1::2], strict=True)]


def prepare_benchmark(data: Data, seed: int) -> int:
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
    return index(target / "images", root, [root / name for name in names], data, by_stem=True)
