"""SEED-Bench (Li et al., 2023), image part: multiple choice of four in nine kinds of question.

Two ways to answer: a letter, right if it equals the answer (LLaVA-1.5's way: "B." or the option's text are wrong); or the
official likelihood ranking, by which the option of the lowest loss is the answer (`rank`).
Answers are JSON lines {"question_id", "text"} or {"question_id", "prediction"}, or {"question_id", "losses": [four]}.
Deviations: blanks around a letter are ignored; of options with the same loss the first is taken, where the original's sort is
not stable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookagain.metrics import accuracy, choice, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "seedbench"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = "https://huggingface.co/datasets/AILab-CVC/SEED-Bench: SEED-Bench.json and SEED-Bench-image (14,233 image questions)"
FILES = ("SEED-Bench.json",)
LETTERS = "ABCD"
IMAGE_TYPES = range(1, 10)
LOSSES = "losses"

score = accuracy.score


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The image questions; `reference` is JSON with the right letter and the options, in order, for a ranking.

    `Question.split` is the kind of question by its name in the file, as scene_understanding.
    """
    path, rows, types = _read_file(folder)
    names = {number: name.lower().replace(" ", "_") for name, number in types.items()}
    asked = [(number, row) for number, row in enumerate(rows, 1) if row["question_type_id"] in IMAGE_TYPES]
    if not asked:
        raise BenchmarkError(f"{path} holds no question of types 1 to 9: get it from {SOURCE}")
    return [_question(f"{path}, question {number}", row, names, preset) for number, row in asked]


def left_out(folder: Path) -> frozenset[str]:
    """The questions about videos: official answer files hold answers to them too."""
    _, rows, _ = _read_file(folder)
    return frozenset(str(row.get("question_id")) for row in rows if row["question_type_id"] not in IMAGE_TYPES)


def _read_file(folder: Path) -> tuple[Path, list[dict[str, Any]], dict[str, int]]:
    """The file, its questions, and their types' numbers by name."""
    path = official.find(folder, FILES, SOURCE)
    rows, types = official.entry(str(path), official.read_json(path, SOURCE), ["questions", "question_type"])
    for number, row in enumerate(rows, 1):
        official.entry(f"{path}, question {number}", row, ["question_type_id"])
    return path, rows, types


def _question(where: str, row: dict[str, Any], names: Mapping[int, str], preset: PromptPreset) -> Question:
    identity, image, text, answer, kind = official.entry(
        where, row, ["question_id", "data_id", "question", "answer", "question_type_id"]
    )
    options = official.entry(where, row, [f"choice_{letter.lower()}" for letter in LETTERS])
    if answer not in set(LETTERS):
        raise BenchmarkError(f"{where}: answer {answer!r} must be one of A, B, C, D")
    prompt = text + choice.listed(map(str, options)) + preset.letter
    reference = json.dumps({"answer": answer, "options": [str(option) for option in options]}, ensure_ascii=False)
    return Question(str(identity), str(image), NAME, names.get(kind, f"type_{kind}"), prompt, reference)


def rank(losses: Sequence[float]) -> str:
    """The letter of the option with the lowest loss."""
    return LETTERS[min(range(len(losses)), key=lambda place: losses[place])]


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the letter is right."""
    return float(response.strip() == json.loads(question.reference)["answer"])


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, and those that are no letter of the four."""
    return accuracy.count((score_answer(q, r), r.strip() in set(LETTERS)) for q, r in zip(questions, responses, strict=True))


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all image questions together."""
    return accuracy.pooled(scores_by_split)


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id; losses are turned into the letter that they rank first."""
    ids = (*official.IDS, "q_id")
    rows = official.read_rows(path)
    return official.collect((where, official.value(where, row, ids), _response(where, row)) for where, row in rows)


def _response(where: str, row: dict[str, Any]) -> str:
    if LOSSES not in row:
        return official.response(where, row)
    losses = row[LOSSES]
    numbers = isinstance(losses, list) and all(isinstance(loss, int | float) and math.isfinite(loss) for loss in losses)
    if not numbers or len(losses) != len(LETTERS):
        raise BenchmarkError(f"{where}: losses = {str(losses)[:60]} must be {len(LETTERS)} finite numbers, one for each option")
    return rank(losses)
