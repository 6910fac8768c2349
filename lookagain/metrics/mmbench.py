"""MMBench (Liu et al., 2023), dev, by circular evaluation: a question counts as right only if every rotation of its options does.

The published table holds the rotations as rows of their own: rows whose indices agree modulo 1,000,000 are one question. An
answer's letter is found by the publisher's rules (`choice.infer`): letter, then option text, else it has failed, which is counted.
Answers are LLaVA's JSON lines {"question_id": index, "text"}, or a table of tab-separated columns index and prediction.
Deviation: where the publisher asks a judge for what the rules cannot tell, the answer is wrong and counted under `unparsed`; it
never becomes a random letter.
"""

from __future__ import annotations

import base64
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lookagain.metrics import accuracy, choice, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "mmbench"
METRICS: tuple[str, ...] = ("accuracy", "vanilla", "unparsed", "n")  # circular; of the first rotation alone; answers; questions
MAX_NEW_TOKENS = 1024
SOURCE = "https://github.com/open-compass/MMBench: mmbench_dev_20230712.tsv (1,164 questions)"
FILES = ("mmbench_dev_20230712.tsv",)
ROTATION = 1_000_000
MAX_FIELD = 1 << 27  # characters of a base64 image
LETTERS = ("A", "B", "C", "D")
COLUMNS = ("index", "question", "A", "B", "answer")


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The rows of the English table; `reference` is JSON with the right letter and the options by letter.

    `Question.split` is MMBench's second level of abilities, with underscores.
    """
    return read_table(official.find(folder, FILES, SOURCE), NAME, preset.letter, SOURCE)


def read_table(path: Path, name: str, suffix: str, source: str) -> list[Question]:
    """The rows of a table as questions of the benchmark `name`."""
    rows = _rows(path, source)
    questions = [_question(f"{path}, line {number}", row, name, suffix) for number, row in enumerate(rows, 2)]
    repeated = [index for index, times in Counter(question.id for question in questions).items() if times > 1]
    if repeated:
        raise BenchmarkError(f"{path}: indices repeat, as {', '.join(repeated[:3])}; get it again from {source}")
    return questions


def _rows(path: Path, source: str) -> list[dict[str, str]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} is no table of tab-separated columns ({error}): get it from {source}") from error
    if not rows:
        raise BenchmarkError(f"{path} holds no row: get it from {source}")
    return rows


def _question(where: str, row: dict[str, str], name: str, suffix: str) -> Question:
    index, text, *_, answer = official.entry(where, row, COLUMNS)
    options = _options(row)
    if answer not in LETTERS or not index.isdecimal():
        raise BenchmarkError(f"{where}: index {index!r} and answer {answer!r}, needs a number and A to D: use the dev table")
    hint = "" if _is_none(row.get("hint")) else f"{row['hint']}\n"
    prompt = hint + text + choice.listed(options.values()) + suffix
    split = (row.get("l2-category") or "all").replace(" ", "_").replace("/", "_")
    reference = json.dumps({"answer": answer, "options": options}, ensure_ascii=False)
    return Question(index, str(int(index) % ROTATION), name, split, prompt, reference)


def _options(row: dict[str, str]) -> dict[str, str]:
    """The options by letter, up to the first that is empty, as in LLaVA's script (which takes the word "None" for empty)."""
    options: dict[str, str] = {}
    for letter in LETTERS:
        if _is_none(row.get(letter)):
            break
        options[letter] = row[letter]
    return options


def _is_none(cell: str | None) -> bool:
    return cell is None or cell.lower() in ("", "nan", "none")


def images(path: Path, source: str = SOURCE) -> dict[str, bytes]:
    """Each question's encoded image by image id (index modulo 1,000,000), for import.

    A rotation may hold the index of another row in place of its image.
    """
    found: dict[str, bytes] = {}
    for row in _rows(path, source):
        index, cell = (official.value(str(path), row, (column,)) for column in ("index", "image"))
        identity = str(int(index) % ROTATION)
        if identity not in found and not cell.isdecimal():
            found[identity] = base64.b64decode(cell)
    return found


def unit(question: Question) -> str:
    """The question with all its rotations."""
    return str(int(question.id) % ROTATION)


def parse_answer(question: Question, response: str) -> str:
    """The letter that an answer means; "" where the rules cannot tell."""
    return choice.infer(response, json.loads(question.reference)["options"])


def score_answer(question: Question, response: str) -> float:
    """1 if this rotation is answered right."""
    return float(parse_answer(question, response) == json.loads(question.reference)["answer"])


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Questions, those with all rotations right, first rotations, right ones of them, and failed answers."""
    right = [score_answer(question, response) for question, response in zip(questions, responses, strict=True)]
    first = [value for question, value in zip(questions, right, strict=True) if int(question.id) < ROTATION]
    failed = sum(not parse_answer(question, response) for question, response in zip(questions, responses, strict=True))
    return 1.0, float(all(right)), float(len(first)), sum(first), float(failed)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The figures from summed counts (..., 5)."""
    n, circular, first, right, failed = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return {"accuracy": accuracy.percent(circular, n), "vanilla": accuracy.percent(right, first), "unparsed": failed, "n": n}


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all abilities together."""
    return accuracy.pool(scores_by_split, ("accuracy", "vanilla"), ("unparsed", "n"))


def read_answers(path: Path) -> dict[str, str]:
    """Responses by index."""
    if Path(path).suffix != ".tsv":
        return official.read_answers(path)
    rows = [(f"{path}, line {number}", row) for number, row in enumerate(_rows(Path(path), SOURCE), 2)]
    return official.collect(
        (where, official.value(where, row, ("index",)), official.value(where, row, ("prediction",))) for where, row in rows
    )
