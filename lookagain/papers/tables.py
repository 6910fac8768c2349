"""The papers' tables and figures as files: tables/<name>.yaml holds rows, columns and published numbers, and no number of ours.

A row names the model whose figures it reads and the params that define it, as dotted overrides of params.yaml; a column names a
figure of reports/metrics/<model>.json, a mean of several, a param, or a file of the pipeline; `{model}` and `{section}` in it stand
for the row's. Where a thing does not exist here, the row or column gives the reason. `small` replaces a row's label and params for
a small base, whose numbers are smaller.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lookagain.errors import UserError
from lookagain.records import RecordError, from_dict
from lookagain.schema import BenchmarkName

FOLDER = "tables"
KINDS = ("table", "figure")
PAPERS = ("STIC", "SeVa", "CSR")
ALWAYS = ("pope", "chair", "chair_sampled")  # benchmarks that params do not list: they are always asked
BENCHMARKS = (*ALWAYS, *typing.get_args(BenchmarkName))
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast as ruamel's, which matters for dvc.lock


class TableError(UserError):
    """A table that does not exist, or whose file is malformed: the message names the file and the entry."""


@dataclass(frozen=True)
class Source:
    """Where the numbers are printed."""

    paper: str
    place: str  # "Table 9", "Figure 3"


@dataclass(frozen=True)
class Part:
    """A figure inside a mean: of one metric or of a mean, divided, or taken from 100 (where lower is better)."""

    metric: str | None = None
    mean: list[Part] | None = None
    divide: float = 1.0
    from_100: bool = False


@dataclass(frozen=True)
class Column:
    """A column; exactly one of `metric`, `mean`, `param`, `log`, `pairs`, `file` and `reason` says where our figures come from."""

    title: str
    metric: str | None = None  # a key of reports/metrics/<model>.json
    mean: list[Part] | None = None
    param: str | None = None  # a key of params.yaml, under the row's section where that has one
    log: str | None = None  # a key of models/<model>/training_log.json: its mean over the last tenth
    pairs: str | None = None  # chosen | rejected: a mean over that side of data/pairs/<row's pairs>/
    of: str = "reward"  # of the pairs: reward | relevance | logp (which models/<model>/reference_logps.json holds)
    file: str | None = None  # a JSON file of the pipeline that holds a Metric, to which `at` leads
    at: list[str] | None = None  # keys, one inside the other
    reason: str | None = None  # why we have no such figure
    better: str | None = None  # up | down
    digits: int = 1
    small: str | None = None  # what the column is for a small base, where that differs


@dataclass(frozen=True)
class Small:
    """A row of a small base."""

    label: str | None = None
    params: dict[str, Any] | None = None
    reason: str | None = None  # why there is no such row


@dataclass(frozen=True)
class Row:
    """A row; `model` is None where it is no model of ours, with the reason."""

    label: str
    model: str | None
    published: list[float | None]
    params: dict[str, Any]  # dotted overrides of params.yaml
    policy: str | None = None  # of the table's policies; the first is the default, and what a small base stands for
    section: str | None = None  # of params.yaml, for columns of params; else what the row calls a benchmark
    pairs: str | None = None  # the pair source, for columns of pairs
    reason: str | None = None
    small: Small | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of a paper."""

    name: str
    title: str
    source: Source
    kind: str
    policies: dict[str, Any]  # the paper's name of a base policy -> its checkpoint on the hub, or None where none can be loaded
    columns: list[Column]
    rows: list[Row]
    small_columns: list[Column]  # what a small base has beside; nothing is published of them
    notes: list[str]
    unpublished: str = "not reported in the paper"  # why a published number is missing

    def check(self) -> None:
        """Raise RecordError unless rows, columns and names fit together."""
        problems = list(_problems(self))
        if problems:
            raise RecordError("; ".join(problems))


def _problems(table: PaperTable) -> Iterator[str]:
    if table.kind not in KINDS or table.source.paper not in PAPERS:
        yield f"kind must be one of {', '.join(KINDS)} and source.paper one of {', '.join(PAPERS)}"
    for row in table.rows:
        if len(row.published) != len(table.columns):
            yield f"row {row.label!r} has {len(row.published)} published values for {len(table.columns)} columns"
        if (row.model is None) != (row.reason is not None):
            yield f"row {row.label!r} must have either a model or the reason why it has none"
        if row.policy is not None and row.policy not in table.policies:
            yield f"row {row.label!r}: policy {row.policy!r} is none of {', '.join(table.policies)}"
    labels = [row.label for row in table.rows]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        yield f"several rows are called {', '.join(repeated)}"
    for column in [*table.columns, *table.small_columns]:
        given = (column.metric, column.mean, column.param, column.log, column.pairs, column.file, column.reason)
        if sum(value is not None for value in given) != 1 or column.better not in (None, "up", "down"):
            yield f"column {column.title!r} must have one of metric, mean, param, log, pairs, file, reason; better is up or down"
        if (column.file is None) != (column.at is None):
            yield f"column {column.title!r} must have both a file and where `at` in it, or neither"
        if column.pairs not in (None, "chosen", "rejected") or column.of not in ("reward", "relevance", "logp"):
            yield f"column {column.title!r}: pairs = {column.pairs!r} of {column.of!r}, allowed: chosen, rejected of reward, ..."
        for key in dict.fromkeys(key for row in table.rows for key in metric_keys(column_of(row, column))):
            if key.partition("/")[0] not in BENCHMARKS or key.count("/") != (1 if key.startswith("chair") else 2):
                yield f"column {column.title!r}: {key!r} is no key <benchmark>/<split>/<metric> of a metrics file"


def column_of(row: Row, column: Column) -> Column:
    """A column as it is for a row: with the row's names in `metric` and `at`."""
    if column.metric is None and column.at is None:
        return column

    def named(text: str) -> str:
        return text.replace("{model}", str(row.model)).replace("{section}", str(row.section))

    metric, at = column.metric and named(column.metric), column.at and [named(key) for key in column.at]
    return replace(column, metric=metric, at=at)


def metric_keys(column: Column) -> list[str]:
    """The metrics that a column reads."""
    return [column.metric] if column.metric else [key for part in column.mean or [] for key in part_keys(part)]


def part_keys(part: Part) -> list[str]:
    """The metrics inside one part of a mean."""
    return [part.metric] if part.metric else [key for inner in part.mean or [] for key in part_keys(inner)]


def names(folder: Path | str = FOLDER) -> list[str]:
    """All tables' names, by paper: tables by number, then figures by number."""
    found = [path.stem for path in Path(folder).glob("*.yaml")]
    order = {paper.lower(): place for place, paper in enumerate(PAPERS)}
    return sorted(found, key=lambda name: (order.get(name.split("-")[0], 9), "-fig-" in name, _number(name), name))


def _number(name: str) -> int:
    last = name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def read(name: str, folder: Path | str = FOLDER) -> PaperTable:
    """A table by name. Raises TableError if there is none or its file is malformed."""
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(names(folder)) or "none: run from the repository's root"
        raise TableError(f"no table {name!r}; tables: {known}")
    try:
        raw = {"name": name, "small_columns": [], "notes": []} | yaml.load(path.read_text(encoding="utf-8"), LOADER)
        for column in [*raw["columns"], *raw["small_columns"]]:
            if "mean" in column:
                column["mean"] = [_as_part(part) for part in column["mean"]]
        raw["rows"] = [{"params": {}} | row for row in raw["rows"]]
        return from_dict(PaperTable, raw)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecordError) as error:
        raise TableError(f"{path} is malformed: {error}") from error


def _as_part(raw: Any) -> dict[str, Any]:
    """A part of a mean; a plain string is a metric's key."""
    if isinstance(raw, str):
        return {"metric": raw}
    return {**raw, "mean": [_as_part(part) for part in raw["mean"]]} if "mean" in raw else raw
