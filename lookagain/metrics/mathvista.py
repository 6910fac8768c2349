"""MathVista (Lu et al., 2024), testmini: an answer is extracted from the response, brought to its type, and compared as text.

Extraction without a judge, the official rules first: a choice's own text; an integer or a decimal number; `The answer is "..."`.
Then rules that stand in for the judge where there is one reading only: a lone letter, "(B)" or "B. ..." of a choice; a number
with commas between its thousands or a period at its end; a bracketed list. A response that needs more is wrong and counted under
`unparsed`: the share that the official procedure gives to a language model. Extractions made by one are used where the answer file
holds them.
Then, officially: a choice is the letter's, else the one at the least edit distance (the first of several); integers are cut,
decimals rounded to the question's precision (1.0 in the file is taken for 1).
Answers are the official object {pid: {"response", optionally "extraction"}}, or JSON lines {"pid", "response"}.
Deviation: an empty response is wrong; officially the choice nearest to nothing, the shortest, is taken for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookagain.metrics import accuracy, choice, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "mathvista"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 1024
SOURCE = "https://huggingface.co/datasets/AI4Math/MathVista: testmini.json (1,000 questions) and images"
FILES = ("testmini.json", "data/testmini.json")
FIELDS = ("question", "image", "choices", "unit", "precision", "answer", "question_type", "answer_type", "metadata")
MULTIPLE = "multi_choice"

_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_QUOTED = re.compile(r'The answer is "(.*)"\.')
_BRACKETED_LETTER = re.compile(r"\(([a-zA-Z])\)")
_LEADING_LETTER = re.compile(r"\(?([A-Z])[).:]?(?:\s.*)?", re.DOTALL)
_HINTS = {
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3,",
    "float1": "requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4,",
    "float2": "requiring a floating-point number with two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45,",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4],",
    MULTIPLE: "and provide the correct option letter, e.g., A, B, C, D,",
}

score = accuracy.score


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions, asked by the published `query` or one built in its form; `reference` is JSON with all that scoring needs.

    `Question.split` is the task, as figure_question_answering. The preset has no part in the prompt.
    """
    path = official.find(folder, FILES, SOURCE)
    raw = official.read_json(path, SOURCE)
    if not isinstance(raw, dict) or not raw:
        raise BenchmarkError(f"{path} must be an object of problems by pid: get it from {SOURCE}")
    return [_question(f"{path}, problem {pid}", pid, row) for pid, row in raw.items()]


def _question(where: str, pid: str, row: dict[str, Any]) -> Question:
    official.entry(where, row, FIELDS)
    needs: dict[str, type | tuple[type, ...]] = {"answer": str}
    if row["question_type"] == MULTIPLE:
        needs["choices"] = list
    elif row["answer_type"] == "float":
        needs["precision"] = (int, float)
    for name, kind in needs.items():
        if not isinstance(row[name], kind):
            raise BenchmarkError(f"{where}: {name} = {row[name]!r} is not as published; get it again from {SOURCE}")
    (task,) = official.entry(f"{where}, metadata", row["metadata"], ["task"])
    reference = {key: row[key] for key in ("answer", "choices", "question_type", "answer_type", "precision")}
    image = Path(row["image"]).stem
    prompt = row.get("query") or query(row)
    return Question(pid, image, NAME, task.replace(" ", "_"), prompt, json.dumps(reference, ensure_ascii=False))


def query(row: Mapping[str, Any]) -> str:
    """The prompt: hint, question with its unit, choices."""
    kind = row["answer_type"] if row["question_type"] != MULTIPLE else MULTIPLE
    hint = _HINTS.get(f"float{int(row['precision'])}" if kind == "float" else kind, "")
    unit_text = f" (Unit: {row['unit']})" if row["unit"] else ""
    choices = [f"({letter}) {text}" for letter, text in zip(choice.LETTERS, row["choices"] or [], strict=False)]
    lines = [f"Hint: Please answer the question {hint} at the end.", f"Question: {row['question']}{unit_text}"]
    return "\n".join(lines + (["Choices:", *choices] if choices else []))


def extract(response: str, reference: Mapping[str, Any]) -> str:
    """The answer in a response, as text; "" where that would take a judge."""
    text = response.strip()
    multiple, kind = reference["question_type"] == MULTIPLE, reference["answer_type"]
    if multiple and text in reference["choices"]:
        return text
    if kind in ("integer", "float") and _number(text, kind) is not None:
        return text
    if quoted := _QUOTED.search(text):
        return quoted.group(1)
    if multiple:
        return _letter(text, len(reference["choices"]))
    bare = text.rstrip(".")
    if _GROUPED.fullmatch(bare):  # "3,4" is two numbers, or a decimal one elsewhere
        bare = bare.replace(",", "")
    if kind in ("integer", "float"):
        return bare if _number(bare, "float") is not None else ""
    return text if text.startswith("[") and text.endswith("]") else ""


def _number(text: str, kind: str) -> float | None:
    try:
        return int(text) if kind == "integer" else float(text)
    except ValueError:
        return None


def _letter(text: str, choices: int) -> str:
    """The one choice's letter that a response names in brackets, or begins with."""
    known = choice.LETTERS[:choices]
    bracketed = {letter.upper() for letter in _BRACKETED_LETTER.findall(text)} & set(known)
    if len(bracketed) == 1:
        return bracketed.pop()
    leading = _LEADING_LETTER.fullmatch(text)
    alone = leading and (len(text) == 1 or not text[1].isspace())  # "A cat" begins with an article
    return leading.group(1) if leading and alone and not bracketed and leading.group(1) in known else ""


def normalise(extraction: str, reference: Mapping[str, Any]) -> str | None:
    """An extracted answer in the question's type; None if it has none."""
    if reference["question_type"] == MULTIPLE:
        return _choose(extraction.strip(), reference["choices"])
    try:
        if reference["answer_type"] == "integer":
            return str(int(float(extraction)))
        if reference["answer_type"] == "float":
            return str(round(float(extraction), int(reference["precision"])))
    except (ValueError, OverflowError):
        return None
    return extraction


def _choose(extraction: str, choices: Sequence[str]) -> str:
    bracketed = _BRACKETED_LETTER.findall(extraction)
    letter = bracketed[0].upper() if bracketed else extraction
    if len(letter) == 1 and letter in choice.LETTERS[: len(choices)]:
        return choices[choice.LETTERS.index(letter)]
    return min(choices, key=lambda option: edit_distance(letter, option))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(second) + 1))
    for above, one in enumerate(first, 1):
        diagonal, row[0] = row[0], above
        for place, other in enumerate(second, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (one != other))
    return row[-1]


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the answer is right."""
    return _judge(question, response)[0]


def _judge(question: Question, response: str) -> tuple[float, bool]:
    reference = json.loads(question.reference)
    extraction = extract(response, reference)
    right = bool(extraction) and normalise(extraction, reference) == reference["answer"]
    return float(right), bool(extraction)


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, and those that would need a judge."""
    return accuracy.count(_judge(q, r) for q, r in zip(questions, responses, strict=True))


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all tasks together."""
    return accuracy.pooled(scores_by_split)


def read_answers(path: Path) -> dict[str, str]:
    """Responses by pid; an extraction made elsewhere takes the response's place."""
    if Path(path).suffix != ".json":
        rows = official.read_rows(path)
        return official.collect(
            (where, official.value(where, row, ("pid", *official.IDS)), _text(where, row)) for where, row in rows
        )
    raw = official.read_json(Path(path), "the official generate_response.py", unique=True)
    if not isinstance(raw, dict):
        raise BenchmarkError(f"{path} must be an object of responses by pid, or JSON lines (.jsonl) with pid and response")
    return {pid: _text(f"{path}, problem {pid}", row) for pid, row in raw.items()}


def _text(where: str, row: Any) -> str:
    """What is scored of an official row, which holds the problem and its answer too: the extraction, else the response."""
    if not isinstance(row, dict):
        raise BenchmarkError(f"{where}: expected an object with response, got {str(row)[:60]!r}")
    if str(row.get("extraction") or "").strip():
        return f'The answer is "{official.value(where, row, ("extraction",))}".'
    return official.value(where, row, ("response",))  # `answer`, in the official rows, is the right one
