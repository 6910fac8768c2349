"""Grids: what is missing, the commands, and real runs of DVC in a small repository, one of which fails."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lookagain.launch import share_raw_data
from lookagain.papers import cells, experiments, grid, tables
from lookagain.params import read_raw

ROOT = Path(__file__).parents[1]

TABLE = """
title: two lambdas
source: {paper: CSR, place: Table 9}
kind: table
policies: {LLaVA-1.5 7B: llava-hf/llava-1.5-7b-hf}
columns:
  - {title: CHAIR_S, metric: chair/chair_s, better: down}
rows:
  - {label: as it is, model: base, published: [1.0]}
  - {label: one tenth, model: base, params: {lambda: 0.1}, published: [1.0]}
  - {label: one tenth again, model: base, params: {lambda: 0.1, csr.iterations: 3}, published: [1.0]}
  - {label: one fails, model: base, params: {lambda: 0.2}, published: [1.0]}
"""

STAGE = """
stages:
  evaluate_base:
    cmd: python evaluate.py
    params: [lambda]
    deps: [evaluate.py]
    metrics:
      - reports/metrics/base.json: {cache: false}
"""

SCRIPT = """
import json, pathlib, re, sys
value = float(re.search(r"^lambda: (\\S+)", pathlib.Path("params.yaml").read_text(), re.M)[1])
if value == 0.2:
    sys.exit("error: lambda 0.2 is refused")
pathlib.Path("reports/metrics").mkdir(parents=True, exist_ok=True)
pathlib.Path("reports/metrics/base.json").write_text(json.dumps({"chair/chair_s": {"value": 100 * value, "se": 1.0, "n": 9}}))
"""


@pytest.fixture
def look(tmp_path):
    """A table's file beside params, as a function that fills it anew."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/csr-9.yaml").write_text(TABLE)
    (tmp_path / "params.yaml").write_text((ROOT / "presets/tiny.yaml").read_text())

    def fill():
        return cells.fill(
            tables.read("csr-9", tmp_path / "tables"),
            read_raw(tmp_path / "params.yaml"),
            experiments.experiments(tmp_path),
            "small world",
        )

    return fill


def test_rows_that_want_the_same_params_share_a_run(look, tmp_path):
    raw = read_raw(tmp_path / "params.yaml")
    runs = grid.missing_runs(look(), raw)
    assert [run.rows for run in runs] == [["one tenth", "one tenth again"], ["one fails"], ["as it is"]]
    assert [run.overrides for run in runs] == [{"lambda": 0.1}, {"lambda": 0.2}, {}]
    assert len({run.name for run in runs}) == 3
    slower = raw | {"runtime": {"batch_size": 1, "micro_batch_size": 1}}
    assert [run.name for run in grid.missing_runs(look(), slower)] == [run.name for run in runs]


def test_command():
    raw = {"lambda": 0.9, "evaluate": {"models": {}}, "policy": {"checkpoint": "a"}}
    overrides = {
        "lambda": 1e-7,
        "evaluate.models.base-dar": {"policy": "base", "dar": True},
        "policy.checkpoint": "llava-hf/llava-1.5-13b-hf",
        "policy.note": "two words",
    }
    command = grid.command(grid.Run("csr-9-1", overrides, []), raw)
    assert command[:9] == [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", "csr-9-1"]
    assert command[10::2] == [
        "lambda=1e-07",
        "+evaluate.models.base-dar={policy: base, dar: true}",
        "policy.checkpoint=llava-hf/llava-1.5-13b-hf",
        "+policy.note='two words'",
    ]


def test_experiments_find_this_python_and_threads_yield_where_several_run(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert grid.environment(1)["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert "OMP_WAIT_POLICY" not in grid.environment(1)
    assert grid.environment(2)["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert grid.environment(2)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_last_error():
    assert grid.last_error("x\nerror: no params\nERROR: failed to run\n") == "no params"
    assert grid.last_error("x\nERROR: failed to run\nmore\n") == "failed to run"
    assert grid.last_error("") == "no output"


def test_a_grid_runs_what_is_missing_and_survives_a_failure(look, tmp_path):
    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "evaluate.py").write_text(SCRIPT)
    (tmp_path / ".gitignore").write_text("/.resume/\n")
    run("git", "init", "--quiet")
    run("git", "config", "user.email", "a@b")
    run("git", "config", "user.name", "a")
    run(sys.executable, "-m", "dvc", "init", "--quiet")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message=start")
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text() + "# an edit that must stay\n")
    before, raw, told = params.read_text(), read_raw(params), []

    # Another `dvc` holds the lock for longer than DVC waits unasked: 3 s.
    hold = "import time, zc.lockfile; held = zc.lockfile.LockFile('.dvc/tmp/lock'); print(flush=True); time.sleep(7)"
    with subprocess.Popen([sys.executable, "-c", hold], cwd=tmp_path, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        outcomes = grid.run_grid(look, raw, jobs=2, tell=told.append, root=tmp_path)

    assert {outcome.run.rows[0]: outcome.error for outcome in outcomes} == {
        "one tenth": None,
        "one fails": "lambda 0.2 is refused",
        "as it is": None,
    }
    filled = grid.with_failures(look(), outcomes)
    assert [row.cells[0].value for row in filled.rows] == [pytest.approx(90), pytest.approx(10), pytest.approx(10), None]
    assert filled.rows[3].cells[0].reason.startswith("failed: lambda 0.2 is refused (")
    assert params.read_text() == before
    # Called again, it tries the failed one alone.
    assert [run.rows for run in grid.missing_runs(look(), raw)] == [["one fails"]]


def test_an_experiment_that_a_killed_grid_left_at_work_is_waited_for(tmp_path):
    (tmp_path / grid.LOGS).mkdir(parents=True)
    with (tmp_path / grid.LOGS / "csr-9-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen(["sleep", "0.5"], pass_fds=[lock.fileno()])
    outcome = grid.run_one(grid.Run("csr-9-1", {}, []), {}, tmp_path, lambda: False, grid.environment(1))
    assert outcome.seconds > 0.3
    assert left.wait(5) == 0
    assert outcome.error is None
    assert not outcome.log.exists()


def test_a_copy_of_the_repository_reads_its_raw_data(tmp_path, monkeypatch):
    (tmp_path / "repository/data/raw").mkdir(parents=True)
    (tmp_path / "repository/data/raw/a.jpg").write_text("image")
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", "../repository")
    share_raw_data()
    share_raw_data()
    assert Path("data/raw/a.jpg").read_text() == "image"
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("DVC_ROOT", ".")
    share_raw_data()
    assert not Path("data/raw").is_symlink()


def test_what_comes_next_does_not_wait_for_a_slow_one(look, tmp_path, monkeypatch):
    """Of three runs two at a time, the third starts when the quick one has ended; a run that measures nothing is tried once."""
    released, started = threading.Event(), []

    def run_one(run, raw, root, wanted, environment):
        started.append(run.rows[0])
        if run.rows[0] == "one tenth":
            assert released.wait(60)
        elif len(started) == 3:
            released.set()
        return grid.Outcome(run, 0.0, None, tmp_path / "log")

    monkeypatch.setattr(grid, "run_one", run_one)
    grid.run_grid(look, read_raw(tmp_path / "params.yaml"), jobs=2, tell=lambda _: None, root=tmp_path)
    assert sorted(started) == ["as it is", "one fails", "one tenth"]
