"""Pairs from elsewhere: files in the published formats of STIC, SeVa, CSR and POVID, RLAIF-V, VLFeedback and RLHF-V.

    stic        image, chosen and rejected: [{role, content}, {role, content}], the question's first
    seva        image_id or image, question, chosen, reject
    povid       image, conversations and rejected_conversations: [{from: human, value}, {from: gpt, value}] (CSR's too)
    rlaif_v     image or image_path, question, chosen, rejected
    vlfeedback  image or img_path, prompt, completions: [{response, annotations: {aspect: {Rating}}}]: best and worst by mean rating
    rlhf_v      image or image_path, text: {question, chosen, rejected}, an object or its JSON

A file is .json (a list), .jsonl, .parquet, or a folder of parquet files. An image is a path under `images`, or, in parquet,
{bytes, path}. A record that does not match, has equal responses or no readable image is counted; more than `max_bad` of them are an
error that shows the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lookagain.images import read_bytes
from lookagain.pairs import Inputs, Made, PairError, Row
from lookagain.pools import fault
from lookagain.records import Pair, Provenance
from lookagain.schema import ImportedPairs as Settings


@dataclass(frozen=True)
class Parsed:
    """One record of any format. `image` is a path, or {"bytes", "path"}."""

    image: Any
    prompt: str
    chosen: str
    rejected: str


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """The pairs of a file; the policy is asked nothing. Raises PairError for a file that cannot be used."""
    pairs, rows, bad = [], {}, []
    pixels = inputs.sample.max_pixels
    for number, raw in enumerate(read_rows(Path(settings.file)), 1):
        try:
            parsed = parse(raw, settings.format)
            row = image_row(parsed.image, Path(settings.images))
            if row[0] not in rows and (wrong := fault(row[1] or read_bytes(str(row[2])), str(row[2] or row[0]), pixels)):
                raise ValueError(wrong)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            bad.append(f"record {number}: {error!r}" if isinstance(error, KeyError) else f"record {number}: {error}")
            continue
        rows[row[0]] = row
        made = Provenance(parsed.prompt, {"name": "none"}, {"imported": settings.format}, inputs.seed)
        name = f"imported/{number}"
        pairs.append(Pair(name, row[0], "imported", parsed.prompt, parsed.chosen, [parsed.rejected], made, [made]))
    if len(bad) > settings.max_bad:
        shown = "; ".join(bad[:3])
        raise PairError(
            f"{settings.file}: {len(bad)} of {len(bad) + len(pairs)} records are not of format {settings.format}, "
            f"imported.pairs.max_bad = {settings.max_bad}: {shown}"
        )
    return Made(pairs, {"planned": len(pairs) + len(bad), "bad_records": len(bad)}, rows.values())


def read_rows(path: Path) -> list[Any]:
    """The records of a file. Raises PairError if there is none, or it cannot be read."""
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not parts or not parts[0].is_file():
        raise PairError(
            f"imported.pairs.file = {str(path)!r}: no such file; name a .json, .jsonl or .parquet file of pairs, or a folder of "
            "parquet files"
        )
    try:
        if parts[0].suffix == ".parquet":
            return [row for part in parts for row in pq.read_table(part).to_pylist()]
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise PairError(f"{path} cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise PairError(f"{path} must hold a list of records, it holds {type(rows).__name__}")
    return rows


def parse(raw: Mapping[str, Any], form: str) -> Parsed:
    """A record of a format. Raises KeyError, TypeError or ValueError if it does not match."""
    found = FORMATS[form](raw)
    for name in ("prompt", "chosen", "rejected"):
        if not isinstance(getattr(found, name), str) or not getattr(found, name).strip():
            raise ValueError(f"{name} must be text, got {getattr(found, name)!r}")
    cleaned = Parsed(
        found.image, *(text.replace("<image>", "").strip() for text in (found.prompt, found.chosen, found.rejected))
    )
    if cleaned.chosen == cleaned.rejected:
        raise ValueError("chosen and rejected are equal")
    return cleaned


def image_row(image: Any, folder: Path) -> Row:
    """Id, bytes and path of a record's image. Raises ValueError if there is no such image."""
    if isinstance(image, Mapping):
        if image.get("bytes"):
            return hashlib.sha256(image["bytes"]).hexdigest()[:16], image["bytes"], None
        image = image.get("path")
    if not isinstance(image, str | int) or image == "":
        raise ValueError(f"no image: {image!r}")
    named = folder / str(image)
    found = [path for path in (named, *(Path(f"{named}{ending}") for ending in (".jpg", ".png"))) if path.is_file()]
    if not found:
        raise ValueError(f"no image file {named} (imported.pairs.images)")
    return str(image), None, str(found[0])


def _stic(raw: Mapping[str, Any]) -> Parsed:
    (question, chosen), (_, rejected) = ([turn["content"] for turn in raw[side]] for side in ("chosen", "rejected"))
    return Parsed(raw["image"], question, chosen, rejected)


def _seva(raw: Mapping[str, Any]) -> Parsed:
    return Parsed(raw.get("image") or raw["image_id"], raw["question"], raw["chosen"], raw["reject"])


def _povid(raw: Mapping[str, Any]) -> Parsed:
    sides = [raw["conversations"], raw["rejected_conversations"]]
    (question, chosen), (_, rejected) = ([turn["value"] for turn in side[:2]] for side in sides)
    return Parsed(raw["image"], question, chosen, rejected)


def _rlaif_v(raw: Mapping[str, Any]) -> Parsed:
    return Parsed(raw.get("image") or raw["image_path"], raw["question"], raw["chosen"], raw["rejected"])


def _vlfeedback(raw: Mapping[str, Any]) -> Parsed:
    completions = raw["completions"]
    if isinstance(completions, Mapping):  # as the hub's parquet has them: columns of lists
        columns = {name: completions[name] for name in ("response", "annotations")}
        completions = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rated = sorted(completions, key=_mean_rating)
    if len(rated) < 2 or _mean_rating(rated[0]) == _mean_rating(rated[-1]):
        raise ValueError("its completions are all rated alike")
    return Parsed(raw.get("image") or raw["img_path"], raw["prompt"], rated[-1]["response"], rated[0]["response"])


def _mean_rating(completion: Mapping[str, Any]) -> float:
    ratings = [float(entry["Rating"]) for entry in completion["annotations"].values()]
    return sum(ratings) / len(ratings)


def _rlhf_v(raw: Mapping[str, Any]) -> Parsed:
    text = json.loads(raw["text"]) if isinstance(raw["text"], str) else raw["text"]
    return Parsed(raw.get("image") or raw["image_path"], text["question"], text["chosen"], text["rejected"])


FORMATS: dict[str, Callable[[Mapping[str, Any]], Parsed]] = {
    "stic": _stic,
    "seva": _seva,
    "povid": _povid,
    "rlaif_v": _rlaif_v,
    "vlfeedback": _vlfeedback,
    "rlhf_v": _rlhf_v,
}
