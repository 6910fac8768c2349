"""CSR's released code: Eq. 4 on the ranks among siblings, so that R_T counts beside R_I whatever their scales are.

Images rank by the cosine itself, which is not clipped at 0 as R_I is.
"""

from __future__ import annotations

from collections.abc import Sequence

from lookagain.rewards import Candidate, calibrated, ranks


def rewards(candidates: Sequence[Candidate], lambda_: float) -> list[float]:
    """R of each candidate from its two ranks, in [0, 1]."""
    images, words = ranks([one.cosine for one in candidates]), ranks([one.language for one in candidates])
    return [calibrated(image, word, lambda_) for image, word in zip(images, words, strict=True)]
