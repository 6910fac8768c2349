"""What both trainers share: arguments from params, the laid-out order, checkpoints to go on from, and the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from lookagain.records import atomic_write
from lookagain.training.collate import micro_batches

SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Optimisation:
    """What DPO and SFT share of params.yaml, and how this process takes part."""

    learning_rate: float
    epochs: int
    batch_size: int
    warmup_ratio: float
    weight_decay: float
    max_length: int
    micro_batch_size: int
    seed: int
    checkpoints: Path  # a folder that outlives a kill
    processes: int = 1
    on_cpu: bool = True
    bf16: bool = False

    @classmethod
    def of(cls, settings: Any, micro_batch_size: int, seed: int, run: Any, dtype: str) -> Optimisation:
        """From a `dpo` or `sft` section of the params and a stage's run."""
        shared = ("learning_rate", "epochs", "batch_size", "warmup_ratio", "weight_decay", "max_length")
        return cls(
            **{name: getattr(settings, name) for name in shared},
            micro_batch_size=micro_batch_size,
            seed=seed,
            checkpoints=run.resume_folder / "checkpoints",
            processes=run.world_size,
            on_cpu=str(run.device) == "cpu",
            bf16=dtype == "bfloat16",
        )


def training_arguments(kind: type[Any], optimisation: Optimisation) -> Any:
    """Arguments for a Trainer; `kind` is TrainingArguments or a subclass."""
    micro, accumulation = micro_batches(optimisation.batch_size, optimisation.micro_batch_size, optimisation.processes)
    return kind(
        output_dir=str(optimisation.checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,  # the epochs are laid out in the data's order
        learning_rate=optimisation.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=optimisation.warmup_ratio,  # a float below 1 is a share of all steps
        weight_decay=optimisation.weight_decay,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        seed=optimisation.seed % 2**32,
        use_cpu=optimisation.on_cpu,
        bf16=optimisation.bf16,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        save_strategy="no",  # SaveByTheClock decides
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
    )


class SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint every so many seconds: a short training writes none."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:  # noqa: D102
        # Several processes must save at one step, and their clocks differ: those start over after a kill.
        if time.monotonic() - self.last > SAVE_SECONDS and args.world_size == 1:
            control.should_save, self.last = True, time.monotonic()


class Report(TrainerCallback):
    """Hands each logged step to a function, e.g. tracking's, and shows a progress bar on the main process."""

    def __init__(self, report: Callable[[dict[str, float], int], None]):
        self.report = report
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: D102
        if state.is_world_process_zero:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:  # noqa: D102
        if state.is_world_process_zero and logs and "loss" in logs:
            self.report({key: value for key, value in logs.items() if isinstance(value, int | float)}, state.global_step)
            if self.bar:
                self.bar.update(self.task, completed=state.global_step, description=f"loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: D102
        if self.bar:
            self.bar.stop()


def run(trainer: Any, optimisation: Optimisation, report: Callable[[dict[str, float], int], None]) -> list[dict[str, float]]:
    """Train, from the last checkpoint if a killed run left one; returns the log, one entry a step."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Report(report))
    trainer.add_callback(SaveByTheClock())
    folder = optimisation.checkpoints
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def write_log(path: Path | str, log: list[dict[str, float]]) -> None:
    """Write a training's log: one entry a step."""
    with atomic_write(path) as file:
        json.dump(log, file, indent=0)
