"""Seeds from (seed, names): a draw depends on what it is for and on its example, never on batch size, order or process count."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: object) -> int:
    """A seed in [0, 2^63) for one purpose and example, e.g. `derive(params.seed, "stic", image_id)`."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
