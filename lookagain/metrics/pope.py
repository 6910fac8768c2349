"""POPE (Li et al., 2023): yes/no questions about objects; the official files, answer rule and scores.

Files are JSON lines {"question_id", "image", "text", "label"}, one file for each way of drawing the absent objects. Answers are
read as the official script reads them, its quirks included: "NO" is not on its list and counts as yes, as an empty answer does.
Two versions are published: 3,000 questions in each file, and 2,910 in the random one, which LLaVA's scripts use. The official
scripts pair the n-th answer with the n-th label. Here they are matched by split and question id, and compared by question and image
where the answers name them: with answers to one version and labels of the other there is an error, never a shift.
Deviation: none in the scores; the yes rate is that of the predictions (the official "yes ratio"), never of the labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookagain.metrics import official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "pope"
MAX_NEW_TOKENS = 128
SOURCE = (
    "https://github.com/RUCAIBox/POPE (output/coco): coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json "
    "(3,000 questions each; 2,910 random ones at commit e3e39262), on images of COCO val2014"
)
VERSIONS = "take answers and labels of one version"
IMAGE_FOLDERS = ("val2014", "images")
SPLITS = ("random", "popular", "adversarial")
NEGATIVE_WORDS = frozenset({"No", "not", "no"})
METRICS: tuple[str, ...] = ("accuracy", "f1", "precision", "recall", "yes_rate")


class PopeError(BenchmarkError):
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
    for number, line in enumerate(official.read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            item = Item(str(raw["question_id"]), raw["image"], raw["text"], raw["label"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PopeError(f"{path}, line {number}: needs question_id, image, text and label: {error!r}") from error
        if item.label not in ("yes", "no"):
            raise PopeError(f"{path}, line {number}: label {item.label!r} must be yes or no")
        items.append(item)
    if not items:
        raise PopeError(f"{path}: holds no question")
    if len({item.question_id for item in items}) < len(items):
        raise PopeError(f"{path}: question ids repeat; they must be unique in a file")
    return items


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions of the three files, or of one; `reference` is the label, and ids are as "random-1".

    Raises PopeError if the images are beside the files (in val2014/ or images/) and one that a file asks about is not: the labels
    then belong to other images.
    """
    folder = Path(folder)
    names = {split: f"coco_pope_{split}.json" for split in SPLITS}
    if folder.is_file():
        names = {official.split_of(folder, SPLITS): folder.name}
        folder = folder.parent
    elif missing := [name for name in names.values() if not (folder / name).is_file()]:
        raise PopeError(f"no {', '.join(missing)} in {folder}: get it from {SOURCE}")
    questions = []
    for split, name in names.items():
        items = read_file(folder / name)
        _check_images(folder, name, items)
        questions += [
            Question(
                f"{split}-{item.question_id}", Path(item.image).stem, NAME, split, item.text + preset.single_word, item.label
            )
            for item in items
        ]
    return questions


def _check_images(folder: Path, name: str, items: Sequence[Item]) -> None:
    for images in (folder / images for images in IMAGE_FOLDERS if (folder / images).is_dir()):
        known = {path.stem for path in images.iterdir()}
        if lost := sorted({item.image for item in items if Path(item.image).stem not in known}):
            raise PopeError(f"{folder / name} asks about {len(lost)} images that are not in {images}, as {', '.join(lost[:3])}")


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


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the answer is right."""
    return float(is_correct(response, question.reference))


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Confusion counts, as `confusion` orders them."""
    counts = [confusion(response, question.reference) for question, response in zip(questions, responses, strict=True)]
    return tuple(float(sum(column)) for column in zip(*counts, strict=True))


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


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the three splits, where all are there: the papers' POPE is the mean F1."""
    if not all(split in scores_by_split for split in SPLITS):
        return {}
    return {name: sum(scores_by_split[split][name] for split in SPLITS) / len(SPLITS) for name in METRICS}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by id (as "random-1"), from JSON lines {"question_id", "text"}, or the official {"question", "answer"} in order.

    A file for each split, named after it (one such file, or a folder of them), or one file whose rows say their "category" or
    whose ids hold it. Rows without an id count from 1 in their file, and `check_answers` compares what they were asked.
    """
    return official.collect((where, identity, _response(where, row)) for where, identity, row in _rows(Path(path)))


def _response(where: str, row: dict) -> str:
    """The response of a row. Raises PopeError for a row of a label file, whose `text` is the question."""
    if "label" in row:
        raise PopeError(f"{where}: has a label, as the questions' files have: give the model's answers, without the label")
    return official.response(where, row)


def check_answers(path: Path, questions: Sequence[Question]) -> None:
    """Raise PopeError if an answer file says of a row that it is to another question, or about another image, than its label is;
    or if it holds the questions themselves for responses."""
    labelled = {question.id: question for question in questions}
    echoed = []
    for where, identity, row in _rows(Path(path)):
        question = labelled[identity]
        echoed.append(_first_line(_response(where, row)) == _first_line(question.prompt))
        asked = str(row.get("question", row.get("prompt", question.prompt))).strip()
        if _first_line(asked) != _first_line(question.prompt):
            raise PopeError(
                f"{where}: answers {asked[:60]!r}, but the label of {identity} is to {question.prompt[:60]!r}; {VERSIONS}"
            )
        if Path(str(row.get("image", question.image_id))).stem != question.image_id:
            raise PopeError(
                f"{where}: is about {row['image']}, but the label of {identity} about {question.image_id}; {VERSIONS}"
            )
    if echoed and all(echoed):
        raise PopeError(f"{path}: every response is the question itself: give the model's answers, not the questions' file")


def _first_line(text: str) -> str:
    return text.split("\n")[0].strip().lower()


def _rows(path: Path) -> Iterator[tuple[str, str, dict]]:
    """(where, question id, row) of the answer files."""
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.json*") if any(s in file.stem for s in SPLITS))
    if not files:
        raise PopeError(f"no answers in {path}: needs a file of JSON lines, or a folder of one for each of {', '.join(SPLITS)}")
    for file in files:
        for number, (where, row) in enumerate(official.read_rows(file), 1):
            yield where, _answer_id(file, where, row, number), row


def _answer_id(file: Path, where: str, row: dict, number: int) -> str:
    if not any(name in row for name in official.IDS):
        if "question" not in row and "image" not in row:
            raise PopeError(f"{where}: needs question_id, or the question or image, else a shift would go unnoticed")
        return f"{official.split_of(file, SPLITS)}-{number}"
    identity = official.value(where, row, official.IDS)
    if identity.split("-")[0] in SPLITS:
        return identity
    split = row.get("category") or official.split_of(file, SPLITS)
    if split not in SPLITS:
        raise PopeError(f"{where}: category {split!r} must be one of {', '.join(SPLITS)}")
    return f"{split}-{identity}"


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * part / np.where(whole == 0, 1, whole)
