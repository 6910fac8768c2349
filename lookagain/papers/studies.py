"""Studies: a fixed list of experiments over several published bases, and the published effects that they are to test.

studies/<name>.yaml holds checkpoints by split, seeds, runs (sets of dotted overrides of params.yaml), rows (a model of a run),
figures and effects. The last split decides; on the others settings are tuned, for which one base may do. It unfolds into one table
with a row for each row, checkpoint, seed and split, so that what is measured is found, and what is missing is run, as for the
papers' tables. A checkpoint is a base with its scorer, a seed draws samples, pairs, order and decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lookagain.cards import publication_of
from lookagain.papers.cells import Cell, Filled, FilledRow
from lookagain.papers.gaps import Gap, difference
from lookagain.papers.tables import LOADER, Column, PaperTable, Part, Row, Source, TableError, metric_keys
from lookagain.params import read_raw
from lookagain.records import RecordError, from_dict

FOLDER = "studies"
CONTROL = "base, cut"  # what an effect's `than` may be beside a row: the base's descriptions cut to the model's own length
VS_BASE, VS_CONTROL = "_vs_base", "_vs_truncated_base"


class Unit(NamedTuple):
    """What every run is repeated on."""

    checkpoint: str
    seed: int

    def __str__(self) -> str:
        return f"{self.checkpoint}, seed {self.seed}"


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
    checkpoints: dict[str, list[str]]  # by split, of which the last one decides
    seeds: list[int]  # of each checkpoint
    runs: dict[str, Any]  # name -> dotted overrides
    rows: list[StudyRow]
    blocks: list[Block]
    effects: list[Effect]
    notes: list[str]

    @property
    def splits(self) -> list[str]:
        """Where there are figures; the last one decides."""
        return list(self.checkpoints)

    @property
    def measured(self) -> list[tuple[Unit, str]]:
        """(checkpoint and seed, split) of all that is measured."""
        return [(unit, split) for split in self.splits for unit in self.units(split)]

    def units(self, split: str) -> list[Unit]:
        """Checkpoints and seeds of a split."""
        return [Unit(checkpoint, seed) for checkpoint in self.checkpoints[split] for seed in self.seeds]

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
    lists: dict[str, list] = {"rows": labels, "figures": titles, "seeds": study.seeds}
    lists |= {f"checkpoints of {split}": own for split, own in study.checkpoints.items()}
    for kind, given in lists.items():
        if len(set(given)) != len(given) or not given:
            yield f"{kind} must be one or more, each once"
    if not study.checkpoints:
        yield "checkpoints must be by split, as test: [world-1, world-2, world-3]"
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
    """The study as one table under the params `raw`: each row at each unit and split, each figure also as compared with the base.

    Raises TableError if the base that these params name is not one that `publish` picks.
    """
    picked = publication_of(raw["policy"]["checkpoint"], raw["publish"])
    if picked is None:
        raise TableError(
            f"study {study.name} varies the checkpoint that publish names, and policy.checkpoint = {raw['policy']['checkpoint']} "
            "is none of publish: `lookagain use tiny`"
        )
    columns = [one for column in study.columns for one in (column, against(column, VS_BASE), against(column, VS_CONTROL))]
    rows = [
        Row(
            label_of(row.label, unit, split),
            row.model,
            [None] * len(columns),
            {
                f"publish.{picked}.checkpoint": unit.checkpoint,
                "seed": unit.seed,
                "evaluate.split": split,
                **study.runs[row.run],
            },
        )
        for unit, split in study.measured
        for row in study.rows
    ]
    return PaperTable(
        study.name, study.title, Source("", ""), "table", {picked: raw["policy"]["checkpoint"]}, columns, rows, [], []
    )


def preset_of(raw: Mapping[str, Any], folder: Path | str = "presets") -> str | None:
    """The preset that params are, `runtime` aside, which changes no result; None if they are none."""

    def results(params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in params.items() if key != "runtime"}

    return next((path.stem for path in sorted(Path(folder).glob("*.yaml")) if results(read_raw(path)) == results(raw)), None)


def label_of(label: str, unit: Unit, split: str) -> str:
    """A row's label in the unfolded table."""
    return f"{label} ({unit}, {split})"


def against(column: Column, other: str) -> Column:
    """The column of a figure's paired difference from another model, as metrics files have it; from_100 turns its sign."""

    def turned(part: Part) -> Part:
        return Part(f"{part.metric}{other}", divide=-part.divide if part.from_100 else part.divide)

    named = f"{column.metric}{other}" if column.metric else None
    mean = [turned(part) for part in column.mean] if column.mean else None
    return replace(column, title=f"{column.title}{other}", metric=named, mean=mean)


class Figures:
    """The figures of a study by row, unit and split."""

    def __init__(self, study: Study, filled: Filled):
        self.study = study
        self._places = {column.title: place for place, column in enumerate(filled.columns)}
        self._rows = {row.label: row for row in filled.rows}
        # Figures that are differences from the base already: the base has none.
        keys = {column.title: metric_keys(column) for column in study.columns}
        self._comparisons = {title for title, used in keys.items() if any(key.endswith((VS_BASE, VS_CONTROL)) for key in used)}

    def row(self, label: str, unit: Unit, split: str) -> FilledRow:
        """A filled row."""
        return self._rows[label_of(label, unit, split)]

    def cell(self, label: str, unit: Unit, split: str, title: str) -> Cell:
        """One figure of a row."""
        return self.row(label, unit, split).cells[self._places[title]]

    def values(self, label: str, split: str, title: str) -> list[float]:
        """A row's figure in each run that measured it."""
        cells = [self.cell(label, unit, split, title) for unit in self.study.units(split)]
        return [cell.value for cell in cells if cell.value is not None]

    def gap(self, label: str, other: str, split: str, title: str) -> Gap | None:
        """What a row has over another (or over `CONTROL`) in a figure; None if no unit measured both."""
        gaps = {unit: self._gap_at(unit, label, other, split, title) for unit in self.study.units(split)}
        known = [(*gap, unit.checkpoint) for unit, gap in gaps.items() if gap is not None]
        return difference(*zip(*known, strict=True)) if known else None

    def _gap_at(self, unit: Unit, label: str, other: str, split: str, title: str) -> tuple[float, float | None] | None:
        """The difference in one run and its error over images.

        The error is paired where metrics files have it so: against the base, or the base cut. Of two other models it is that of
        their two differences from the base, as if these were independent; they share the base, so that it is rather too large.
        """
        if other == CONTROL:
            cell = self.cell(label, unit, split, f"{title}{VS_CONTROL}")
            return None if cell.value is None else (cell.value, cell.se)
        mine, theirs = (self.cell(one, unit, split, title) for one in (label, other))
        if title in self._comparisons and other == self.study.rows[0].label:
            return None if mine.value is None else (mine.value, mine.se)
        if mine.value is None or theirs.value is None:
            return None
        errors = [self._error(one, unit, split, title) for one in (label, other) if one != self.study.rows[0].label]
        if any(error is None for error in errors):
            errors = [mine.se, theirs.se]
        known = [error for error in errors if error is not None]
        return mine.value - theirs.value, sum(error**2 for error in known) ** 0.5 if len(known) == len(errors) else None

    def _error(self, label: str, unit: Unit, split: str, title: str) -> float | None:
        return self.cell(label, unit, split, f"{title}{VS_BASE}").se
