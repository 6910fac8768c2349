"""GQA (Hudson and Manning, 2019), testdev_balanced: exact match with a one- or two-word answer.

An answer loses the periods at its end and its capitals, as LLaVA's converter does, and must then equal the reference.
Answers are the official list of {"questionId", "prediction"}, or LLaVA's JSON lines {"question_id", "text"}.
Deviations: blanks around an answer are ignored; of the official script's figures (validity, plausibility, consistency and others)
accuracy alone is computed, as the papers report it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lookagain.metrics import accuracy, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "gqa"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = (
    "https://cs.stanford.edu/people/dorarad/gqa/download.html: testdev_balanced_questions.json (12,578 questions) and images"
)
FILES = ("testdev_balanced_questions.json",)
SPLIT = "testdev_balanced"

score = accuracy.score


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions; `reference` is the answer."""
    path = official.find(folder, FILES, SOURCE)
    raw = official.read_json(path, SOURCE)
    if not isinstance(raw, dict) or not raw:
        raise BenchmarkError(f"{path} must be an object of questions by id: get it from {SOURCE}")
    questions = []
    for identity, row in raw.items():
        where = f"{path}, question {identity}"
        image, text, _ = official.entry(where, row, ["imageId", "question", "answer"])
        answer = official.value(where, row, ("answer",))
        questions.append(Question(identity, str(image), NAME, SPLIT, text + preset.single_word, answer))
    return questions


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the answer is right."""
    return float(response.strip().rstrip(".").lower() == question.reference)


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, and blank ones."""
    return accuracy.count((score_answer(q, r), bool(r.strip())) for q, r in zip(questions, responses, strict=True))


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{}: there is one split."""
    return {}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id."""
    return official.read_answers(path)
