"""prepare_data's COCO branch and prepare_policy's pins, on files made here."""

import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from lookagain.errors import UserError
from lookagain.evaluation.questions import BenchmarkImages, read_annotations
from lookagain.images import ImageError, ImageStore
from lookagain.params import load_params
from lookagain.records import Conversation, read_records
from lookagain.runtime import Run
from lookagain.schema import Params

ROOT = Path(__file__).parent.parent


@pytest.fixture
def stages():
    return {name: runpy.run_path(str(ROOT / "stages" / f"{name}.py")) for name in ("prepare_data", "prepare_policy")}


@pytest.fixture
def coco(tmp_path, monkeypatch) -> Params:
    """A working folder with three images in the layout of COCO, LLaVA and POPE, and params that name it."""
    monkeypatch.chdir(tmp_path)
    for folder, count in (("train2014", 3), ("coco", 2), ("val2014", 3)):
        for number in range(count):
            path = Path("data/raw", folder, f"COCO_{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20)).save(path)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    images = [{"id": number, "file_name": f"COCO_{number}.jpg"} for number in range(3)]
    boxes = [{"id": 1, "image_id": number, "category_id": 18} for number in range(3)]
    files = {
        "llava_v1_5_mix665k.json": [
            {"id": "a", "image": "COCO_0.jpg", "conversations": turns},
            {"id": "t", "conversations": []},
            {"id": "a", "image": "COCO_1.jpg", "conversations": turns},
        ],
        "annotations/instances_val2014.json": {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 18, "name": "dog"}],
        },
        "annotations/captions_val2014.json": {
            "images": images,
            "annotations": [{"id": number, "image_id": number, "caption": "A cat."} for number in range(3)],
        },
    }
    question = {"question_id": 1, "image": "COCO_2.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    files |= {f"pope/coco_pope_{split}.json": question for split in ("random", "popular", "adversarial")}
    for name, content in files.items():
        path = Path("data/raw", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    text = (ROOT / "presets/llava-1.5-7b.yaml").read_text()
    text = re.sub(r"max_bad_images: \d+", "max_bad_images: 0", text.replace("chair_images: 500", "chair_images: 2"))
    Path("params.yaml").write_text(text)
    return load_params("params.yaml")


def test_coco_is_indexed_where_it_lies(coco, stages):
    stages["prepare_data"]["prepare_coco"](coco, Run("prepare_data", 0, 1, Path(".resume")))
    assert ImageStore("data/pool/images").ids == ["COCO_0", "COCO_1", "COCO_2"]
    assert ImageStore("data/pool/images").row("COCO_0")["image"]["bytes"] is None
    record, again = read_records("data/instruct/conversations.jsonl", Conversation)
    assert (record.id, record.image_id, record.turns[0].prompt) == ("a", "COCO_0", "What?")
    assert (again.id, again.image_id) == ("a#2", "COCO_1")
    images = BenchmarkImages("data/benchmarks/test", 10**6)
    annotations = read_annotations(Path("data/benchmarks/test"), "", "Describe.", images)
    assert ("pope", "COCO_2") in images  # named by POPE, whether CHAIR draws it or not
    assert len(annotations.objects) == 2


def test_missing_file_is_named_before_any_work(coco, stages):
    Path("data/raw/pope/coco_pope_popular.json").unlink()
    with pytest.raises(UserError, match=r"coco_pope_popular\.json.*RUCAIBox"):
        stages["prepare_data"]["prepare_coco"](coco, Run("prepare_data", 0, 1, Path(".resume")))
    assert not Path("data/pool").exists()


def test_unreadable_images_count_against_the_limit(coco, stages):
    Path("data/raw/train2014/bad.jpg").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        stages["prepare_data"]["prepare_coco"](coco, Run("prepare_data", 0, 1, Path(".resume")))


def test_local_checkpoint_is_pinned_by_its_weights(tmp_path, stages):
    pin = stages["prepare_policy"]["pin_policy"]
    with pytest.raises(UserError, match="safetensors"):
        pin(str(tmp_path), "main")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = pin(str(tmp_path), "main")
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert first["fingerprint"] != pin(str(tmp_path), "main")["fingerprint"]


def test_open_clip_weights_must_exist(stages):
    pin = stages["prepare_policy"]["pin_reward"]
    assert pin("ViT-L-14-336-quickgelu", "openai") == {"model": "ViT-L-14-336-quickgelu", "pretrained": "openai"}
    with pytest.raises(UserError, match="openai"):
        pin("ViT-L-14-336", "opnai")


def test_open_clip_weights_keep_the_activation_they_were_trained_with(stages):
    with pytest.raises(UserError, match="use ViT-L-14-336-quickgelu"):
        stages["prepare_policy"]["pin_reward"]("ViT-L-14-336", "openai")


def test_finished_part_is_not_made_again(tmp_path, stages):
    made = []

    def make():
        made.append("part")
        return "weights"

    def save(part, folder):
        (folder / part).write_text("x")

    run = Run("prepare_policy", 0, 1, tmp_path)
    for _ in range(2):
        assert (stages["prepare_policy"]["kept"](run, "tower", make, save) / "weights").is_file()
    assert len(made) == 1
