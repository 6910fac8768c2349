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
from lookagain import runtime
from lookagain.errors import UserError
from lookagain.runtime import StageError, fingerprint

ROOT = Path(__file__).parents[1]
TOY = """
import json, os, time
from dataclasses import dataclass
from pathlib import Path
from lookagain import runtime
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
TWO = "configs/accelerate/cpu-2.yaml"
STAGE = [sys.executable, "-m", "lookagain.launch"]


def environment(**settings):
    kept = {key: value for key, value in os.environ.items() if key not in ("ACCELERATE_CONFIG", "DVC_ROOT")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_CONFIG": CPU} | settings


def command_of(*arguments, accelerate=""):
    """A stage's command, as dvc.yaml has it if `accelerate` is a config."""
    launcher = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", accelerate] if accelerate else []
    return [sys.executable, *launcher, "-m", "lookagain.launch", *arguments]


def launch(project, *arguments, accelerate="", **settings):
    settings |= {"ACCELERATE_CONFIG": accelerate} if accelerate else {}
    command = command_of(*arguments, accelerate=accelerate)
    return subprocess.run(
        command, cwd=project, env=environment(**settings), capture_output=True, text=True, timeout=120, check=False
    )


def start(project, *arguments, accelerate="", **settings):
    settings |= {"ACCELERATE_CONFIG": accelerate} if accelerate else {}
    command = command_of(*arguments, accelerate=accelerate)
    return subprocess.Popen(command, cwd=project, env=environment(**settings), stderr=subprocess.PIPE, text=True)


def results(project, index=0):
    return json.loads((project / f"results-{index}.json").read_text())


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened in time"
        time.sleep(0.02)


def test_results_keep_their_order_and_the_resume_folder_goes(project):
    assert launch(project, "toy").returncode == 0
    assert results(project) == [1, [[f"{number}.{place}", 0.1] for number in range(4) for place in range(3)]]
    assert not list((project / ".resume").rglob("*.json"))


def test_a_killed_stage_goes_on_from_there(project):
    running = start(project, "toy", SLOW="0.3")
    wait_for(lambda: len(list((project / ".resume").rglob("*.json"))) >= 2)
    running.kill()
    running.communicate()
    kept = len(list((project / ".resume").rglob("*.json")))
    (project / "worked-0").unlink()
    assert launch(project, "toy").returncode == 0
    assert len((project / "worked-0").read_text().split()) == 4 - kept
    assert [entry[0] for entry in results(project)[1]] == [f"{number}.{place}" for number in range(4) for place in range(3)]


def test_a_second_process_is_refused_and_the_first_goes_on(project):
    running = start(project, "toy", SLOW="0.5")
    wait_for(lambda: (project / "worked-0").exists())
    second = launch(project, "toy")
    assert second.returncode == 1
    assert f"toy is already running here as process {running.pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    running.communicate(timeout=20)
    assert running.returncode == 0
    assert len(results(project)[1]) == 12


def test_two_processes_give_what_one_gives(project):
    done = launch(project, "toy", "5", accelerate=TWO)
    assert done.returncode == 0, done.stderr
    assert results(project, 0)[0] == results(project, 1)[0] == 2
    two = results(project, 0)[1]
    assert two == results(project, 1)[1]
    assert len((project / "worked-1").read_text().split()) == 2
    assert launch(project, "toy", "5").returncode == 0
    assert results(project)[1] == two


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["nope"], {}, "no stage 'nope'"),
        ([], {}, "stages: toy"),
        (["toy", "1", "2", "3"], {}, "too many positional arguments"),
        (
            ["toy"],
            {"ACCELERATE_CONFIG": "nope.yaml"},
            "nope.yaml: no such file; configs/accelerate/ holds cpu-2.yaml, cpu.yaml, deepspeed-zero3.yaml, default.yaml",
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
    done = launch(project, "toy", accelerate=CPU)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "lambda = '0.9'" in done.stderr


def test_a_bug_keeps_its_traceback_and_the_finished_batches(project):
    done = launch(project, "toy", "4", "2.0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr
    assert len(list((project / ".resume").rglob("*.json"))) == 2


def test_an_error_in_several_processes_is_one_line(project):
    with (project / "stages/toy.py").open("a") as file:
        file.write('\n\ndef main():\n    with runtime.stage("toy", {}, []):\n        raise UserError("no such thing")\n')
    done = launch(project, "toy", accelerate=TWO)
    assert done.returncode
    assert done.stderr == "error: no such thing\n"


def test_a_process_that_is_ended_while_it_tells_of_its_own_error_ends_well(monkeypatch, capfd):
    class Slow(UserError):
        def __str__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return "no such thing"

    def fail():
        raise Slow

    monkeypatch.setattr(launcher, "load_params", fail)
    monkeypatch.setenv("RANK", "1")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launcher.main(["toy"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("accelerate", ["", CPU])
def test_sigterm_ends_a_stage_well_and_keeps_its_batches(project, accelerate):
    running = start(project, "toy", SLOW="0.5", accelerate=accelerate)
    wait_for(lambda: len(list((project / ".resume").rglob("*.json"))) >= 2)
    running.terminate()
    _, said = running.communicate(timeout=10)  # of the stage too: it holds the pipe
    assert running.returncode == (-signal.SIGTERM if accelerate else 0)
    assert said.splitlines()[-1] == "stopped; the same command goes on from here"
    assert not (project / "results-0.json").exists()
    (project / "worked-0").unlink()
    assert launch(project, "toy").returncode == 0
    assert len((project / "worked-0").read_text().split()) <= 2


def test_sigterm_ends_several_processes(project):
    running = start(project, "toy", SLOW="0.5", accelerate=TWO)
    wait_for(lambda: (project / "worked-1").exists())
    running.terminate()
    _, said = running.communicate(timeout=20)
    assert said.count("stopped; the same command goes on from here\n") == 1
    assert "failed" not in said
    assert not (project / "results-0.json").exists()


PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"  # stands for DVC


@pytest.mark.parametrize("accelerate", [CPU, TWO])
@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$@"; exit', "sh"]])
def test_a_killed_parent_leaves_no_stage_running(project, accelerate, shell):
    command = [sys.executable, "-c", PARENT, *shell, *command_of("toy", "100", accelerate=accelerate)]
    settings = environment(SLOW="0.5", ACCELERATE_CONFIG=accelerate, DVC_ROOT=".")
    running = subprocess.Popen(command, cwd=project, env=settings, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (project / "worked-0").exists())
    running.kill()
    _, said = running.communicate(timeout=20)  # until the last process that holds the pipe has ended
    assert "stopped; the same command goes on from here" in said
    assert not (project / "results-0.json").exists()


def test_a_killed_make_ends_dvc(tmp_path):
    for name, text in (("lookagain", ""), ("dvc", '[ "$1" = repro ] || exit 0\ntouch started\nexec sleep 60\n')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    command = ["make", "-f", ROOT / "Makefile", "-o", "ready", "repro", f"BIN={tmp_path}", "READY=ready"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for((tmp_path / "started").exists)
    running.terminate()
    running.communicate(timeout=20)  # until the last process that holds the pipe has ended


def test_a_stage_whose_dvc_died_before_it_started_ends(project):
    command = [sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:])", *command_of("toy", "100")]
    done = subprocess.run(
        command, cwd=project, env=environment(SLOW="0.5", DVC_ROOT="."), start_new_session=True,
        stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == "stopped; the same command goes on from here\n"


def test_a_killed_process_ends_the_others_quickly(project):
    started = time.monotonic()
    done = launch(project, "toy", DIES="1", accelerate=TWO)
    assert done.returncode == 1
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9", done.stderr)
    assert time.monotonic() - started < 60


def test_a_full_disk_is_one_line_and_nothing_is_half_written(project):
    import resource

    done = subprocess.run(
        command_of("toy"), cwd=project, env=environment(WRITES="3000000"),
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
    """Runs a command as a job on two machines of one gloo process each, which are this one, does."""
    (project / "bin").mkdir()
    (project / "bin/srun").write_text(SRUN)
    (project / "bin/srun").chmod(0o755)
    text = (ROOT / "configs/accelerate/multi-node.yaml").read_text().replace("use_cpu: false", "use_cpu: true")
    with socket.socket() as probe:
        probe.bind(("", 0))
        text = text.replace("29500", str(probe.getsockname()[1])).replace("num_processes: 16", "num_processes: 2")
    (project / "cluster.yaml").write_text(text)

    def run(*arguments, accelerate="", **settings):
        settings |= {"PATH": f"{project / 'bin'}:{os.environ['PATH']}", "ACCELERATE_CONFIG": "cluster.yaml"}
        settings |= {"SLURM_NNODES": "2", "JOB_PYTHON": sys.executable}
        command = [ROOT / "configs/slurm/bin/python", *command_of(*arguments, accelerate=accelerate)[1:]]
        return subprocess.run(
            command, cwd=project, env=environment(**settings), capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_machines_of_a_slurm_job_give_what_one_gives(project, cluster):
    done = cluster("toy", "5", accelerate="cluster.yaml")
    assert done.returncode == 0, done.stderr
    assert results(project, 0)[0] == results(project, 1)[0] == 2
    two = results(project, 0)[1]
    assert launch(project, "toy", "5").returncode == 0
    assert results(project)[1] == two


def test_a_stage_without_a_model_stays_on_the_first_machine(project, cluster):
    (project / "bin/srun").write_text("#!/bin/bash\nexit 1\n")
    assert cluster("toy").returncode == 0
    assert results(project)[0] == 1


def test_a_process_that_dies_on_another_machine_ends_the_stage(project, cluster):
    done = cluster("toy", accelerate="cluster.yaml", DIES="1")
    assert done.returncode
    assert "exitcode  : -9" in done.stderr
    assert "rank      : 1" in done.stderr


NO_GPU = "asks for {} processes with a GPU each, and torch sees 0 here"


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ("gpu", ("", ""), NO_GPU.format(1)),
        ("multi-gpu", ("num_processes: 4", "num_processes: 2"), NO_GPU.format(2)),
        ("cpu-2", ("MULTI_GPU", "MULTI_CPU"), "asks for num_processes: 2, but 1 started"),
    ],
)
def test_hardware_that_is_not_there_is_one_line_before_anything_loads(project, config, change, message):
    (project / "mine.yaml").write_text((ROOT / f"configs/accelerate/{config}.yaml").read_text().replace(*change))
    (project / "stages/toy.py").write_text("raise ValueError('it was loaded')\n")
    done = launch(project, "toy", accelerate="mine.yaml", CUDA_VISIBLE_DEVICES="")
    assert done.returncode
    assert done.stderr.startswith(f"error: ACCELERATE_CONFIG = mine.yaml {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("2,3", "2"), ("", "")])
def test_a_single_process_sees_one_gpu(monkeypatch, visible, first):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launcher.check_gpus("", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == first


def test_a_gpu_that_torch_cannot_use_is_an_error_and_no_slow_run(monkeypatch, tmp_path):
    import torch

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launcher.check_gpus("", 1)  # hidden on purpose
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(StageError, match="sees no GPU, nvidia-smi lists GPU 0: NVIDIA H200"):
        launcher.check_gpus("", 1)


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
