"""CSR Eq. 4 on the values themselves, as printed: R = lambda * R_I + (1 - lambda) * R_T."""

from __future__ import annotations

from collections.abc import Sequence

from lookagain.rewards import Candidate, calibrated


def rewards(candidates: Sequence[Candidate], lambda_: float) -> list[float]:
    """R of each candidate, whatever its siblings are."""
    return [calibrated(one.relevance, one.language, lambda_) for one in candidates]
