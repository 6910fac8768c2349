"""TextVQA (Singh et al., 2019), validation v0.5.1: questions about text in images, scored by VQA's soft accuracy.

The prompt is LLaVA-1.5's: the question, the OCR tokens that the publisher's Rosetta system found, the suffix. Answers are in the
challenge's format, a list of {"question_id", "answer"}.
Deviation: LLaVA's own answer files name the image where a question's id belongs, and are told apart by their prompts alone; they
are refused as unknown ids here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lookagain.metrics import accuracy, official, vqa
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.records import Question

NAME = "textvqa"
METRICS: tuple[str, ...] = accuracy.METRICS
MAX_NEW_TOKENS = 128
SOURCE = (
    "https://textvqa.org/dataset: TextVQA_0.5.1_val.json (5,000 questions); for prompts with OCR tokens also "
    "TextVQA_Rosetta_OCR_v0.2_val.json"
)
FILES = ("TextVQA_0.5.1_val.json",)
OCR_FILES = ("TextVQA_Rosetta_OCR_v0.2_val.json",)
SPLIT = "val"

score = accuracy.score
score_answer, tally = vqa.score_answer, vqa.tally


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions; `reference` is the JSON list of the ten human answers."""
    path = official.find(folder, FILES, SOURCE)
    tokens = _ocr_tokens(path.parent) if preset.ocr_tokens else {}
    questions = []
    (rows,) = official.entry(str(path), official.read_json(path, SOURCE), ["data"])
    for number, row in enumerate(rows, 1):
        where = f"{path}, entry {number}"
        text, _, identity, answers = official.entry(where, row, ["question", "image_id", "question_id", "answers"])
        image = official.value(where, row, ("image_id",))
        shown = preset.ocr_tokens + ", ".join(tokens.get(image, [])) if preset.ocr_tokens else ""
        prompt = text + shown + preset.single_word
        questions.append(Question(str(identity), image, NAME, SPLIT, prompt, vqa.reference(where, answers)))
    if preset.ocr_tokens and questions and not any(question.image_id in tokens for question in questions):
        raise BenchmarkError(f"{path.parent}: the OCR tokens are of other images than the questions; get both from {SOURCE}")
    return questions


def _ocr_tokens(folder: Path) -> dict[str, list[str]]:
    """OCR tokens by image id."""
    path = official.find(folder, OCR_FILES, SOURCE)
    (rows,) = official.entry(str(path), official.read_json(path, SOURCE), ["data"])
    pairs = [official.entry(f"{path}, entry {number}", row, ["image_id", "ocr_tokens"]) for number, row in enumerate(rows, 1)]
    return {image: words for image, words in pairs}


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{}: there is one split."""
    return {}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id."""
    return official.read_answers(path)
