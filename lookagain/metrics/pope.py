"""POPE (Li et al., 2023): yes/no questions about objects; the official files, answer rule and scores.

Files are JSON lines {"question_id", "image", "text", "label"}, one file for each way of drawing the absent objects. Answers are
read as the official script reads them, its quirks included: "NO" is not on its list and counts as yes, as an empty answer does.
Deviation: none in the scores; the yes rate is that of the predictions (the official "yes ratio"), never of the labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookagain.records import RecordError

SPLITS = ("random", "popular", "adversarial")
NEGATIVE_WORDS = frozenset({"No", "not", "no"})
METRICS = ("accuracy", "f1", "precision", "recall", "yes_rate")


class PopeError(RecordError):
    """A POPE file that cannot be used: the message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class Item:
    """One question of a POPE file."""

    question_id: str
    image: str  # COCO's file name
    text: str
    label: str  # "yes" or "no"


def read_file(path: Path | str) -> list[Item]:
    """The items of an official file. Raises PopeError if it is missing, empty, or holds a malformed or repeated item."""
    path = Path(path)
    if not path.is_file():
        raise PopeError(f"no POPE file {path}: run prepare_data, or put the published coco_pope_*.json there")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            item = Item(str(raw["question_id"]), raw["image"], raw["text"], raw["label"])
        except (ValueError, TypeError, KeyError) as error:
            raise PopeError(f"{path}, line {number}: needs question_id, image, text and label: {error!r}") from error
        if item.label not in ("yes", "no"):
            raise PopeError(f"{path}, line {number}: label {item.label!r} must be yes or no")
        items.append(item)
    if not items:
        raise PopeError(f"{path}: holds no question")
    if len({item.question_id for item in items}) < len(items):
        raise PopeError(f"{path}: question ids repeat; they must be unique in a file")
    return items


def parse_answer(response: str) -> str:
    """ "yes" or "no": the first sentence without commas, split at blanks; no if it holds No, not or no, else yes."""
    sentence = response.split(".")[0].replace(",", "")
    return "no" if NEGATIVE_WORDS & set(sentence.split(" ")) else "yes"


def is_correct(response: str, label: str) -> bool:
    """Whether the parsed answer equals the label."""
    return parse_answer(response) == label


def confusion(response: str, label: str) -> tuple[int, int, int, int]:
    """(true positive, false positive, true negative, false negative) of one answer; yes is the positive class."""
    said, truth = parse_answer(response) == "yes", label == "yes"
    return int(said and truth), int(said and not truth), int(not said and not truth), int(not said and truth)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The scores in percent from summed confusion counts (..., 4); a rate without a case is 0."""
    tp, fp, tn, fn = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return {
        "accuracy": _percent(tp + tn, tp + fp + tn + fn),
        "f1": _percent(2 * tp, 2 * tp + fp + fn),
        "precision": _percent(tp, tp + fp),
        "recall": _percent(tp, tp + fn),
        "yes_rate": _percent(tp + fp, tp + fp + tn + fn),
    }


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * part / np.where(whole == 0, 1, whole)
