"""docs/methods.md and docs/own-method.md: their commands are valid, their code runs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from project import build_project, run_stage, write_params
from ruamel.yaml import YAML

from lookagain.diagnostics import NO_MARGIN
from lookagain.pairs import read_pairs
from lookagain.params import flatten, load_params
from lookagain.policy import read_lineage
from lookagain.records import read_metrics

ROOT = Path(__file__).parents[1]
METHODS = (ROOT / "docs/methods.md").read_text()
OWN = (ROOT / "docs/own-method.md").read_text()
COMMANDS = [one for one in re.findall(r"`([^`]+)`", METHODS) if one.startswith("-S ") and "KEY" not in one]
NOISE = {"name": "diffusion", "noise_step": 900, "crop_share": 0.5}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_set_what_they_name(tmp_path, command):
    shutil.copy(ROOT / "presets/tiny.yaml", tmp_path / "params.yaml")
    words = shlex.split(command)
    assert set(words[::2]) == {"-S"}
    before = flatten(load_params(tmp_path / "params.yaml"))
    apply_overrides(tmp_path / "params.yaml", words[1::2])
    after = flatten(load_params(tmp_path / "params.yaml"))
    assert after != before


def test_the_papers_rows_are_all_there():
    assert len(COMMANDS) >= 20


def test_the_worked_example_of_a_source_and_a_reward(tmp_path, policy_folder):
    source, reward = re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)
    (section,) = re.findall(r"```yaml\n(.*?)```", OWN, re.DOTALL)
    folder = build_project(tmp_path / "project", policy_folder, csr__search__reward="geometric")
    shutil.copytree(ROOT / "lookagain", folder / "lookagain", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "lookagain/sources/consensus.py").write_text(source)
    (folder / "lookagain/rewards/geometric.py").write_text(reward)
    yaml = YAML()
    params, added = yaml.load(folder / "params.yaml"), yaml.load(section)
    params["methods"] |= added["methods"]
    params["evaluate"]["models"] |= added["evaluate"]["models"]
    params["consensus"] = added["consensus"]
    params["consensus"]["pairs"]["max_new_tokens"] = 8
    yaml.dump(params, folder / "params.yaml")
    printed = run_stage(folder, "generate_pairs", "consensus").stdout
    pairs = read_pairs(folder / "data/pairs/consensus")
    assert f"consensus: {len(pairs)} pairs (planned 12" in printed
    run_stage(folder, "train_dpo", "consensus", "consensus")
    assert read_lineage(folder / "models/consensus").adapters
    run_stage(folder, "search", "1", "base")
    assert all(pair.chosen_provenance.decoding["reward"] == "geometric" for pair in read_pairs(folder / "data/pairs/csr-1"))


def test_variants_run(tmp_path, policy_folder):
    """Continued SFT, positive-only training without images, figures of pairs, an augmented evaluation: by the stages."""
    changes = {
        "continued_sft__models": {"sft-50": 0.5}, "evaluate__benchmarks": [], "seva__pairs__rejected": 2,
        "seva__dpo__objective": "sft", "seva__dpo__image_token": False,
        "self_rewarding__pairs__images": 8, "methods": {"stic": "stic-stage1", "self_rewarding": "self-rewarding"},
        "evaluate__models": {"noised": {"policy": "base", "dar": False, "augment": NOISE}},
    }  # fmt: skip
    folder = build_project(tmp_path / "project", policy_folder, **changes)
    (folder / "data/pool_truth").mkdir(parents=True)
    assert "6 conversations" in run_stage(folder, "train_continued", "sft-50").stdout
    run_stage(folder, "generate_pairs", "seva")
    assert "last loss" in run_stage(folder, "train_dpo", "seva", "seva").stdout
    assert "chosen/length" in run_stage(folder, "diagnose_pairs", "seva", "seva").stdout
    assert read_metrics(folder / "reports/metrics/pairs/seva.json")["pairs/all/reward_margin"].reason == NO_MARGIN
    run_stage(folder, "evaluate", "base", "base")
    assert "self_rewarding: 8 pairs (planned 8, equal dropped 0" in run_stage(folder, "generate_pairs", "self_rewarding").stdout
    assert ", 0 from the cache" in run_stage(folder, "evaluate", "noised", "base").stdout  # other images, other answers
    clean, noised = ((folder / f"data/answers/{model}.jsonl").read_text() for model in ("base", "noised"))
    assert clean != noised
    write_params(folder, **changes, continued_sft__folders=["gqa"])
    refused = run_stage(folder, "train_continued", "sft-50", check=False)
    assert (refused.returncode, "continued_sft.folders = ['gqa']: no image" in refused.stderr) == (1, True)
