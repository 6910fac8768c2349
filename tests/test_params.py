"""Params: every preset loads, and whatever is wrong in a file is one clear error."""

import dataclasses
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lookagain.params import ParamsError, flatten, load_params, pair_settings
from lookagain.params import section as section_of

ROOT = Path(__file__).parents[1]
PUBLICATION = {
    "checkpoint": "world-0", "pool": 600, "instruct": 1, "validation": 1, "test": 1, "questions": 10, "pope_per_image": 3,
}  # fmt: skip
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


def changed(tmp_path, **values):
    """params.yaml with some values changed as `dvc exp run -S` does it; keys are dotted, `__` for the dot."""
    yaml = YAML()
    params = yaml.load((ROOT / "presets/tiny.yaml").read_text())
    for key, value in values.items():
        *sections, last = key.removesuffix("_").split("__")
        place = params
        for section in sections:
            place = place[section]
        place[last] = value
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        yaml.dump(params, file)
    return path


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_load(path):
    load_params(path)


def test_tiny_is_what_is_committed():
    assert (ROOT / "presets/tiny.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_presets_have_the_same_keys():
    assert {path.stem for path in PRESETS} >= {"tiny", "smoke", "llava-1.5-7b"}
    keys = {path.stem: set(flatten(load_params(path))) for path in PRESETS}
    optional = ("publish", "data.validation", "data.test.benchmarks")  # of files that only some have
    common = {name: {key for key in found if not key.startswith(optional)} for name, found in keys.items()}
    assert all(found == common["tiny"] for found in common.values())


def test_presets_publish_or_name_files_and_weights_of_others():
    for path in PRESETS:
        params = load_params(path)
        world = path.stem in ("tiny", "smoke", "tiny-as-released")
        assert list(params.publish) == (["world"] if world else [])
        assert params.data.test.images.startswith("data/published/world/" if world else "data/raw/")
        assert (params.scorer.pretrained is None) == world


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lamda": 1}, "unknown key 'lamda'"),
        ({"lambda_": "0.9"}, "lambda = '0.9' is text, must be a number (no quotes)"),
        ({"lambda_": ""}, "lambda = '' is text"),
        ({"lambda_": None}, "lambda has no value"),
        ({"lambda_": True}, "lambda = True is true or false"),
        ({"lambda_": 1.5}, "lambda = 1.5 must lie between 0 and 1"),
        ({"lambda_": float("nan")}, "lambda = nan must lie between"),
        ({"csr__iterations": 9}, "csr.iterations = 9 must lie between 1 and 8"),
        ({"csr__iterations": 0}, "csr.iterations = 0"),
        ({"csr__iterations": 2.5}, "csr.iterations = 2.5 is a number, must be a whole number"),
        ({"csr__search__temperature": 0.0}, "csr.search.temperature = 0"),
        ({"csr__search__candidates": 1}, "csr.search.candidates = 1"),
        ({"evaluate__benchmarks": ["mmme"]}, "evaluate.benchmarks = 'mmme', allowed: scienceqa"),
        ({"evaluate__benchmarks": ["mme", "mme"]}, "each entry once"),
        (
            {"evaluate__benchmarks": ["mme", "vizwiz"]},
            "evaluate.benchmarks names vizwiz, and data.test.benchmarks does not say where it lies",
        ),
        ({"data__test__benchmarks__mmme": "x"}, "a key of data.test.benchmarks = 'mmme', allowed: scienceqa"),
        ({"data__test__benchmarks__seedbench_ranking": "x"}, "a key of data.test.benchmarks = 'seedbench_ranking', allowed"),
        ({"data__source": "world"}, "unknown key 'data.source'"),
        ({"data__test": None}, "data.test must be a section"),
        ({"data__test__images": None}, "data.test.images has no value"),
        ({"data__test__chair_images": 0}, "data.test.chair_images = 0 must be finite and 1 or more"),
        ({"data__pool__captions_json": None}, "data.pool.instances_json and captions_json go together"),
        (
            {"data__validation": None, "evaluate__split": "validation"},
            "evaluate.split = validation, and data.validation is null",
        ),
        ({"publish__world__questions": 9}, "publish.world.questions = 9 must be finite and 10 or more"),
        ({"publish__world__pool": 0}, "publish.world.pool = 0 must be finite and 1 or more"),
        ({"publish__world__checkpoint": "../x"}, "publish.world.checkpoint: a name is of a-z"),
        ({"publish": {"x;touch y;": PUBLICATION}}, "publish.x;touch y;: a name is of a-z"),
        ({"publish": {}}, "data/published/world/pool/images, and publish names no world"),
        ({"scorer__pretrained": "openai"}, "scorer.pretrained = openai goes with a name of open_clip's"),
        ({"evaluate__judge__base_url": "https://x/v1"}, "name the judge"),
        ({"csr__images": 601}, "csr.images = 601 exceeds sample.images"),
        ({"seed": None}, "seed has no value"),
        ({"csr__search__reward": "best"}, "no file lookagain/rewards/best.py; there are: rank, value"),
        (
            {"evaluate__models__stic__policy": "stick"},
            "evaluate.models.stic.policy = stick: no such policy; there are: base, stic",
        ),
        ({"methods__seva": "stic-stage1"}, "name the model 'stic-stage1', which something else makes too"),
        ({"methods__seva": "csr-1"}, "name the model 'csr-1', which something else makes too"),
        ({"methods": {"seva": "seva"}}, "methods must hold stic: stic-stage1"),
        ({"methods__povid": "povid", "povid__pairs__images": 601}, "povid.pairs.images = 601 exceeds sample.images"),
        (
            {"methods__self_rewarding": "own", "self_rewarding__pairs__temperature": 0.0},
            "self_rewarding.pairs.temperature = 0 would draw",
        ),
        ({"sample__images": 5000}, "sample.images = 5000 exceeds publish.world.pool = 2000"),
        ({"stic__dpo__learning_rate": -1e-4}, "stic.dpo.learning_rate"),
        ({"stic__dpo__bta": 0.1}, "unknown key 'stic.dpo.bta'"),
        (
            {"methods": {"mine": "mine"}},
            "methods names 'mine', and no section of that name has pairs and dpo; those that have: stic, seva, povid",
        ),
        ({"seva__pairs__augmentation__name": "blur"}, "seva.pairs.augmentation.name = 'blur', allowed: none, flip"),
        ({"seva__pairs__augmentation__noise_step": 1000}, "must lie between 0 and 999"),
        ({"continued_sft__models": {"sft-200": 2.0}}, "continued_sft.models.sft-200 = 2.0 must be a share"),
        ({"csr__init": "stic", "evaluate__models": {}}, "csr.init = stic must be a row of evaluate.models"),
        ({"csr__init": "seva"}, "csr.init = 'seva', allowed: base, stic"),
        ({"evaluate__models": {"x": {"policy": "base", "dar": False, "augment": {"name": "flip"}}}}, "x.augment.noise_step"),
        ({"evaluate__split": "train"}, "evaluate.split = 'train', allowed: test, validation"),
        ({"csr": 3}, "csr must be a section"),
        ({"methods__seva": "scorer"}, "name the model 'scorer', which something else makes too"),
    ],
    ids=str,
)
def test_bad_values(tmp_path, values, message):
    with pytest.raises(ParamsError, match=re.escape(message)):
        load_params(changed(tmp_path, **values))


def test_missing_key(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("".join(line for line in (ROOT / "presets/tiny.yaml").open() if not line.startswith("seed:")))
    with pytest.raises(ParamsError, match="missing key 'seed'"):
        load_params(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: b: c", "lambda: {", "just text"])
def test_files_that_are_no_params(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=re.escape(str(path))):
        load_params(path)


def test_no_file(tmp_path):
    with pytest.raises(ParamsError, match="no params file"):
        load_params(tmp_path / "params.yaml")


def test_small_floats_as_dvc_writes_them(tmp_path):
    """`-S stic.dpo.learning_rate=5e-7` leaves 5e-07 in the file."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "presets/tiny.yaml").read_text().replace("learning_rate: 5.0e-4", "learning_rate: 5e-07", 1))
    assert load_params(path).stic.dpo.learning_rate == 5e-7


def test_a_row_of_evaluate_models_may_augment_its_images(tmp_path):
    augment = {"name": "diffusion", "noise_step": 700, "crop_share": 0.5}
    rows = {"noised": {"policy": "base", "dar": False, "augment": augment}, "base-dar": {"policy": "base", "dar": True}}
    models = load_params(changed(tmp_path, evaluate__models=rows)).evaluate.models
    assert (models["noised"].augment.noise_step, models["base-dar"].augment) == (700, None)


def test_a_method_of_ones_own_has_a_section_of_its_own(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Settings:
        words: int

    yaml = YAML()
    dpo = yaml.load((ROOT / "presets/tiny.yaml").read_text())["seva"]["dpo"]
    methods = {"stic": "stic-stage1", "seva": "seva", "mine": "mine"}
    own = changed(tmp_path, methods=methods, mine={"pairs": {"words": 3}, "dpo": dpo})
    params = load_params(own)
    assert pair_settings(params, "mine", Settings) == Settings(3)
    assert section_of(params, "mine").dpo == params.seva.dpo
    assert flatten(params)["mine.pairs.words"] == 3
    with pytest.raises(ParamsError, match=r"unknown key 'mine\.pairs\.words'; allowed here: letters"):
        pair_settings(params, "mine", dataclasses.make_dataclass("Settings", [("letters", int)]))
    with pytest.raises(ParamsError, match="unknown key 'mine'"):
        load_params(changed(tmp_path, mine={"pairs": {"words": 3}, "dpo": dpo}))
