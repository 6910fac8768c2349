"""Several texts in one row behind what they share: who sees whom."""

from __future__ import annotations

import torch
from torch import Tensor


def who_sees_whom(part: Tensor) -> Tensor:
    """(rows, 1, length, length) bool: tokens see the prefix (part 0) and their own part (rows, length), up to themselves;
    padding, part -1, does too."""
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    return (seen & torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=part.device).tril())[:, None]
