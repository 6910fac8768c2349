"""ConTextual (Wadhawan et al., 2024): instructions about images full of text, judged right or wrong against one reference answer.

The judge sees the instruction, the reference and the response, reasons, and ends with "Judgement: Yes" or "Judgement: No". The
figure is the share of Yes. Only the validation split (contextual_val.csv, 100 instructions) has public reference answers.

Official here: the file, what the judge sees, its last line, and the figure. The wording is ours, after the published description.
Deviations: the word after the last "Judgement:" counts, whatever its case and marks around it, where the official script takes any
Yes after the first one ("No: the reference says Yes" counts as Yes there); temperature 0, where the official script leaves the
endpoint's default.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.judged import percent, read_answer_map, read_text, refuse_repeats
from lookagain.records import Question

NAME = "contextual"
METRICS: tuple[str, ...] = ("accuracy", "failed")
MAX_NEW_TOKENS = 1024
SOURCE = "https://github.com/rohan598/ConTextual (data/contextual_val.csv)"
JUDGE_TEMPERATURE = 0.0
JUDGE_MAX_TOKENS = 1024
REMINDER = 'End with "Judgement: Yes" or "Judgement: No".'

PROMPT = """\
Decide whether a response answers an instruction about an image correctly. You cannot see the image; the reference answer, written
by a person who could, tells you what is right, and the one who responded did not know it.

- Reference and instruction together suffice for a decision, as most instructions have one objective answer.
- A response may be much longer than the reference. Ask whether the reference follows from it, not whether the words agree.
- A response that contradicts the reference, or leaves out what the instruction asks for, is wrong.

Think step by step. Then end with a line that reads "Judgement: Yes" if the response is correct, and "Judgement: No" if it is not.

Instruction: {instruction}
Reference answer: {reference}
Response: {response}"""

# The word, and an alternative that makes it none: "Yes/No", "Yes or No".
_JUDGEMENT = re.compile(r"judge?ment\W*:\W*(yes|no)\b(\W*(?:/|\bor\b)\W*(?:yes|no)\b)?", re.IGNORECASE)


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The instructions; they are given as they are, whatever the preset. Raises BenchmarkError.

    An id is the image's address, as in the official answer files; an image id is its last folder and name, as names alone repeat.
    """
    path = Path(folder) / "contextual_val.csv"
    rows = list(csv.DictReader(io.StringIO(read_text(path, SOURCE), newline="")))
    if any(not row.get(field) for row in rows for field in ("image_url", "instruction", "response")):
        raise BenchmarkError(f"{path}: needs image_url, instruction and response in each row: the test split has no references")
    refuse_repeats(path, [row["image_url"] for row in rows])
    return [
        Question(row["image_url"], _image(row["image_url"]), NAME, "val", row["instruction"], row["response"]) for row in rows
    ]


def _image(address: str) -> str:
    return "/".join(Path(address).with_suffix("").parts[-2:])


def unit(question: Question) -> str:
    """The image, which has one instruction."""
    return question.image_id


def score_answer(question: Question, response: str) -> float | None:
    """None: a judge scores it."""
    return None


def judge_messages(question: Question, response: str) -> list[dict[str, Any]]:
    """Instruction, reference and response in the judge's prompt."""
    content = PROMPT.format(instruction=question.prompt, reference=question.reference, response=response)
    return [{"role": "user", "content": content}]


def parse_verdict(text: str, response: str = "") -> tuple[float, ...] | None:
    """1 for Yes, 0 for No: the last judgement, or an answer that is one of the words alone; else None, as for "Yes/No"."""
    said = _JUDGEMENT.findall(text) or [(text.strip(), "")] * (text.strip() in ("Yes", "No"))
    if not said or said[-1][1]:
        return None
    return (float(said[-1][0].lower() == "yes"),)


def tally_verdicts(questions: Sequence[Question], verdicts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...]:
    """Answers judged right, verdicts given, wanted and missing."""
    given = [verdict[0] for verdict in verdicts if verdict is not None]
    return sum(given), len(given), len(verdicts), len(verdicts) - len(given)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy over the answers judged, and the share of verdicts that are missing, in percent."""
    right, given, wanted, missing = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return {"accuracy": percent(right, given), "failed": percent(missing, wanted)}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by the image's address from one JSON object {image_url: response}. Raises BenchmarkError."""
    return read_answer_map(Path(path))
