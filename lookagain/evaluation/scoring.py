"""A model's metrics from its answers: POPE and CHAIR with standard errors, the truncation control, and paired tests.

Keys are `benchmark/split/metric`. Errors are bootstrapped over images. A test against another model on the same questions adds
`<metric>_vs_<other>` (difference in the metric's unit, with its paired bootstrap error) and `<metric>_p_vs_<other>` (paired
bootstrap); where answers are right or wrong, the p-value of the accuracy is McNemar's exact one, under `p_vs_<other>`.
The truncation control is the base's captions cut to this model's mean length, what shorter captions alone would give; CHAIR is
tested against it too (`_vs_truncated_base`). Its cut is held fixed in the bootstrap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lookagain import stats
from lookagain.evaluation import suite
from lookagain.evaluation.judging import judge_responses, judged_counts, unit_sums, wins
from lookagain.evaluation.questions import CHAIR_BENCHMARKS, CHAIR_SPLIT, TRUNCATED_BASE, Annotations
from lookagain.judge import NO_JUDGE, Judge, Verdict
from lookagain.metrics import chair, contextual, pope
from lookagain.metrics.judged import percent
from lookagain.records import Answer, Metric, Question, RecordError

POPE_TESTED = ("accuracy", "f1")
CHAIR_TESTED = ("chair_s", "chair_i", "recall")
COMPETED = ("llava_bench", "mmvet")  # judged benchmarks whose verdicts end with the response's score
CHAIR_CONTROL = ("chair_s", "chair_i", "recall")
IS_BASE = "this is the base"
NO_CASE = "there is no case of it"

Score = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Bootstrap:
    """How many resamples of the images, drawn from which seed."""

    resamples: int
    seed: int


def score_answer(question: Question, response: str) -> float | None:
    """The official score of one answer, mostly 1 or 0; None where an answer alone has none (CHAIR's is a ratio over all)."""
    if question.benchmark == "pope":
        return float(pope.is_correct(response, question.reference))
    if question.benchmark in CHAIR_BENCHMARKS:
        return None
    return suite.module(question.benchmark).score_answer(question, response)


def score_model(
    annotations: Annotations,
    answers: Sequence[Answer],
    base: Sequence[Answer] | None,
    parent: Sequence[Answer] | None,
    bootstrap: Bootstrap,
    judge: Judge | None = None,
    judge_runs: int = 1,
) -> dict[str, Metric]:
    """All metrics of one model. `base` is None for the base itself; `parent` is None for a model without a predecessor.

    Without a judge, judged benchmarks are null with that reason.

    Raises RecordError if a model's answers are not those to the annotations' questions.
    """
    mine = responses_by_question(annotations, answers, "this model")
    others = {"base": responses_by_question(annotations, base, "base")} if base is not None else {}
    if parent is not None:
        others["parent"] = responses_by_question(annotations, parent, "parent")
    metrics: dict[str, Metric] = {}
    for split in pope.SPLITS:
        metrics |= _pope(annotations, split, mine, others, bootstrap)
    for benchmark in CHAIR_BENCHMARKS:
        metrics |= _chair(annotations, benchmark, mine, others, bootstrap)
    for benchmark in dict.fromkeys(question.benchmark for question in annotations.questions):
        if benchmark in suite.BENCHMARKS:
            metrics |= _suite(annotations, benchmark, mine, others, bootstrap)
        if benchmark in suite.JUDGED:
            metrics |= _judged(annotations, benchmark, mine, others, bootstrap, judge, judge_runs)
    if base is None:
        metrics |= _nulls_of_base()
    for name, images in annotations.subsets.items():
        metrics |= _subset(annotations, name, images, mine, bootstrap)
    return metrics


Responses = dict[tuple[str, str, str], str]  # (benchmark, split, question id) -> response


def responses_by_question(annotations: Annotations, answers: Sequence[Answer], who: str) -> Responses:
    """Responses by question. Raises RecordError unless the answers are exactly those to the annotations' questions."""
    responses = {(answer.benchmark, answer.split, answer.id): answer.response for answer in answers}
    wanted = {(question.benchmark, question.split, question.id) for question in annotations.questions}
    if len(responses) != len(answers) or responses.keys() != wanted:
        raise RecordError(
            f"the answers of {who} ({len(answers)}) are not those to the {len(wanted)} questions of this benchmark folder: "
            "run its evaluate stage again"
        )
    return responses


def _pope(
    annotations: Annotations, split: str, mine: Responses, others: dict[str, Responses], bootstrap: Bootstrap
) -> dict[str, Metric]:
    """One POPE file: scores, differences, and McNemar on the accuracy."""
    questions = [question for question in annotations.questions if (question.benchmark, question.split) == ("pope", split)]
    counts = {who: pope_counts(questions, responses) for who, responses in {"": mine, **others}.items()}
    metrics = measure(f"pope/{split}", pope.METRICS, pope.score, counts, POPE_TESTED, len(questions), bootstrap)
    correct = [score_answer(question, mine["pope", split, question.id]) or 0.0 for question in questions]
    for who, responses in others.items():
        theirs = [score_answer(question, responses["pope", split, question.id]) or 0.0 for question in questions]
        del metrics[f"pope/{split}/accuracy_p_vs_{who}"]
        metrics[f"pope/{split}/p_vs_{who}"] = Metric(_round(stats.mcnemar(correct, theirs)), n=len(questions))
    return metrics


def _suite(
    annotations: Annotations, benchmark: str, mine: Responses, others: dict[str, Responses], bootstrap: Bootstrap
) -> dict[str, Metric]:
    """One benchmark of the suite: figures by split and over all, differences, and McNemar where answers are right or wrong."""
    questions = [question for question in annotations.questions if question.benchmark == benchmark]
    scoring = suite.Scoring.of(benchmark, questions)
    counts = {who: scoring.counts(responses) for who, responses in {"": mine, **others}.items()}
    figures = list(scoring.score(counts[""].sum(0)))
    tested = scoring.headlines(figures)
    metrics = measure(benchmark, figures, scoring.score, counts, tested, len(questions), bootstrap)
    scores = {who: suite.binary_scores(benchmark, questions, responses) for who, responses in {"": mine, **others}.items()}
    for who in others if scores[""] else ():
        for split in [key.removesuffix("/accuracy") for key in tested if key.endswith("/accuracy")]:
            ours, theirs = ([right for at, right in scores[one] if split in (at, suite.ALL)] for one in ("", who))
            p = stats.mcnemar(ours, theirs)
            del metrics[f"{benchmark}/{split}/accuracy_p_vs_{who}"]
            metrics[f"{benchmark}/{split}/p_vs_{who}"] = Metric(_round(p))
    sizes = scoring.sizes()
    return {key: dataclasses.replace(metric, n=sizes[key.split("/")[1]]) for key, metric in metrics.items()}


def _judged(
    annotations: Annotations,
    benchmark: str,
    mine: Responses,
    others: dict[str, Responses],
    bootstrap: Bootstrap,
    judge: Judge | None,
    runs: int,
) -> dict[str, Metric]:
    """A judged benchmark's figures; the verdicts on other models' responses come from the judge's cache."""
    module = suite.JUDGED[benchmark]
    prefix = f"{benchmark}/{suite.ALL}"
    if judge is None:
        return {f"{prefix}/{metric}": Metric(None, reason=NO_JUDGE) for metric in module.METRICS}
    questions = [question for question in annotations.questions if question.benchmark == benchmark]
    verdicts = {}
    for who, responses in {"": mine, **others}.items():
        given = [responses[benchmark, question.split, question.id] for question in questions]
        verdicts[who] = judge_responses(judge, module, questions, given, runs)
    counts = {who: judged_counts(module, questions, found) for who, found in verdicts.items()}
    metrics = measure(prefix, module.METRICS, module.score, counts, module.METRICS[:1], len(questions), bootstrap)
    if benchmark in COMPETED and "base" in verdicts:
        won = unit_sums(module, questions, wins(verdicts[""], verdicts["base"]))
        metrics[f"{prefix}/wins"] = win_rate(won, bootstrap)
    if benchmark == contextual.NAME and runs == 1:  # right or wrong; means over several runs are neither
        metrics |= _mcnemar_of_verdicts(f"{prefix}/p_vs_", verdicts)
        metrics = {key: metric for key, metric in metrics.items() if "/accuracy_p_vs_" not in key}
    return {key: _with_reason(key, metric, verdicts) for key, metric in metrics.items()}


def _mcnemar_of_verdicts(prefix: str, verdicts: Mapping[str, Sequence[Sequence[Verdict]]]) -> dict[str, Metric]:
    """McNemar against each other model, over the answers that both have a verdict of right or wrong on."""
    tests = {}
    for who in list(verdicts)[1:]:
        values = [(one.value, other.value) for one, other in zip(verdicts[""][0], verdicts[who][0], strict=True)]
        both = [(one[0], other[0]) for one, other in values if one is not None and other is not None]
        p = stats.mcnemar(*zip(*both, strict=True)) if both else None
        tests[prefix + who] = Metric(None, reason=NO_CASE) if p is None else Metric(_round(p), n=len(both))
    return tests


def _with_reason(key: str, metric: Metric, judged: Mapping[str, Sequence[Sequence[Verdict]]]) -> Metric:
    """A judged figure; if nothing measures it, null with what the judge failed on: this model's answers, or the compared one's."""
    if metric.reason != NO_CASE:
        return metric
    for who in [who for who in judged if not who or key.endswith(f"_vs_{who}")]:
        if all(verdict.value is None for run in judged[who] for verdict in run):
            whose = f" of {who}" if who else ""
            return Metric(None, reason=f"no verdict: the judge failed on all {len(judged[who][0])} answers{whose}")
    return Metric(None, reason="no verdict bears on it: the judge failed on all answers that count here, or there are none")


def win_rate(won: np.ndarray, bootstrap: Bootstrap) -> Metric:
    """The share, in percent, of questions won among those won or lost: (units, 2), sums of `judging.wins`. SeVa's Figure 5."""
    if not won.any():
        return Metric(None, reason="no question is judged better or worse than the base's response")

    def share(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {"wins": percent(counts[..., 0], counts.sum(axis=-1))}

    return measure("", ("wins",), share, {"": won}, (), int(won.sum()), bootstrap)["/wins"]


def pope_counts(questions: Sequence[Question], responses: Responses) -> np.ndarray:
    """Confusion counts by image (images, 4), images sorted."""
    rows = {image: row for row, image in enumerate(sorted({question.image_id for question in questions}))}
    counts = np.zeros((len(rows), 4))
    for question in questions:
        response = responses[question.benchmark, question.split, question.id]
        counts[rows[question.image_id]] += pope.confusion(response, question.reference)
    return counts


def _chair(
    annotations: Annotations, benchmark: str, mine: Responses, others: dict[str, Responses], bootstrap: Bootstrap
) -> dict[str, Metric]:
    """Descriptions of one decoding: CHAIR, differences, and the base cut to the same length."""
    captions = {who: captions_of(annotations, benchmark, responses) for who, responses in {"": mine, **others}.items()}
    counts = {who: chair_counts(annotations, texts) for who, texts in captions.items()}
    metrics: dict[str, Metric] = {}
    if "base" in captions:
        length = float(chair.score(counts[""].sum(0))["length"])
        control = chair_counts(annotations, chair.truncate(captions["base"], length))
        name = f"{benchmark}/{TRUNCATED_BASE}"
        metrics |= measure(name, CHAIR_CONTROL, chair.score, {"": control}, (), len(control), bootstrap)
        counts[TRUNCATED_BASE] = control
    n = len(annotations.objects)
    return measure(benchmark, chair.METRICS, chair.score, counts, CHAIR_TESTED, n, bootstrap) | metrics


def captions_of(annotations: Annotations, benchmark: str, responses: Responses) -> dict[str, str]:
    """A model's descriptions by image id."""
    return {image: responses[benchmark, CHAIR_SPLIT, image] for image in sorted(annotations.objects)}


def chair_counts(annotations: Annotations, captions: dict[str, str]) -> np.ndarray:
    """CHAIR's counts by image (images, 8), images sorted."""
    return np.array([chair.count(captions[image], annotations.objects[image]) for image in sorted(captions)])


def measure(
    prefix: str,
    names: Sequence[str],
    score: Score,
    counts: dict[str, np.ndarray],
    tested: Sequence[str],
    n: int,
    bootstrap: Bootstrap,
) -> dict[str, Metric]:
    """Metrics with bootstrap errors from counts by image: this model's first, under "", then those of models to test against.

    All models are resampled together, so that the errors of differences are paired. A figure that is NaN, or is compared with one,
    was not measured: it is null. Resamples in which it is NaN are left out of its error.
    """
    width = counts[""].shape[1]
    sums = stats.resample(np.concatenate(list(counts.values()), axis=1), bootstrap.resamples, bootstrap.seed)
    drawn = {who: score(sums[:, column * width : (column + 1) * width]) for column, who in enumerate(counts)}
    value = {who: score(table.sum(0)) for who, table in counts.items()}
    metrics = {f"{prefix}/{name}": _metric(value[""][name], drawn[""][name], n) for name in names}
    for who in list(counts)[1:]:
        for name in tested:
            gap, draws = value[""][name] - value[who][name], drawn[""][name] - drawn[who][name]
            metrics[f"{prefix}/{name}_vs_{who}"] = _metric(gap, draws, n)
            metrics[f"{prefix}/{name}_p_vs_{who}"] = _p_value(gap, draws, n)
    return metrics


def _metric(value: np.ndarray, draws: np.ndarray, n: int) -> Metric:
    """A figure with its bootstrap error and 95% percentile interval."""
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not draws.size:
        return Metric(None, reason=NO_CASE)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Metric(_round(value), _round(stats.spread(draws)), n, low=_round(low), high=_round(high))


def _p_value(gap: np.ndarray, draws: np.ndarray, n: int) -> Metric:
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(gap) or not draws.size:
        return Metric(None, reason=NO_CASE)
    return Metric(_round(stats.difference(float(gap), draws).p), n=n)


def _nulls_of_base() -> dict[str, Metric]:
    """The base's own entries where others have a comparison with it: null, with the reason."""
    names = [f"{benchmark}/{TRUNCATED_BASE}/{name}" for benchmark in CHAIR_BENCHMARKS for name in CHAIR_CONTROL]
    for prefix, tested in [(f"pope/{split}", POPE_TESTED) for split in pope.SPLITS] + [
        (b, CHAIR_TESTED) for b in CHAIR_BENCHMARKS
    ]:
        names += [f"{prefix}/{name}_vs_base" for name in tested]
        names += [f"{prefix}/p_vs_base" if name == "accuracy" else f"{prefix}/{name}_p_vs_base" for name in tested]
    for benchmark in CHAIR_BENCHMARKS:
        names += [f"{benchmark}/{name}_{kind}_{TRUNCATED_BASE}" for name in CHAIR_TESTED for kind in ("vs", "p_vs")]
    return {name: Metric(None, reason=IS_BASE) for name in names}


def _subset(
    annotations: Annotations, name: str, images: frozenset[str], mine: Responses, bootstrap: Bootstrap
) -> dict[str, Metric]:
    """CHAIR and POPE on a named subset of the images."""
    metrics: dict[str, Metric] = {}
    for benchmark in CHAIR_BENCHMARKS:
        captions = captions_of(annotations, benchmark, mine)
        counts = chair_counts(annotations, {image: text for image, text in captions.items() if image in images})
        metrics |= measure(f"{benchmark}/{name}", CHAIR_CONTROL, chair.score, {"": counts}, (), len(counts), bootstrap)
    # A question that several files share counts once.
    asked = {(q.image_id, q.prompt): q for q in annotations.questions if q.benchmark == "pope" and q.image_id in images}
    if not asked:
        return metrics | {f"pope/{name}/accuracy": Metric(None, reason="no POPE question is about these images")}
    counts = pope_counts(list(asked.values()), mine)
    return metrics | measure(f"pope/{name}", ("accuracy",), pope.score, {"": counts}, (), len(asked), bootstrap)


def _round(value: float | np.ndarray) -> float:
    """Six significant digits: enough for any table, and stable in a diff."""
    return float(f"{float(value):.6g}")
