"""Model cards of checkpoints: the facts that a publisher states at the head of README.md, in Hugging Face's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lookagain.params import PUBLISHED

CHECKPOINTS = Path("checkpoints")


def read_card(folder: Path | str) -> dict[str, Any]:
    """The front matter of a folder's README.md; empty where there is none."""
    path = Path(folder) / "README.md"
    head, *rest = (path.read_text(encoding="utf-8") if path.is_file() else "").split("\n---", 1)
    return (yaml.safe_load(head.removeprefix("---")) or {}) if rest and head.startswith("---\n") else {}


def publication_of(checkpoint: str) -> str | None:
    """The section of `publish` that a policy's checkpoint is taken from; None for one from elsewhere."""
    path = Path(checkpoint)
    return path.parent.name if path.parent.parent == Path(PUBLISHED) else None


def checkpoint_folder(checkpoint: str, publish: Mapping[str, Any], root: Path | str = ".") -> Path:
    """The folder of a checkpoint; that of a published one is the folder in checkpoints/, which is there before any run."""
    name = publication_of(checkpoint)
    if name not in publish:
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
