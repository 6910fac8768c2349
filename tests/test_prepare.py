"""prepare_data, prepare_policy and prepare_scorer on files made here: what they write, and what they refuse before any work."""

import json
import runpy
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from publication import IMAGES, published_params, write_publication, write_yaml
from safetensors.torch import load_file, save_file

from lookagain.checkpoints import fingerprint, pin_policy, pin_scorer
from lookagain.errors import UserError
from lookagain.evaluation.questions import BenchmarkImages, read_annotations
from lookagain.images import ImageError, ImageStore
from lookagain.metrics import chair
from lookagain.params import load_params
from lookagain.policy import check_checkpoint, load_policy
from lookagain.records import Conversation, RecordError, read_records
from lookagain.rewards import ImageTextScorer
from lookagain.runtime import Run
from lookagain.schema import Loading

STAGE = runpy.run_path(str(Path(__file__).parents[1] / "stages/prepare_data.py"))


@pytest.fixture(scope="session")
def published(tmp_path_factory, policy_folder):
    return write_publication(tmp_path_factory.mktemp("published") / "world", policy_folder)


@pytest.fixture
def world(published, tmp_path, monkeypatch):
    """A publication in the working folder, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(published, "raw"))


def prepare(root, folder, **changes):
    """All data of a publication, prepared in the working folder."""
    write_yaml(folder / "params.yaml", published_params(root, **changes))
    params = load_params(folder / "params.yaml")
    return STAGE["prepare"](params.data, params.seed, Run("prepare_data", 0, 1, folder / ".resume"))


def test_everything_is_indexed_where_it_lies(world, tmp_path):
    counts = prepare("raw", tmp_path)
    assert counts == {
        "test/mme": 2 * IMAGES, "test/seedbench": 1, "validation/mme": 2 * IMAGES, "validation/seedbench": 1,
        "test": IMAGES, "validation": IMAGES, "instruct": IMAGES, "pool": IMAGES,
    }  # fmt: skip
    pool = ImageStore("data/pool/images")
    assert pool.ids[0] == "000000000000"
    assert pool.row(pool.ids[0])["image"] == {"bytes": None, "path": "raw/pool/images/000000000000.jpg"}
    records = read_records("data/instruct/conversations.jsonl", Conversation)
    assert len(records) == IMAGES  # without the one about no image
    assert (records[0].image_id, records[0].turns[0].prompt) == ("000000001000", "What is it?")
    for split, first in (("validation", "000000002000"), ("test", "000000003000")):
        folder = Path("data/benchmarks") / split
        annotations = read_annotations(folder, "", "Describe.", BenchmarkImages(folder, 10**6), ["mme", "seedbench"])
        assert min(annotations.objects) == first
        assert annotations.subsets == {"novel_art": {first[:-1] + "1"}}
    assert set(chair.read_truth("data/pool_truth/instances.json", "data/pool_truth/captions.json")) == set(pool.ids)


def test_the_same_files_elsewhere_give_the_same_outputs(published, tmp_path, monkeypatch):
    """Below data/published or in a folder outside the repository, named as users of COCO name theirs."""
    outputs = {}
    for name, root in (("inside", "data/published/world"), ("outside", published)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "inside":
            shutil.copytree(published, root)
        prepare(root, tmp_path / name)
        outputs[name] = contents(tmp_path / name / "data", str(root))
    assert len(outputs["inside"]) > 20
    assert outputs["inside"] == outputs["outside"]


def contents(folder, root):
    """What stages read of the prepared data: all files, the place of the publication taken out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "published" not in path.relative_to(folder).parts:
            content = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text()
            found[path.relative_to(folder).as_posix()] = repr(content).replace(root, "")
    return found


def test_what_is_null_is_an_empty_folder(world, tmp_path):
    none = {"data__validation": None, "data__pool__instances_json": None, "data__pool__captions_json": None}
    assert "validation" not in prepare("raw", tmp_path, **none)
    for folder in ("data/benchmarks/validation", "data/pool_truth"):
        assert [path.name for path in Path(folder).iterdir()] == ["none.txt"]


def test_images_for_chair_are_drawn_by_seed_and_pope_keeps_its_own(world, tmp_path):
    drawn = set()
    for seed in range(4):
        prepare("raw", tmp_path, seed=seed, data__test__chair_images=2)
        objects = chair.read_truth("data/benchmarks/test/instances.json", "data/benchmarks/test/captions.json")
        assert len(objects) == 2
        drawn |= set(objects)
        assert len(ImageStore("data/benchmarks/test/images")) == IMAGES
    assert len(drawn) > 2


def shift_captions(world):
    raw = json.loads((world / "test/captions.json").read_text())
    for entry in raw["annotations"]:
        entry["image_id"] += 100
    (world / "test/captions.json").write_text(json.dumps(raw))


def text(place, content):
    return lambda world: (world / place).write_text(content)


def lost(place):
    return lambda world: (world / place).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lost("test/pope/coco_pope_popular.json"), r"coco_pope_popular\.json \(data\.test\.pope_dir/.*RUCAIBox"),
        (lost("validation/instances.json"), r"raw/validation/instances\.json \(data\.validation\.instances_json\): COCO's"),
        (lost("pool/captions.json"), r"raw/pool/captions\.json \(data\.pool\.captions_json\): COCO's"),
        (lost("instruct/llava.json"), r"raw/instruct/llava\.json \(data\.instruct\.json\): LLaVA's"),
        (lambda world: shutil.rmtree(world / "pool/images"), r"raw/pool/images \(data\.pool\.images\): COCO's train2014"),
        (lambda world: shutil.rmtree(world / "test/mme"), "benchmark mme: no folder raw/test/mme; it is published at"),
        (lost("test/seedbench/SEED-Bench.json"), r"SEED-Bench\.json in raw/test/seedbench"),
        (lost("test/mme/existence/3.jpg"), r"raw/test/mme: no image 'existence/3', which mme asks about"),
        (text("test/instances.json", "{}"), r"raw/test/instances\.json and .* do not match COCO's format"),
        (text("pool/instances.json", "[1"), r"raw/pool/instances\.json is not JSON"),
        (shift_captions, r"raw/test/captions\.json: no reference caption of 6 of 6 images"),
        (text("instruct/llava.json", '{"a": 1}'), r"raw/instruct/llava\.json is not in LLaVA's format .*not a list"),
        (text("instruct/llava.json", '[{"id": "1", "image": "a.jpg", "text": "x"}]'), "is not in LLaVA's format"),
        (text("test/pope/coco_pope_random.json", '{"question": "?"}'), r"coco_pope_random\.json, line 1: needs question_id"),
        (text("test/mme/existence/2.txt", "Is there a dog?\tYes\n"), r"raw/test/mme/existence/2\.txt: needs two lines"),
    ],
)  # fmt: skip
def test_bad_files_are_named_before_any_image_is_read(world, tmp_path, spoil, message):
    spoil(world)
    with pytest.raises(UserError, match=message):
        prepare("raw", tmp_path)
    assert not list(Path("data").glob("*/images"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("test/images/000000003002.jpg", r"raw/test/images/000000003002\.jpg: the indexed file is gone"),
        ("instruct/images/000000001002.jpg", r"raw/instruct/images/000000001002\.jpg: the indexed file is gone"),
    ],
)
def test_images_that_are_lost_or_unreadable_count_against_the_limit(world, tmp_path, place, message):
    Path("raw", place).unlink()
    with pytest.raises(ImageError, match=f"1 unusable images, data.max_bad_images = 0: {message}"):
        prepare("raw", tmp_path)
    Path("raw/pool/images/bad.jpg").write_bytes(b"junk")
    assert prepare("raw", tmp_path, data__max_bad_images=1)["pool"] == IMAGES


def test_a_subset_is_not_named_as_other_figures_are(world, tmp_path):
    prepare("raw", tmp_path)
    path = Path("data/benchmarks/test/instances.json")
    path.write_text(path.read_text().replace("novel_art", "random"))
    with pytest.raises(RecordError, match=r"instances\.json: subset 'random' must be named"):
        read_annotations(path.parent, "", "Describe.", BenchmarkImages(path.parent, 10**6))


def test_a_folder_is_pinned_by_all_that_decides_its_answers_and_not_by_its_card(world):
    pinned = pin_policy("raw/policy", "main")
    assert pinned == {
        "base": "raw/policy", "revision": None, "fingerprint": fingerprint("raw/policy"), "publisher": "nobody",
        "model_name": "random", "credits": None,
    }  # fmt: skip
    check_checkpoint("raw/policy")
    card = Path("raw/policy/README.md")
    card.write_text("No front matter.\n")
    assert pin_policy("raw/policy", "main") == pinned | {"publisher": None, "model_name": None}
    for name in ("chat_template.jinja", "config.json", "model.safetensors"):
        path = Path("raw/policy") / name
        path.write_bytes(path.read_bytes() + b" ")
        assert fingerprint("raw/policy") != pinned["fingerprint"]
        pinned["fingerprint"] = fingerprint("raw/policy")


def config(**changes):
    def spoil(folder):
        raw = json.loads((folder / "config.json").read_text())
        raw["text_config"] |= changes
        (folder / "config.json").write_text(json.dumps(raw))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lost("model.safetensors"), r"raw/policy: the checkpoint has no weights: \*\.safetensors is expected"),
        (lost("config.json"), "no config: config.json is expected"),
        (lost("README.md"), "no card: README.md is expected"),
        (lost("processor_config.json"), "no processor: processor_config.json or preprocessor_config.json is expected"),
        (lost("tokenizer_config.json"), "no tokenizer: tokenizer_config.json is expected"),
        (lost("chat_template.jinja"), "raw/policy: the processor has no chat template"),
        (config(num_hidden_layers=3), r"raw/policy: the weights \(\*\.safetensors\) are of another .* config\.json: 9 missing"),
        (config(num_hidden_layers=1), r"another architecture than config\.json: 9 unexpected, as model\.language_model\.layers\.1"),
        (config(intermediate_size=48), r"another architecture than config\.json: 6 mismatched"),
        (text("config.json", "{}"), "raw/policy: not a checkpoint that transformers can load"),
        (text("model.safetensors", "junk"), "raw/policy: not a checkpoint that transformers can load"),
    ],
)  # fmt: skip
def test_bad_checkpoints_are_named_in_a_line(world, capfd, spoil, message):
    spoil(Path("raw/policy"))
    with pytest.raises(UserError, match=message) as error:
        check_checkpoint(pin_policy("raw/policy", "main")["base"])
    assert "\n" not in str(error.value)
    assert "MISSING" not in capfd.readouterr().err


def test_other_weights_are_refused_where_a_policy_loads_too(world, tmp_path):
    Path("models/base").mkdir(parents=True)
    Path("models/base/lineage.json").write_text(json.dumps(pin_policy("raw/policy", "main")))
    assert load_policy("models/base").fingerprint == fingerprint("raw/policy")
    config(num_hidden_layers=3)(Path("raw/policy"))
    with pytest.raises(UserError, match="another architecture"):
        load_policy("models/base")
    shutil.rmtree("raw/policy")
    with pytest.raises(UserError, match="its checkpoint raw/policy is gone"):
        load_policy("models/base")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_are_computed_in_float32(world, dtype):
    path = Path("raw/policy/model.safetensors")
    held = {name: value.to(getattr(torch, dtype)) for name, value in load_file(path).items()}
    save_file(held, path, metadata={"format": "pt"})
    Path("models/base").mkdir(parents=True)
    Path("models/base/lineage.json").write_text(json.dumps(pin_policy("raw/policy", "main")))
    policy = load_policy("models/base")
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}
    (exact,) = (held[name] for name in held if name.endswith("lm_head.weight"))
    assert torch.equal(policy.model.lm_head.weight, exact.float())
    low = load_policy("models/base", Loading(dtype))
    assert torch.equal(low.model.lm_head.weight, exact)


def pinned_scorer():
    Path("models/scorer").mkdir(parents=True, exist_ok=True)
    Path("models/scorer/scorer.json").write_text(json.dumps(pin_scorer("raw/clip", None)))
    return ImageTextScorer("models/scorer")


def test_a_scorer_loads_from_where_it_lies(world, images):
    scorer = pinned_scorer()
    weights = load_file("raw/clip/open_clip_model.safetensors")
    assert torch.equal(scorer.model.visual.proj, weights["visual.proj"])
    assert scorer.encode_images(images).shape == (6, 16)


def drop_tensor(folder):
    path = folder / "open_clip_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "visual.proj"}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lost("open_clip_model.safetensors"), r"raw/clip: the checkpoint has no weights: \*\.safetensors is expected"),
        (lost("open_clip_config.json"), r"raw/clip: the checkpoint has no config: open_clip_config\.json is expected"),
        (text("open_clip_config.json", "{}"), "raw/clip: not a model that open_clip can load"),
        (drop_tensor, r"raw/clip: not a model that open_clip can load.*visual\.proj"),
        (lambda folder: shutil.rmtree(folder), r"scorer\.model = raw/clip: no such folder"),
    ],
)
def test_bad_scorers_are_named_in_a_line(world, spoil, message):
    spoil(Path("raw/clip"))
    with pytest.raises(UserError, match=message) as error:
        pinned_scorer()
    assert "\n" not in str(error.value)


def test_open_clip_weights_must_exist_and_keep_their_activation():
    assert pin_scorer("ViT-L-14-336-quickgelu", "openai") == {"model": "ViT-L-14-336-quickgelu", "pretrained": "openai"}
    with pytest.raises(UserError, match="openai"):
        pin_scorer("ViT-L-14-336-quickgelu", "opnai")
    with pytest.raises(UserError, match="use ViT-L-14-336-quickgelu"):
        pin_scorer("ViT-L-14-336", "openai")
