"""VizWiz-VQA (Gurari et al., 2018), validation: questions of blind people about their own photos, by VQA's soft accuracy.

The answers to the test split are kept by the challenge's server; the validation split is scored here. Answers are in the
challenge's format, a list of {"image", "answer"}, as each image has one question.
Deviations: TextVQA's normalisation is used for every question, as LLaVA's submission script does; VizWiz's own script skips it
where all ten people agree, and handles commas in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lookagain.metrics import accuracy, official, vqa
from lookagain.metrics.benchmark import PromptPreset
from lookagain.records import Question

NAME = "vizwiz"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = "https://vizwiz.org/tasks-and-datasets/vqa: val.json of Annotations.zip (4,319 questions)"
FILES = ("val.json", "Annotations/val.json")

score = accuracy.score
score_answer, tally = vqa.score_answer, vqa.tally


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions, under their image's file name; `reference` is the JSON list of the ten human answers.

    `Question.split` is VizWiz's kind of answer: yes_no, number, other, unanswerable.
    """
    path = official.find(folder, FILES, SOURCE)
    questions = []
    for number, row in enumerate(official.read_json(path, SOURCE), 1):
        where = f"{path}, entry {number}"
        image, text, kind = official.entry(where, row, ["image", "question", "answer_type"])
        answers = [official.entry(where, answer, ["answer"])[0] for answer in row.get("answers", [])]
        split = kind.replace("/", "_").replace(" ", "_")
        prompt = text + preset.unanswerable + preset.single_word
        questions.append(Question(image, Path(image).stem, NAME, split, prompt, vqa.reference(where, answers)))
    return questions


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all kinds of answer together: VizWiz's headline."""
    return accuracy.pooled(scores_by_split)


def read_answers(path: Path) -> dict[str, str]:
    """Responses by the image's file name."""
    return official.read_answers(path, ids=("image",))
