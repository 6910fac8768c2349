"""Pragmatics: spatial relations, negation, counting and temporal order, contrastive and generative, in What'sUp's format.

What'sUp (Kamath et al., 2023) publishes images with captions to choose from, the right one first: lists of {"image_path",
"caption_options"}, or of [image number, right, wrong]. Those are the spatial category; negation.json, counting.json, temporal.json
and spatial.json hold others in the same format, with an optional "question", and an "answer" (a number) for counting.
Contrastive: a response is the JSON list of the image-text scores of the options in the file's order; the right one must score
highest. Generative: the options are listed under letters and a letter (or the option's text) is the answer; a question with a
number for an answer is asked "Answer with the number only, from 2-10.", and must be answered with one such number.
Beside accuracy, set_accuracy: the share of sets all of whose images are right, where a set is What'sUp's (the same two objects in
each relation) in its controlled files, else the image.
Deviations: a tie with the right option is wrong; officially the first of the best wins, which the right one is. Options are shown
in an order drawn by the hash of the question's id, as the right one comes first in the files. The generative form is our own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics import accuracy, choice, official, vqa
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "pragmatics"
METRICS: tuple[str, ...] = ("accuracy", "set_accuracy", "unparsed", "n")  # percent, percent, answers, answers
MAX_NEW_TOKENS = 128
SOURCE = (
    "https://github.com/amitakamath/whatsup_vlms (links to its files): controlled_images_dataset.json and others, and images"
)
CATEGORIES = ("spatial", "negation", "counting", "temporal")
CONTROLLED = ("controlled_images_dataset", "controlled_clevr_dataset")
PAIRED = ("coco_qa_one_obj", "coco_qa_two_obj", "vg_qa_one_obj", "vg_qa_two_obj")
FILES = {name: "spatial" for name in (*CONTROLLED, *PAIRED)} | {name: name for name in CATEGORIES}
CONTRASTIVE = "_contrastive"  # ends the name of a split whose options are to be ranked
WHICH = "Which caption describes the image?"
COUNT = "\nAnswer with the number only, from 2-10."
NUMBERS = range(2, 11)
COCO_DIGITS = 12


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """Each item twice, contrastive and generative; `Question.split` is the category, with _contrastive for the former.

    `reference` is JSON: the set, and the options (right one first), the letters with the right one, or the number.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else [folder / f"{name}.json" for name in FILES if (folder / f"{name}.json").is_file()]
    if not files or any(file.stem not in FILES for file in files):
        raise BenchmarkError(f"{folder}: needs one of {', '.join(f'{name}.json' for name in FILES)}; get them from {SOURCE}")
    return [question for file in files for question in _read_file(file, preset)]


def _read_file(path: Path, preset: PromptPreset) -> Iterator[Question]:
    rows = official.read_json(path, SOURCE)
    if not isinstance(rows, list) or not rows:
        raise BenchmarkError(f"{path} must be a list of items: get it from {SOURCE}")
    for number, row in enumerate(rows):
        where, identity = f"{path}, entry {number + 1}", f"{path.stem}-{number}"
        image, options, row = _item(where, path.stem, row)
        group = _set(path.stem, image) if path.stem in CONTROLLED else image
        prompt, reference = _generative(where, identity, row, options, preset)
        category = FILES[path.stem]
        ranked = json.dumps({"set": group, "options": options}, ensure_ascii=False)
        yield Question(identity + CONTRASTIVE, image, NAME, category + CONTRASTIVE, "", ranked)
        asked = json.dumps({"set": group, **reference}, ensure_ascii=False)
        yield Question(identity, image, NAME, category, prompt, asked)


def _item(where: str, file: str, row: Any) -> tuple[str, list[str], dict[str, Any]]:
    """(image id, options with the right one first, the row's other entries) of a row of either form.

    COCO's images are named by their number in twelve digits, Visual Genome's by the number.
    """
    if isinstance(row, list) and len(row) == 3:
        return str(row[0]).zfill(COCO_DIGITS if file.startswith("coco_qa") else 0), [str(row[1]), str(row[2])], {}
    path, options = official.entry(where, row, ["image_path", "caption_options"])
    if len(options) < 2 or len(set(options)) < len(options):
        raise BenchmarkError(f"{where}: caption_options must be two or more different captions")
    return Path(path).stem, list(options), row


def _set(file: str, image: str) -> str:
    """What'sUp's set of an image of the controlled files: its two objects, first and last in the name."""
    parts = image.split("_")
    return f"{file}/{parts[0]}/{parts[-1]}"


def _generative(
    where: str, identity: str, row: Mapping[str, Any], options: list[str], preset: PromptPreset
) -> tuple[str, dict[str, Any]]:
    """Prompt and reference of the generative form."""
    text = row.get("question", WHICH)
    if "answer" in row:
        if row["answer"] not in NUMBERS:
            raise BenchmarkError(f"{where}: answer {row['answer']!r} must be a number from 2 to 10")
        return text + COUNT, {"number": int(row["answer"])}
    shown = sorted(options, key=lambda option: hashlib.sha256(f"{identity}/{option}".encode()).digest())
    lettered = dict(zip(choice.LETTERS, shown, strict=False))
    return text + choice.listed(shown) + preset.letter, {"options": lettered, "answer": choice.LETTERS[shown.index(options[0])]}


def parse_number(response: str) -> int | None:
    """The one number from 2 to 10 in an answer, in digits or as a word; None if there is none, or several."""
    words = re.findall(r"\w+(?:[.,]\d+)*", response.lower())
    found = {vqa.NUMBERS.get(word, word) for word in words if vqa.NUMBERS.get(word, word)[0].isdigit()}
    number = found.pop() if len(found) == 1 else ""
    return int(number) if number.isdecimal() and int(number) in NUMBERS else None


def unit(question: Question) -> str:
    """The set."""
    return json.loads(question.reference)["set"]


def score_answer(question: Question, response: str) -> float:
    """1 if the option, letter or number is right."""
    return _judge(question, response)[0]


def _judge(question: Question, response: str) -> tuple[float, bool]:
    """(1 if right, whether an answer could be read)."""
    reference = json.loads(question.reference)
    if question.split.endswith(CONTRASTIVE):
        scores = _scores(question, response, len(reference["options"]))
        return float(scores[0] > max(scores[1:])), True
    if "number" in reference:
        number = parse_number(response)
        return float(number == reference["number"]), number is not None
    letter = choice.infer(response, reference["options"])
    return float(letter == reference["answer"]), bool(letter)


def _scores(question: Question, response: str, options: int) -> list[float]:
    try:
        scores = [float(score) for score in json.loads(response)]
    except (ValueError, TypeError):
        scores = []
    if len(scores) != options or not all(map(math.isfinite, scores)):  # NaN is neither above nor below another score
        raise BenchmarkError(
            f"question {question.id}: {response[:60]!r} must be a JSON list of {options} scores, one finite number for each "
            "option in order"
        )
    return scores


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, unparsed ones, sets, sets with all right."""
    results = [_judge(question, response) for question, response in zip(questions, responses, strict=True)]
    return (*accuracy.count(results), 1.0, float(all(right for right, _ in results)))


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The figures from summed counts (..., 5)."""
    counts = np.asarray(counts, dtype=float)
    sets = {"set_accuracy": accuracy.percent(counts[..., 4], counts[..., 3])}
    return accuracy.score(counts[..., :3]) | sets


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{}: the categories are reported apart."""
    return {}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id, from JSON lines {"question_id", "text"}, or "scores" (a list) for a contrastive question."""
    return official.collect(
        (where, official.value(where, row, official.IDS), _response(where, row)) for where, row in official.read_rows(path)
    )


def _response(where: str, row: dict[str, Any]) -> str:
    return json.dumps(row["scores"]) if "scores" in row else official.response(where, row)
