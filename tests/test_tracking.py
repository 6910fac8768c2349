"""Tracking: a parent per experiment and a child per stage, nothing twice, and no stage that fails because of it."""

import json
import os
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from lookagain import tracking
from lookagain.tracking import syncing

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "params.yaml").write_text((ROOT / "presets/tiny.yaml").read_text())
    return tmp_path


def run_stage(name="train_dpo@stic"):
    with tracking.child(name, {"beta": 0.1}) as track:
        track.metrics({"loss": 1.0}, step=1)
        track.metrics({"loss": 0.5}, step=2)
        track.text("pairs.md", "# pairs")
        track.image("images/first.png", Image.new("RGB", (4, 4)))
        track.file("params.yaml")


def rows(query, database="mlflow.db"):
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_parent_child_and_nothing_twice(project):
    run_stage()
    with pytest.raises(RuntimeError), tracking.child("search@1", {}):
        raise RuntimeError("stage failed")
    for _ in range(2):
        tracking.parent({"base/pope/adversarial/accuracy": 90.0}, ["params.yaml"])
        assert sorted(status for (status,) in rows("select status from runs")) == ["FAILED", "FINISHED", "FINISHED"]
        assert rows("select value, step from metrics where key = 'loss' order by step") == [(1.0, 1), (0.5, 2)]
        assert rows("select count(*) from metrics where key = 'base/POPE adversarial'") == [(1,)]
    (parent,) = rows("select run_uuid from tags where key = 'lookagain.role'")
    assert rows("select distinct value from tags where key = 'mlflow.parentRunId'") == [parent]
    stored = dict(rows(f"select key, value from params where run_uuid = '{parent[0]}'"))
    assert (stored["lambda"], stored["stic.dpo.beta"]) == ("0.9", "0.1")
    assert {path.name for path in Path("mlartifacts").rglob("*.*")} == {"pairs.md", "first.png", "params.yaml"}
    assert {key for (key,) in rows("select distinct key from metrics")} >= {"wall_seconds", "peak_memory_gb", "cpu_seconds"}


def test_an_experiments_row_has_the_main_metrics_and_what_differs(project, monkeypatch):
    long = {"base/chair/chair_s": 30.0, "csr-1/chair/chair_s": 20.0, "csr-1/pope/random/f1": 80.0, "csr-1/mmvet/all/score": 5.0}
    tracking.parent(long)
    monkeypatch.setenv("DVC_EXP_NAME", "salty-dog")
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("lambda: 0.9", "lambda: 0.5"))
    for _ in range(2):
        tracking.parent({**long, "csr-1/chair/chair_s": 25.0})
    kept = rows("select key, value from latest_metrics natural join runs where name = 'salty-dog' order by key")
    assert kept == [("base/CHAIR_S", 30.0), ("csr-1/CHAIR_S", 25.0), ("csr-1/mmvet", 5.0)]
    assert rows("select count(*) from metrics natural join runs where name = 'salty-dog'") == [(3,)]
    (view,) = rows("select value from experiment_tags where key like 'mlflow.sharedViewState.%'")
    assert json.loads(view[0])["selectedColumns"] == ["metrics.`csr-1/CHAIR_S`", "params.`lambda`"]


def test_tables_are_artifacts_that_the_store_shows(project):
    tracking.parent({}, tables={"pairs": [{"chosen": "a dog", "rejected": "a cat"}]})
    (path,) = Path("mlartifacts").rglob("pairs.json")
    assert json.loads(path.read_text()) == {"columns": ["chosen", "rejected"], "data": [["a dog", "a cat"]]}
    assert rows("select value from tags where key = 'mlflow.loggedArtifacts'") == [
        ('[{"path": "pairs.json", "type": "table"}]',)
    ]


def test_a_running_stage_is_sent_as_far_as_it_is(project):
    with tracking.child("train_sft", {}) as track:
        track.metrics({"loss": 1.0}, step=1)
        tracking.sync()
        assert rows("select value from metrics where key = 'loss'") == [(1.0,)]
        assert ("RUNNING",) in rows("select status from runs")
        track.metrics({"loss": 0.5}, step=2)
    tracking.sync()
    assert len(rows("select value from metrics where key = 'loss'")) == 2
    assert rows("select status from runs where name = 'train_sft'") == [("FINISHED",)]


def test_a_killed_stage_is_seen_as_killed(project):
    run_stage()
    (records,) = Path(".tracking").rglob("records.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0]["pid"] = 2**22 + 1  # above the highest process id
    records.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]) + '{"half')
    tracking.sync()
    assert rows("select status from runs where name = 'train_dpo@stic'") == [("KILLED",)]


def test_a_new_store_gets_everything(project, monkeypatch):
    run_stage()
    tracking.sync()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    tracking.sync()
    assert rows("select count(*) from metrics where key = 'loss'", "other.db") == [(2,)]


def test_experiments_have_rows_of_their_own(project, monkeypatch):
    run_stage()
    monkeypatch.setenv("DVC_EXP_NAME", "salty-dog")
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("lambda: 0.9", "lambda: 0.5"))
    run_stage()
    tracking.sync()
    parents = "select run_uuid from tags where key = 'lookagain.role'"
    assert {value for (value,) in rows(f"select value from params where key = 'lambda' and run_uuid in ({parents})")} == {
        "0.9",
        "0.5",
    }
    assert ("salty-dog",) in rows("select name from runs")


def test_the_store_lies_at_dvcs_root(project, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(project / "root"))
    (project / "root").mkdir()
    run_stage()
    tracking.sync()
    assert rows("select count(*) from runs", "root/mlflow.db") == [(2,)]
    assert not Path("mlflow.db").exists()


def test_a_dead_server_is_replaced_at_once(project, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run_stage()
    tracking.parent({"base/chair/chair_s": 1.0})
    assert "does not answer" in capsys.readouterr().err
    assert rows("select count(*) from runs") == [(2,)]


def test_a_server_that_fails_later_is_one_warning(project, monkeypatch, capsys):
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 500)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    run_stage()
    tracking.parent({"base/chair/chair_s": 1.0})
    server.shutdown()
    assert "warning: tracking" in capsys.readouterr().err


def test_a_stage_outlives_a_folder_it_cannot_write(project, capsys):
    Path(".tracking").write_text("a file where the folder should be")
    run_stage()
    tracking.parent({"base/chair/chair_s": 1.0})
    assert capsys.readouterr().err.count("warning: tracking") == 2


def test_processes_beside_the_main_one_record_nothing(project):
    with tracking.child("evaluate@base", {}, enabled=False) as track:
        track.metrics({"x": 1.0})
    assert not os.path.exists(".tracking")


def test_restored_experiments_get_a_row_once(project, monkeypatch):
    raw = tracking.journal.YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
    restored = ("calm-owl", {**raw, "lambda": 0.7}, {"base/chair/chair_s": 1.0})
    monkeypatch.setattr(syncing, "_dvc_rows", lambda: [(None, raw, {"base/chair/chair_s": 2.0}), restored])
    run_stage()
    tracking.parent({"base/chair/chair_s": 2.0})  # the working tree's own row is there already
    assert [tracking.sync_experiments(), tracking.sync_experiments()] == [1, 0]
    assert rows("select count(*) from tags where key = 'lookagain.role'") == [(2,)]
