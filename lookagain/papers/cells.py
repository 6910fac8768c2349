"""A paper's table filled in: published numbers beside ours, with intervals, and where each of ours comes from.

A row is measured by the first experiment that holds its model's metrics under equal params (`experiments.first_difference`). At
scale, `difference` is ours less the published number. A small base has a publisher with benchmarks of its own, of the same kind:
numbers cannot be compared there, so `gain` sets what a row has over the table's first row of the same policy beside what the
paper's row has.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lookagain.papers.experiments import (
    WORKSPACE,
    Entry,
    Experiment,
    NotMeasured,
    changed_code,
    data_hash,
    first_difference,
    recorded_params,
)
from lookagain.papers.reading import RowReader, UnknownParam
from lookagain.papers.tables import Column, PaperTable, Row, column_of
from lookagain.params import ParamsError, check_params
from lookagain.schema import Params

OWN = "a column of the small base's publisher"
# Sections whose keys are names that a user chooses.
OPEN = ("methods", "evaluate.models", "continued_sft.models", "data.validation.benchmarks", "data.test.benchmarks")


@dataclass(frozen=True)
class Cell:
    """A published number beside ours; `reason` says why ours is missing, `unpublished` why the paper's is."""

    published: float | None = None
    unpublished: str | None = None
    value: float | None = None
    se: float | None = None
    low: float | None = None  # of the 95% interval
    high: float | None = None
    difference: float | None = None  # ours - published, on the same benchmark
    gain: float | None = None  # over the first row of the same policy
    published_gain: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a row's numbers come from."""

    experiment: str
    model: str
    revision: str  # of git: the experiment's commit; of the workspace, that checked out; none in a report
    baseline: str  # of git: the commit that the experiment started from
    params_hash: str  # of all params that decide the model's figures
    overrides: dict[str, Any]
    data_hash: str  # of the benchmark's folder, as DVC records it
    changed: list[str]  # code files that are no longer as they ran

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.overrides.items()) or "params.yaml"
        named = ", ".join([*self.changed[:3], *(["..."] if self.changed[3:] else [])])
        changed = f"; code changed since: {named}" if named else ""
        now = " now" if self.experiment == WORKSPACE else ""  # dvc.lock does not say at which commit the workspace was run
        git = f"git {self.revision[:18]}{now}, " if self.revision else ""
        return (
            f"{self.experiment}: {self.model}, {chosen}, params {self.params_hash}, {git}"
            f"benchmark data {self.data_hash[:12] or 'of no record'}{changed}"
        )


@dataclass(frozen=True)
class FilledRow:
    """A row with its cells; `missing` is whether running `overrides` would measure it."""

    label: str
    model: str | None
    overrides: dict[str, Any]
    cells: list[Cell]
    provenance: Provenance | None = None
    missing: bool = False


@dataclass(frozen=True)
class Filled:
    """A table or figure with all numbers that there are."""

    table: PaperTable
    publisher: str | None  # of a small base with benchmarks of its own; None at scale
    columns: list[Column]
    rows: list[FilledRow]

    @property
    def measured(self) -> bool:
        """Whether any cell has a number of ours that was measured; params beside published ones are not measurements."""
        places = [place for place, column in enumerate(self.columns) if column.param is None]
        return any(row.cells[place].value is not None for row in self.rows for place in places)

    @property
    def reasons(self) -> list[str]:
        """The distinct reasons of missing numbers of ours, in order of appearance."""
        return list(dict.fromkeys(cell.reason for row in self.rows for cell in row.cells if cell.reason))


@dataclass(frozen=True)
class Plan:
    """A row as it is to be run under the params at hand: overrides, and the whole params that they give; or the reason why not."""

    label: str
    overrides: dict[str, Any]
    wanted: dict[str, Any] | None = None
    reason: str | None = None


def fill(table: PaperTable, raw: Mapping[str, Any], found: Sequence[Experiment], publisher: str | None) -> Filled:
    """A table with what `found` measured under the params `raw` (nested, as in params.yaml) and each row's overrides."""
    columns = [*table.columns, *(table.small_columns if publisher else [])]
    rows = [_fill_row(table, row, columns, raw, found, publisher) for row in table.rows]
    return Filled(table, publisher, columns, _with_gains(table, columns, rows))


def plan(table: PaperTable, row: Row, raw: Mapping[str, Any], publisher: str | None) -> Plan:
    """What to run for a row; a row that cannot be run has a reason."""
    changed = row.small if publisher else None
    label = (changed.label if changed else None) or row.label
    overrides = dict(changed.params if changed and changed.params is not None else row.params)
    if row.model is None or (changed and changed.reason):
        return Plan(label, overrides, reason=(changed.reason if changed else None) or row.reason)
    policy, first = row.policy or next(iter(table.policies)), next(iter(table.policies))
    checkpoint = table.policies[policy]
    if checkpoint is None:
        return Plan(label, overrides, reason=f"{policy} is not in a form that transformers loads")
    if publisher and policy != first:
        return Plan(label, overrides, reason=f"{publisher}: one policy, which stands for {first}")
    if not publisher and raw["policy"]["checkpoint"] != checkpoint:
        overrides |= {"policy.checkpoint": checkpoint, "policy.revision": "main"}
    try:
        wanted = overridden(raw, overrides)
        settings = check_params(wanted, "params.yaml with this row's overrides")
    except (UnknownParam, ParamsError) as error:
        return Plan(label, overrides, reason=str(error))
    if row.model not in models_of(settings):
        return Plan(label, overrides, wanted, f"params.yaml evaluates no model {row.model} (evaluate.models)")
    return Plan(label, overrides, wanted)


def models_of(params: Params) -> list[str]:
    """The models whose metrics the pipeline writes."""
    return ["base", *params.evaluate.models, *(f"csr-{t}" for t in range(1, params.csr.iterations + 1))]


def overridden(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested params with dotted overrides. Raises UnknownParam for a key that is not there, but in sections of free names."""
    changed = copy.deepcopy(dict(raw))
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        place: Any = changed
        for part in section.split(".") if section else []:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (name not in place and section not in OPEN):
            raise UnknownParam(f"params.yaml has no key {key}")
        place[name] = copy.deepcopy(value)
    return changed


def _fill_row(
    table: PaperTable,
    row: Row,
    columns: Sequence[Column],
    raw: Mapping[str, Any],
    found: Sequence[Experiment],
    publisher: str | None,
) -> FilledRow:
    chosen = plan(table, row, raw, publisher)
    blank = [_published(table, row, place) for place in range(len(columns))]
    if chosen.reason is not None or chosen.wanted is None or row.model is None:
        cells = [replace(cell, reason=column.reason or chosen.reason) for cell, column in zip(blank, columns, strict=True)]
        return FilledRow(chosen.label, row.model, chosen.overrides, cells)
    columns = [column_of(row, column) for column in columns]
    match = _match(row, columns, chosen.wanted, found)
    reader = RowReader(table, row, chosen.wanted, match[0] if match else None, publisher)
    cells = [replace(cell, **reader.figure(column)) for cell, column in zip(blank, columns, strict=True)]
    if not publisher:
        cells = [_difference(cell) for cell in cells]
    provenance = _provenance(row, chosen, *match) if match else None
    missing = any(cell.reason == reader.command for cell in cells)
    return FilledRow(chosen.label, row.model, chosen.overrides, cells, provenance, missing)


def _published(table: PaperTable, row: Row, place: int) -> Cell:
    """The paper's part of a cell; a column of the publisher's has none."""
    if place >= len(table.columns):
        return Cell(unpublished=OWN)
    value = row.published[place]
    return Cell(value, None if value is not None else table.unpublished)


def _match(
    row: Row, columns: Sequence[Column], wanted: Mapping[str, Any], found: Sequence[Experiment]
) -> tuple[Experiment, list[Entry]] | None:
    """The experiment that measured a row's model with these params, and made its pairs and what other files columns want.

    Of several, the one whose params asked most benchmarks, then the first.
    """
    files = dict.fromkeys(column.file for column in columns if column.file)
    paths = [f"reports/metrics/{row.model}.json", *([f"data/pairs/{row.pairs}"] if row.pairs else []), *files]
    matches = []
    for experiment in found:
        try:
            chains = [experiment.upstream(path) for path in paths]
            if all(first_difference(chain, wanted) is None for chain in chains):
                asked = {key.partition("/")[0] for key in json.loads(experiment.read(paths[0]))}
                matches.append((len(asked & set(wanted["evaluate"]["benchmarks"])), experiment, chains[0]))
        except NotMeasured:
            continue
    if not matches:
        return None
    _, experiment, chain = max(matches, key=lambda match: match[0])
    return experiment, chain


def _provenance(row: Row, chosen: Plan, experiment: Experiment, chain: list[Entry]) -> Provenance:
    text = json.dumps(recorded_params(chain), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    changed = changed_code(chain, experiment.root)
    commits = experiment.revision, experiment.baseline
    return Provenance(experiment.name, str(row.model), *commits, digest, chosen.overrides, data_hash(chain), changed)


def _difference(cell: Cell) -> Cell:
    if cell.value is None or cell.published is None:
        return cell
    return replace(cell, difference=cell.value - cell.published)


def _with_gains(table: PaperTable, columns: Sequence[Column], rows: list[FilledRow]) -> list[FilledRow]:
    """Each row's gains over the first row of its policy that is a model of ours, for columns of metrics."""
    policies = [row.policy or next(iter(table.policies)) for row in table.rows]
    first: dict[str, FilledRow] = {}
    for policy, row in zip(policies, rows, strict=True):
        if row.model is not None:
            first.setdefault(policy, row)
    return [
        row
        if row.model is None or first[policy] is row
        else replace(
            row,
            cells=[
                _gain(cell, base) if _gains(column) else cell
                for cell, base, column in zip(row.cells, first[policy].cells, columns, strict=True)
            ],
        )
        for policy, row in zip(policies, rows, strict=True)
    ]


def _gains(column: Column) -> bool:
    """Whether a column's figures can be set against the first row's: those of models that are no comparison with it themselves."""
    of_model = column.metric or column.mean or (column.at and "{model}" in column.at)
    return bool(of_model) and not (column.metric or "").endswith("_vs_base")


def _gain(cell: Cell, base: Cell) -> Cell:
    return replace(cell, gain=_gap(cell.value, base.value), published_gain=_gap(cell.published, base.published))


def _gap(mine: float | None, other: float | None) -> float | None:
    return None if mine is None or other is None else mine - other
