"""Score any model's answers to a benchmark, from an answer file in the official format and the publisher's reference files.

Needs neither torch nor the pipeline. This module holds the one table of benchmarks; each is imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from lookagain.errors import UserError
from lookagain.metrics import official
from lookagain.metrics.benchmark import LLAVA15, Benchmark, BenchmarkError
from lookagain.records import Question

BENCHMARKS = {
    "scienceqa": "lookagain.metrics.scienceqa",
    "textvqa": "lookagain.metrics.textvqa",
    "chartqa": "lookagain.metrics.chartqa",
    "mmbench": "lookagain.metrics.mmbench",
    "mmbench_cn": "lookagain.metrics.mmbench_cn",
    "mathvista": "lookagain.metrics.mathvista",
    "mme": "lookagain.metrics.mme",
    "seedbench": "lookagain.metrics.seedbench",
    "vizwiz": "lookagain.metrics.vizwiz",
    "gqa": "lookagain.metrics.gqa",
    "pope": "lookagain.metrics.pope",
    "chair": "lookagain.metrics.chair",
    "pragmatics": "lookagain.metrics.pragmatics",
}
JUDGED = ("contextual", "llava_bench", "mmvet", "shr")  # not here: a judge scores them
# Scoring needs no prompt, so no file that only prompts need.
PRESET = dataclasses.replace(LLAVA15, ocr_tokens="")
NAMED = 3  # ids that an error names
DIGITS = 4  # after the decimal point


def load(name: str) -> Benchmark:
    """The benchmark of a name. Raises UserError if there is none."""
    if name in JUDGED:
        raise UserError(
            f"{name} is scored by a judge: name one in evaluate.judge and {name} in evaluate.benchmarks of params.yaml"
        )
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; benchmarks: {', '.join(sorted(BENCHMARKS))}")
    return cast(Benchmark, importlib.import_module(BENCHMARKS[name]))


def score_files(name: str, answers: Path, reference: Path, captions: Path | None = None) -> dict[str, Any]:
    """The figures of an answer file: "benchmark", "n", "missing", "extra", "ignored", "empty", "unparsed", "splits", "summary".

    `reference` is the publisher's folder, or one file where that is enough; `captions` is CHAIR's second file, and CHAIR is about
    those images alone that have a caption among the answers, as the papers draw some. `ignored` counts answers to published
    questions that the benchmark leaves out on purpose (ScienceQA's without an image), `empty` blank answers, `unparsed` those that
    the benchmark's rule can make nothing of (null where its rule reads every answer).
    Raises BenchmarkError if a file is missing or malformed, or ids are missing, left over or repeated.
    """
    benchmark = load(name)
    if not Path(answers).exists():
        raise UserError(f"no answers {answers}: give --answers a file (for MME, a folder) in the official format")
    with _published_format(answers, f"write them as {name}'s own scripts do"):
        responses = benchmark.read_answers(answers)
    with _published_format(reference, f"get it again from {benchmark.SOURCE}"):
        questions = _read(name, benchmark, reference, captions, responses)
        ignored = _ignored(benchmark, questions, responses, reference)
    responses = {identity: response for identity, response in responses.items() if identity not in ignored}
    check_ids(questions, responses, reference, benchmark.SOURCE)
    if hasattr(benchmark, "check_answers"):
        benchmark.check_answers(answers, questions)
    splits = score_splits(benchmark, questions, responses)
    figures = splits.values()
    return {
        "benchmark": name,
        "n": len(questions),
        "missing": 0,  # these two are errors; named, so that a reader of the JSON knows that they were looked for
        "extra": 0,
        "ignored": len(ignored),
        "empty": sum(not response.strip() for response in responses.values()),
        "unparsed": round(sum(split["unparsed"] for split in figures)) if "unparsed" in benchmark.METRICS else None,
        "splits": {split: _rounded(scores) for split, scores in splits.items()},
        "summary": _rounded(benchmark.summary(splits)),
    }


@contextmanager
def _published_format(path: Path, remedy: str) -> Iterator[None]:
    """What a reader trips over in a file of another shape, as an error that names the file."""
    try:
        yield
    except UserError:
        raise
    except (OSError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not in the published format: {error!r}; {remedy}") from error


def _read(
    name: str, benchmark: Benchmark, reference: Path, captions: Path | None, answered: Container[str]
) -> Sequence[Question]:
    if not Path(reference).exists():
        raise UserError(f"no reference {reference}: get it from {benchmark.SOURCE}")
    if name != "chair":
        if captions is not None:
            raise UserError(f"--captions is for chair alone, not for {name}: leave it out")
        return benchmark.read(reference, PRESET)
    from lookagain.metrics import chair

    instances = official.find(reference, chair.INSTANCES, chair.SOURCE)
    return chair.read_files(instances, captions or official.find(instances.parent, chair.CAPTIONS, chair.SOURCE), answered)


def _ignored(
    benchmark: Benchmark, questions: Sequence[Question], responses: Mapping[str, str], reference: Path
) -> frozenset[str]:
    """The ids of answers that are to no question, and to published ones that the benchmark leaves out."""
    extra = responses.keys() - {question.id for question in questions}
    return frozenset(extra & benchmark.left_out(reference)) if extra and hasattr(benchmark, "left_out") else frozenset()


def check_ids(questions: Sequence[Question], responses: Mapping[str, str], reference: Path, source: str) -> None:
    """Raise BenchmarkError unless each question has an answer, and each answer a question."""
    known = {question.id for question in questions}
    if len(known) < len(questions):
        raise BenchmarkError(f"{reference}: question ids repeat; get it again from {source}")
    missing = [question.id for question in questions if question.id not in responses]
    extra = [identity for identity in responses if identity not in known]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(questions)} questions have no answer, as {', '.join(missing[:NAMED])}")
    if extra:
        faults.append(f"{len(extra)} answers are to no question of {reference}, as {', '.join(extra[:NAMED])}")
    if faults:
        raise BenchmarkError(f"{'; '.join(faults)}: answers and reference must be of one version; published at {source}")
    if not questions:
        raise BenchmarkError(f"{reference} holds no question: get it again from {source}")


def score_splits(
    benchmark: Benchmark, questions: Sequence[Question], responses: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """The figures of each split, in the questions' order."""
    units: dict[str, dict[str, list[Question]]] = {}
    for question in questions:
        units.setdefault(question.split, {}).setdefault(benchmark.unit(question), []).append(question)
    splits = {}
    for split, grouped in units.items():
        counts = [benchmark.tally(asked, [responses[question.id] for question in asked]) for asked in grouped.values()]
        splits[split] = {metric: float(figure) for metric, figure in benchmark.score(np.sum(counts, axis=0)).items()}
    return splits


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(figure), DIGITS) for name, figure in figures.items()}
