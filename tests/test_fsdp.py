"""A model whose layers are split between two processes (configs/accelerate/fsdp.yaml) trains the adapter that one process does.

Accelerate leaves FSDP out on CPUs: here it takes the two processes, connected by gloo, for two GPUs. All else is as on GPUs.
"""

import multiprocessing
import os
import runpy
import socket

import torch
from project import build_project
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch.testing import assert_close

STAGES = [("generate_pairs", "stic"), ("train_dpo", "stic", "stic-stage1")]
ADAPTER = "models/stic-stage1/adapters/00-stic-stage1/adapter_model.safetensors"


def run_stages(folder, stages, settings, split):
    """In a process of its own: stages with this environment; those whose model is `split` say how much of it is here."""
    os.chdir(folder)
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_CONFIG", "DVC_ROOT"):
        os.environ.pop(name, None)
    os.environ.update(settings)
    torch.set_num_threads(1)
    if split:
        from accelerate.state import DistributedType, PartialState

        from lookagain.training import trainer

        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
        trainer.SAVE_SECONDS = 0.0
        gather = trainer.gather_adapter

        def gather_and_count(model):
            kept = sum(getattr(one, "_local_tensor", one).numel() for one in model.parameters())
            (folder / f"kept-{settings['RANK']}").write_text(str(kept / sum(one.numel() for one in model.parameters())))
            gather(model)

        trainer.gather_adapter = gather_and_count
    for stage, *arguments in stages:
        runpy.run_path(f"stages/{stage}.py")["main"](*arguments)


def environment():
    """That of two processes under the config, as Accelerate's launcher makes it."""
    config = YAML(typ="safe").load("configs/accelerate/fsdp.yaml")
    shared = {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
    shared |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared["MASTER_PORT"] = str(probe.getsockname()[1])
    return [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def test_a_split_model_trains_the_same_adapter(policy_folder, tmp_path):
    folder = build_project(tmp_path / "project", policy_folder, images=8)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lookagain.training.dpo", "lookagain.search"])

    def run(stages, settings, split):
        running = [context.Process(target=run_stages, args=(folder, stages, one, split)) for one in settings]
        for process in running:
            process.start()
        for process in running:
            process.join(120)
        return [process.exitcode for process in running]

    assert run(STAGES, [{"ACCELERATE_USE_CPU": "true"}], False) == [0]
    one = load_file(folder / ADAPTER)
    (folder / ADAPTER).unlink()
    assert run(STAGES[1:], environment(), True) == [0, 0]
    split = load_file(folder / ADAPTER)
    assert one.keys() == split.keys()
    for name in one:
        assert_close(one[name], split[name], rtol=1e-5, atol=1e-5, msg=name)
    assert all(float((folder / f"kept-{rank}").read_text()) < 0.8 for rank in "01")
