"""Judged benchmarks: from questions and responses to verdicts."""

from __future__ import annotations

from collections.abc import Sequence

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


def _ask(benchmark: JudgedBenchmark, question: Question, response: str, run: int) -> Ask:
    def parse(text: str) -> tuple[float, ...] | None:
        return benchmark.parse_verdict(text, response)

    messages = benchmark.judge_messages(question, response)
    return Ask(messages, parse, benchmark.JUDGE_TEMPERATURE, benchmark.JUDGE_MAX_TOKENS, run, benchmark.REMINDER)
