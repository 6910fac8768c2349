"""Checkpoints as they are published: a folder or a hub id, its files, its card, and a fingerprint of what decides its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookagain.errors import UserError

# What each part of a checkpoint of Hugging Face's format may be called.
POLICY_FILES = {
    "weights": ("*.safetensors",),
    "config": ("config.json",),
    "processor": ("processor_config.json", "preprocessor_config.json"),
    "tokenizer": ("tokenizer_config.json",),
    "card": ("README.md",),
}
SCORER_FILES = {"weights": ("*.safetensors",), "config": ("open_clip_config.json",)}  # of open_clip's
DECIDING = (".safetensors", ".json", ".jinja", ".model", ".txt")  # files that decide what a checkpoint answers; no card


class CheckpointError(UserError):
    """A checkpoint that cannot be used: the message names it, the file and what is expected."""


def check_files(name: str, files: Collection[str], wanted: Mapping[str, Sequence[str]]) -> None:
    """Raise CheckpointError unless a checkpoint has each of its parts."""
    for part, patterns in wanted.items():
        if not any(Path(file).match(pattern) for file in files for pattern in patterns):
            why = " (other formats can run code, and are refused)" if part == "weights" else ""
            raise CheckpointError(f"{name}: the checkpoint has no {part}: {' or '.join(patterns)} is expected{why}")


def files_of(folder: Path | str) -> list[str]:
    """The names of a folder's files, sorted; without those of its folders."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file())


def fingerprint(folder: Path | str) -> str:
    """A hash of the names and bytes of a checkpoint's files, without its card."""
    digest = hashlib.sha256()
    for name in files_of(folder):
        if Path(name).suffix in DECIDING:
            with (Path(folder) / name).open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def pin_policy(name: str, revision: str) -> dict[str, Any]:
    """The lineage of a checkpoint: what pins it, and what its card says of it. Raises CheckpointError if it lacks a part."""
    from huggingface_hub import metadata_load, model_info

    if Path(name).is_dir():
        check_files(name, files_of(name), POLICY_FILES)
        card = metadata_load(Path(name) / "README.md") or {}
        pinned = {"base": name, "revision": None, "fingerprint": fingerprint(name)}
    else:
        try:
            info = model_info(name, revision=revision)
        except Exception as error:  # of the hub's, or of whichever HTTP library it uses
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"policy.checkpoint = {name}: no such folder, and no revision {revision} of it on the hub, or no network: {reason}"
            ) from error
        check_files(name, [sibling.rfilename for sibling in info.siblings or ()], POLICY_FILES)
        card = info.card_data.to_dict() if info.card_data else {}
        pinned = {"base": name, "revision": info.sha, "fingerprint": info.sha}
    return pinned | {key: card.get(key) for key in ("publisher", "model_name", "credits")}


def pin_scorer(name: str, pretrained: str | None) -> dict[str, Any]:
    """What scorer.json says of a scorer: a folder in open_clip's format, or one of open_clip's own models.

    Raises CheckpointError if a folder lacks a part, open_clip has no such weights, or they were trained with another activation
    than the name stands for.
    """
    import open_clip

    if pretrained is None:
        if not Path(name).is_dir():
            raise CheckpointError(f"scorer.model = {name}: no such folder; a name of open_clip's needs scorer.pretrained")
        check_files(name, files_of(name), SCORER_FILES)
        return {"model": name, "pretrained": None, "fingerprint": fingerprint(name)}
    if (name, pretrained) not in open_clip.list_pretrained():
        tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
        raise CheckpointError(
            f"scorer: open_clip has no {name!r} with pretrained {pretrained!r}; "
            + (f"{name} comes with {', '.join(tags)}" if tags else "open_clip.list_pretrained() lists all")
        )
    trained, built = (
        bool(one.get("quick_gelu"))
        for one in (open_clip.get_pretrained_cfg(name, pretrained), open_clip.get_model_config(name))
    )
    if trained != built:  # open_clip would warn, and compute other embeddings
        raise CheckpointError(
            f"scorer: {pretrained!r} was trained {'with' if trained else 'without'} QuickGELU, and {name!r} is built "
            f"{'with' if built else 'without'} it; use {name + '-quickgelu' if trained else name.removesuffix('-quickgelu')}"
        )
    return {"model": name, "pretrained": pretrained}
