"""The figures of one row of a paper's table, from the experiment that measured its model; what is missing has a reason.

A mean's standard error is the mean of its parts' errors, an upper bound, as they share images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lookagain.errors import UserError
from lookagain.papers.experiments import Experiment, NotMeasured
from lookagain.papers.tables import ALWAYS, Column, PaperTable, Part, Row, metric_keys, part_keys
from lookagain.records import Metric, from_dict

NOT_RUN = "not run:"  # how the reason begins of what a run would measure


class UnknownParam(UserError):
    """An override of a key that params.yaml does not have."""


class RowReader:
    """The figures of one row, from the experiment that measured it."""

    def __init__(
        self,
        table: PaperTable,
        row: Row,
        wanted: Mapping[str, Any],
        experiment: Experiment | None,
        publisher: str | None,
    ):
        self._row, self._wanted, self._publisher = row, wanted, publisher
        self._experiment = experiment
        self.command = f"{NOT_RUN} lookagain grid {table.name}"  # the reason of what a grid would measure
        self._metrics: dict[str, Any] = {}
        if self._experiment:
            self._metrics = json.loads(self._experiment.read(f"reports/metrics/{row.model}.json"))

    def figure(self, column: Column) -> dict[str, Any]:
        """Fields of a cell: value, error and interval, or the reason for none."""
        try:
            if column.reason is not None:
                raise NotMeasured(column.reason)
            if column.param is not None:
                return {"value": self._param(column.param)}
            self._check_asked(column)
            if self._experiment is None:
                raise NotMeasured(self.command)
            if column.log is not None:
                return {"value": self._log(self._experiment, column.log)}
            if column.pairs is not None:
                return {"value": self._pair_mean(self._experiment, column.pairs, column.of)}
            if column.file is not None:
                metric = self._filed(self._experiment, column.file, column.at or [])
            else:
                metric = self._metric(column.metric) if column.metric else self._mean(column.mean or [])
            return {"value": metric.value, "se": metric.se, "low": metric.low, "high": metric.high}
        except (NotMeasured, UnknownParam) as error:
            return {"reason": str(error)}

    def _param(self, name: str) -> float:
        key = f"{self._row.section}.{name}" if self._row.section else name
        place: Any = self._wanted
        for part in key.split("."):
            if not isinstance(place, Mapping) or part not in place:
                raise UnknownParam(f"params.yaml has no key {key}")
            place = place[part]
        return float(place)

    def _metric(self, key: str) -> Metric:
        if key in self._metrics:
            metric = from_dict(Metric, self._metrics[key])
            if metric.value is None:
                raise NotMeasured(metric.reason or "null")
            return metric
        if self._lacks(key):
            raise NotMeasured(
                f"{self._publisher}: its {key.partition('/')[0]} has no such part"
                if self._publisher
                else f"reports/metrics/{self._row.model}.json has no {key}"
            )
        raise NotMeasured(self._unasked(key) or self.command)

    def _lacks(self, key: str) -> bool:
        """Whether a benchmark was asked and has no such figure, so that another run would not have it either."""
        benchmark = key.partition("/")[0]
        asked = benchmark in ALWAYS or any(one.startswith(f"{benchmark}/") for one in self._metrics)
        return asked and key not in self._metrics

    def _check_asked(self, column: Column) -> None:
        """Raise NotMeasured if a run with these params would not measure a column."""
        reasons = [self._unasked(key) for key in metric_keys(column)]
        refused = [reason for reason in reasons if reason]
        if refused and (column.metric or not self._publisher or len(refused) == len(reasons)):
            raise NotMeasured(refused[0])

    def _unasked(self, key: str) -> str | None:
        """Why the wanted params do not ask a metric's benchmark; None if they do."""
        benchmark = key.partition("/")[0]
        if benchmark in (*ALWAYS, *self._wanted["evaluate"]["benchmarks"]):
            return None
        split = self._wanted["data"][self._wanted["evaluate"]["split"]]
        if self._publisher and benchmark.removesuffix("_ranking") not in split["benchmarks"]:
            return f"{self._publisher}: no such benchmark"
        return f"evaluate.benchmarks does not name {benchmark}"

    def _mean(self, parts: Sequence[Part]) -> Metric:
        """The mean of parts; of a small base, of those that its publisher has and that are asked."""
        if self._publisher:
            had = [part for part in parts if not any(self._unasked(key) or self._lacks(key) for key in part_keys(part))]
            parts = had or parts  # none: the first says why
        figures = [self._part(part) for part in parts]
        errors = [figure.se for figure in figures if figure.se is not None]
        error = sum(errors) / len(errors) if len(errors) == len(figures) else None
        return Metric(sum(figure.value or 0.0 for figure in figures) / len(figures), error)

    def _part(self, part: Part) -> Metric:
        metric = self._metric(part.metric) if part.metric else self._mean(part.mean or [])
        value = (metric.value or 0.0) / part.divide
        return Metric(100 - value if part.from_100 else value, metric.se / abs(part.divide) if metric.se is not None else None)

    def _log(self, experiment: Experiment, key: str) -> float:
        path = f"models/{self._row.model}/training_log.json"
        values = [float(entry[key]) for entry in json.loads(experiment.read(path)) if key in entry]
        if not values:
            raise NotMeasured(f"{path} has no {key}")
        last = values[-max(1, len(values) // 10) :]
        return sum(last) / len(last)

    def _filed(self, experiment: Experiment, path: str, at: Sequence[str]) -> Metric:
        """The metric to which keys lead in a JSON file."""
        place: Any = json.loads(experiment.read(path))
        for key in at:
            if not isinstance(place, Mapping) or key not in place:
                raise NotMeasured(f"{path} has no {key}")
            place = place[key]
        metric = from_dict(Metric, place)
        if metric.value is None:
            raise NotMeasured(metric.reason or "null")
        return metric

    def _pair_mean(self, experiment: Experiment, side: str, of: str) -> float:
        """The mean over all chosen, or the first rejected, responses: of their reward, relevance or log-prob."""
        if of == "logp":
            path = f"models/{self._row.model}/reference_logps.json"
            values = [logps[0 if side == "chosen" else 1] for logps in json.loads(experiment.read(path)).values()]
        else:
            path = f"data/pairs/{self._row.pairs}/pairs.jsonl"
            pairs = [json.loads(line) for line in experiment.read(path).decode().splitlines()]
            made = [pair["chosen_provenance"] if side == "chosen" else pair["rejected_provenance"][0] for pair in pairs]
            key = "score" if of == "reward" else of
            values = [float(one[key]) for one in made if one.get(key) is not None]
        if not values:
            raise NotMeasured(f"{path} has no {of}s")
        return sum(values) / len(values)
