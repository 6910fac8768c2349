"""Judged benchmarks: from questions and responses to verdicts, and to the counts that their figures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookagain.judge import Ask, Judge, Verdict
from lookagain.metrics.benchmark import JudgedBenchmark
from lookagain.records import Question


def judge_responses(
    judge: Judge, benchmark: JudgedBenchmark, questions: Sequence[Question], responses: Sequence[str], runs: int = 1
) -> list[list[Verdict]]:
    """The verdicts on the responses, in order, for each of `runs` independent judgements. Raises JudgeError.

    A response with nothing to judge (SHR: an empty description) gets its verdict without a request.
    """
    pairs = list(zip(questions, responses, strict=True))
    asks = [[_ask(benchmark, question, response, run) for question, response in pairs] for run in range(runs)]
    wanted = [ask for row in asks for ask in row if ask.messages]
    asked = iter(judge.verdicts(wanted) if wanted else [])
    return [[next(asked) if ask.messages else Verdict(ask.parse("")) for ask in row] for row in asks]


def judged_counts(benchmark: JudgedBenchmark, questions: Sequence[Question], runs: Sequence[Sequence[Verdict]]) -> np.ndarray:
    """(units, counts) from the verdicts of all runs, units sorted, so that two models' rows are paired."""
    return np.array(
        [
            benchmark.tally_verdicts(
                [questions[row] for _ in runs for row in rows], [verdicts[row].value for verdicts in runs for row in rows]
            )
            for rows in _rows_by_unit(benchmark, questions)
        ]
    )


def unit_sums(benchmark: JudgedBenchmark, questions: Sequence[Question], counts: np.ndarray) -> np.ndarray:
    """(units, k) from the questions' own counts (questions, k): what is drawn independently is resampled together."""
    return np.array([counts[rows].sum(axis=0) for rows in _rows_by_unit(benchmark, questions)])


def _rows_by_unit(benchmark: JudgedBenchmark, questions: Sequence[Question]) -> list[list[int]]:
    """The questions' places, by resampling unit, units sorted."""
    units: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        units.setdefault(benchmark.unit(question), []).append(row)
    return [rows for _, rows in sorted(units.items())]


def wins(mine: Sequence[Sequence[Verdict]], others: Sequence[Sequence[Verdict]]) -> np.ndarray:
    """(questions, 2): whether this model's score is above another's, and whether below; from the verdicts of all runs.

    For benchmarks whose verdicts end with the response's score. A question with a tie or without a verdict on both counts neither.
    """
    gaps = []
    for ours, theirs in zip(zip(*mine, strict=True), zip(*others, strict=True), strict=True):
        scores = [[one.value[-1] for one in verdicts if one.value is not None] for verdicts in (ours, theirs)]
        gaps.append(float(np.mean(scores[0]) - np.mean(scores[1])) if all(scores) else 0.0)
    return np.array([(gap > 0, gap < 0) for gap in gaps], dtype=float)


def _ask(benchmark: JudgedBenchmark, question: Question, response: str, run: int) -> Ask:
    def parse(text: str) -> tuple[float, ...] | None:
        return benchmark.parse_verdict(text, response)

    messages = benchmark.judge_messages(question, response)
    return Ask(messages, parse, benchmark.JUDGE_TEMPERATURE, benchmark.JUDGE_MAX_TOKENS, run, benchmark.REMINDER)
