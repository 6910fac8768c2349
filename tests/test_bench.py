"""The benchmark's own parts, and that trl's trainers, which it measures against, compute what ours do."""

import json

import pytest
import torch
from test_generation import GREEDY, answer, requests  # noqa: F401
from test_training import PROMPT, pairs  # noqa: F401

from benchmarks import __main__ as bench
from benchmarks import page, peers, scaling
from benchmarks.timing import Done, Row, as_json, near, side_by_side
from lookagain.policy import add_adapter, load_policy
from lookagain.training.collate import Example, lay_out
from lookagain.training.dpo import reference_logps, train_dpo
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation

STEPS = {
    "per_device_train_batch_size": 4, "learning_rate": 5e-3, "lr_scheduler_type": "cosine", "num_train_epochs": 1,
    "train_sampling_strategy": "sequential", "bf16": False, "use_cpu": True, "logging_steps": 1, "report_to": [],
    "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip


def adapted(policy_folder):
    policy = load_policy(policy_folder)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    return policy, {name: value for name, value in policy.model.state_dict().items() if "lora_" in name}


def losses(log):
    return [entry["loss"] for entry in log]


def test_plain_batches_of_generate_give_our_responses(policy, images, requests):  # noqa: F811
    shown = {str(number): image for number, image in enumerate(images)}
    ours = answer(policy, requests, images, GREEDY)
    assert peers.generate(policy, requests, shown, 16, 5) == peers.generate(policy, requests, shown, 16, 1) == ours


def test_trl_takes_the_same_steps(policy_folder, pairs, images, tmp_path):  # noqa: F811
    """Two steps of DPO and of SFT: trl's own trainers, collators and losses beside ours."""
    pairs, order = pairs[:8], [item for item, _ in lay_out([1] * 8, 4, 1, 3)]
    ours = Optimisation(5e-3, 1, 4, 0.0, 0.0, 256, 2, 3, tmp_path / "none")
    eos = load_policy(policy_folder).tokenizer.eos_token

    def load(one):
        return images[int(one)]

    policy, lora = adapted(policy_folder)
    shown = {"prompt": peers.prompt_text(policy, PROMPT)}
    rows = [
        {**shown, "images": [load(pair.image_id)], "chosen": f" {pair.chosen}{eos}", "rejected": f" {pair.rejected[0]}{eos}"}
        for pair in (pairs[item] for item in order)
    ]
    theirs = peers.trl_dpo(policy, rows, lora, STEPS, 0.1)
    policy, lora = adapted(policy_folder)
    references = reference_logps(load_policy(policy_folder), pairs, load, 256)
    log = train_dpo(policy, pairs, references, load, 0.1, 0.0, ours, lambda *_: None)
    assert losses(log) == pytest.approx(theirs.outputs, rel=1e-4)
    assert log[1]["loss"] < 0.68

    rows = [
        {**shown, "images": [load(pair.image_id)], "completion": f" {pair.chosen}{eos}"}
        for pair in (pairs[item] for item in order)
    ]
    policy, lora = adapted(policy_folder)
    theirs = peers.trl_sft(policy, rows, lora, STEPS)
    policy, _ = adapted(policy_folder)
    examples = [Example(pair.image_id, *policy.conversation([(PROMPT, pair.chosen)])) for pair in pairs]
    log = train_sft(policy, examples, load, ours, lambda *_: None)
    assert losses(log) == pytest.approx(theirs.outputs, rel=1e-4)


def test_sides_must_agree_and_rates_are_medians():
    seconds = iter([9.0, 1.0, 4.0, 2.0])  # the first round warms up

    def peer():
        return Done(2, next(seconds), [1.0, 2.0])

    assert side_by_side("x", peer, lambda: Done(3, 1.0, [1.0, 2.0, 5.0]), 3, near(1e-6)) == (1.0, 3.0)
    with pytest.raises(ValueError, match="x: 1 of 2 outputs differ"):
        side_by_side("x", lambda: Done(2, 1.0, [1, 2]), lambda: Done(2, 1.0, [1, 3]), 1, near(1e-6))
    with pytest.raises(ValueError, match="0 of 2"):
        side_by_side("x", lambda: Done(2, 1.0, [1, 2]), lambda: Done(1, 1.0, [1]), 1, near(1e-6))


def test_the_page_says_what_was_missed_and_how_cost_grows(tmp_path, monkeypatch):
    rows = as_json(
        [
            Row("a", 10.0, 30.0, 3.0, 2, 0.25, "pairs/s", "their way", "a formula", "this machine"),
            Row("b", 10.0, 30.0, 3.0, 4, None, "images/s", "their way", "none: why", "this machine"),
        ]
    )
    points = [{"size": 64, "seconds": 2.0, "mb": 500.0}, {"size": 256, "seconds": 8.0, "mb": 500.0}]
    written = page.page(json.loads(json.dumps(rows)), {"images": points}, "Notes.")
    assert "| a | their way | pairs/s | 10 | 30 | 3.0x | 2x | 25% |" in written
    assert "**3.0x: missed** | 4x | - |" in written
    assert "| 64, 256 | 2, 8 | 500, 500 | 1.00 | 0.00 |" in written
    assert "- none: why (b)" in written
    assert "Measured on: this machine." in written
    scaling.plot({"images": points, "candidates": points}, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(page, "BENCH", tmp_path / "bench.json")
    with pytest.raises(page.PageError, match="make bench"):
        page.main()


def test_an_unknown_row_is_refused_before_a_model_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no such row: nope; rows: generate-one, "):
        bench.main(["dpo", "nope"])
