import dataclasses
import signal
from pathlib import Path

import pytest
import torch

from lookagain.errors import UserError
from lookagain.losses import dpo_margins, regularised_dpo
from lookagain.policy import add_adapter, load_policy
from lookagain.records import Pair, Provenance
from lookagain.training import trainer
from lookagain.training.collate import Example, Kept, collate, lay_out, micro_batches, response_logps
from lookagain.training.dpo import reference_logps, train_dpo
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation

PROMPT = "Describe the following image."
HOW = Provenance(PROMPT, {"name": "none"}, {}, 0)


@pytest.fixture
def pairs():
    return [
        Pair(str(number), str(number % 6), "stic", PROMPT, "there is a dog.", ["a cat is in the street."], HOW, [HOW])
        for number in range(10)
    ]


def optimisation(folder, micro_batch_size=4, learning_rate=5e-3, epochs=2, checkpointing=False):
    folder = folder / "checkpoints"
    return Optimisation(learning_rate, epochs, 4, 0.03, 0.0, 256, micro_batch_size, 3, folder, checkpointing=checkpointing)


def train(policy_folder, pairs, images, folder, micro_batch_size, alpha=1 / 1024, checkpointing=False):
    policy = load_policy(policy_folder)
    references = reference_logps(policy, pairs, lambda one: images[int(one)], 256)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    settings = optimisation(folder, micro_batch_size, checkpointing=checkpointing)
    log = train_dpo(policy, pairs, references, lambda one: images[int(one)], 0.1, alpha, settings, lambda *_: None)
    return policy, before, log


def test_lay_out_covers_each_epoch_and_fills_the_last_batch_with_nothing():
    order = lay_out([1] * 10, 4, 2, seed=0)
    assert len(order) == 24
    for epoch in (order[:12], order[12:]):
        assert sorted(item for item, weight in epoch if weight) == list(range(10))
        assert [sum(weight for _, weight in epoch[start : start + 4]) for start in (0, 4, 8)] == [4, 4, 4]
    assert lay_out([1] * 10, 4, 1, seed=0) == order[:12] != lay_out([1] * 10, 4, 1, seed=1)


def test_lay_out_sorts_each_batch_by_length_and_leaves_its_items():
    lengths = [5, 3, 9, 1, 7, 2, 8, 4, 6, 0]
    plain, by_length = lay_out([1] * 10, 4, 1, seed=0), lay_out(lengths, 4, 1, seed=0)
    for start in (0, 4, 8):
        batch = [item for item, weight in by_length[start : start + 4] if weight]
        assert sorted(batch) == sorted(item for item, weight in plain[start : start + 4] if weight)
        assert [lengths[item] for item in batch] == sorted(lengths[item] for item in batch)


def test_micro_batches_divide_the_batch():
    assert micro_batches(16, 8, 1) == (8, 2)
    assert micro_batches(12, 8, 2) == (6, 1)
    with pytest.raises(UserError, match="3 processes"):
        micro_batches(16, 8, 3)


def test_rows_that_are_too_long_are_refused(policy, images):
    example = Example("0", *policy.conversation([(PROMPT, "there is a dog.")]))
    with pytest.raises(UserError, match="max_length"):
        collate(policy, [[example]], lambda one: images[int(one)], 10)


def test_sft_finds_a_row_that_is_too_long_before_its_first_step(policy, images, tmp_path):
    add_adapter(policy, 4, 8, 0.0)
    short, long = (Example("0", *policy.conversation([(PROMPT, text)])) for text in ("a dog.", "there is a dog. " * 80))
    reported: list[int] = []
    with pytest.raises(UserError, match="max_length = 256"):
        train_sft(
            policy, [short] * 40 + [long], lambda one: images[int(one)], optimisation(tmp_path), lambda *_: reported.append(1)
        )
    assert not reported


def test_dropout_of_the_adapter_stays_in_dpo(policy_folder, pairs, images, tmp_path):
    policy = load_policy(policy_folder)
    references = reference_logps(policy, pairs, lambda one: images[int(one)], 256)
    add_adapter(policy, 4, 8, 0.5)
    settings = optimisation(tmp_path, epochs=1)
    train_dpo(policy, pairs, references, lambda one: images[int(one)], 0.1, 0.0, settings, lambda *_: None)
    assert {part.p for part in policy.model.modules() if isinstance(part, torch.nn.Dropout) and part.p} == {0.5}


def test_dpo_learns_and_changes_the_adapter_alone(policy_folder, pairs, images, tmp_path):
    policy, before, log = train(policy_folder, pairs, images, tmp_path, 4)
    assert log[0]["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert log[-1]["reward_margin"] > 0.3
    assert log[-1]["chosen_logratio"] > 0 > log[-1]["rejected_logratio"]
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, before[name]) != ("lora_" in name), name


def test_first_loss_is_eq_4_1(policy_folder, pairs, images, tmp_path):
    _, _, log = train(policy_folder, pairs, images, tmp_path, 4, alpha=0.01)
    policy = load_policy(policy_folder)
    first = [item for item, _ in lay_out([1] * 10, 4, 1, seed=3)][:4]
    rows = reference_logps(policy, [pairs[item] for item in first], lambda one: images[int(one)], 256)
    chosen = torch.tensor([row[0] for row in rows])
    margins = dpo_margins(torch.zeros(8), torch.zeros(8), torch.arange(8) // 2, torch.arange(8) % 2 == 0, 4, 0.1)
    assert log[0]["loss"] == pytest.approx(regularised_dpo(margins, chosen, 0.01).mean().item(), rel=1e-4)


def test_top_1_scoring_moves_the_margin_by_other_tokens_than_the_rejected_response(policy_folder, pairs, images, tmp_path):
    policy = load_policy(policy_folder)

    def load(one):
        return images[int(one)]

    by_label, by_top = (reference_logps(policy, pairs[:3], load, 256, score) for score in ("response", "top1"))
    assert [row[0] for row in by_label] == pytest.approx([row[0] for row in by_top])
    assert all(
        top[1] > label[1] for label, top in zip(by_label, by_top, strict=True)
    )  # a random model's own tokens are likelier
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    references = reference_logps(policy, pairs, load, 256, "top1")
    log = train_dpo(policy, pairs, references, load, 0.1, 0.0, optimisation(tmp_path), lambda *_: None, "top1")
    assert log[0]["reward_margin"] == pytest.approx(0, abs=1e-5)


def test_training_without_the_image_depends_on_no_image(policy_folder, pairs, images):
    policy = load_policy(policy_folder)
    blind = reference_logps(policy, pairs[:6], lambda _: None, 256)
    assert blind[0] == pytest.approx(blind[5], abs=1e-4)
    seen = reference_logps(policy, pairs[:6], lambda one: images[int(one)], 256)
    assert abs(seen[0][0] - blind[0][0]) > 1e-3


@pytest.mark.parametrize("room", [0, 2, 6])
def test_kept_images_are_not_encoded_again(policy_folder, pairs, images, monkeypatch, room):
    policy, encoded = load_policy(policy_folder), []
    prefixes = policy.prefixes
    kept = Kept(room * prefixes(images[:1]).features[0].nbytes)
    monkeypatch.setattr(policy, "prefixes", lambda shown: encoded.extend(shown) or prefixes(shown))

    def logps(kept):
        return reference_logps(policy, pairs, lambda one: images[int(one)], 256, kept=kept)

    first, plain = logps(kept), logps(None)
    encoded.clear()
    assert logps(kept) == first == plain
    assert len(encoded) == 6 - room  # of the six that the pairs are about


def test_training_with_kept_images_encodes_none_and_is_the_same(policy_folder, pairs, images, tmp_path):
    plain = train(policy_folder, pairs, images, tmp_path / "plain", 4)[2]
    policy, kept = load_policy(policy_folder), Kept()
    references = reference_logps(policy, pairs, lambda one: images[int(one)], 256, kept=kept)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    settings = optimisation(tmp_path / "kept", 4)
    log = train_dpo(policy, pairs, references, no_image, 0.1, 1 / 1024, settings, lambda *_: None, kept=kept)
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in plain]


def test_a_process_encodes_the_images_of_its_rows_of_a_batch_together(policy_folder, images, monkeypatch):
    """The slow twin: each micro-batch by itself."""
    policy, encoded = load_policy(policy_folder), []
    prefixes = policy.prefixes
    monkeypatch.setattr(policy, "prefixes", lambda shown: encoded.append(len(shown)) or prefixes(shown))
    examples = [Example(str(number % 6), *policy.conversation([("Describe.", "a dog.")])) for number in range(16)]

    def features(kept, settings):
        rows = []
        for start in range(2, 16, 4):  # the micro-batches of the second of two processes
            if kept:
                kept.ahead(
                    policy, [examples[place].image_id for place in settings.to_come(start)], 2, lambda one: images[int(one)]
                )
            groups = [[example] for example in examples[start : start + 2]]
            rows += collate(policy, groups, lambda one: images[int(one)], 256, kept).features
        return rows

    settings = dataclasses.replace(optimisation(Path("none"), 2), batch_size=16, processes=2)
    assert settings.to_come(2) == [2, 3, 6, 7, 10, 11, 14, 15]
    assert settings.to_come(12) == [12, 13]
    together = features(Kept(0), settings)
    assert encoded == [6]  # all images are in what comes
    encoded.clear()
    for one, twin in zip(together, features(None, settings), strict=True):
        torch.testing.assert_close(one, twin, rtol=1e-5, atol=1e-6)
    assert encoded == [2, 2, 2, 2]


def no_image(image_id):
    raise AssertionError(f"image {image_id} is kept, and asked for all the same")


def test_micro_batches_do_not_change_the_adapter(policy_folder, pairs, images, tmp_path):
    whole, _, _ = train(policy_folder, pairs, images, tmp_path / "a", 4)
    split, _, _ = train(policy_folder, pairs, images, tmp_path / "b", 1)
    for (name, one), (_, other) in zip(whole.model.state_dict().items(), split.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_checkpointing_does_not_change_the_adapter(policy_folder, pairs, images, tmp_path):
    held, _, _ = train(policy_folder, pairs, images, tmp_path / "a", 4)
    again, _, _ = train(policy_folder, pairs, images, tmp_path / "b", 4, checkpointing=True)
    assert again.model.get_base_model().is_activation_checkpointing
    for (name, one), (_, other) in zip(held.model.state_dict().items(), again.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_a_killed_training_goes_on_to_the_same_adapter(policy_folder, pairs, images, tmp_path, monkeypatch):
    whole, _, log = train(policy_folder, pairs, images, tmp_path / "whole", 4)
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0.0)
    reported = trainer.Report.on_log

    def killed(self, args, state, control, **rest):
        if state.global_step == 4:
            raise KeyboardInterrupt
        return reported(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Report, "on_log", killed)
        with pytest.raises(KeyboardInterrupt):
            train(policy_folder, pairs, images, tmp_path / "killed", 4)
    assert sorted(path.name for path in (tmp_path / "killed/checkpoints").iterdir())
    resumed, _, log_after = train(policy_folder, pairs, images, tmp_path / "killed", 4)
    assert [entry["loss"] for entry in log_after] == pytest.approx([entry["loss"] for entry in log], rel=1e-5)
    for (name, one), (_, other) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_sigterm_saves_the_step_under_way_and_goes_on_from_it(policy_folder, pairs, images, tmp_path, monkeypatch):
    whole, _, _ = train(policy_folder, pairs, images, tmp_path / "whole", 4)
    reported = trainer.Report.on_log

    def told(self, args, state, control, **rest):
        if state.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        return reported(self, args, state, control, **rest)

    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Report, "on_log", told)
            with pytest.raises(Stopped):
                train(policy_folder, pairs, images, tmp_path / "stopped", 4)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    (checkpoint,) = trainer.checkpoints(tmp_path / "stopped/checkpoints")
    assert checkpoint.name in ("checkpoint-3", "checkpoint-4")
    assert (checkpoint / trainer.WHOLE).is_file()
    (tmp_path / "stopped/checkpoints/checkpoint-9").mkdir()  # torn by a kill
    resumed, _, log = train(policy_folder, pairs, images, tmp_path / "stopped", 4)
    assert len(log) == 6
    for (name, one), (_, other) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_sft_loss_is_the_mean_over_response_tokens(policy_folder, images, tmp_path):
    policy = load_policy(policy_folder)
    answers = ["there is a dog.", "no.", "a cat is in the street.", "yes, there is a car."]
    examples = [Example(str(number), *policy.conversation([(PROMPT, answer)])) for number, answer in enumerate(answers)]
    with torch.no_grad():
        logps = response_logps(
            policy.model, collate(policy, [[example] for example in examples], lambda one: images[int(one)], 256)
        )
    expected = -logps.sum() / sum(sum(example.is_response) for example in examples)
    torch.manual_seed(0)
    add_adapter(policy, 4, 8, 0.0)
    settings = optimisation(tmp_path, micro_batch_size=2, epochs=4)
    log = train_sft(policy, examples, lambda one: images[int(one)], settings, lambda *_: None)
    assert log[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert log[-1]["loss"] < log[0]["loss"]
