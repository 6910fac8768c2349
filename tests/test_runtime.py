"""Stages: one at a time, whole after a kill, the same by any number of processes, and one line for a user's error."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookagain import launch as launcher
from lookagain import runtime, warm
from lookagain.errors import UserError
from lookagain.processes import wait_for as wait_for_processes
from lookagain.runtime import StageError, check_processes, fingerprint

ROOT = Path(__file__).parents[1]
TOY = """
import json, os, time
from dataclasses import dataclass
from pathlib import Path
from lookagain import runtime, warm
from lookagain.errors import UserError
from lookagain.params import load_params
from lookagain.records import atomic_write

@dataclass
class Item:
    id: str

def main(batches="4", fail=""):
    params = load_params()
    with runtime.stage("toy", params, ["params.yaml"]) as run:
        def work(batch):
            if batch[0].id == fail:
                raise RuntimeError("a bug")
            with open(f"worked-{run.index}", "a") as file:
                file.write(batch[0].id + "\\n")
            time.sleep(float(os.environ.get("SLOW", "0")))
            if os.environ.get("DIES") == f"{run.index}":
                os.kill(os.getpid(), 9)
            if os.environ.get("WRITES"):
                with atomic_write("big.txt") as file:
                    file.write("x" * int(os.environ["WRITES"]))
            return [(item.id, 0.1) for item in batch]
        dealt = [[Item(f"{number}.{place}") for place in range(3)] for number in range(int(batches))]
        results = run.map_batches(dealt, work, "items")
        Path(f"results-{run.index}.json").write_text(json.dumps([run.world_size, results]))
"""


@pytest.fixture
def project(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "presets/tiny.yaml", tmp_path / "params.yaml")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/toy.py").write_text(TOY)
    return tmp_path


CPU = "configs/accelerate/cpu.yaml"


def environment(**settings):
    kept = {key: value for key, value in os.environ.items() if key not in ("ACCELERATE_CONFIG", "DVC_ROOT", warm.WARM)}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_CONFIG": CPU} | settings


def launch(project, *arguments, **settings):
    command = [sys.executable, "-m", "lookagain.launch", *arguments]
    return subprocess.run(
        command, cwd=project, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )


def results(project, index=0):
    return json.loads((project / f"results-{index}.json").read_text())


def wait_for(condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened in time"
        time.sleep(0.02)


def test_results_keep_their_order_and_the_resume_folder_goes(project):
    assert launch(project, "toy").returncode == 0
    assert results(project) == [1, [[f"{number}.{place}", 0.1] for number in range(4) for place in range(3)]]
    assert not list((project / ".resume").rglob("*.json"))


def test_a_killed_stage_goes_on_from_there(project):
    command = [sys.executable, "-m", "lookagain.launch", "toy"]
    running = subprocess.Popen(command, cwd=project, env=environment(SLOW="0.3"), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list((project / ".resume").rglob("*.json"))) >= 2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = len(list((project / ".resume").rglob("*.json")))
    (project / "worked-0").unlink()
    assert launch(project, "toy").returncode == 0
    assert len((project / "worked-0").read_text().split()) == 4 - kept
    assert [entry[0] for entry in results(project)[1]] == [f"{number}.{place}" for number in range(4) for place in range(3)]


def test_a_second_process_is_refused_and_the_first_goes_on(project):
    command = [sys.executable, "-m", "lookagain.launch", "toy"]
    running = subprocess.Popen(command, cwd=project, env=environment(SLOW="0.5"), stderr=subprocess.DEVNULL)
    wait_for(lambda: (project / "worked-0").exists())
    second = launch(project, "toy")
    assert second.returncode == 1
    assert f"toy is already running here as process {running.pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    assert running.wait(timeout=20) == 0
    assert len(results(project)[1]) == 12


def test_two_processes_give_what_one_gives(project):
    done = launch(project, "toy", "5", ACCELERATE_CONFIG="configs/accelerate/cpu-2.yaml")
    assert done.returncode == 0, done.stderr
    assert results(project, 0)[0] == results(project, 1)[0] == 2
    two = results(project, 0)[1]
    assert two == results(project, 1)[1]
    assert len((project / "worked-1").read_text().split()) == 2
    assert launch(project, "toy", "5").returncode == 0
    assert results(project)[1] == two


def test_without_a_config_a_machine_without_gpu_runs_two_processes(project, monkeypatch):
    monkeypatch.setattr(launcher, "cores", lambda: 4)
    monkeypatch.setattr(launcher.shutil, "which", lambda name: None)
    assert launcher.default_config() == "configs/accelerate/cpu-2.yaml"
    monkeypatch.setattr(launcher, "cores", lambda: 1)
    assert launcher.default_config() == ""
    monkeypatch.setattr(launcher, "cores", lambda: 4)
    monkeypatch.setattr(launcher.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert launcher.default_config() == ""


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["nope"], {}, "no stage 'nope'"),
        ([], {}, "stages: toy"),
        (["toy", "1", "2", "3"], {}, "too many positional arguments"),
        (
            ["toy"],
            {"ACCELERATE_CONFIG": "nope.yaml"},
            "nope.yaml: no such file; configs/accelerate/ holds cpu-2.yaml, cpu.yaml",
        ),
    ],
)
def test_mendable_errors_are_one_line(project, arguments, settings, message):
    done = launch(project, *arguments, **settings)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_bad_params_stop_a_stage_before_it_loads_anything(project):
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("lambda: 0.9", 'lambda: "0.9"'))
    (project / "stages/toy.py").write_text("import torch_is_not_reached")
    done = launch(project, "toy", ACCELERATE_CONFIG="configs/accelerate/cpu-2.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "lambda = '0.9'" in done.stderr


def test_a_bug_keeps_its_traceback_and_the_finished_batches(project):
    done = launch(project, "toy", "4", "2.0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr
    assert len(list((project / ".resume").rglob("*.json"))) == 2


def test_an_error_in_several_processes_is_one_line(project):
    (project / "stages/toy.py").write_text(TOY.replace("def main(", "from lookagain.errors import UserError\ndef unused("))
    with (project / "stages/toy.py").open("a") as file:
        file.write('\n\ndef main():\n    with runtime.stage("toy", {}, []):\n        raise UserError("no such thing")\n')
    done = launch(project, "toy", ACCELERATE_CONFIG="configs/accelerate/cpu-2.yaml")
    assert (done.returncode, done.stderr) == (1, "error: no such thing\n")


def test_a_process_that_is_ended_while_it_tells_of_its_own_error_ends_well(tmp_path, monkeypatch, capfd):
    class Slow(UserError):
        def __str__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return "no such thing"

    def work():
        raise Slow

    monkeypatch.setenv(launcher.LAUNCHED, str(tmp_path / "said"))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launcher._ended(work) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "said").exists()


def test_sigterm_ends_a_stage_well_and_keeps_its_batches(project):
    command = [sys.executable, "-m", "lookagain.launch", "toy"]
    running = subprocess.Popen(command, cwd=project, env=environment(SLOW="0.5"), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list((project / ".resume").rglob("*.json"))) >= 2)
    running.terminate()
    _, said = running.communicate(timeout=10)
    assert running.returncode == 0
    assert said.splitlines()[-1] == "stopped; the same command goes on from here"
    assert not (project / "results-0.json").exists()
    (project / "worked-0").unlink()
    assert launch(project, "toy").returncode == 0
    assert len((project / "worked-0").read_text().split()) <= 2


def test_sigterm_ends_several_processes(project):
    command = [sys.executable, "-m", "lookagain.launch", "toy"]
    settings = environment(SLOW="0.5", ACCELERATE_CONFIG="configs/accelerate/cpu-2.yaml")
    running = subprocess.Popen(command, cwd=project, env=settings, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (project / "worked-1").exists())
    running.terminate()
    _, said = running.communicate(timeout=20)
    assert running.returncode == 0
    assert said.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "failed" not in said


def test_processes_that_fail_at_once_are_named(tmp_path):
    failed = [subprocess.Popen([sys.executable, "-c", "exit(3)"]) for _ in range(2)]
    for process in failed:
        process.wait()
    assert wait_for_processes(failed, tmp_path / "said") == ["0 (3)", "1 (3)"]


def test_a_killed_process_ends_the_others_quickly(project):
    started = time.monotonic()
    done = launch(project, "toy", DIES="1", ACCELERATE_CONFIG="configs/accelerate/cpu-2.yaml")
    assert done.returncode == 1
    assert re.search(r"process (0 \(1\), )?1 \(-9\) of 2 failed, the others were ended", done.stderr)  # 0 may notice first
    assert time.monotonic() - started < 30


def test_a_full_disk_is_one_line_and_nothing_is_half_written(project):
    import resource

    done = subprocess.run(
        [sys.executable, "-m", "lookagain.launch", "toy"], cwd=project, env=environment(WRITES="3000000"),
        capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert "Traceback" not in done.stderr
    assert not list(project.glob("*big.txt*"))


def test_a_disk_that_is_full_when_a_checkpoint_is_written_is_one_line(tmp_path):
    import resource

    import torch

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.save({"moments": torch.zeros(10**6)}, tmp_path / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert launcher._disk_full(raised.value).startswith("a checkpoint could not be written")
    assert launcher._disk_full(RuntimeError("a bug")) == ""


SRUN = """#!/bin/bash
# As srun runs a command on two machines: ends all when one fails.
while [[ $1 == --* ]]; do shift; done
set -m
for rank in 0 1; do SLURM_NODEID=$rank "$@" & done
wait -n; code=$?
[[ $code == 0 ]] || kill -9 -- $(jobs -p | sed 's/^/-/') 2>/dev/null
wait -n || code=1
exit $code
"""


@pytest.fixture
def cluster(project):
    """Two machines of one gloo process each, which are this one, and an srun that runs what it is told on both."""
    (project / "bin").mkdir()
    (project / "bin/srun").write_text(SRUN)
    (project / "bin/srun").chmod(0o755)
    text = (ROOT / "configs/accelerate/multi-node.yaml").read_text().replace("use_cpu: false", "use_cpu: true")
    with socket.socket() as probe:
        probe.bind(("", 0))
        text = text.replace("29500", str(probe.getsockname()[1])).replace("num_processes: 16", "num_processes: 2")
    (project / "cluster.yaml").write_text(text)
    return {
        "PATH": f"{project / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "1",
        "ACCELERATE_CONFIG": "cluster.yaml",
    }


def test_machines_of_a_slurm_job_give_what_one_gives(project, cluster):
    done = launch(project, "toy", "5", **cluster)
    assert done.returncode == 0, done.stderr
    assert results(project, 0)[0] == results(project, 1)[0] == 2
    two = results(project, 0)[1]
    assert launch(project, "toy", "5").returncode == 0
    assert results(project)[1] == two


def test_a_stage_of_one_process_stays_on_the_first_machine(project, cluster):
    (project / "stages/toy.py").rename(project / "stages/report.py")
    (project / "bin/srun").write_text("#!/bin/bash\nexit 1\n")
    gpus = (project / "cluster.yaml").read_text().replace("use_cpu: true", "use_cpu: false")
    (project / "cluster.yaml").write_text(gpus)
    assert launch(project, "report", **cluster).returncode == 0
    assert results(project)[0] == 1


def test_a_process_that_dies_on_another_machine_ends_the_stage(project, cluster):
    done = launch(project, "toy", DIES="1", **cluster)
    assert done.returncode == 1
    assert "exitcode  : -9" in done.stderr
    assert "rank      : 1" in done.stderr


def test_more_processes_than_gpus_are_refused_before_torch_is_there(project):
    (project / "gpus.yaml").write_text((ROOT / "configs/accelerate/multi-gpu.yaml").read_text())
    done = launch(project, "toy", ACCELERATE_CONFIG="gpus.yaml", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 1
    assert "gpus.yaml asks for 4 processes with a GPU each, and this machine shows 1: set num_processes" in done.stderr


def no_memory_on_a_gpu():
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory.")


def no_memory_on_a_cpu():
    import torch

    torch.empty(10**15)


@pytest.mark.parametrize("out_of_memory", [no_memory_on_a_gpu, no_memory_on_a_cpu])
def test_a_batch_that_does_not_fit_is_halved(out_of_memory, tmp_path, capsys):
    run = runtime.Run("toy", 0, 1, tmp_path)
    items = [type("Item", (), {"id": str(number)})() for number in range(10)]
    tried = []

    def work(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            out_of_memory()
        return [f"answer {item.id}" for item in batch]

    assert run.map_batches([items[:8], items[8:]], work, "x") == [f"answer {number}" for number in range(10)]
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert "out of memory with 4 at once, going on with 2" in capsys.readouterr().err
    with pytest.raises(StageError, match="7 does not fit into memory alone"):
        run.map_batches([items[7:]], lambda batch: out_of_memory(), "y")


def test_fewer_processes_than_asked_for_are_refused(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n")
    with pytest.raises(StageError, match="asks for num_processes: 2, but 1 started"):
        check_processes(config, 1)
    check_processes(ROOT / "configs/accelerate/cpu-2.yaml", 2)


def test_fingerprint_sees_params_inputs_and_code_but_not_runtime(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("stages", "lookagain", "data"):
        Path(folder).mkdir()
    Path("stages/toy.py").write_text("1")
    Path("data/a").write_text("a")
    params = {"seed": 0, "runtime": {"batch_size": 1}}
    seen = [fingerprint("toy", params, ["data"])]
    assert fingerprint("toy", {**params, "runtime": {"batch_size": 2}}, ["data"]) == seen[0]
    seen.append(fingerprint("toy", {**params, "seed": 1}, ["data"]))
    for path in ("data/a", "data/b", "stages/toy.py", "lookagain/x.py"):
        Path(path).write_text("changed")
        seen.append(fingerprint("toy", params, ["data"]))
    assert len(set(seen)) == len(seen)


def test_wrong_uses_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runtime.stage("toy", {}) as run:
        item = type("Item", (), {"id": "a"})()
        with pytest.raises(ValueError, match="0 results for a batch of 1"):
            run.map_batches([[item]], lambda batch: [], "x")
        with pytest.raises(ValueError, match="called twice"):
            run.map_batches([], list, "x")
    with pytest.raises(StageError, match="no data/none"), runtime.stage("toy", {}, ["data/none"]):
        pass
