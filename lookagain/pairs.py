"""What pair sources share: responses to ask for, plans of pairs, and the folder that a set of pairs is.

A source is one file of lookagain/sources/, found by its name, with two things in it (docs/own-method.md):

    Settings                                             a dataclass: the section NAME.pairs of params.yaml
    make_pairs(inputs: Inputs, settings: Settings) -> Made

It asks the policy through `inputs.respond` as often as it needs to, and how likely it finds given responses through
`inputs.losses`. Its answers must depend on (seed, id) alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from lookagain.augmentations import CLEAN
from lookagain.errors import UserError
from lookagain.images import ImageStore, write_shards
from lookagain.records import Conversation, Decoding, Pair, Provenance, atomic_write, read_records, write_records


class PairError(UserError):
    """Pairs that cannot be made or read: the message says which and why."""


@dataclass(frozen=True)
class Ask:
    """One response to generate: a prompt about an image, as a transform (a record for `transforms.apply`) shows it."""

    id: str
    image_id: str
    prompt: str
    transform: Mapping[str, Any] = field(default_factory=lambda: CLEAN)


Respond = Callable[[ImageStore, Sequence[Ask], Decoding], dict[str, str]]  # the policy's responses by the asks' ids
# The mean negative log-probs of given responses to each ask, by the asks' ids.
Losses = Callable[[ImageStore, Sequence[Ask], Mapping[str, Sequence[str]]], dict[str, list[float]]]
Row = tuple[str, bytes | None, str | None]  # image id, bytes or None, path or None


@dataclass(frozen=True)
class Inputs:
    """What a source has to work with. Images are unlabeled; instruction data is for its questions."""

    seed: int
    sample: ImageStore
    respond: Respond
    losses: Losses
    instructions: Callable[[], list[Conversation]]
    instruct_images: Callable[[], ImageStore]


@dataclass(frozen=True)
class Made:
    """A source's pairs, what it counted on the way (equal responses that it dropped, say), and where the pairs' images are."""

    pairs: list[Pair]
    counts: dict[str, int]
    images: ImageStore | Iterable[Row]


@dataclass(frozen=True)
class PairPlan:
    """A pair to be: its training prompt, and how its responses are made."""

    id: str
    image_id: str
    method: str
    prompt: str
    chosen: Ask
    rejected: list[Ask]

    def pair(self, responses: Mapping[str, str], decoding: Mapping[str, Any], seed: int) -> Pair:
        """The pair, once its responses are there."""
        chosen, *rejected = (
            Provenance(ask.prompt, dict(ask.transform), dict(decoding), seed) for ask in (self.chosen, *self.rejected)
        )
        texts = [responses[ask.id] for ask in self.rejected]
        return Pair(self.id, self.image_id, self.method, self.prompt, responses[self.chosen.id], texts, chosen, rejected)


def carry_out(plans: Sequence[PairPlan], decoding: Decoding, inputs: Inputs, images: ImageStore, keep_equal: bool) -> Made:
    """Ask for all responses of the plans and make their pairs.

    Rejected responses that equal the chosen one are counted, and unless `keep_equal` dropped, with their pair if none is left.
    """
    asks = {ask.id: ask for plan in plans for ask in (plan.chosen, *plan.rejected)}
    responses = inputs.respond(images, list(asks.values()), decoding)
    pairs = [plan.pair(responses, dataclasses.asdict(decoding), inputs.seed) for plan in plans]
    equal = sum(text == pair.chosen for pair in pairs for text in pair.rejected)
    if keep_equal:
        return Made(pairs, {"planned": len(plans), "equal_kept": equal}, images)
    kept = [one for one in map(without_equal, pairs) if one]
    return Made(kept, {"planned": len(plans), "equal_dropped": equal}, images)


def without_equal(pair: Pair) -> Pair | None:
    """A pair without the rejected responses that equal the chosen one; None if none is left."""
    rejected = [(text, made) for text, made in zip(pair.rejected, pair.rejected_provenance, strict=True) if text != pair.chosen]
    if not rejected:
        return None
    texts, provenance = (list(part) for part in zip(*rejected, strict=True))
    return dataclasses.replace(pair, rejected=texts, rejected_provenance=provenance)


def write_pairs(folder: Path | str, made: Made) -> None:
    """Write a set of pairs: pairs.jsonl, counts.json, and images/ with exactly the images of the pairs.

    Raises PairError if there is no pair, or an image is missing.
    """
    folder = Path(folder)
    if not made.pairs:
        raise PairError(f"{folder.name}: no pair was made ({made.counts}): there is nothing to train on")
    needed = dict.fromkeys(pair.image_id for pair in made.pairs)
    if isinstance(made.images, ImageStore):
        found = [made.images.row(image_id) for image_id in needed if image_id in made.images]
        rows = [(row["image_id"], row["image"]["bytes"], row["image"]["path"]) for row in found]
    else:
        rows = list({row[0]: row for row in made.images if row[0] in needed}.values())
    if len(rows) != len(needed):
        lost = sorted(needed.keys() - {row[0] for row in rows})
        raise PairError(f"{folder.name}: {len(lost)} images of pairs are not there: {', '.join(lost[:3])}")
    shutil.rmtree(folder, ignore_errors=True)
    write_shards(folder / "images", rows)
    write_records(folder / "pairs.jsonl", made.pairs)
    with atomic_write(folder / "counts.json") as file:
        json.dump({**made.counts, "pairs": len(made.pairs)}, file, indent=1)


def read_pairs(folder: Path | str) -> list[Pair]:
    """The pairs of a set. Raises RecordError if they are not there."""
    return read_records(Path(folder) / "pairs.jsonl", Pair)


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Items in batches, those of one prompt together, so that rows of a batch are about equally long; the order is by id within."""
    ordered = sorted(items, key=lambda item: (len(item.prompt), item.prompt, item.id))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def shown_as(ask: Ask) -> tuple[str, str]:
    """Identifies the image as an ask shows it: asks of one share its encoding."""
    return ask.image_id, json.dumps(ask.transform, sort_keys=True)


def batches_by_image(asks: Sequence[Ask], size: int) -> list[list[Ask]]:
    """All asks about up to `size` images at a time, each as a transform shows it; images with as many asks stand together."""
    shown: dict[tuple[str, str], list[Ask]] = {}
    for ask in sorted(asks, key=lambda ask: ask.id):
        shown.setdefault(shown_as(ask), []).append(ask)
    groups = sorted(shown.values(), key=lambda group: (len(group), group[0].id))
    return [list(chain(*groups[start : start + size])) for start in range(0, len(groups), size)]
