"""kill -9 at random moments of each long stage: what the same command gives then is what an uninterrupted run gives."""

import random
import runpy
import shutil
import time

import pytest
from project import FRESH, build_project, ranks
from safetensors.torch import load_file
from torch.testing import assert_close

STAGES = {
    "generate_pairs": (["stic"], "data/pairs/stic/pairs.jsonl"),
    "train_dpo": (["stic", "stic-stage1"], "models/stic-stage1/adapters/00-stic-stage1/adapter_model.safetensors"),
    "search": (["1", "base"], "data/pairs/csr-1/pairs.jsonl"),
    "evaluate": (["base", "base"], "data/answers/base.jsonl"),
}
KILLS = 2


def run_stage(folder, name, arguments, rank=None):
    """In a process of its own: one stage as `lookagain.launch` would run it, with a checkpoint after each step.

    `rank` holds the environment of one of several connected processes.
    """
    import os

    import torch

    from lookagain.training import trainer

    os.chdir(folder)
    os.environ.update({"ACCELERATE_USE_CPU": "true", **(rank or {})})
    torch.set_num_threads(1)
    trainer.SAVE_SECONDS = 0.0
    runpy.run_path(f"stages/{name}.py")["main"](*arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory, policy_folder):
    """Every stage has run through here, once and whole."""
    few = {"csr__images": 6, "runtime__batch_size": 4, "stic__dpo__epochs": 3, "evaluate__chair__max_new_tokens": 24}
    folder = build_project(tmp_path_factory.mktemp("whole") / "project", policy_folder, images=8, **few)
    for name, (arguments, _) in STAGES.items():
        _finish(folder, name, arguments)
    return folder


def _start(folder, name, arguments, rank=None):
    process = FRESH.Process(target=run_stage, args=(str(folder), name, arguments, rank))
    process.start()
    return process


def _finish(folder, name, arguments):
    process = _start(folder, name, arguments)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_ends_as_if_it_had_not_been(name, project, tmp_path):
    arguments, output = STAGES[name]
    killed = 0
    for seed in range(KILLS):
        folder = tmp_path / str(seed)
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".answers", ".resume"))
        (folder / output).unlink()
        resume = folder / ".resume"
        draw = random.Random(f"{name} {seed}")
        running = _start(folder, name, arguments)
        kept, deadline = draw.randrange(1, 4), time.monotonic() + 60
        while running.is_alive() and len(_kept(resume)) < kept and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        killed += running.is_alive()
        running.kill()
        running.join()
        _finish(folder, name, arguments)
        if output.endswith(".jsonl"):
            assert (folder / output).read_bytes() == (project / output).read_bytes()
        else:
            _assert_equal_adapters(project / output, folder / output)
    assert killed, "every kill came too late"


def test_two_killed_processes_train_on_from_one_checkpoint(project, tmp_path):
    arguments, output = STAGES["train_dpo"]
    folder = tmp_path / "two"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".resume"))
    (folder / output).unlink()
    for last in (False, True):
        running = [_start(folder, "train_dpo", arguments, rank) for rank in ranks(2)]
        if not last:
            deadline = time.monotonic() + 60
            while not list((folder / ".resume").rglob("whole")) and time.monotonic() < deadline:
                time.sleep(0.005)
            for process in running:
                process.kill()
        for process in running:
            process.join(60)
        assert [process.exitcode for process in running] == ([0, 0] if last else [-9, -9])
    _assert_equal_adapters(project / output, folder / output)


def _assert_equal_adapters(whole, again):
    one, other = load_file(whole), load_file(again)
    assert any(value.abs().max() > 0 for key, value in one.items() if "lora_B" in key)
    for key in one:
        assert_close(one[key], other[key], rtol=1e-5, atol=1e-5, msg=key)


def _kept(resume):
    """Finished batches and checkpoints that a kill leaves behind."""
    return [*resume.rglob("*.json")]
