"""Export: a policy as one checkpoint in its base's own format, for any tool that serves or fine-tunes such models.

The merged weights are loaded again and compared with the policy, whose last adapter is not merged: logits must agree, in the
dtype that is written. With `adapter_only` the chain of adapters is copied as it is, in PEFT's format.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from lookagain.errors import UserError
from lookagain.policy import Lineage, Policy, load_policy, read_lineage
from lookagain.records import Metric, atomic_write, read_metrics
from lookagain.schema import Loading

# Largest difference of log-probs allowed: merging rounds once more than running base and adapter side by side.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
PROMPT = "Describe this image."


USE_MERGED = [
    "```python",
    "from transformers import AutoModelForImageTextToText, AutoProcessor",
    "",
    "model, processor = AutoModelForImageTextToText.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)",
    "```",
]
USE_ADAPTERS = [
    "The adapters in PEFT's format. Those in `earlier/`, if there are any, are merged into the base first, in the order of their",
    "names; this folder's own comes last.",
]

PADDED = [
    "Images were shown as squares: pad each with its processor's mean colour first, for the processor itself would crop it.",
]


class ExportError(UserError):
    """A model that cannot be exported, or whose export differs from it."""


def export(
    folder: Path, target: Path, loading: Loading, adapter_only: bool, metrics: Path, device: str = "cpu"
) -> float | None:
    """Write a policy folder as a checkpoint with a model card; returns the largest difference of log-probs, None if adapter_only.

    Nothing is left at `target` unless all went well. Raises ExportError if it exists already, or if the checks fail.
    """
    if target.exists():
        raise ExportError(f"{target} exists already: name another place, or remove it")
    lineage = read_lineage(folder)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    difference = None
    try:
        if adapter_only:
            _copy_adapters(lineage, temporary)
        else:
            difference = _write_merged(folder, temporary, dataclasses.replace(loading, four_bit=False), device)
        known = read_metrics(metrics) if metrics.is_file() else {}
        with atomic_write(temporary / "README.md") as file:
            file.write(card(lineage, known, difference, loading.pad_images))
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def _copy_adapters(lineage: Lineage, target: Path) -> None:
    """The chain of adapters, the last one at the top as PEFT expects it."""
    if not lineage.adapters:
        raise ExportError(f"{lineage.folder} is a base: it has no adapter")
    for path in lineage.adapters[-1].iterdir():
        shutil.copyfile(path, target / path.name)
    for earlier in lineage.adapters[:-1]:
        shutil.copytree(earlier, target / "earlier" / earlier.name)
    shutil.copyfile(lineage.folder / "lineage.json", target / "lineage.json")


def _write_merged(folder: Path, target: Path, loading: Loading, device: str) -> float:
    """Write merged weights and the processor; returns how far the log-probs of what was written are from the policy's."""
    merged = load_policy(folder, loading, device)
    merged.model.save_pretrained(target)
    merged.processor.save_pretrained(target)
    del merged
    policy = load_policy(folder, loading, device, merge_last=False)
    expected = log_probabilities(policy)
    del policy.model
    dtype = getattr(torch, loading.dtype)
    policy.model = AutoModelForImageTextToText.from_pretrained(
        target, dtype=dtype, attn_implementation=loading.attention, use_safetensors=True
    )
    policy.model.eval().to(device)
    found = log_probabilities(policy)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE[loading.dtype]:
        raise ExportError(
            f"{folder}: log-probs of the merged checkpoint differ by {difference:.3g} from the adapter's, "
            f"{TOLERANCE[loading.dtype]} is allowed in {loading.dtype}; nothing was written"
        )
    return difference


@torch.inference_mode()
def log_probabilities(policy: Policy) -> torch.Tensor:
    """Log-probs of every next token of a prompt about a fixed picture, (tokens, vocabulary), where the policy gives some weight."""
    picture = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    prefixes = policy.prefixes([picture])
    suffix = policy.suffix(PROMPT)
    ids = torch.tensor([prefixes.ids[0] + suffix], device=policy.device)
    place = prefixes.positions[0].to(policy.device)
    rest = torch.arange(len(suffix), device=policy.device).expand(len(place), -1) + place.max() + 1
    logits = policy.forward(ids, prefixes.features, torch.cat([place, rest], -1)[:, None]).logits
    return logits[0, -len(suffix) :].float().log_softmax(-1).clamp(min=-10).cpu()


def card(lineage: Lineage, metrics: dict[str, Metric], difference: float | None, padded: bool) -> str:
    """The model card: where the model comes from, with which params and data, and how it was measured."""
    raw = json.loads((lineage.folder / "lineage.json").read_text())
    base = json.loads((lineage.base / "lineage.json").read_text())
    name, publisher, revision = base.get("model_name"), base.get("publisher"), base.get("revision")
    head = [
        "---",
        *([f"base_model: {base['base']}"] if revision else []),
        *([f"model_name: {name}-{lineage.folder.name}"] if name else []),
        *([f"publisher: {publisher}"] if publisher else []),  # whose benchmarks its figures are of, as its base's
        "pipeline_tag: image-text-to-text",
        "tags: [lookagain]",
        "---",
    ]
    origin = (
        f"{name or base['base']}{f' of the {publisher}' if publisher else ''}{f' at revision `{revision}`' if revision else ''}"
    )
    lines = [*head, "", f"# {lineage.folder.name}", "", f"Made by LookAgain from {origin}.", ""]
    lines += ["## Use", "", *(USE_MERGED if difference is not None else USE_ADAPTERS), ""]
    lines += [*PADDED, ""] if padded else []
    lines += ["## Lineage", "", f"- base: fingerprint `{lineage.base_fingerprint}`"]
    lines += [f"- adapter {number}: `{path.name}`" for number, path in enumerate(lineage.adapters, 1)]
    lines += [f"- all together: fingerprint `{lineage.fingerprint}`"]
    if difference is not None:
        lines += [f"- merged; log-probs differ by at most {difference:.2g} from base and adapter side by side"]
    lines += ["", f"## Training: {raw.get('method', 'none')}", "", *_pairs(raw.get("params", {}))]
    lines += ["", "## Data (SHA-256)", "", *_pairs(raw.get("data", {}))]
    lines += ["", "## Metrics", ""]
    if metrics:
        lines += ["| metric | value | standard error | n |", "|---|---|---|---|"]
        lines += [_row(key, metric) for key, metric in metrics.items()]
    else:
        lines.append("Not measured: there is no file of metrics for this model.")
    return "\n".join(lines) + "\n"


def _pairs(entries: dict[str, Any]) -> list[str]:
    return [f"- `{key}`: {value}" for key, value in entries.items()] or ["none recorded"]


def _row(key: str, metric: Metric) -> str:
    if metric.value is None:
        return f"| {key} | - | {metric.reason} | |"
    shown = "-" if metric.se is None else f"{metric.se:.2f}"
    return f"| {key} | {metric.value:.2f} | {shown} | {metric.n or ''} |"
