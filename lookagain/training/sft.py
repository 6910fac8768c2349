"""Supervised fine-tuning on responses alone: STIC Algorithm 2 continues the stage-1 adapter on description-infused instructions.

The loss is the mean over all response tokens of a batch, as LLaVA's own fine-tuning has it, whatever the micro-batches are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from lookagain.policy import Policy
from lookagain.training.collate import Example, Kept, collate, lay_out, response_logps
from lookagain.training.trainer import Optimisation, run, training_arguments
from lookagain.transforms import Shown


def train_sft(
    policy: Policy,
    examples: Sequence[Example],
    load_image: Callable[[str], Shown],
    optimisation: Optimisation,
    report: Callable[[dict[str, float], int], None],
) -> list[dict[str, float]]:
    """Train the policy's adapter on examples; returns the log, one entry a step.

    Raises UserError before the first step if the longest example and its image exceed `optimisation.max_length`.
    """
    longest = max(examples, key=lambda example: len(example.ids))
    collate(policy, [[longest]], load_image, optimisation.max_length)
    order = lay_out([len(example.ids) for example in examples], optimisation.batch_size, optimisation.epochs, optimisation.seed)
    rows_of, weights = [examples[item] for item, _ in order], _token_weights(examples, order, optimisation.batch_size)
    kept: Kept | None = Kept(0)

    def batch(items: list[dict[str, int]]) -> dict[str, Any]:
        places = [item["position"] for item in items]
        if kept:
            coming = [rows_of[place].image_id for place in optimisation.to_come(places[0])]
            kept.ahead(policy, coming, len(places), load_image)
        rows = collate(policy, [[rows_of[place]] for place in places], load_image, optimisation.max_length, kept)
        return {"rows": rows, "weights": torch.tensor([weights[place] for place in places])}

    trainer = ResponseTrainer(
        model=policy.model,
        args=training_arguments(TrainingArguments, optimisation),
        data_collator=batch,
        train_dataset=Dataset.from_dict({"position": list(range(len(order)))}),
    )
    if trainer.is_deepspeed_enabled:
        kept = None  # ZeRO-3 gathers the tower when it is called: all processes must call it equally often
    return run(trainer, optimisation, report)


def _token_weights(examples: Sequence[Example], order: Sequence[tuple[int, float]], batch_size: int) -> list[float]:
    """Weights that turn the mean over a batch's rows of summed log-probs into the mean over its response tokens."""
    weights: list[float] = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens = sum(sum(examples[item].is_response) for item, weight in batch if weight)
        weights += [batch_size / tokens if weight else 0.0 for _, weight in batch]
    return weights


class ResponseTrainer(Trainer):
    """transformers' Trainer with the loss of `train_sft`."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Weighted negative log-likelihood of the responses."""
        logps = response_logps(model, inputs["rows"])
        loss = -(logps * inputs["weights"].to(logps.device)).mean()
        return (loss, None) if return_outputs else loss
