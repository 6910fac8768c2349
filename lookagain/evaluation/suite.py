"""The benchmarks beside POPE's and CHAIR's own: what they ask, and their figures from the responses.

Each is a module of `metrics` and has a folder of its name beside POPE's files: the official files, and its images in images/.
`seedbench_ranking` is SEED-Bench by the official likelihood ranking: the response is the option that the policy finds least
surprising after the question alone. Pragmatics' contrastive questions are answered in the same way, each caption as the response
to the description prompt; the scores are log-probs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics import (
    chartqa,
    choice,
    contextual,
    gqa,
    llava_bench,
    mathvista,
    mmbench,
    mmbench_cn,
    mme,
    mmvet,
    pope,
    pragmatics,
    scienceqa,
    seedbench,
    shr,
    textvqa,
    vizwiz,
)
from lookagain.metrics.benchmark import PRESETS, BenchmarkError
from lookagain.records import Question

RANKING = "seedbench_ranking"
BENCHMARKS: dict[str, Any] = {
    module.NAME: module
    for module in (scienceqa, textvqa, chartqa, mmbench, mmbench_cn, mathvista, mme, seedbench, vizwiz, gqa, pragmatics)
} | {RANKING: seedbench}
JUDGED: dict[str, Any] = {module.NAME: module for module in (llava_bench, mmvet, shr, contextual)}
CIRCULAR = (mmbench, mmbench_cn)  # a question is right if all its rotations are
ALL = "all"  # the split of a benchmark's summary

Responses = Mapping[tuple[str, str, str], str]  # (benchmark, split, question id) -> response


def module(name: str) -> Any:
    """A benchmark's module. Raises BenchmarkError if there is none of the name."""
    known = BENCHMARKS | JUDGED
    if name not in known:
        raise BenchmarkError(f"evaluate.benchmarks: no benchmark {name!r}; allowed: {', '.join(sorted(known))}")
    return known[name]


def max_new_tokens(name: str) -> int:
    """The official limit of a benchmark's responses; POPE's is that of the papers' short answers."""
    return pope.MAX_NEW_TOKENS if name == pope.NAME else module(name).MAX_NEW_TOKENS


def read_questions(folder: Path | str, names: Sequence[str], preset: str, description_prompt: str) -> list[Question]:
    """The questions of benchmarks, from `folder`/<name>/, each named by `Question.benchmark`. Raises BenchmarkError."""
    asked: list[Question] = []
    for name in names:
        source = Path(folder) / module(name).NAME
        if not source.is_dir():
            raise BenchmarkError(f"no benchmark {source}: take {name} out of evaluate.benchmarks, or run `dvc repro`")
        asked += [
            _as_asked(question, name, preset, description_prompt) for question in module(name).read(source, PRESETS[preset])
        ]
    return asked


def _as_asked(question: Question, name: str, preset: str, description_prompt: str) -> Question:
    prompt = question.prompt
    if name == RANKING:
        prompt = prompt.removesuffix(PRESETS[preset].letter).removesuffix(
            choice.listed(json.loads(question.reference)["options"])
        )
    return dataclasses.replace(question, benchmark=name, prompt=prompt or description_prompt)


def options_of(question: Question) -> tuple[str, ...]:
    """The options of a question that is answered by ranking them; none where a response is generated."""
    ranked = question.benchmark == RANKING or question.split.endswith(pragmatics.CONTRASTIVE)
    return tuple(json.loads(question.reference)["options"]) if ranked else ()


def as_response(question: Question, answer: str) -> str:
    """An engine's answer as the benchmark's scorer reads it: losses of options become a letter, or scores."""
    if not options_of(question):
        return answer
    losses = json.loads(answer)
    return seedbench.rank(losses) if question.benchmark == RANKING else json.dumps([-loss for loss in losses])


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How one benchmark's counts become figures: counts of all splits stand side by side, a row for each resampling unit."""

    name: str
    splits: list[str]
    units: dict[tuple[str, str], list[Question]]  # (unit, split) -> its questions

    @classmethod
    def of(cls, name: str, questions: Sequence[Question]) -> Scoring:
        """The scoring of one benchmark's questions."""
        units: dict[tuple[str, str], list[Question]] = {}
        for question in questions:
            units.setdefault((module(name).unit(question), question.split), []).append(question)
        return cls(name, list(dict.fromkeys(question.split for question in questions)), units)

    def counts(self, responses: Responses) -> np.ndarray:
        """(units, splits * counts): units sorted, so that two models' rows are paired."""
        rows = {unit: row for row, unit in enumerate(sorted({unit for unit, _ in self.units}))}
        blocks: dict[tuple[str, str], tuple[float, ...]] = {}
        for place, questions in self.units.items():
            given = [responses[self.name, question.split, question.id] for question in questions]
            blocks[place] = module(self.name).tally(questions, given)
        width = len(next(iter(blocks.values())))
        table = np.zeros((len(rows), len(self.splits) * width))
        for (unit, split), block in blocks.items():
            start = self.splits.index(split) * width
            table[rows[unit], start : start + width] = block
        return table

    def sizes(self) -> dict[str, int]:
        """How many questions each split has, and all have together; MMBench's with all its rotations is one."""
        circular = module(self.name) in CIRCULAR
        sizes = dict.fromkeys(self.splits, 0)
        for (_, split), questions in self.units.items():
            sizes[split] += 1 if circular else len(questions)
        return sizes | {ALL: sum(sizes.values())}

    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Figures by "split/metric" from summed counts (..., splits * counts); the summary's split is "all"."""
        parts = np.split(np.asarray(counts, dtype=float), len(self.splits), axis=-1)
        by_split = {split: module(self.name).score(part) for split, part in zip(self.splits, parts, strict=True)}
        overall = module(self.name).summary(by_split)
        if not overall and len(by_split) == 1:
            overall = next(iter(by_split.values()))
        figures = {f"{split}/{metric}": value for split, scores in by_split.items() for metric, value in scores.items()}
        figures |= {f"{ALL}/{metric}": value for metric, value in overall.items()}
        return {key: value for key, value in figures.items() if not key.endswith("/n")}

    def headlines(self, figures: Iterable[str]) -> list[str]:
        """The figures that models are tested on: the first metric of each split, and the summary's rates.

        One split's are the summary's: were both tested, a correction for the number of tests would count it twice.
        """
        first = module(self.name).METRICS[0]
        summary = [key for key in figures if key.startswith(f"{ALL}/") and not key.endswith("/unparsed")]
        if len(self.splits) == 1:
            return summary
        return [*summary, *(key for key in figures if key.endswith(f"/{first}") and key not in summary)]


def binary_scores(name: str, questions: Sequence[Question], responses: Responses) -> list[tuple[str, float]]:
    """(split, 1 or 0) of each answer, or of each question of MMBench with all its rotations: what an accuracy is the share of.

    Empty for benchmarks that also mark answers in between.
    """
    if module(name) in (textvqa, vizwiz):
        return []
    scores = [module(name).score_answer(question, responses[name, question.split, question.id]) for question in questions]
    if module(name) not in CIRCULAR:
        return [(question.split, score) for question, score in zip(questions, scores, strict=True)]
    lowest: dict[tuple[str, str], float] = {}
    for question, score in zip(questions, scores, strict=True):
        place = question.split, module(name).unit(question)
        lowest[place] = min(score, lowest.get(place, 1.0))
    return [(split, score) for (split, _), score in lowest.items()]
