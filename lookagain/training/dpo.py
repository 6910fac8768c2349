"""Direct preference optimisation: STIC's Eq. 4.1, SeVa's Eq. 18, and CSR's plain DPO are one loss with beta, alpha and the number
of rejected responses.

A small subclass of trl's DPOTrainer. It departs from trl where the papers need it: alpha times the SUM of chosen log-probs, several
rejected responses a pair, reference log-probs computed once before training (nothing outside the adapter trains), and a pair's
image encoded and prefilled once a step for all its responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from lookagain.losses import dpo_margins, regularised_dpo
from lookagain.policy import Policy
from lookagain.records import Pair
from lookagain.schema import Dpo
from lookagain.training.collate import Example, Kept, Rows, collate, lay_out, response_logps
from lookagain.training.trainer import Optimisation, run, training_arguments
from lookagain.transforms import Shown


@dataclass(frozen=True)
class PairBatch:
    """Some pairs, a row each: its chosen response, then its rejected ones."""

    rows: Rows
    pair_of_response: Tensor  # (responses,)
    is_chosen: Tensor  # (responses,) bool
    reference_logps: Tensor  # (responses,)
    weights: Tensor  # (pairs,)


def pair_examples(policy: Policy, pair: Pair) -> list[Example]:
    """A pair's training examples on its clean image: chosen first, then every rejected response."""
    return [
        Example(pair.image_id, *policy.conversation([(pair.prompt, response)])) for response in (pair.chosen, *pair.rejected)
    ]


@torch.no_grad()
def reference_logps(
    policy: Policy,
    pairs: Sequence[Pair],
    load_image: Callable[[str], Shown],
    max_length: int,
    rejected_score: str = "response",
    kept: Kept | None = None,
) -> list[list[float]]:
    """Log-probs of each pair's responses under the policy as it is, chosen first: one batch, before an adapter is added."""
    examples = [pair_examples(policy, pair) for pair in pairs]
    rows = collate(policy, examples, load_image, max_length, kept)
    is_chosen = torch.tensor([position == 0 for group in examples for position in range(len(group))])
    logps = iter(response_logps(policy.model, rows, ~is_chosen if rejected_score == "top1" else None).tolist())
    return [[next(logps) for _ in group] for group in examples]


def all_reference_logps(
    policy: Policy,
    pairs: Sequence[Pair],
    load_image: Callable[[str], Shown],
    settings: Dpo,
    map_batches: Callable[..., list[list[float]]],
    batch_size: int,
    kept: Kept | None = None,
) -> list[list[float]]:
    """`reference_logps` of all pairs, in their order. `map_batches` deals batches of pairs out to the processes."""
    ordered = sorted(
        pairs, key=lambda pair: (sum(map(len, (pair.chosen, *pair.rejected))), pair.id)
    )  # so that batches pad little
    step = batch_size // 2 or 1
    dealt = [ordered[start : start + step] for start in range(0, len(ordered), step)]

    def work(batch: Sequence[Pair]) -> list[list[float]]:
        return reference_logps(policy, batch, load_image, settings.max_length, settings.rejected_score, kept)

    logps = map_batches(dealt, work, "reference")
    by_id = dict(zip([pair.id for batch in dealt for pair in batch], logps, strict=True))
    return [by_id[pair.id] for pair in pairs]


def train_dpo(
    policy: Policy,
    pairs: Sequence[Pair],
    references: Sequence[Sequence[float]],
    load_image: Callable[[str], Shown],
    beta: float,
    alpha: float,
    optimisation: Optimisation,
    report: Callable[[dict[str, float], int], None],
    rejected_score: str = "response",
    kept: Kept | None = None,
) -> list[dict[str, float]]:
    """Train the policy's adapter on pairs; returns the log, one entry a step.

    `references` holds each pair's reference log-probs as `reference_logps` gives them, by the same `rejected_score`: that of the
    rejected response itself, or `top1` (STIC's released trainer). Images that these have `kept` are not encoded again.
    """
    examples = [pair_examples(policy, pair) for pair in pairs]
    lengths = [sum(len(example.ids) for example in group) for group in examples]
    order = lay_out(lengths, optimisation.batch_size, optimisation.epochs, optimisation.seed)
    kept = kept or Kept(0)

    def batch(items: list[dict[str, int]]) -> dict[str, PairBatch]:
        some, weighted = zip(*(order[item["position"]] for item in items), strict=True)
        groups = [examples[pair] for pair in some]
        if kept:
            coming = [pairs[order[place][0]].image_id for place in optimisation.to_come(items[0]["position"])]
            kept.ahead(policy, coming, len(items), load_image)
        rows = collate(policy, groups, load_image, optimisation.max_length, kept)
        owner = [number for number, group in enumerate(groups) for _ in group]
        first = [position == 0 for group in groups for position in range(len(group))]
        reference = torch.tensor([value for pair in some for value in references[pair]])
        return {"batch": PairBatch(rows, torch.tensor(owner), torch.tensor(first), reference, torch.tensor(weighted))}

    arguments = training_arguments(DPOConfig, optimisation)
    arguments.beta = beta
    arguments.disable_dropout = False  # trl's default would drop the adapter's; the references are computed without it anyway
    trainer = PairTrainer(
        model=policy.model,
        ref_model=None,
        args=arguments,
        data_collator=batch,
        train_dataset=Dataset.from_dict({"position": list(range(len(order)))}),
        processing_class=policy.processor,
    )
    if trainer.is_deepspeed_enabled:
        kept = None  # ZeRO-3 gathers the tower when it is called: all processes must call it equally often
    policy.model.delete_adapter("ref")  # trl's frozen copy, which reference log-probs computed beforehand make needless
    trainer.alpha, trainer.rejected_top1 = alpha, rejected_score == "top1"
    return run(trainer, optimisation, report)


class PairTrainer(DPOTrainer):
    """trl's DPOTrainer on `PairBatch`es."""

    alpha: float = 0.0
    rejected_top1: bool = False

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # indices of pairs that are tokenised already

    def _compute_loss(self, model: Any, inputs: dict[str, PairBatch], return_outputs: bool) -> Any:
        batch = inputs["batch"]
        logps = response_logps(model, batch.rows, ~batch.is_chosen if self.rejected_top1 else None)
        owner, is_chosen, references, weights = (
            part.to(logps.device) for part in (batch.pair_of_response, batch.is_chosen, batch.reference_logps, batch.weights)
        )
        margins = dpo_margins(logps, references, owner, is_chosen, len(weights), self.beta)
        losses = regularised_dpo(margins, logps[is_chosen], self.alpha)
        self._note((logps - references).detach(), is_chosen, margins.detach(), weights, owner)
        loss = (losses * weights).mean()
        return (loss, None) if return_outputs else loss

    def _note(self, logratios: Tensor, is_chosen: Tensor, margins: Tensor, weights: Tensor, owner: Tensor) -> None:
        """Figures that trl averages over a step's micro-batches and logs; filler pairs (weight 0) are left out."""
        real = weights > 0
        if not real.any():
            return
        notes = self._metrics["train"]
        notes["reward_margin"].append(margins[real].mean().item())
        notes["reward_accuracy"].append((margins[real] > 0).float().mean().item())
        notes["chosen_logratio"].append(logratios[is_chosen & real[owner]].mean().item())
        notes["rejected_logratio"].append(logratios[~is_chosen & real[owner]].mean().item())
