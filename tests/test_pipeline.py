"""The whole pipeline on preset `smoke`, by the commands that a user types, in a copy of the working tree."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from project import copy_repository, run, stages_run

from lookagain.params import load_params
from lookagain.records import read_metrics


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of its own, with `smoke` run once: (folder, output of the run)."""
    folder = tmp_path_factory.mktemp("pipeline") / "lookagain"
    copy_repository(folder)
    run(folder, sys.executable, "-m", "lookagain.cli", "use", "smoke")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=start")
    return folder, run(folder, "dvc", "repro")


def test_no_output_names_the_commit(repository):
    folder, _ = repository
    commit = run(folder, "git", "rev-parse", "--short=7", "HEAD").strip()
    made = [path for path in (folder / "reports").rglob("*") if path.suffix in (".html", ".md", ".csv", ".json", ".tex")]
    assert len(made) > 10
    assert not [path for path in made if commit in path.read_text()]


def models(folder: Path) -> list[str]:
    params = load_params(folder / "params.yaml")
    return ["base", *params.evaluate.models, *(f"csr-{t}" for t in range(1, params.csr.iterations + 1))]


def test_outputs(repository):
    folder, _ = repository
    for model in models(folder):
        found = read_metrics(folder / "reports/metrics" / f"{model}.json")
        for key in ("pope/adversarial/accuracy", "chair/chair_s", "chair_sampled/chair_i", "chair/truncated_base/chair_s"):
            assert key in found or (model == "base" and "truncated" in key), f"{model} has no {key}"
        assert (folder / "data/answers" / f"{model}.jsonl").stat().st_size
    for name in ("pairs/stic", "pairs/seva", "pairs_csr/csr-1", "pairs_csr/csr-2"):
        figures = read_metrics(folder / "reports/metrics" / f"{name}.json")
        assert figures["pairs/rejected/chair_i"].value is not None
        assert figures["pairs/all/reward_margin"].value is not None
    assert any((folder / "reports/tables").iterdir())
    assert (folder / "reports/index.html").stat().st_size
    assert run(folder, "git", "status", "--porcelain", "data", "models") == ""


def test_tracking_holds_a_parent_with_the_final_metrics_and_a_child_for_each_stage(repository):
    folder, output = repository
    with sqlite3.connect(folder / "mlflow.db") as connection:
        (parent,) = connection.execute("select run_uuid from tags where key = 'lookagain.role'").fetchall()
        metrics = {key for (key,) in connection.execute("select key from latest_metrics where run_uuid = ?", parent)}
        children = connection.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
        ended = {status for (status,) in connection.execute("select status from runs")}
        (peak,) = connection.execute("select max(value) from metrics where key = 'peak_memory_gb'").fetchone()
    assert {key.split("/")[0] for key in metrics} == set(models(folder))
    untracked = {
        "check_params",
        "publish@world",
        "report",
    }  # neither of the first two measures anything, the parent has the third
    assert children >= len(stages_run(output) - untracked)
    assert ended == {"FINISHED"}
    assert peak < 6


def test_again_does_nothing(repository):
    folder, _ = repository
    assert stages_run(run(folder, "dvc", "repro")) == set()


def test_another_lambda_runs_csr_alone_and_a_second_clone_restores_both(repository, tmp_path):
    folder, _ = repository
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=results")
    iterations = range(1, load_params(folder / "params.yaml").csr.iterations + 1)
    chain = {f"{stage}@{t}" for stage in ("search", "train_csr", "evaluate") for t in iterations}
    assert stages_run(run(folder, "dvc", "exp", "run", "--name", "half", "-S", "lambda=0.5")) == chain | {
        "check_params",
        "diagnose_csr",
        "measure_attention",
        "report",
    }
    shown = run(folder, "dvc", "exp", "show", "--json")
    rows = json.loads(shown[shown.index("[{") :])
    (experiment,) = [entry for row in rows for entry in row["experiments"] or []]
    assert experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["lambda"] == 0.5

    origin, clone = tmp_path / "origin.git", folder.parent / "clone"
    run(folder, "git", "clone", "--quiet", "--bare", str(folder), str(origin))
    run(folder, "git", "remote", "add", "origin", str(origin))
    run(folder, "dvc", "push", "--run-cache", "--all-commits")
    run(folder, "dvc", "exp", "push", "origin", "--all-commits")
    run(folder, "git", "clone", "--quiet", str(origin), str(clone))
    assert stages_run(run(clone, "dvc", "repro", "--pull")) == set()
    assert stages_run(run(clone, "dvc", "exp", "run", "--pull", "-S", "lambda=0.5")) <= {"check_params", "report"}
    assert "lambda: 0.5" in (clone / "params.yaml").read_text()
    for model in models(folder):
        metrics = f"reports/metrics/{model}.json"
        assert (clone / metrics).read_bytes() == (folder / metrics).read_bytes()
