"""MME (Fu et al., 2023): two yes/no questions about each image, in 14 subtasks.

Of an answer in lower case, the first four characters hold "yes", else "no", else it is other, which is wrong. A subtask's score is
its accuracy plus its accuracy+ (images with both questions right), at most 200; perception is the sum over 10 subtasks,
cognition over 4. The prompt's "Please answer yes or no." is replaced by the single-word suffix, as LLaVA-1.5 does.
Answers are the official folder of <subtask>.txt files, with lines of image, question, label and answer between tabs. They are
matched by image and question, not by their order; the labels that they hold are not used.
Deviation: answers are matched to labels whatever their order, and an image with other than two questions is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lookagain.metrics import accuracy, official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "mme"
METRICS: tuple[str, ...] = ("score", "accuracy", "accuracy_plus", "unparsed")  # 0-200, percent, percent, answers
MAX_NEW_TOKENS = 128
SOURCE = (
    "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation): MME_Benchmark_release_version, "
    "a folder for each subtask with its images and their .txt files (2,374 questions)"
)
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = (*PERCEPTION, *COGNITION)
INSTRUCTION = "Please answer yes or no."
QUESTION_FOLDER = "questions_answers_YN"  # of the subtasks that keep questions and images apart
PREFIX = 4
PER_IMAGE = 2


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions of the subtasks that the folder holds; `reference` is yes or no, `Question.split` the subtask."""
    questions = [question for name in SUBTASKS for question in _read_subtask(Path(folder) / name, preset)]
    if not questions:
        raise BenchmarkError(f"no subtask of MME ({', '.join(SUBTASKS[:3])}, ...) in {folder}: get it from {SOURCE}")
    return questions


def _read_subtask(folder: Path, preset: PromptPreset) -> Iterator[Question]:
    nested = folder / QUESTION_FOLDER
    for path in sorted((nested if nested.is_dir() else folder).glob("*.txt")):
        rows = [line.split("\t") for line in _lines(path)]
        if len({_key(text) for text, *_ in rows}) != PER_IMAGE or any(
            len(row) != 2 or row[1] not in ("Yes", "No") for row in rows
        ):
            raise BenchmarkError(f"{path}: needs two lines, each a question, a tab and Yes or No; get it again from {SOURCE}")
        for text, label in rows:
            prompt = text.replace(INSTRUCTION, "").strip() + preset.single_word
            image = f"{folder.name}/{path.stem}"
            yield Question(f"{image}/{_key(text)}", image, NAME, folder.name, prompt, label.lower())


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in official.read_text(path).split("\n") if line.strip()]


def _key(text: str) -> str:
    """A question as it is matched: some have two blanks before the instruction in one file and one in another."""
    return " ".join(text.split())


def parse_answer(response: str) -> str:
    """ "yes", "no", or "" for any other answer."""
    start = response.lower()[:PREFIX]
    return "yes" if "yes" in start else "no" if "no" in start else ""


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float:
    """1 if the answer is right."""
    return float(parse_answer(response) == question.reference)


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Questions, right answers, images, images with both right, other answers."""
    right = [score_answer(question, response) for question, response in zip(questions, responses, strict=True)]
    other = sum(not parse_answer(response) for response in responses)
    return float(len(right)), sum(right), 1.0, float(all(right)), float(other)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The figures from summed counts (..., 5)."""
    n, right, images, both, other = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    plain, plus = accuracy.percent(right, n), accuracy.percent(both, images)
    return {"score": plain + plus, "accuracy": plain, "accuracy_plus": plus, "unparsed": other}


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The sums of perception (of 2,000) and cognition (of 800), each where all of its subtasks are there."""
    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    return {
        group: sum(scores_by_split[name]["score"] for name in names)
        for group, names in groups.items()
        if all(name in scores_by_split for name in names)
    }


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id, from the folder of <subtask>.txt files."""
    files = [Path(path) / f"{name}.txt" for name in SUBTASKS if (Path(path) / f"{name}.txt").is_file()]
    if not files:
        raise BenchmarkError(f"no answers in {path}: needs a folder of {SUBTASKS[0]}.txt, {SUBTASKS[1]}.txt, ...")
    return official.collect(entry for file in files for entry in _read_results(file))


def _read_results(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(official.read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 4:
            raise BenchmarkError(
                f"{path}, line {number}: {len(cells)} cells, needs image, question, label, answer between tabs"
            )
        image, text, _, response = cells
        yield f"{path}, line {number}", f"{path.stem}/{Path(image).stem}/{_key(text)}", response
