"""The checkpoints in git are those that DVC's lock names: a clone trains none of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "checkpoints").iterdir() if path.is_dir())


def test_world_0_is_there():
    assert "world-0" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_training_stages_are_up_to_date(name):
    stages = [f"world/dvc.yaml:{stage}@{name}" for stage in ("train_policy", "train_clip")]
    command = [sys.executable, "-m", "dvc", "status", *stages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Data and pipelines are up to date."), done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["policy", "clip"])
def test_each_part_has_a_card(name, part):
    card = metadata_load(ROOT / "checkpoints" / name / part / "README.md")
    assert (card["model_name"], card["publisher"], card["license"]) == (name, "small world", "cc-by-4.0")
    assert "Twemoji" in card["credits"]


@pytest.mark.parametrize("name", NAMES)
def test_policy_and_clip_are_12_mb_at_most(name):
    files = [path for path in (ROOT / "checkpoints" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
