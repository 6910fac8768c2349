"""ScienceQA-IMG (Lu et al., 2022): the questions of the test split that have an image, by LLaVA's evaluation script.

An answer is its letter; or begins "X. "; or holds "The answer is X" and one more character exactly once. Anything else is wrong,
"(B)", "b" and the option's text included, and so is a letter beyond the question's options; line breaks count as ". ".
The prompt is LLaVA-1.5's for multiple choice: the context if there is one, the question, the options one a line, the letter
suffix. Answers are LLaVA's JSON lines {"question_id", "text"}.
Deviation: blanks around a lone letter are ignored (the original's generation strips them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookagain.metrics import accuracy, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.choice import LETTERS, listed
from lookagain.records import Question

NAME = "scienceqa"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = "https://github.com/lupantech/ScienceQA (data/scienceqa): problems.json, pid_splits.json and the images of test"
OPTIONS = LETTERS[:5]
_SENTENCE = re.compile(r"The answer is ([A-Z]).")

score = accuracy.score


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions with an image; `reference` is JSON with the right letter and how many options there are.

    `Question.split` is ScienceQA's subject: natural science, social science, language science, with underscores.
    """
    path, problems = _read_test(folder)
    return [_question(path, pid, problem, preset) for pid, problem in problems.items() if problem["image"]]


def left_out(folder: Path) -> frozenset[str]:
    """The problems of the test split that are text alone: the official scripts answer the whole split."""
    return frozenset(pid for pid, problem in _read_test(folder)[1].items() if not problem["image"])


def _read_test(folder: Path) -> tuple[Path, dict[str, dict]]:
    """The problems' file, and the test split's problems by id."""
    problems_file = official.find(folder, ("problems.json",), SOURCE)
    problems = official.read_json(problems_file, SOURCE)
    splits_file = official.find(problems_file.parent, ("pid_splits.json",), SOURCE)
    (identities,) = official.entry(str(splits_file), official.read_json(splits_file, SOURCE), ["test"])
    if unknown := [pid for pid in identities if pid not in problems]:
        raise BenchmarkError(
            f"{splits_file} names problems that {problems_file} lacks: {', '.join(unknown[:3])}; from {SOURCE}"
        )
    for pid in identities:
        official.entry(f"{problems_file}, problem {pid}", problems[pid], ["image"])
    return problems_file, {pid: problems[pid] for pid in identities}


def _question(path: Path, pid: str, problem: dict, preset: PromptPreset) -> Question:
    text, hint, choices, answer, subject = official.entry(
        f"{path}, problem {pid}", problem, ["question", "hint", "choices", "answer", "subject"]
    )
    if not 0 <= answer < len(choices) <= len(OPTIONS):
        raise BenchmarkError(f"{path}, problem {pid}: answer {answer} of {len(choices)} choices; from {SOURCE}")
    context = f"Context: {hint}\n" if hint.strip() else ""
    prompt = context + text + listed(choices)
    reference = json.dumps({"answer": OPTIONS[answer], "options": len(choices)})
    return Question(pid, pid, NAME, subject.replace(" ", "_"), prompt + preset.letter, reference)


def parse_answer(response: str) -> str:
    """The letter of an answer; "" if the script finds none."""
    text = response.strip().replace("\n", ". ")
    if text and text in set(OPTIONS):
        return text
    if len(text) >= 3 and text[0] in OPTIONS and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else ""


def unit(question: Question) -> str:
    """The image: each belongs to one question."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the letter is right."""
    return float(parse_answer(response) == json.loads(question.reference)["answer"])


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, right ones, and those that name none of the question's options."""
    return accuracy.count((score_answer(q, r), _names_option(q, r)) for q, r in zip(questions, responses, strict=True))


def _names_option(question: Question, response: str) -> bool:
    letter = parse_answer(response)
    return bool(letter) and letter in LETTERS[: json.loads(question.reference)["options"]]


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all subjects together: IMG accuracy."""
    return accuracy.pooled(scores_by_split)


def read_answers(path: Path) -> dict[str, str]:
    """Responses by problem id."""
    return official.read_answers(path)
