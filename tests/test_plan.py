"""Costs against figures worked out by hand from the models' published sizes."""

import dataclasses
import re
from pathlib import Path

import pytest

from lookagain.params import load_params
from lookagain.plan import HARDWARE, MODELS, PlanError, Planner, plan, shape_from_config, shape_of, show

ROOT = Path(__file__).parents[1]
LLAVA = MODELS["llava-hf/llava-1.5-7b-hf"]
H200 = HARDWARE["h200"]


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
    """One row of 750 tokens on an H200: 14.1 GB of weights, tower included, and .39 GB of cache at 4.3 TB/s."""
    quick = dataclasses.replace(H200, layer_seconds=0.0, start_seconds=0.0)
    planner = Planner(LLAVA, quick, 1, 2, params)
    cost = planner.generation("x", 0, 1, 74, 100, 100, 1)
    step = (2 * (LLAVA.parameters + 0.3e9) + 750 * 2**19) / 4.3e12
    decode = cost.seconds - planner.start() - 2 * LLAVA.parameters * 74 / (790e12 * 0.5)
    assert decode == pytest.approx(100 * step)
    assert 1 / step == pytest.approx(300, rel=0.02)
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


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_stage_of_every_preset_has_its_line(preset, tmp_path, monkeypatch):
    params = load_params(ROOT / f"presets/{preset}.yaml")
    monkeypatch.chdir(tmp_path)
    if params.policy.source == "world":
        with pytest.raises(PlanError, match="run prepare_policy first"):
            shape_of(params)
        return
    costs = plan(params, H200, 1)
    names = [cost.stage for cost in costs]
    assert len(set(names)) == len(names)
    assert {"search@1", "train_csr@1", "evaluate@base", *(f"evaluate@{row}" for row in params.evaluate.models)} <= set(names)
    (asked,) = re.findall(r"GPUs? of (\d+) GB", (ROOT / f"presets/{preset}.yaml").read_text().partition("lambda:")[0])
    assert max(cost.memory for cost in costs) < 0.9 * float(asked) * 1e9
    shown = show(costs, H200, "h200", 1)
    assert all(name in shown for name in names)
    assert max(map(len, shown.splitlines())) < 130


def test_more_devices_are_never_slower_and_too_large_ones_are_told(params):
    one, four = (sum(cost.seconds or 0 for cost in plan(params, H200, devices)) for devices in (1, 4))
    assert 2 < one / four <= 4
    assert "a device has 24" in show(plan(params, HARDWARE["rtx4090"], 1), HARDWARE["rtx4090"], "rtx4090", 1)


def test_sizes_come_from_a_checkpoints_config():
    text = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 365,
            "tie_word_embeddings": True}  # fmt: skip
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    shape = shape_from_config({"text_config": text, "vision_config": vision})
    assert shape.parameters == 4 * (4 * 128**2 + 3 * 128 * 384) + 365 * 128
    assert (shape.image_tokens, shape.kv) == (64, 128)
    with pytest.raises(PlanError, match="hidden_size"):
        shape_from_config({"text_config": {}, "vision_config": vision})
