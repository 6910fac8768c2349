"""What every benchmark module of this package offers, so that one engine asks and scores them all.

A benchmark is a module: it reads its official files into questions, scores answers one by one, and turns summed counts into its
figures. Counts are made for one resampling unit at a time (an image of MME, a question with all its rotations of MMBench), so
that any figure, ratios included, is a function of counts summed over units, and its bootstrap resamples what was drawn
independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookagain.records import Question, RecordError


class BenchmarkError(RecordError):
    """Benchmark files that cannot be used: the message names the file, what is wrong, and where the publisher offers it."""


@dataclass(frozen=True)
class PromptPreset:
    """How a family of models is asked, word for word."""

    single_word: str  # after short-answer questions
    letter: str  # after multiple choice
    letter_cn: str  # the same in Chinese
    chart: str  # after ChartQA's questions
    unanswerable: str  # before single_word in VizWiz
    ocr_tokens: str  # before TextVQA's OCR tokens; empty: they are not shown


# The papers': LLaVA-1.5's published evaluation scripts.
LLAVA15 = PromptPreset(
    single_word="\nAnswer the question using a single word or phrase.",
    letter="\nAnswer with the option's letter from the given choices directly.",
    letter_cn="\n请直接回答选项字母。",
    chart="\nAnswer the question with a single word.",
    unanswerable="\nWhen the provided information is insufficient, respond with 'Unanswerable'.",
    ocr_tokens="\nReference OCR token: ",
)
PRESETS = {"llava15": LLAVA15}


class Benchmark(Protocol):
    """The names that a benchmark module defines. `Question.reference` holds whatever its scorer needs, as text or JSON.

    A module may also define `check_answers(path, questions)`, which raises BenchmarkError if an answer file says of itself that its
    rows are to other questions than those of the same ids; and `left_out(folder)`, the ids of the published questions that `read`
    leaves out on purpose, as official answer files may hold answers to those too.
    """

    NAME: str
    METRICS: tuple[str, ...]  # what `score` returns, the headline first; in percent unless the module says otherwise
    MAX_NEW_TOKENS: int
    SOURCE: str  # the publisher's page, and which files of it `read` expects

    def read(self, folder: Path, preset: PromptPreset) -> list[Question]:
        """The questions of the official files in a folder; of one file, where it is all that is needed. Raises BenchmarkError.

        Question ids are unique in a benchmark, and `Question.split` is the official subset.
        """

    def unit(self, question: Question) -> str:
        """The resampling unit of a question, unique within its split."""

    def score_answer(self, question: Question, response: str) -> float | None:
        """The official score of one answer; None where an answer alone has none."""

    def tally(self, questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
        """The counts of one unit: its questions of one split, and the responses to them."""

    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The figures from counts summed over units, (..., k) -> (...) each; a rate without a case is 0."""

    def summary(self, scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The official aggregates over splits, from what `score` gives for each split; {} where there is none.

        Figures may be arrays of bootstrap draws as well, as nothing but arithmetic is done on them.
        """

    def read_answers(self, path: Path) -> dict[str, str]:
        """Responses by question id from an answer file in the official format. Raises BenchmarkError."""


class JudgedBenchmark(Protocol):
    """The names of a benchmark that a judge scores: as in `Benchmark`, but counts come from verdicts instead of responses.

    A verdict is a tuple of numbers whose meaning is the module's, or None where the judge failed: a failure adds to no figure but
    `failed`, the share of verdicts that are missing, in percent.
    """

    NAME: str
    METRICS: tuple[str, ...]  # the headline first, `failed` last
    MAX_NEW_TOKENS: int
    SOURCE: str
    JUDGE_TEMPERATURE: float
    JUDGE_MAX_TOKENS: int
    REMINDER: str  # what the judge is told after an answer that is no verdict

    def read(self, folder: Path, preset: PromptPreset) -> list[Question]:
        """The questions of the official files in a folder. Raises BenchmarkError."""

    def unit(self, question: Question) -> str:
        """The resampling unit of a question, unique within its split."""

    def score_answer(self, question: Question, response: str) -> float | None:
        """None: an answer alone has no score."""

    def judge_messages(self, question: Question, response: str) -> list[dict[str, Any]]:
        """What the judge is asked, as chat messages; none where there is nothing to judge: `parse_verdict` of "" is the verdict."""

    def parse_verdict(self, text: str, response: str) -> tuple[float, ...] | None:
        """The verdict in the judge's answer about a response; None if it holds none."""

    def tally_verdicts(self, questions: Sequence[Question], verdicts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...]:
        """The counts of one unit from its questions' verdicts; a question judged several times comes several times."""

    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The figures from counts summed over units, (..., k) -> (...) each; NaN where no verdict bears on one."""

    def read_answers(self, path: Path) -> dict[str, str]:
        """Responses by question id from an answer file in the official format. Raises BenchmarkError."""
