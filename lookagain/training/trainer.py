"""What both trainers share: arguments from params, the laid-out order, checkpoints to go on from, and the log."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

from lookagain.records import atomic_write
from lookagain.training.collate import micro_batches

SAVE_SECONDS = 60.0
STOP_SECONDS = 25  # from SIGTERM to the end, saved or not: schedulers kill after 30
WHOLE = "whole"  # a file in a checkpoint that all processes have written


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
    checkpointing: bool = False  # compute activations again in the backward pass instead of holding them

    @classmethod
    def of(cls, settings: Any, runtime: Any, seed: int, run: Any, dtype: str) -> Optimisation:
        """From a `dpo` or `sft` section of the params, their `runtime` section, and a stage's run."""
        shared = ("learning_rate", "epochs", "batch_size", "warmup_ratio", "weight_decay", "max_length")
        return cls(
            **{name: getattr(settings, name) for name in shared},
            micro_batch_size=runtime.micro_batch_size,
            checkpointing=runtime.checkpointing,
            seed=seed,
            checkpoints=run.resume_folder / "checkpoints",
            processes=run.world_size,
            on_cpu=str(run.device) == "cpu",
            bf16=dtype == "bfloat16",
        )

    def to_come(self, position: int) -> list[int]:
        """Positions of the laid-out order from a micro-batch's first on that its process takes of the same batch."""
        micro, _ = micro_batches(self.batch_size, self.micro_batch_size, self.processes)
        end = position - position % self.batch_size + self.batch_size
        return [place for place in range(position, end) if (place - position) % (micro * self.processes) < micro]


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
        activation_checkpointing=optimisation.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},  # the other kind needs inputs that ask for gradients
        ddp_find_unused_parameters=False,  # there are none
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        save_strategy="no",  # SaveByTheClock decides
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
    )


class SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint every so many seconds, and for one and the end when the process is told to stop.

    Processes must save at one step: at each the main process's clock and everyone's SIGTERM are told to all.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.last = time.monotonic()
        self.stop = stop

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:  # noqa: D102
        due = state.is_world_process_zero and time.monotonic() - self.last > SAVE_SECONDS
        wishes = torch.tensor([due, self.stop.is_set()], dtype=torch.float32, device=args.device)
        due, stop = (bool(wish) for wish in (reduce(wishes, "sum") if args.world_size > 1 else wishes))
        if due or stop:
            control.should_save, self.last = True, time.monotonic()
        if stop:
            control.should_training_stop = True
            self.stop.set()

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:  # noqa: D102
        if args.world_size > 1:
            PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / WHOLE).touch()
            for earlier in checkpoints(Path(args.output_dir)):
                if earlier != checkpoint:
                    shutil.rmtree(earlier, ignore_errors=True)


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
    """Train, from the last whole checkpoint if a killed run left one; returns the log, one entry a step.

    Told to stop (SIGTERM), it saves after the step under way, and lets the process end as the signal would have it.
    """
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    with stopping() as stop:
        trainer.add_callback(Report(report))
        trainer.add_callback(SaveByTheClock(stop))
        if trainer.is_fsdp_enabled:
            split_layers(trainer)
        whole = [path for path in checkpoints(optimisation.checkpoints) if (path / WHOLE).is_file()]
        trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
    gather_adapter(trainer.model)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def split_layers(trainer: Any) -> None:
    """Split the language model's layers between the processes (FSDP2); all else stays whole on each.

    The collator computes image features outside the model's forward, where nothing would gather the vision tower. Accelerate
    would split a model with an adapter in one piece, which is whole again in every step.
    """
    plugin, model = trainer.accelerator.state.fsdp_plugin, trainer.model
    settings = {
        "mesh": init_device_mesh(trainer.args.device.type, (trainer.args.world_size,)),
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        "offload_policy": plugin.cpu_offload,
    }
    layers = model.get_base_model().get_decoder().layers
    inside = set(layers.parameters())
    whole = {parameter for parameter in model.parameters() if parameter not in inside}
    for layer in layers:
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward, **settings)
    fully_shard(model, ignored_params=whole, **settings)


def gather_adapter(model: torch.nn.Module) -> None:
    """Make trained parameters that FSDP or DeepSpeed's ZeRO-3 has split whole again, on every process."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                continue
            if isinstance(parameter, DTensor):
                setattr(module, name, torch.nn.Parameter(parameter.full_tensor().detach()))
            elif hasattr(parameter, "ds_id"):  # DeepSpeed's mark; the package is there if anything bears it
                zero = importlib.import_module("deepspeed.zero")
                with zero.GatheredParameters([parameter]):
                    setattr(module, name, torch.nn.Parameter(parameter.detach().clone()))


def checkpoints(folder: Path) -> list[Path]:
    """A training's checkpoints, whole or not, in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM sets. After the block, or STOP_SECONDS later, the signal does what it did before."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGTERM)

    def give_up(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(STOP_SECONDS)

    signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)


def write_log(path: Path | str, log: list[dict[str, float]]) -> None:
    """Write a training's log: one entry a step."""
    with atomic_write(path) as file:
        json.dump(log, file, indent=0)
