"""Training with the language model's layers split between two processes (FSDP2) takes the steps of one process.

By torch's own means, connected by gloo: Accelerate, which calls on them under configs/accelerate/fsdp.yaml, has no FSDP on CPUs.
DeepSpeed is played.
"""

import multiprocessing
import os
import socket
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from lookagain.policy import add_adapter, load_policy, save_adapter
from lookagain.training import trainer
from lookagain.training.collate import Example, collate, response_logps

TEXTS = ["the image shows a dog .", "there is a cat ."]


def train(folder, rank, port):
    """Three steps on two examples, in one process (`rank` is None) or one each in two; writes the adapter."""
    from torch.distributed.fsdp import OffloadPolicy
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    policy = load_policy(folder / "base")
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    if rank is not None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.distributed.init_process_group("gloo")
        plugin = SimpleNamespace(mixed_precision_policy=None, cpu_offload=OffloadPolicy(), reshard_after_forward=True)
        accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
        arguments = SimpleNamespace(device=torch.device("cpu"), world_size=2)
        trainer.split_layers(SimpleNamespace(accelerator=accelerator, model=policy.model, args=arguments))
        assert all(isinstance(one, DTensor) == ("layers" in name and "vision" not in name and "lm_head" not in name)
                   for name, one in policy.model.named_parameters())  # fmt: skip
    examples = [Example("a", *policy.conversation([("Describe the following image.", text)])) for text in TEXTS]
    trained = [one for one in policy.model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        # The collator asks the vision tower, which is outside the model's forward.
        mine = [[example] for example in (examples if rank is None else examples[rank : rank + 1])]
        rows = collate(policy, mine, lambda _: Image.new("RGB", (24, 24), (200, 30, 30)), 512)
        (-response_logps(policy.model, rows).mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    trainer.gather_adapter(policy.model)
    if not rank:
        save_adapter(policy, folder / ("one" if rank is None else "two"), False, {})


def test_two_processes_with_split_layers_take_the_steps_of_one(policy_folder, tmp_path):
    (tmp_path / "base").symlink_to(policy_folder)
    context = multiprocessing.get_context("forkserver")  # as tests/test_kills.py
    context.set_forkserver_preload(["lookagain.training.dpo", "lookagain.search"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [context.Process(target=train, args=(tmp_path, rank, port)) for rank in (None, 0, 1)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0, 0]
    one, two = (load_file(tmp_path / f"{name}/adapters/00-{name}/adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


def test_what_deepspeed_has_split_is_whole_again(monkeypatch):
    """ZeRO-3 leaves nothing of a parameter in its place but inside of GatheredParameters."""
    model = torch.nn.Linear(2, 3)
    whole = {name: value.detach().clone() for name, value in model.named_parameters()}
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.data = number, torch.empty(0)
    names = {parameter.ds_id: name for name, parameter in model.named_parameters()}

    @contextmanager
    def gathered(parameters):
        for parameter in parameters:
            parameter.data = whole[names[parameter.ds_id]].clone()
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "deepspeed.zero", SimpleNamespace(GatheredParameters=gathered))
    trainer.gather_adapter(model)
    assert all(torch.equal(value, whole[name]) for name, value in model.named_parameters())
