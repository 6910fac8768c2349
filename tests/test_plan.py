"""Costs against figures worked out by hand from the models' published sizes."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lookagain import generation
from lookagain.params import load_params
from lookagain.plan import CACHE_PASSES, KEPT_BYTES, TOGETHER, Planner, plan, show
from lookagain.sizes import HARDWARE, MODELS, SizeError, shape_from_config, shape_of
from lookagain.training import collate

ROOT = Path(__file__).parents[1]
LLAVA = MODELS["llava-hf/llava-1.5-7b-hf"]
H200 = HARDWARE["h200"]


CONFIG = {
    "text_config": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
                    "vocab_size": 365, "tie_word_embeddings": True},
    "vision_config": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8},
}  # fmt: skip


@pytest.fixture
def small_base(tmp_path, monkeypatch):
    """A folder in which nothing has run: what is there is the base's config in checkpoints/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints/world-0/policy"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def params():
    return load_params(ROOT / "presets/llava-1.5-7b.yaml")


def test_sizes_are_those_published():
    # 32 layers of 4 x 4096^2 + 3 x 4096 x 11008, and two tables of 32064 x 4096
    assert LLAVA.parameters == 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 32064 * 4096
    assert LLAVA.parameters == pytest.approx(6.74e9, rel=1e-3)
    assert LLAVA.cache_bytes(2) == 2 * 32 * 4096 * 2  # .524 MB
    assert MODELS["llava-hf/llava-v1.6-mistral-7b-hf"].cache_bytes(2) == pytest.approx(0.131e6, rel=1e-2)
    assert MODELS["llava-hf/llava-v1.6-mistral-7b-hf"].parameters == pytest.approx(7.24e9, rel=1e-2)
    assert MODELS["llava-hf/llava-1.5-13b-hf"].parameters == pytest.approx(13.0e9, rel=1e-2)
    assert LLAVA.adapter(128) == 128 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))  # 320 million


def test_a_decode_step_reads_weights_and_cache(params):
    """One row of 750 tokens on an H200: 14.1 GB of weights, tower included, and twice .39 GB of cache at 4.3 TB/s."""
    quick = dataclasses.replace(H200, layer_seconds=0.0, start_seconds=0.0)
    planner = Planner(LLAVA, quick, 1, 2, params)
    cost = planner.generation("x", 0, 1, 74, 100, 100, 1)
    step = (2 * (LLAVA.parameters + 0.3e9) + CACHE_PASSES * 750 * 2**19) / 4.3e12
    decode = cost.seconds - planner.start() - 2 * LLAVA.parameters * 74 / (790e12 * 0.5)
    assert decode == pytest.approx(100 * step)
    assert 1 / step == pytest.approx(288, rel=0.01)
    slow = Planner(LLAVA, H200, 1, 2, params).generation("x", 0, 1, 74, 100, 100, 1)
    assert slow.seconds - 30 - cost.seconds == pytest.approx(100 * (32 * 0.9e-3 - step))


def test_training_takes_four_flops_a_parameter_and_token_and_two_for_the_reference(params):
    planner = Planner(LLAVA, H200, 1, 2, params)
    cost = planner.training("x", 6000, 2, 448, params.stic.dpo, 128)
    assert cost.tokens_in == 6000 * 2 * 1024
    towers = 2 * 2 * 0.3e9 * 577 * 6000  # each image for the reference and for the step
    assert cost.flops == pytest.approx(6 * LLAVA.parameters * cost.tokens_in + towers)
    sft = planner.training("x", 6000, 1, 448, params.stic.sft, 128)
    assert sft.flops == pytest.approx(4 * LLAVA.parameters * 6000 * 1024 + towers / 2)
    four = Planner(LLAVA, H200, 4, 2, params).training("x", 6000, 2, 448, params.stic.dpo, 128)
    assert (four.seconds - planner.start()) * 4 == pytest.approx(cost.seconds - planner.start(), rel=1e-6)


def test_a_search_grows_all_trees_of_a_batch_to_the_depth_of_the_deepest(params):
    """24 / 4 = 6 trees at once, 1000 batches; 16 sentences of 30 tokens, twice and one and a half times the usual; 24 rows."""
    quick = dataclasses.replace(H200, layer_seconds=0.0, start_seconds=0.0)
    planner = Planner(LLAVA, quick, 1, 2, params)
    (cost,) = [cost for cost in plan(params, quick, 1) if cost.stage == "search@1"]
    context = 576 + 40 + 8 * 20
    step = (2 * (LLAVA.parameters + 0.3e9) + CACHE_PASSES * 40 * context * 2**19) / 4.3e12
    prefill = planner.work(2 * LLAVA.parameters * 6000 * (576 + 40) + planner.images(6000))
    assert cost.seconds - planner.start() - prefill == pytest.approx(1000 * 16 * 30 * step)
    assert cost.tokens_out == 6000 * (1 + 4 * 7) * 5 * 20  # written in the usual eight sentences
    assert cost.memory == pytest.approx(planner.fixed + 48 * context * 2**19, rel=1e-3)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_stage_of_every_preset_has_its_line(preset, small_base):
    params = load_params(ROOT / f"presets/{preset}.yaml")
    costs = plan(params, H200, 1)
    names = [cost.stage for cost in costs]
    assert len(set(names)) == len(names)
    stages = [YAML(typ="safe").load(ROOT / file)["stages"] for file in ("dvc.yaml", "pipelines/csr/dvc.yaml")]
    known = {name.partition("@")[0] for name in names}
    empty = {"train_continued": params.continued_sft.models, "publish": params.publish}
    assert known == {*stages[0], *stages[1]} - {stage for stage, members in empty.items() if not members}
    assert {*(f"evaluate@{row}" for row in params.evaluate.models), "evaluate@1"} <= set(names)
    assert {f"train_dpo@{source}" for source in params.methods} <= set(names)
    shown = show(costs, H200, "h200", 1)
    assert all(name in shown for name in names)
    assert max(map(len, shown.splitlines())) < 130


@pytest.mark.parametrize("preset", [path.stem for path in (ROOT / "presets").glob("*.yaml") if "GB (" in path.read_text()])
def test_the_headers_of_presets_are_the_plans(preset):
    """GPUs, memory, disk and hours, as `lookagain plan` gives them for the hardware that the header names."""
    header = " ".join((ROOT / f"presets/{preset}.yaml").read_text().partition("\nlambda:")[0].replace("#", " ").split())
    gpus, size, used = map(float, re.findall(r"(\d+) GPUs? of (\d+) GB \(.*?\).*? of which (\d+) GB are used", header)[0])
    (disk,), (name, count) = re.findall(r"about (\d+) GB of disk", header), re.findall(r"--gpu (\w+) --gpus (\d+)", header)[0]
    ((time, unit),) = re.findall(r"Expect: ([\d.]+) (hours|minutes),", header)
    hardware = HARDWARE[name]
    assert (float(count), size * 1e9) == (gpus, hardware.memory)
    costs = plan(load_params(ROOT / f"presets/{preset}.yaml"), hardware, int(count))
    assert used < 0.9 * size
    assert used == pytest.approx(max(cost.memory for cost in costs) / 1e9, abs=1)
    assert float(disk) == pytest.approx(sum(cost.disk for cost in costs) / 1e9, abs=1)
    seconds = sum(cost.seconds or 0.0 for cost in costs)
    assert float(time) == pytest.approx(seconds / (3600 if unit == "hours" else 60), rel=0.1)
    assert f"lookagain use {preset} &&" in header
    assert (ROOT / re.findall(r"ACCELERATE_CONFIG=(\S+)", header)[0]).is_file()


def test_times_are_wrong_by_no_more_than_two_where_they_were_measured(monkeypatch):
    monkeypatch.chdir(ROOT)
    measured = re.findall(r"^\| `(\S+)` \| (\d+) s \| (\d+) s \|$", (ROOT / "docs/gpu.md").read_text(), re.MULTILINE)
    if not measured:
        pytest.skip("docs/gpu.md has no times of a run of preset tiny")
    costs = {cost.stage: cost.seconds for cost in plan(load_params(ROOT / "presets/tiny.yaml"), HARDWARE["cpu"], 2)}
    for stage, seconds, planned in measured:
        assert costs[stage] == pytest.approx(float(planned), abs=0.6), stage
        assert 0.5 < float(seconds) / costs[stage] < 2, stage


def test_what_the_plan_repeats_is_as_it_is_where_it_is_used():
    assert KEPT_BYTES == collate.KEPT_BYTES
    assert TOGETHER == generation.TOGETHER


def test_two_prompts_about_an_image_share_a_row(params):
    planner = Planner(LLAVA, dataclasses.replace(H200, layer_seconds=0.0), 1, 2, params)
    apart, together = (planner.generation("x", images, 64, 40, 100, 100, 32) for images in (64, 32))
    assert together.tokens_out == apart.tokens_out
    assert together.memory - apart.memory == pytest.approx(32 * 140 * LLAVA.cache_bytes(2))
    assert together.seconds - planner.start() < 0.75 * (apart.seconds - planner.start())


def test_more_devices_are_never_slower_and_too_large_ones_are_told(params):
    one, four = (sum(cost.seconds or 0 for cost in plan(params, H200, devices)) for devices in (1, 4))
    assert 2 < one / four <= 4
    assert "a device has 24" in show(plan(params, HARDWARE["rtx4090"], 1), HARDWARE["rtx4090"], "rtx4090", 1)


def test_a_published_base_is_known_before_any_run(small_base):
    shape = shape_of(load_params(ROOT / "presets/tiny.yaml"))
    assert (shape.hidden, shape.vocabulary, shape.image_tokens) == (128, 365, 64)
    (small_base / "config.json").unlink()
    with pytest.raises(SizeError, match="the sizes of data/published/world/policy are not known"):
        shape_of(load_params(ROOT / "presets/tiny.yaml"))


def test_a_publication_says_how_much_there_is(small_base):
    params = load_params(ROOT / "presets/tiny.yaml")
    given = params.publish["world"]
    twice = dataclasses.replace(given, pool=2 * given.pool, test=2 * given.test)
    costs, more = (
        {cost.stage: cost for cost in plan(dataclasses.replace(params, publish={"world": one}), HARDWARE["cpu"], 2)}
        for one in (given, twice)
    )
    assert costs["publish@world"].disk == 8000 * (2000 + 1000 + 500 + 600 + 2 * 300)
    assert more["prepare_data"].disk - costs["prepare_data"].disk == 8000 * 2600
    assert more["evaluate_base"].tokens_out > 1.5 * costs["evaluate_base"].tokens_out
    assert more["train_sft"] == costs["train_sft"]
    assert costs["prepare_policy"].disk == costs["prepare_scorer"].disk == 0  # pinned where they lie


def test_sizes_come_from_a_checkpoints_config():
    shape = shape_from_config(CONFIG)
    assert shape.parameters == 4 * (4 * 128**2 + 3 * 128 * 384) + 365 * 128
    assert (shape.image_tokens, shape.kv) == (64, 128)
    with pytest.raises(SizeError, match="hidden_size"):
        shape_from_config({**CONFIG, "text_config": {}})
