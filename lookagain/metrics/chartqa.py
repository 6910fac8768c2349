"""ChartQA (Masry et al., 2022), test: relaxed accuracy, human and augmented questions apart; overall is the mean of the two.

An answer is right within 5% of a numeric reference, "%" meaning a hundredth; where either is no number, or the reference is 0, if
the two are equal in lower case. So "1,000" is no number, and equals "1,000" alone; "5%" equals 0.05.
ChartQA has no answer format of its own: JSON lines {"question_id", "text"}, the id being "human-0", "human-1", ...,
"augmented-0", ... in the files' order.
Deviation: blanks around an answer are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lookagain.metrics import accuracy, official
from lookagain.metrics.benchmark import PromptPreset
from lookagain.records import Question

NAME = "chartqa"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = "https://github.com/vis-nlp/ChartQA (ChartQA Dataset/test): test_human.json, test_augmented.json (1,250 each), png/"
SPLITS = ("human", "augmented")
TOLERANCE = 0.05

score = accuracy.score


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions of both files, or of one, whose name says its split; `reference` is the label."""
    path = Path(folder)
    if path.is_file():
        files = {official.split_of(path, SPLITS): path}
    else:
        files = {split: official.find(path, (f"test_{split}.json",), SOURCE) for split in SPLITS}
    questions = []
    for split, path in files.items():
        for number, row in enumerate(official.read_json(path, SOURCE)):
            where = f"{path}, entry {number + 1}"
            image, text, _ = official.entry(where, row, ["imgname", "query", "label"])
            label = official.value(where, row, ("label",))
            identity = f"{split}-{number}"
            questions.append(Question(identity, Path(image).stem, NAME, split, text + preset.chart, label))
    return questions


def relaxed_match(response: str, label: str) -> bool:
    """Whether an answer is right."""
    response, label = response.strip(), label.strip()
    given, truth = _number(response), _number(label)
    if given is not None and truth:  # a reference of 0 has no relative error
        return abs(given - truth) / abs(truth) <= TOLERANCE
    return response.lower() == label.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def unit(question: Question) -> str:
    """The chart."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the answer is right."""
    return float(relaxed_match(response, question.reference))


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, and blank ones."""
    return accuracy.count((score_answer(q, r), bool(r.strip())) for q, r in zip(questions, responses, strict=True))


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of human and augmented accuracy, where both are there."""
    if not all(split in scores_by_split for split in SPLITS):
        return {}
    return {"accuracy": sum(scores_by_split[split]["accuracy"] for split in SPLITS) / len(SPLITS)}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id."""
    return official.read_answers(path)
