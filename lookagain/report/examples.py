"""What the page shows of the data itself: images with descriptions, and preference pairs, drawn by seed.

Nothing is chosen for what it shows: an image's place is the hash of its id and the seed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageOps

from lookagain.images import ImageStore
from lookagain.metrics import chair
from lookagain.records import Answer, Pair, RecordError, from_dict, read_records

GALLERY_IMAGES = 8
PAIRS_PER_METHOD = 4
SHEET_COLUMNS, SHEET_ROWS, SHEET_CELL, SHEET_GAP = 6, 4, 128, 4  # 24 images; px


@dataclass(frozen=True)
class Example:
    """An evaluation image with descriptions of it."""

    image_id: str
    image: PILImage.Image
    objects: frozenset[str]
    descriptions: list[tuple[str, str, str]]  # (model, how it was decoded, text)


@dataclass(frozen=True)
class PairExample:
    """A preference pair with its training image."""

    pair: Pair
    image: PILImage.Image


def draw(ids: Iterable[str], seed: int, count: int) -> list[str]:
    """`count` ids drawn by seed, whatever their order."""
    return sorted(ids, key=lambda one: hashlib.sha256(f"{seed}/{one}".encode()).digest())[:count]


def contact_sheet(images: Path | str, seed: int, max_pixels: int) -> PILImage.Image:
    """Images of a folder of shards drawn by seed, in a grid; small ones are enlarged without smoothing."""
    store = ImageStore(images, max_pixels)
    step = SHEET_CELL + SHEET_GAP
    sheet = PILImage.new("RGB", (SHEET_COLUMNS * step - SHEET_GAP, SHEET_ROWS * step - SHEET_GAP), "white")
    for place, image_id in enumerate(draw(store.ids, seed, SHEET_COLUMNS * SHEET_ROWS)):
        image = store.load(image_id)
        method = PILImage.Resampling.NEAREST if max(image.size) <= SHEET_CELL else PILImage.Resampling.LANCZOS
        tile = ImageOps.contain(image, (SHEET_CELL, SHEET_CELL), method)
        row, column = divmod(place, SHEET_COLUMNS)
        sheet.paste(tile, (column * step, row * step))
    return sheet


def read_gallery(
    benchmark: Path | str, answers: Path | str, models: Sequence[str], seed: int, max_pixels: int
) -> list[Example]:
    """Evaluation images drawn by seed, with the models' descriptions; models without answers are left out."""
    benchmark = Path(benchmark)
    truth = chair.read_truth(benchmark / "instances.json", benchmark / "captions.json")
    store = ImageStore(benchmark / "images", max_pixels)
    chosen = draw(truth.keys() & set(store.ids), seed, GALLERY_IMAGES)
    texts: dict[str, list[tuple[str, str, str]]] = {image_id: [] for image_id in chosen}
    for model in models:
        path = Path(answers) / f"{model}.jsonl"
        for answer in _descriptions(path, set(chosen)) if path.is_file() else ():
            how = "greedy" if answer.benchmark == "chair" else "T = 1"
            texts[answer.image_id].append((model, how, answer.response))
    order = {"greedy": 0, "T = 1": 1}
    return [
        Example(image_id, store.load(image_id), truth[image_id], sorted(texts[image_id], key=lambda entry: order[entry[1]]))
        for image_id in chosen
    ]


def _descriptions(path: Path, images: set[str]) -> list[Answer]:
    """The descriptions of some images. Only these lines are checked in full: an answers file has tens of thousands."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            raw = json.loads(line)
            if raw["image_id"] in images and raw["benchmark"] in ("chair", "chair_sampled"):
                found.append(from_dict(Answer, raw))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{path}, line {number}: not an Answer: {error!r}") from error
    return found


def read_pairs(folder: Path | str, methods: Sequence[str], seed: int, max_pixels: int) -> dict[str, list[PairExample]]:
    """Pairs of each method drawn by seed, of every kind of rejected response alike. Methods without a set of pairs are left out."""
    examples = {}
    for method in methods:
        path = Path(folder) / method
        if (path / "pairs.jsonl").is_file():
            store = ImageStore(path / "images", max_pixels)
            kinds: dict[str, dict[str, Pair]] = {}
            for pair in read_records(path / "pairs.jsonl", Pair):
                kinds.setdefault(_kind(pair), {})[pair.id] = pair
            share = math.ceil(PAIRS_PER_METHOD / max(1, len(kinds)))
            chosen = [pairs[one] for _, pairs in sorted(kinds.items()) for one in draw(pairs, seed, share)]
            examples[method] = [PairExample(pair, store.load(pair.image_id)) for pair in chosen]
    return examples


def _kind(pair: Pair) -> str:
    """How a pair's first rejected response came about: the image's transform, or the clean image."""
    return str(pair.rejected_provenance[0].image_transform.get("name", ""))


def as_tables(gallery: Sequence[Example], pairs: Mapping[str, Sequence[PairExample]]) -> dict[str, list[dict[str, str]]]:
    """The examples as rows of text, for tracking: `descriptions`, with what CHAIR counts as absent, and `pairs`.

    The first column tells rows apart, the second is what experiments are first compared by.
    """
    described = [
        {
            "of": f"{example.image_id}, {model}, {how}",
            "description": text,
            "absent": ", ".join(category for _, _, category in spans(text) if category not in example.objects),
            "model": model,
            "decoding": how,
        }
        for example in gallery
        for model, how, text in example.descriptions
    ]
    drawn = [(method, example.pair) for method, examples in pairs.items() for example in examples]
    rows = [
        {
            "of": f"{method}: {pair.id}",
            "chosen": pair.chosen,
            "rejected": " | ".join(pair.rejected),
            "prompt": pair.prompt,
            "method": method,
        }
        for method, pair in drawn
    ]
    return {"descriptions": described, "pairs": rows}


def spans(text: str) -> list[tuple[int, int, str]]:
    """(start, end, category) of each mention that CHAIR counts in a text, in order.

    CHAIR joins neighbouring words where they stand for something together: then both mean something else than each alone.
    """
    tokens = [match.span() for match in chair.TOKEN.finditer(text)]
    wanted, found, position = chair.mentions(text), [], 0
    while position < len(tokens) and wanted:
        start, stop = tokens[position]
        named, step = chair.mentions(text[start:stop]), 1
        if position + 1 < len(tokens):
            following, end = tokens[position + 1]
            both = chair.mentions(f"{text[start:stop]} {text[following:end]}")
            if both != named + chair.mentions(text[following:end]):
                named, stop, step = both, end, 2
        if named and named[0] == wanted[0]:
            found.append((start, stop, wanted.pop(0)))
        position += step
    return found
