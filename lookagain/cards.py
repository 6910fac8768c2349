"""Model cards of checkpoints: the facts that a publisher states at the head of README.md, in Hugging Face's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookagain.params import PUBLISHED

CHECKPOINTS = Path("checkpoints")


def read_card(folder: Path | str) -> dict[str, Any]:
    """The front matter of a folder's README.md; empty where there is none."""
    from huggingface_hub import metadata_load

    path = Path(folder) / "README.md"
    return (metadata_load(path) if path.is_file() else None) or {}


def publication_of(checkpoint: str, publish: Mapping[str, Any]) -> str | None:
    """The section of `publish` that a policy's checkpoint is taken from; None for one from elsewhere."""
    return next((name for name in publish if Path(checkpoint).parent == Path(PUBLISHED) / name), None)


def checkpoint_folder(checkpoint: str, publish: Mapping[str, Any], root: Path | str = ".") -> Path:
    """The folder of a checkpoint; that of a published one is the folder in checkpoints/, which is there before any run."""
    name = publication_of(checkpoint, publish)
    if name is None:
        return Path(root) / checkpoint
    given = publish[name]
    chosen = given["checkpoint"] if isinstance(given, Mapping) else given.checkpoint
    return Path(root) / CHECKPOINTS / chosen / Path(checkpoint).name


def publisher_of(raw: Mapping[str, Any], root: Path | str = ".") -> str | None:
    """Who published the base that params (nested) name, if its card says so; None for a checkpoint at scale.

    A publisher has benchmarks of its own, whose figures are not those of the papers. The lineage of a base that was prepared
    from the same checkpoint says so first.
    """
    checkpoint, lineage = raw["policy"]["checkpoint"], Path(root) / "models/base/lineage.json"
    facts = json.loads(lineage.read_text()) if lineage.is_file() else {}
    if facts.get("base") != checkpoint:
        facts = read_card(checkpoint_folder(checkpoint, raw["publish"], root))
    return facts.get("publisher")
