"""A publication: the layouts of its publishers, read by the library's readers, true, whole, and not to be guessed blind."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML
from world_examples import SIZE, drawn_scenes, scenes

from lookagain.errors import UserError
from lookagain.metrics import chair, chartqa, gqa, mmbench, mme, pope, pragmatics, seedbench, textvqa
from lookagain.metrics.benchmark import LLAVA15
from world import publish
from world.publishing import coco
from world.publishing.suite import CHOICES, PAIRS, TWO_FACTS, write_suite
from world.scenes.charts import draw_chart
from world.scenes.scene import OFFSETS, Scene, Thing, to_jpeg
from world.training.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]
COUNTS = {"pool": 6, "instruct": 30, "validation": 4, "test": 160, "questions": 72, "pope_per_image": 3}
BENCHMARKS = (mme, gqa, mmbench, seedbench, textvqa, chartqa, pragmatics)
CHECKPOINT = {
    "policy/config.json": "policy's config",
    "policy/model.safetensors": "policy's weights",
    "policy/README.md": "policy's card",
    "clip/open_clip_config.json": "clip's config",
    "clip/README.md": "clip's card",
}


def write_project(folder: Path, **changes) -> Path:
    """params.yaml with a publication named world, and a checkpoint without real weights."""
    with (folder / "params.yaml").open("w") as file:
        YAML().dump({"publish": {"world": {"checkpoint": "world-0", **COUNTS, **changes}}}, file)
    for name, text in CHECKPOINT.items():
        path = folder / "checkpoints/world-0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def publish_in(folder: Path, **changes) -> Path:
    """Run `python -m world.publish world` in a project; returns data/published/world."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(write_project(folder, **changes))
        publish.main(["world"])
    return folder / "data/published/world"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish_in(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def test(published):
    return published / "test"


@pytest.fixture(scope="module")
def questions(test):
    """The questions of each benchmark, as its official reader gives them."""
    return {benchmark.NAME: benchmark.read(test / benchmark.NAME, LLAVA15) for benchmark in BENCHMARKS}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def right_answer(question) -> str:
    """The response that the reference asks for."""
    if question.split.endswith(pragmatics.CONTRASTIVE):
        return json.dumps([1.0] + [0.0] * (len(json.loads(question.reference)["options"]) - 1))
    if not question.reference.startswith(("{", "[")):
        return question.reference
    reference = json.loads(question.reference)
    return reference[0] if isinstance(reference, list) else str(reference.get("answer", reference.get("number")))


def strings(value) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in strings(item)] if isinstance(value, list) else [str(value)]


def test_layout(published):
    assert {path.name for path in published.iterdir()} == {"pool", "instruct", "validation", "test", "policy", "clip"}
    assert {path.name for path in (published / "pool").iterdir()} == {"images", "instances.json", "captions.json"}
    assert {path.name for path in (published / "instruct").iterdir()} >= {"images", "llava.json"}
    for split in ("validation", "test"):
        rest = {"images", "instances.json", "captions.json", "pope"}
        assert {path.name for path in (published / split).iterdir()} - rest <= {benchmark.NAME for benchmark in BENCHMARKS}
        names = {"coco_pope_random.json", "coco_pope_popular.json", "coco_pope_adversarial.json"}
        assert {path.name for path in (published / split / "pope").iterdir()} == names
    assert {path.name for path in (published / "test").iterdir()} == rest | {benchmark.NAME for benchmark in BENCHMARKS}
    for split in ("pool", "instruct", "validation", "test"):
        names = sorted(path.name for path in (published / split / "images").iterdir())
        assert names == [f"{OFFSETS[split] + index:012d}.jpg" for index in range(COUNTS[split])]
    assert files(published / "policy") | files(published / "clip") == {
        name.partition("/")[2]: CHECKPOINT[name].encode() for name in CHECKPOINT
    }
    assert not list(published.parent.glob(".*"))


def test_images_are_the_scenes(published):
    drawn = dict(enumerate(drawn_scenes("pool", 3)))
    for index, (image, scene) in drawn.items():
        assert (published / "pool/images" / scene.file_name).read_bytes() == to_jpeg(image)
        assert scene.id == OFFSETS["pool"] + index


def test_annotations_are_the_scenes(test):
    found = json.loads((test / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in found["categories"]}
    rows = {image["id"]: [] for image in found["images"]}
    for row in found["annotations"]:
        rows[row["image_id"]].append(row)
    assert len({row["id"] for row in found["annotations"]}) == len(found["annotations"])
    for image, scene in zip(found["images"], scenes("test", COUNTS["test"]), strict=True):
        assert (image["id"], image["file_name"], image["width"], image["height"]) == (scene.id, scene.file_name, SIZE, SIZE)
        assert image.get("subsets") == (["novel_art"] if scene.art == "novel" else None)
        assert image["scene"] == scene.type
        assert image.get("sign", {}).get("number") == (scene.sign.number if scene.sign else None)
        shown = [(names[row["category_id"]], tuple(row["bbox"]), row.get("attributes")) for row in rows[scene.id]]
        assert shown == [(thing.name, thing.box, {"color": thing.color} if thing.color else None) for thing in scene.things]
    assert 0.2 < sum("subsets" in image for image in found["images"]) / COUNTS["test"] < 0.3


def test_chair_reads_the_truth_of_every_split(published):
    for split in ("pool", "validation", "test"):
        truth = chair.read_truth(published / split / "instances.json", published / split / "captions.json")
        shown = scenes(split, COUNTS[split])
        assert truth == {Path(scene.file_name).stem: frozenset(scene.names()) for scene in shown}


def test_instructions_are_in_llavas_layout(published):
    items = json.loads((published / "instruct/llava.json").read_text())
    images = {path.name for path in (published / "instruct/images").iterdir()}
    assert [item["image"] for item in items] == sorted(images)
    assert len({item["id"] for item in items}) == len(items)
    lengths = Counter()
    for item in items:
        turns = item["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n")
        assert "".join(turn["value"] for turn in turns).count("<image>") == 1
        assert all(turn["value"] for turn in turns)
        assert not any(word in turn["value"] for turn in turns for word in ("Image description", "<think>"))
        lengths[len(turns) > 2] += 1
    assert min(lengths[True], lengths[False]) > 3


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.NAME)
def test_official_reader_reads_and_scores_the_truth(test, questions, benchmark):
    asked = questions[benchmark.NAME]
    folder = test / benchmark.NAME
    stored = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")]
    known = {name: path for path in stored for name in (path.name, path.stem, f"{path.parent.name}/{path.stem}")}
    assert COUNTS["questions"] * 0.7 <= len(asked) <= 4 * COUNTS["questions"]
    assert len({question.id for question in asked}) == len(asked)
    for question in asked:
        if benchmark is mmbench:
            data = mmbench.images(folder / mmbench.FILES[0])[question.image_id]
        else:
            data = known[question.image_id].read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (SIZE, SIZE)
        assert benchmark.score_answer(question, right_answer(question)) == 1.0
        wrong = "[0, 1, 2, 3]" if question.split.endswith(pragmatics.CONTRASTIVE) else "?"
        assert benchmark.score_answer(question, wrong) == 0.0


def test_every_word_is_known(published, questions):
    tokenizer = build_tokenizer()
    texts = []
    for split in ("pool", "validation", "test"):
        texts += [row["caption"] for row in json.loads((published / split / "captions.json").read_text())["annotations"]]
    for item in json.loads((published / "instruct/llava.json").read_text()):
        texts += [turn["value"].removeprefix("<image>\n") for turn in item["conversations"]]
    for split in coco.SPLITS:
        for item in pope.read_file(published / f"test/pope/coco_pope_{split}.json"):
            texts += [item.text, item.label]
    for question in (question for asked in questions.values() for question in asked):
        reference = json.loads(question.reference) if question.reference[0] in "{[" else question.reference
        if isinstance(reference, dict):
            reference.pop("set", None)
        texts += [question.prompt, *strings(reference)]
    counting = json.loads((published / "test/pragmatics/counting.json").read_text())
    texts += [text for row in counting for text in (row["question"], *row["caption_options"])]
    texts = sorted(set(texts))
    assert len(texts) > 1000
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    assert [text for text, ids in zip(texts, rows, strict=True) if tokenizer.unk_token_id in ids] == []


def test_yes_and_no_are_balanced(questions):
    asked = questions["mme"]
    each = COUNTS["questions"] // (2 * len(PAIRS))
    assert Counter(question.split for question in asked) == {name: 2 * each for name, _ in PAIRS}
    assert set(Counter((mme.unit(question), question.reference) for question in asked).values()) == {1}
    counts = [question.prompt for question in asked if question.split == "count" and question.reference == "yes"]
    assert len(set(counts)) == each  # each number of objects as often
    answers = Counter(question.reference for question in questions["gqa"])
    assert abs(answers["yes"] - answers["no"]) <= 4
    sides = Counter(question.reference for question in questions["gqa"] if question.id.startswith("side-"))
    assert sides.keys() == {"left", "right"}
    assert abs(sides["left"] - sides["right"]) <= 1
    kinds = Counter(question.id.rpartition("-")[0] for question in questions["gqa"])
    assert kinds[TWO_FACTS] == COUNTS["questions"] // 5
    assert set(kinds) >= {"color", "neighbor", "where", "both", "relation"}


def test_every_rotation_is_asked(questions):
    asked = questions["mmbench"]
    for unit in {mmbench.unit(question) for question in asked}:
        rotations = [json.loads(question.reference) for question in asked if mmbench.unit(question) == unit]
        assert sorted(rotation["answer"] for rotation in rotations) == ["A", "B", "C", "D"]
        assert len({rotation["options"][rotation["answer"]] for rotation in rotations}) == 1


def test_kinds_are_as_many(questions):
    for name in ("mmbench", "seedbench"):
        kinds = Counter(question.split for question in questions[name])
        assert set(kinds) == {kind for kind, _ in CHOICES}
        assert len(set(kinds.values())) == 1
    kinds = {question.split.removesuffix(pragmatics.CONTRASTIVE) for question in questions["pragmatics"]}
    assert kinds == {"spatial", "negation", "counting"}
    assert {question.split for question in questions["chartqa"]} == {"human", "augmented"}
    letters = Counter(json.loads(question.reference)["answer"] for question in questions["seedbench"])
    assert set(letters) == set("ABCD")


def captions(test, name: str) -> list[list[str]]:
    return [row["caption_options"] for row in json.loads((test / f"pragmatics/{name}.json").read_text())]


def test_each_number_of_a_window_is_true_as_often(test):
    rows = json.loads((test / "pragmatics/counting.json").read_text())
    windows: dict[frozenset, Counter] = {}
    for row in rows:
        assert len(row["caption_options"]) == len(set(row["caption_options"])) == 4
        windows.setdefault(frozenset(row["caption_options"]), Counter())[row["caption_options"][0]] += 1
    assert len(windows) == 3
    for options, truths in windows.items():
        assert truths.keys() == options
        assert len(set(truths.values())) == 1
    assert len({sum(truths.values()) for truths in windows.values()}) == 1
    shown = {scene.file_name: len(scene.things) for scene in scenes("test", COUNTS["test"])}
    assert all(shown[Path(row["image_path"]).name] == row["answer"] for row in rows)
    assert {row["answer"] for row in rows} == set(range(2, 8))


def test_each_state_of_negation_is_true_as_often(test):
    states = Counter()
    for options in captions(test, "negation"):
        read = [re.fullmatch(r"There is (an?|no) .+ and (an?|no) .+ in the image\.", text).groups() for text in options]
        assert len({(first == "no", second == "no") for first, second in read}) == 4
        states[read[0][0] == "no", read[0][1] == "no"] += 1
    assert len(states) == 4
    assert set(states.values()) == {COUNTS["questions"] // 12}


def test_places_of_options_say_nothing(questions):
    """The right caption comes first in the files, as What'sUp's does; as asked, it is under any letter."""
    asked = [question for question in questions["pragmatics"] if question.split in ("spatial", "negation")]
    letters = Counter(json.loads(question.reference)["answer"] for question in asked)
    assert set(letters) == set("ABCD")
    assert max(letters.values()) < 0.4 * len(asked)


def test_spatial_captions_differ_in_the_place_alone_and_each_is_right_as_often(test):
    for options in captions(test, "spatial"):
        read = [re.fullmatch(r"In the (.+) there is (.+)\.", text).groups() for text in options]
        assert len({noun for _, noun in read}) == 1
        assert len({cell for cell, _ in read}) == 4
    right = Counter(options[0].partition(" there is ")[0] for options in captions(test, "spatial"))
    assert len(right) == 9
    assert max(right.values()) - min(right.values()) <= 1


@pytest.mark.parametrize("split", coco.SPLITS)
def test_pope_questions_are_balanced_and_right(test, split):
    items = pope.read_file(test / f"pope/coco_pope_{split}.json")
    objects = {scene.file_name: scene.names() for scene in scenes("test", COUNTS["test"])}
    assert [item.question_id for item in items] == [str(number) for number in range(1, len(items) + 1)]
    for item in items:
        (noun,) = chair.mentions(item.text)
        assert (noun in objects[item.image]) == (item.label == "yes")
    assert sum(item.label == "yes" for item in items) * 2 == len(items)
    assert len({(item.image, item.text) for item in items}) == len(items)
    assert max(Counter(item.image for item in items).values()) == 2 * COUNTS["pope_per_image"]
    right = [
        [item for item in pope.read_file(test / f"pope/coco_pope_{name}.json") if item.label == "yes"] for name in coco.SPLITS
    ]
    assert right[0] == right[1] == right[2]


def test_adversarial_questions_ask_for_what_occurs_together():
    def scene(number, *names):
        return Scene(number, "street", "seen", 64, tuple(Thing(name, (0, 0, 20, 20)) for name in names))

    shown = [scene(1, "car", "bus"), scene(2, "car", "bus"), scene(3, "car"), *(scene(n, "cat") for n in range(4, 9))]
    asked = {split: coco.pope_questions(shown, split, 1) for split in coco.SPLITS}
    no = {
        split: next(line["text"] for line in lines if line["image"] == shown[2].file_name and line["label"] == "no")
        for split, lines in asked.items()
    }
    assert no["adversarial"] == "Is there a bus in the image?"
    assert no["popular"] == "Is there a cat in the image?"


def test_publishing_again_gives_the_same_files_and_more_scenes_leave_the_first_ones(published, tmp_path):
    more = publish_in(tmp_path, pool=8, instruct=32, test=COUNTS["test"] + 1)
    first, second = files(published), files(more)
    same = ("validation/", "policy/", "clip/")
    assert {name: data for name, data in first.items() if name.startswith(same)} == {
        name: data for name, data in second.items() if name.startswith(same)
    }
    images = {name for name in first if re.match(r"\w+/images/", name) or name.startswith("test/chartqa/png/")}
    assert len(images) == sum(COUNTS[split] for split in ("pool", "instruct", "validation", "test")) + COUNTS["questions"] // 2
    assert all(first[name] == second[name] for name in images)
    assert len([name for name in second if re.match(r"(pool|instruct|test)/images/", name)]) == 8 + 32 + COUNTS["test"] + 1
    for split in ("pool", "test"):
        for name, parts in (("instances.json", ("images", "annotations")), ("captions.json", ("images", "annotations"))):
            few, many = (json.loads(data[f"{split}/{name}"]) for data in (first, second))
            assert all(many[part][: len(few[part])] == few[part] and len(many[part]) > len(few[part]) for part in parts)
    few, many = (json.loads(data["instruct/llava.json"]) for data in (first, second))
    assert many[: len(few)] == few
    assert len(many) == 32


def test_a_benchmark_without_a_scene_has_no_folder(tmp_path):
    plain = [scene for scene in scenes("test", 30) if not scene.sign]
    chart, shown = draw_chart(0, "test", 0, SIZE)
    images = {scene.file_name: b"image" for scene in plain} | {shown.file_name: publish.to_png(chart)}
    write_suite(tmp_path, plain, [shown], images, 40)
    assert {path.name for path in tmp_path.iterdir()} == {benchmark.NAME for benchmark in BENCHMARKS} - {"textvqa"}
    write_suite(tmp_path / "empty", [], [], {}, 40)
    assert not (tmp_path / "empty").exists()


def test_a_missing_checkpoint_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path, checkpoint="world-7"))
    with pytest.raises(UserError, match=r"no checkpoint in checkpoints/world-7/policy; checkpoints/ holds world-0"):
        publish.main(["world"])
    write_project(tmp_path)
    shutil.rmtree("checkpoints/world-0/clip")
    with pytest.raises(UserError, match=r"no checkpoint in checkpoints/world-0/clip"):
        publish.main(["world"])
    assert not Path("data/published/world").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("world", "publish: no checkpoint in checkpoints/world-7/policy; checkpoints/ holds world-0"),
        ("moon", "publish: params.yaml has no publish.moon; its publications are world"),
    ],
)
def test_a_user_sees_one_line(tmp_path, name, said):
    write_project(tmp_path, checkpoint="world-7")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "world.publish", name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{said}\n")


def test_a_publication_is_whole_or_not_at_all(tmp_path, monkeypatch):
    small = {"pool": 1, "instruct": 1, "validation": 2, "test": 2, "questions": 12}
    before = files(publish_in(tmp_path, **small))
    monkeypatch.chdir(write_project(tmp_path, **small | {"pool": 2}))

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish, "write_benchmarks", stop)
        with pytest.raises(KeyboardInterrupt):
            publish.main(["world"])
    assert files(tmp_path / "data/published/world") == before
    Path("data/published/world/left over").touch()
    publish.main(["world"])
    assert set(files(tmp_path / "data/published/world")) == {*before, f"pool/images/{OFFSETS['pool'] + 1:012d}.jpg"}
    assert [path.name for path in Path("data/published").iterdir()] == ["world"]
