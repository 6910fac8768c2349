"""Two processes give what one gives: pairs, searches and answers to the byte, adapters to 1e-5."""

import json

import pytest
from project import build_project, run_stage
from safetensors.torch import load_file
from torch.testing import assert_close

CONTINUED = {"continued_sft__models": {"sft-50": 0.5}, "continued_sft__sft__batch_size": 2}
STAGES = [
    ("generate_pairs", "stic"),
    ("train_dpo", "stic", "stic-stage1"),
    ("generate_pairs", "seva"),
    ("describe_images",),
    ("train_sft",),
    ("train_continued", "sft-50"),
    ("measure_overlap",),
    ("search", "1", "base"),
    ("evaluate", "base", "base", "--dar"),
]


@pytest.fixture(scope="module")
def projects(tmp_path_factory, policy_folder):
    folders = []
    for name in ("cpu", "cpu-2"):
        folder = build_project(tmp_path_factory.mktemp(name) / "project", policy_folder, **CONTINUED)
        for stage in STAGES:
            run_stage(folder, *stage, config=f"configs/accelerate/{name}.yaml")
        folders.append(folder)
    return folders


@pytest.mark.parametrize(
    "file", ["pairs/stic/pairs.jsonl", "pairs/seva/pairs.jsonl", "pairs/csr-1/pairs.jsonl", "answers/base.jsonl"]
)
def test_data_are_equal_to_the_byte(projects, file):
    one, two = ((folder / "data" / file).read_bytes() for folder in projects)
    assert len(one.splitlines()) >= 3
    assert one == two


@pytest.mark.parametrize("model", ["stic-stage1/adapters/00-stic-stage1", "stic/adapters/00-stic", "sft-50/adapters/00-sft-50"])
def test_adapters_are_equal(projects, model):
    one, two = (load_file(folder / "models" / model / "adapter_model.safetensors") for folder in projects)
    assert one.keys() == two.keys()
    assert any(value.abs().max() > 0 for name, value in one.items() if "lora_B" in name)
    for name in one:
        assert_close(one[name], two[name], rtol=1e-5, atol=1e-5, msg=name)


def test_overlaps_are_equal(projects):
    one, two = (json.loads((folder / "data/overlap.json").read_text())["overlap"] for folder in projects)
    assert one == two
    assert one["scenes"]["value"] is not None
