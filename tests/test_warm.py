"""Stages from a process that has imported their libraries: as they run without it, and by the code of their own time and place."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookagain import warm

ROOT = Path(__file__).parents[1]
TOY = """
import json, os, sys, time
from pathlib import Path
from lookagain.errors import UserError

def main(say, seconds="0"):
    print("out", say)
    print("err", say, file=sys.stderr)
    if say == "error":
        raise UserError("a user's")
    if say == "bug":
        raise ValueError("a bug")
    if say == "kill":
        os.kill(os.getpid(), 9)
    time.sleep(float(seconds))
    Path("said.json").write_text(json.dumps([say, "torch" in sys.modules, os.environ["MARK"], os.environ["OMP_NUM_THREADS"],
        "trl.trainer.dpo_trainer" in sys.modules]))
"""


@pytest.fixture
def project(tmp_path, warm_stages):
    (tmp_path / "params.yaml").write_text((ROOT / "presets/smoke.yaml").read_text())
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/toy.py").write_text(TOY)
    ready = Path(os.environ[warm.WARM].partition(os.pathsep)[0])
    end = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < end, "no server"
        time.sleep(0.05)
    return tmp_path


def start(project, *arguments, **settings):
    shared = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_CONFIG": "configs/accelerate/cpu.yaml", "MARK": "1"} | settings
    shared.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "lookagain.launch", "toy", *arguments]
    return subprocess.Popen(command, cwd=project, env=shared, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(project, *arguments, **settings):
    running = start(project, *arguments, **settings)
    out, err = running.communicate(timeout=60)
    return running.returncode, out, err


def test_a_stage_finds_the_libraries_its_folder_its_environment_and_its_streams(project):
    assert run(project, "yes", MARK="x") == (0, "out yes\n", "err yes\n")
    assert json.loads((project / "said.json").read_text())[:3] == ["yes", True, "x"]


def test_the_libraries_of_later_stages_are_there_after_the_first(project):
    run(project, "first")
    run(project, "second")
    assert json.loads((project / "said.json").read_text())[-1] is True


def test_without_the_server_it_runs_as_well(project):
    assert run(project, "yes", LOOKAGAIN_WARM=f"/nowhere{os.pathsep}{sys.prefix}") == (0, "out yes\n", "err yes\n")
    assert json.loads((project / "said.json").read_text())[1] is False
    assert run(project, "yes", LOOKAGAIN_WARM=os.environ[warm.WARM] + "/another-python")[0] == 0
    assert json.loads((project / "said.json").read_text())[1] is False


def test_errors_bugs_and_kills_have_their_codes(project):
    assert run(project, "error") == (1, "out error\n", "err error\nerror: a user's\n")
    code, _, err = run(project, "bug")
    assert code == 1
    assert "Traceback" in err
    assert "a bug" in err
    code, _, err = run(project, "kill")
    assert code == 1
    assert "was killed" in err


def test_code_edited_meanwhile_is_the_code_that_runs(project):
    run(project, "yes")
    (project / "stages/toy.py").write_text(TOY.replace('"out"', '"edited"'))
    package = project / "lookagain"
    package.symlink_to(ROOT / "lookagain")
    (project / "stages/toy.py").write_text("import lookagain\ndef main():\n    print(lookagain.__path__[0])\n")
    assert run(project, PYTHONPATH="")[1].strip() == str(package)


def test_sigterm_reaches_the_stage(project):
    running = start(project, "yes", "20")
    assert running.stdout.readline() == "out yes\n"
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=10)
    assert running.returncode == 0
    assert "stopped; the same command goes on from here" in err
    assert not (project / "said.json").exists()


def test_the_command_runs_between_and_the_server_ends_with_it(tmp_path):
    code = f"import os; print(os.environ[{warm.WARM!r}]); raise SystemExit(3)"
    command = [sys.executable, "-m", "lookagain.warm", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert not Path(done.stdout.partition(os.pathsep)[0]).exists()
