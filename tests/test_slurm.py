"""configs/slurm/repro.sbatch under a scheduler that is played: its config, its targets, and a requeue that waits for the stage."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# Stands in for dvc: runs one stage under a launcher that SIGTERM kills, and misses its outputs if it was stopped.
DVC = """#!/bin/bash
echo "$ACCELERATE_CONFIG $@" >>asked
sh -c 'python -m lookagain.launch; exit $?'
[ -e finished ]
"""
STAGE = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(0.3)
    pathlib.Path("saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("started").touch()
if pathlib.Path("saved").exists():
    pathlib.Path("finished").touch()
else:
    time.sleep(60)
"""
SCONTROL = '#!/bin/bash\necho "$@ $(ls saved)" >>requeued\n'


@pytest.mark.skipif(not (shutil.which("setsid") and shutil.which("pkill")), reason="needs setsid and pkill")
def test_a_job_that_is_ended_early_saves_is_queued_again_and_goes_on(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name, text in (("dvc", DVC), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text(f'export PATH="{tmp_path}/bin:$PATH"\n')
    (tmp_path / "lookagain").mkdir()
    (tmp_path / "lookagain/launch.py").write_text(STAGE)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_NNODES": "3", "SLURM_GPUS_ON_NODE": "8"}
    command = ["bash", str(ROOT / "configs/slurm/repro.sbatch"), "train_dpo@stic"]

    running = subprocess.Popen(command, env=os.environ | slurm, start_new_session=True)
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGTERM)  # the batch script alone, as --signal=B:TERM@60 has it
    assert running.wait(timeout=20) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7 saved\n"  # not before the stage had saved
    assert (tmp_path / "asked").read_text() == ".resume/slurm-7.yaml repro --pull train_dpo@stic\n"
    config = YAML(typ="safe").load(tmp_path / ".resume/slurm-7.yaml")
    assert (config["num_machines"], config["num_processes"]) == (3, 24)
    assert subprocess.run(command, env=os.environ | slurm, timeout=20, check=False).returncode == 0
    assert (tmp_path / "finished").exists()
