"""Preference losses as pure functions of log-probs.

Sums, not means, over a response's tokens, as all three papers have it. Reference log-probs are constants.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that is not scored


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-prob of each label, 0 where nothing is scored.

    logits: (rows, length, vocabulary), where position i predicts labels[:, i]; labels: (rows, length), token ids, IGNORE where
    nothing is scored. Returns (rows, length).
    """
    logps = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return logps * (labels != IGNORE)


def top_token_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Each label replaced by the model's most likely token there, or by its second where the first is the label itself.

    What STIC's released trainer scores of a rejected response, instead of its own tokens: `dpo.rejected_score: top1`.
    Shapes as in `token_logps`; IGNORE stays.
    """
    first, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    return torch.where(labels == IGNORE, labels, torch.where(first == labels, second, first))


def dpo_margins(
    policy_logps: Tensor, reference_logps: Tensor, pair_of_row: Tensor, chosen: Tensor, pairs: int, beta: float
) -> Tensor:
    """Reward margin of each pair: beta * (log-ratio of chosen - SUM over rejected of their log-ratios) (SeVa Eq. 18).

    With one rejected response this is DPO's own argument of the sigmoid. policy_logps, reference_logps: (rows,);
    pair_of_row: (rows,) index of each row's pair; chosen: (rows,) bool. Returns (pairs,).
    """
    rewards = beta * (policy_logps - reference_logps)
    signed = torch.where(chosen, rewards, -rewards)
    return torch.zeros(pairs, dtype=signed.dtype, device=signed.device).index_add(0, pair_of_row, signed)


def regularised_dpo(margins: Tensor, chosen_logps: Tensor, alpha: float) -> Tensor:
    """STIC Eq. 4.1 with the logistic loss: -log sigmoid(margin) - alpha * log p(chosen), per pair.

    chosen_logps is the SUM of the chosen response's token log-probs, which is why alpha is as small as 1/1024; alpha = 0 is
    DPO. Shapes (pairs,).
    """
    return -F.logsigmoid(margins) - alpha * chosen_logps
