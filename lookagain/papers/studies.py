"""Studies: a fixed list of experiments over several seeds, and the published effects that they are to test.

studies/<name>.yaml holds seeds by split, runs (each a set of dotted overrides of params.yaml), rows (a model of a run), figures and
effects. The last split decides; on the others settings are tuned, for which one seed may do. It unfolds into one table with a row
for each row, seed and split, so that what is measured is found, and what is missing is run, as for the papers' tables. Seeds draw
everything: the scenes, the base, the pairs, the training. A study is of the small world, where a seed can have all of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lookagain.papers.cells import Cell, Filled, FilledRow
from lookagain.papers.gaps import Gap, difference
from lookagain.papers.tables import LOADER, Column, PaperTable, Part, Row, Source, TableError, metric_keys
from lookagain.params import read_raw
from lookagain.records import RecordError, from_dict

FOLDER = "studies"
CONTROL = "base, cut"  # what an effect's `than` may be beside a row: the base's descriptions cut to the model's own length
WORLD = "the small world's"  # policy
VS_BASE, VS_CONTROL = "_vs_base", "_vs_truncated_base"


@dataclass(frozen=True)
class StudyRow:
    """A model of a run; the first row is the base."""

    label: str
    model: str
    run: str


@dataclass(frozen=True)
class Block:
    """Figures that stand in one table."""

    title: str
    columns: list[Column]


@dataclass(frozen=True)
class Step:
    """One comparison: `better` is a row's label, `than` another or `CONTROL`."""

    better: str
    than: str


@dataclass(frozen=True)
class Effect:
    """A published effect, the comparisons it consists of, and the figures it is looked for in: the first one decides."""

    says: str
    source: str
    steps: list[Step]
    figures: list[str]
    otherwise: str | None = None  # the likeliest reason, and what was tried; shown where the effect does not


@dataclass(frozen=True)
class Study:
    """A study as its file says."""

    name: str
    title: str
    seeds: dict[str, list[int]]  # by split, of which the last one decides
    runs: dict[str, Any]  # name -> dotted overrides
    rows: list[StudyRow]
    blocks: list[Block]
    effects: list[Effect]
    notes: list[str]

    @property
    def splits(self) -> list[str]:
        """Where there are figures; the last one decides."""
        return list(self.seeds)

    @property
    def measured(self) -> list[tuple[int, str]]:
        """(seed, split) of all that is measured, a seed's together."""
        seeds = dict.fromkeys(seed for own in self.seeds.values() for seed in own)
        return [(seed, split) for seed in seeds for split in self.splits if seed in self.seeds[split]]

    @property
    def columns(self) -> list[Column]:
        """All figures."""
        return [column for block in self.blocks for column in block.columns]

    def check(self) -> None:
        """Raise RecordError unless rows, runs, figures and effects fit together."""
        if problems := list(_problems(self)):
            raise RecordError("; ".join(problems))


def _problems(study: Study) -> Iterator[str]:
    labels, titles = [row.label for row in study.rows], [column.title for column in study.columns]
    lists: dict[str, list] = {"rows": labels, "figures": titles}
    lists |= {f"seeds of {split}": own for split, own in study.seeds.items()}
    for kind, given in lists.items():
        if len(set(given)) != len(given) or not given:
            yield f"{kind} must be one or more, each once"
    if not study.seeds:
        yield "seeds must be by split, as test: [0, 1, 2]"
    if study.rows and study.rows[0].model != "base":
        yield "the first row must be of the model base"
    for row in study.rows:
        if row.run not in study.runs:
            yield f"row {row.label!r} is of run {row.run!r}, which is not among {', '.join(study.runs)}"
    for column in study.columns:
        if (column.metric is None) == (column.mean is None) or column.better not in (None, "up", "down"):
            yield f"figure {column.title!r} must have one of metric, mean; better is up or down"
    directed = {column.title for column in study.columns if column.better}
    for effect in study.effects:
        named = {label for step in effect.steps for label in (step.better, step.than)} - {*labels, CONTROL}
        if named or not effect.steps:
            yield f"effect {effect.says!r} compares {', '.join(sorted(named)) or 'nothing'}; rows: {', '.join(labels)}"
        if set(effect.figures) - directed or not effect.figures:
            yield f"effect {effect.says!r} must name figures that have a better side: {', '.join(sorted(directed))}"


def names(folder: Path | str = FOLDER) -> list[str]:
    """All studies' names."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def read(name: str, folder: Path | str = FOLDER) -> Study:
    """A study by name. Raises TableError if there is none or its file is malformed."""
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(names(folder)) or "none: run from the repository's root"
        raise TableError(f"no study {name!r}; studies: {known}")
    try:
        raw = {"name": name, "notes": []} | yaml.load(path.read_text(encoding="utf-8"), LOADER)
        for block in raw["blocks"]:
            for column in block["columns"]:
                if "mean" in column:
                    column["mean"] = [{"metric": part} if isinstance(part, str) else part for part in column["mean"]]
        return from_dict(Study, raw)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecordError) as error:
        raise TableError(f"{path} is malformed: {error}") from error


def unfold(study: Study, raw: Mapping[str, Any]) -> PaperTable:
    """The study as one table under the params `raw`: each row at each seed and split, each figure also as compared with the base.

    Raises TableError if these params are not of the small world.
    """
    if raw["data"]["source"] != "world":
        raise TableError(
            f"study {study.name} is of the small world, and data.source = {raw['data']['source']}: `lookagain use tiny`"
        )
    columns = [one for column in study.columns for one in (column, against(column, VS_BASE), against(column, VS_CONTROL))]
    rows = [
        Row(
            label_of(row.label, seed, split),
            row.model,
            [None] * len(columns),
            {"seed": seed, "evaluate.split": split, **study.runs[row.run]},
        )
        for seed, split in study.measured
        for row in study.rows
    ]
    return PaperTable(study.name, study.title, Source("", ""), "table", {WORLD: WORLD}, columns, rows, [], [])


def preset_of(raw: Mapping[str, Any], folder: Path | str = "presets") -> str | None:
    """The preset that params are, `runtime` aside, which changes no result; None if they are none."""

    def results(params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in params.items() if key != "runtime"}

    return next((path.stem for path in sorted(Path(folder).glob("*.yaml")) if results(read_raw(path)) == results(raw)), None)


def label_of(label: str, seed: int, split: str) -> str:
    """A row's label in the unfolded table."""
    return f"{label} (seed {seed}, {split})"


def against(column: Column, other: str) -> Column:
    """The column of a figure's paired difference from another model, as metrics files have it; from_100 turns its sign."""

    def turned(part: Part) -> Part:
        return Part(f"{part.metric}{other}", divide=-part.divide if part.from_100 else part.divide)

    named = f"{column.metric}{other}" if column.metric else None
    mean = [turned(part) for part in column.mean] if column.mean else None
    return replace(column, title=f"{column.title}{other}", metric=named, mean=mean)


class Figures:
    """The figures of a study by row, seed and split."""

    def __init__(self, study: Study, filled: Filled):
        self.study = study
        self._places = {column.title: place for place, column in enumerate(filled.columns)}
        self._rows = {row.label: row for row in filled.rows}
        # Figures that are differences from the base already: the base has none.
        keys = {column.title: metric_keys(column) for column in study.columns}
        self._comparisons = {title for title, used in keys.items() if any(key.endswith((VS_BASE, VS_CONTROL)) for key in used)}

    def row(self, label: str, seed: int, split: str) -> FilledRow:
        """A filled row."""
        return self._rows[label_of(label, seed, split)]

    def cell(self, label: str, seed: int, split: str, title: str) -> Cell:
        """One figure of a row."""
        return self.row(label, seed, split).cells[self._places[title]]

    def values(self, label: str, split: str, title: str) -> list[float]:
        """A row's figure at each seed that measured it."""
        cells = [self.cell(label, seed, split, title) for seed in self.study.seeds[split]]
        return [cell.value for cell in cells if cell.value is not None]

    def gap(self, label: str, other: str, split: str, title: str) -> Gap | None:
        """What a row has over another (or over `CONTROL`) in a figure; None if no seed measured both."""
        found = [self._gap_at(seed, label, other, split, title) for seed in self.study.seeds[split]]
        known = [one for one in found if one is not None]
        return difference([value for value, _ in known], [error for _, error in known]) if known else None

    def _gap_at(self, seed: int, label: str, other: str, split: str, title: str) -> tuple[float, float | None] | None:
        """The difference at one seed and its error over images.

        The error is paired where metrics files have it so: against the base, or the base cut. Of two other models it is that of
        their two differences from the base, as if these were independent; they share the base, so that it is rather too large.
        """
        if other == CONTROL:
            cell = self.cell(label, seed, split, f"{title}{VS_CONTROL}")
            return None if cell.value is None else (cell.value, cell.se)
        mine, theirs = (self.cell(one, seed, split, title) for one in (label, other))
        if title in self._comparisons and other == self.study.rows[0].label:
            return None if mine.value is None else (mine.value, mine.se)
        if mine.value is None or theirs.value is None:
            return None
        errors = [self._error(one, seed, split, title) for one in (label, other) if one != self.study.rows[0].label]
        if any(error is None for error in errors):
            errors = [mine.se, theirs.se]
        known = [error for error in errors if error is not None]
        return mine.value - theirs.value, sum(error**2 for error in known) ** 0.5 if len(known) == len(errors) else None

    def _error(self, label: str, seed: int, split: str, title: str) -> float | None:
        return self.cell(label, seed, split, f"{title}{VS_BASE}").se
