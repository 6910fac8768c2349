"""LLaVA-Bench in the wild (Liu et al., 2023): a judge compares free answers with reference answers of a model that read captions.

The judge sees an image's captions, the question, the reference answer and the response, and begins with a line of two scores from
1 to 10, the reference's first. A figure is 100 * (mean score of the responses) / (mean score of the references), over all
questions and by category: a relative score, which may exceed 100. The paper's judge is gpt-4-0314 at temperature 0.2.

Official here: the files, the layout of the question to the judge, temperature, length and the figure. The wording of the rule
is the authors' where their rule.json lies beside the files (llava/eval/table/rule.json), else ours after its published
description; the system message is ours.
Deviations: answers are matched by question_id, not by their order; a first line such as "8, 9" is two scores, where the official
script takes it for none; scores outside 0 to 10 are none; what has none is a failure, where the official script averages (-1, -1)
in; means are not rounded before their ratio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.judged import percent, read_json, read_lines, refuse_repeats
from lookagain.records import Question

NAME = "llava_bench"
CATEGORIES = ("conv", "detail", "complex")  # conversation, detailed description, complex reasoning
METRICS: tuple[str, ...] = ("score", *CATEGORIES, "failed")
MAX_NEW_TOKENS = 1024
SOURCE = (
    "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild "
    "(questions.jsonl, context.jsonl, answers_gpt4.jsonl; optionally rule.json from the LLaVA repository)"
)
JUDGE_TEMPERATURE = 0.2
JUDGE_MAX_TOKENS = 1024
REMINDER = "Begin with one line that holds the two scores and nothing else, such as: 5 5"

ROLE = "Assistant"
SYSTEM = "You check the quality of answers: careful, exact and fair."
RULE = """\
Above are the answers of two AI assistants to a question about an image. You cannot see the image; the sentences under [Context]
describe what it shows. Judge how helpful, relevant and accurate each answer is, and how much of the detail that was asked for it
gives. Give each assistant one overall score on a scale from 1 to 10; higher is better.
Your first line must hold the two scores alone, that of Assistant 1 and that of Assistant 2, with a blank between them.
Explain them from the second line on. Be impartial: which of the answers comes first must not matter."""

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions; they are asked as they are, whatever the preset. Raises BenchmarkError."""
    folder = Path(folder)
    rows = read_lines(folder / "questions.jsonl", SOURCE, ("question_id", "image", "category", "text"))
    refuse_repeats(folder / "questions.jsonl", [str(row["question_id"]) for row in rows])
    captions = {row["image"]: row["caption"] for row in read_lines(folder / "context.jsonl", SOURCE, ("image", "caption"))}
    answers = read_answers(folder / "answers_gpt4.jsonl")
    rules = _read_rules(folder / "rule.json")
    return [_question(row, captions, answers, rules) for row in rows]


def _question(row: dict[str, Any], captions: dict[str, Any], answers: dict[str, str], rules: dict[str, Any]) -> Question:
    name, image, category = str(row["question_id"]), row["image"], row["category"]
    if category not in CATEGORIES:
        raise BenchmarkError(f"LLaVA-Bench question {name}: category {category!r} must be one of {', '.join(CATEGORIES)}")
    if image not in captions or name not in answers:
        lost = (
            "context.jsonl has no captions of its image" if image not in captions else "answers_gpt4.jsonl has no answer to it"
        )
        raise BenchmarkError(f"LLaVA-Bench question {name}: {lost}; get all files from {SOURCE}")
    text = captions[image] if isinstance(captions[image], str) else "\n".join(captions[image])
    reference = {"category": category, "captions": text, "answer": answers[name], **rules[category]}
    return Question(name, Path(image).stem, NAME, "all", row["text"], json.dumps(reference, ensure_ascii=False))


def _read_rules(path: Path) -> dict[str, dict[str, str]]:
    """What the judge is told, by category: the authors' rules, or ours where their file is not there."""
    if not path.is_file():
        return {category: {"role": ROLE, "rule": RULE} for category in CATEGORIES}
    raw = read_json(path, SOURCE)
    try:
        official = {category: raw[f"llava_bench_{category}"] for category in CATEGORIES}
        return {category: {"role": rule["role"], "rule": rule["prompt"]} for category, rule in official.items()}
    except (KeyError, TypeError) as error:
        raise BenchmarkError(f"{path}: needs role and prompt for each llava_bench category: {error!r}") from error


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float | None:
    """None: a judge scores it."""
    return None


def judge_messages(question: Question, response: str) -> list[dict[str, Any]]:
    """Captions, question, both answers and the rule, in the official layout."""
    reference = json.loads(question.reference)
    role = reference["role"]
    answers = [
        f"[{role} {number}]\n{text}\n\n[End of {role} {number}]"
        for number, text in enumerate((reference["answer"], response), 1)
    ]
    parts = [
        f"[Context]\n{reference['captions']}",
        f"[Question]\n{question.prompt}",
        *answers,
        f"[System]\n{reference['rule']}",
    ]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(parts) + "\n\n"}]


def parse_verdict(text: str, response: str = "") -> tuple[float, ...] | None:
    """(the reference's score, the response's) from the first line; None unless it holds two numbers from 0 to 10 alone."""
    words = text.split("\n")[0].replace(",", " ").split()
    if len(words) != 2 or not all(_NUMBER.fullmatch(word) for word in words):
        return None
    scores = float(words[0]), float(words[1])
    return scores if max(scores) <= 10 else None


def tally_verdicts(questions: Sequence[Question], verdicts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...]:
    """For each category the sums of the references' scores and of the responses', then verdicts wanted and missing."""
    sums = dict.fromkeys(CATEGORIES, (0.0, 0.0))
    for question, verdict in zip(questions, verdicts, strict=True):
        if verdict is not None:
            category = json.loads(question.reference)["category"]
            sums[category] = sums[category][0] + verdict[0], sums[category][1] + verdict[1]
    missing = sum(verdict is None for verdict in verdicts)
    return *(total for pair in sums.values() for total in pair), len(verdicts), missing


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The relative scores in percent, and the share of verdicts that are missing."""
    columns = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    references, responses = columns[0:6:2], columns[1:6:2]
    figures = {"score": percent(responses.sum(0), references.sum(0))}
    figures |= {category: percent(responses[row], references[row]) for row, category in enumerate(CATEGORIES)}
    return {**figures, "failed": percent(columns[7], columns[6])}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id from JSON lines {"question_id", "text"}. Raises BenchmarkError."""
    rows = read_lines(Path(path), "the model's run", ("question_id", "text"))
    refuse_repeats(path, [str(row["question_id"]) for row in rows])
    return {str(row["question_id"]): row["text"] for row in rows}
