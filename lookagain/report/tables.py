"""The results table: every model by POPE and CHAIR, with errors, tests against the base and the truncation control.

One structure, four forms: terminal, Markdown, CSV and JSON (from which the terminal's table is printed again). Under each model
stands its control: the base's descriptions cut to the model's mean length, because shorter descriptions alone hallucinate less.
Nothing is estimated here but the error of the mean F1: the mean of its three errors, an upper bound as the files share images.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lookagain import stats
from lookagain.papers.render import in_parts
from lookagain.records import Metric, RecordError, atomic_write, from_dict, read_metrics

BASE = "base"
LABELS = {
    "base": "base",
    "stic-stage1": "STIC stage 1",
    "stic": "STIC",
    "stic-dar": "STIC + DaR",
    "seva": "SeVa",
    "povid": "POVID",
}
CONTROL_LABEL = "↳ base, cut"
POPE_SPLITS = ("random", "popular", "adversarial")
ARROWS = {"up": " ↑", "down": " ↓", "": ""}
LEVELS = ((0.01, "**"), (0.05, "*"))

Metrics = dict[str, Metric]


@dataclass(frozen=True)
class Column:
    """A metric as a column."""

    title: str
    key: str  # of the metric; the control's stands under <benchmark>/truncated_base
    better: str = ""  # up | down | "" where neither is
    digits: int = 1


@dataclass(frozen=True)
class Cell:
    """A figure, or null with its reason; both None where a row has no such figure by its nature."""

    value: float | None = None
    se: float | None = None
    p: float | None = None  # against the base, paired
    better: bool | None = None  # than the base
    reason: str | None = None
    low: float | None = None  # of the 95% interval
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A model's figures, or those of its control."""

    model: str
    label: str
    control: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """Columns that belong together, for all models."""

    title: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    """The results, with the notes that explain them."""

    sections: list[Section]
    notes: list[str]


MEAN_F1 = "pope/mean/f1"
POPE_COLUMNS = [
    *(Column(split, f"pope/{split}/accuracy", "up") for split in POPE_SPLITS),
    Column("mean F1", MEAN_F1, "up"),
]


def chair_columns(benchmark: str) -> list[Column]:
    """CHAIR's columns of one decoding: `chair` is greedy, `chair_sampled` is at T = 1."""
    return [
        Column("CHAIR_S", f"{benchmark}/chair_s", "down"),
        Column("CHAIR_I", f"{benchmark}/chair_i", "down"),
        Column("recall", f"{benchmark}/recall", "up"),
        Column("words", f"{benchmark}/length"),
        Column("repeats", f"{benchmark}/repeats", "down", 2),
    ]


SUBSET_COLUMNS = [
    Column("POPE accuracy", "pope/{subset}/accuracy", "up"),
    Column("CHAIR_S", "chair/{subset}/chair_s", "down"),
    Column("recall", "chair/{subset}/recall", "up"),
    Column("CHAIR_S at T=1", "chair_sampled/{subset}/chair_s", "down"),
]
MME_PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MME_COLUMNS = [
    Column("perception", "mme/all/perception", "up", 0),
    Column("cognition", "mme/all/cognition", "up", 0),
    *(Column(subtask.replace("_", " "), f"mme/{subtask}/score", "up") for subtask in MME_PERCEPTION + MME_COGNITION),
]
ACCURACY_COLUMNS = [
    Column("MMBench", "mmbench/all/accuracy", "up"),
    Column("MMBench-CN", "mmbench_cn/all/accuracy", "up"),
    Column("SEED", "seedbench/all/accuracy", "up"),
    Column("SEED, ranked", "seedbench_ranking/all/accuracy", "up"),
    Column("ScienceQA", "scienceqa/all/accuracy", "up"),
    Column("MathVista", "mathvista/all/accuracy", "up"),
    Column("GQA", "gqa/all/accuracy", "up"),
    Column("TextVQA", "textvqa/all/accuracy", "up"),
    Column("VizWiz", "vizwiz/all/accuracy", "up"),
    Column("ChartQA", "chartqa/all/accuracy", "up"),
]
PRAGMATICS_COLUMNS = [
    Column(f"{category}{title}", f"pragmatics/{category}{split}/accuracy", "up")
    for category in ("spatial", "negation", "counting", "temporal")
    for split, title in (("", ""), ("_contrastive", ", ranked"))
]
JUDGED_COLUMNS = [
    Column("LLaVA-Bench", "llava_bench/all/score", "up"),
    Column("MM-Vet", "mmvet/all/score", "up"),
    Column("SHR", "shr/all/shr", "down"),
    Column("ConTextual", "contextual/all/accuracy", "up"),
]
SECTIONS = [
    ("POPE: accuracy by split, and the mean of the three F1 scores", POPE_COLUMNS),
    ("CHAIR, greedy descriptions", chair_columns("chair")),
    ("CHAIR, descriptions sampled at T=1", chair_columns("chair_sampled")),
    ("Images of the subset {subset}", SUBSET_COLUMNS),  # of each that the benchmark's annotations name
    ("Accuracy of short answers and multiple choice", ACCURACY_COLUMNS),
    ("MME: accuracy + accuracy of both questions about an image, at most 200 a subtask", MME_COLUMNS),
    ("Pragmatics: accuracy by category, by answer and by ranking the captions", PRAGMATICS_COLUMNS),
    ("Judged by another model", JUDGED_COLUMNS),
]


def models_of(evaluated: Sequence[str], iterations: int) -> list[str]:
    """The table's models in order: the base, those that params name, CSR 1..T."""
    return [BASE, *evaluated, *(f"csr-{t}" for t in range(1, iterations + 1))]


def label(model: str) -> str:
    """A model's name as readers know it."""
    return LABELS.get(model) or (f"CSR {model[4:]}" if model.startswith("csr-") else model)


def read_all(folder: Path | str, models: Sequence[str]) -> dict[str, Metrics | None]:
    """Each model's metrics; None where there is no file. Raises RecordError if the base's is missing or a file is malformed."""
    found: dict[str, Metrics | None] = {}
    for model in models:
        path = Path(folder) / f"{model}.json"
        if not path.is_file() and model == BASE:
            raise RecordError(f"no {path}: every model is compared with the base; run `dvc repro evaluate_base`")
        try:
            found[model] = read_metrics(path) if path.is_file() else None
        except (ValueError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is no metrics file: {error}; run the model's evaluate stage again") from error
    return found


def build(metrics: Mapping[str, Metrics | None]) -> Table:
    """The results table. Columns that the base has no key of are left out."""
    base = metrics[BASE] or {}
    sections = []
    for title, possible in _sections(base):
        if columns := [column for column in possible if find(base, column.key) is not None]:
            rows = [row for model, figures in metrics.items() for row in _rows(model, figures, columns)]
            sections.append(_corrected(Section(title, columns, rows)))
    return Table(sections, _notes(sections))


def _sections(base: Metrics) -> Iterator[tuple[str, list[Column]]]:
    """Titles and columns; those of a subset for each that the base has figures of."""
    subsets = [key.split("/")[1] for key in base if re.fullmatch(r"chair/(?!truncated_base/)\w+/recall", key)]
    for title, columns in SECTIONS:
        for name in subsets if columns is SUBSET_COLUMNS else [""]:
            yield title.format(subset=name), [dataclasses.replace(one, key=one.key.format(subset=name)) for one in columns]


def _corrected(section: Section) -> Section:
    """The section with its p-values corrected for their number (Holm)."""
    tested = [
        (row, place) for row, entry in enumerate(section.rows) for place, cell in enumerate(entry.cells) if cell.p is not None
    ]
    values = stats.holm([section.rows[row].cells[place].p or 0.0 for row, place in tested])
    for (row, place), p in zip(tested, values, strict=True):
        section.rows[row].cells[place] = dataclasses.replace(section.rows[row].cells[place], p=p)
    return section


def find(metrics: Metrics, key: str) -> Metric | None:
    """A metric by key; the mean F1 is made from its three parts."""
    if key != MEAN_F1 or key in metrics:
        return metrics.get(key)
    parts = [metrics.get(f"pope/{split}/f1") for split in POPE_SPLITS]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if missing := [part for part in known if part.value is None]:
        return missing[0]
    errors = [part.se for part in known if part.se is not None]
    value = sum(part.value or 0.0 for part in known) / len(known)
    return Metric(value, sum(errors) / len(known) if len(errors) == len(known) else None, sum(part.n or 0 for part in known))


def _rows(model: str, metrics: Metrics | None, columns: Sequence[Column]) -> list[Row]:
    """A model's row, and its control's where the columns have one."""
    rows = [Row(model, label(model), False, [_cell(model, metrics, column) for column in columns])]
    controls = [_control_cell(metrics or {}, column.key) for column in columns]
    if model != BASE and any(cell != Cell() for cell in controls):
        rows.append(Row(model, CONTROL_LABEL, True, controls))
    return rows


def _cell(model: str, metrics: Metrics | None, column: Column) -> Cell:
    if metrics is None:
        return Cell(reason=f"{label(model)} is not evaluated: there is no reports/metrics/{model}.json")
    metric = find(metrics, column.key)
    if metric is None:
        return Cell(reason=f"reports/metrics/{model}.json has no {column.key}")
    if metric.value is None:
        return Cell(reason=metric.reason)
    gap, p = metrics.get(f"{column.key}_vs_base"), p_against_base(metrics, column.key)
    better = None
    if gap and gap.value and column.better:
        better = (gap.value > 0) == (column.better == "up")
    return Cell(metric.value, metric.se, p, better, low=metric.low, high=metric.high)


def p_against_base(metrics: Metrics, key: str) -> float | None:
    """The paired p-value of a metric against the base's; an accuracy mostly has McNemar's, under `p_vs_base`."""
    exact = metrics.get(f"{key.rpartition('/')[0]}/p_vs_base") if key.endswith("/accuracy") else None
    metric = exact or metrics.get(f"{key}_p_vs_base")
    return metric.value if metric else None


def control_key(key: str) -> str:
    """The truncation control's key of a CHAIR metric's."""
    prefix, _, name = key.rpartition("/")
    return f"{prefix}/truncated_base/{name}"


def _control_cell(metrics: Metrics, key: str) -> Cell:
    metric = metrics.get(control_key(key))
    return Cell(metric.value, metric.se, reason=metric.reason, low=metric.low, high=metric.high) if metric else Cell()


def _notes(sections: Sequence[Section]) -> list[str]:
    """What the marks mean, then one note for each reason of a missing figure."""
    notes = [
        "Percent, but words and repeats (mentions beyond the first of each object) per description; ± one standard error, "
        "bootstrapped over images (mean F1: the mean of its three errors, an upper bound); 95% intervals are in results.csv.",
        "* p < 0.05, ** p < 0.01 against the base on the same images (McNemar for accuracy, else paired bootstrap), "
        "corrected for the number of comparisons in each table (Holm).",
        f"{CONTROL_LABEL}: the base's descriptions cut to the mean length of the model above it.",
    ]
    return notes + [f"n/a [{number}]: {reason}" for number, reason in enumerate(reasons(sections), 1)]


def reasons(sections: Sequence[Section]) -> list[str]:
    """The distinct reasons of missing figures, in order of appearance."""
    cells = [cell for section in sections for row in section.rows for cell in row.cells]
    return list(dict.fromkeys(cell.reason for cell in cells if cell.reason))


def figure(cell: Cell, column: Column, reasons: Sequence[str]) -> str:
    """A cell as text: "43.2 ± 1.6**", "n/a [1]", or nothing."""
    if cell.value is None:
        return f"n/a [{reasons.index(cell.reason) + 1}]" if cell.reason else ""
    error = f" ± {cell.se:.{column.digits}f}" if cell.se is not None else ""
    return f"{cell.value:.{column.digits}f}{error}{mark(cell)}"


def mark(cell: Cell) -> str:
    """The significance mark of a difference from the base."""
    return next((sign for level, sign in LEVELS if cell.p is not None and cell.p < level), "")


def write(table: Table, folder: Path | str) -> None:
    """Write results.md, results.csv and results.json."""
    folder = Path(folder)
    for name, text in (("results.md", to_markdown(table)), ("results.json", to_json(table))):
        with atomic_write(folder / name) as file:
            file.write(text)
    with atomic_write(folder / "results.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["section", "model", "row", "metric", "value", "se", "low", "high", "p_vs_base", "reason"])
        for section in table.sections:
            for row in section.rows:
                for column, cell in zip(section.columns, row.cells, strict=True):
                    if cell != Cell():
                        key = control_key(column.key) if row.control else column.key
                        kind = "control" if row.control else "model"
                        writer.writerow(
                            [section.title, row.model, kind, key, cell.value, cell.se, cell.low, cell.high, cell.p, cell.reason]
                        )


def to_markdown(table: Table) -> str:
    """The table as Markdown, a heading for each section."""
    known = reasons(table.sections)
    lines = ["# Results", ""]
    for section in table.sections:
        head = [column.title + ARROWS[column.better] for column in section.columns]
        lines += [f"## {section.title}", "", _markdown_row(["model", *head]), "|:--" + "|--:" * len(head) + "|"]
        for row in section.rows:
            cells = [
                figure(cell, column, known).replace("*", "\\*") for cell, column in zip(row.cells, section.columns, strict=True)
            ]
            lines.append(_markdown_row([f"*{row.label}*" if row.control else f"**{row.label}**", *cells]))
        lines.append("")
    notes = [note.replace("*", "\\*") for note in table.notes]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("_", "\\_") for cell in cells) + " |"


def to_json(table: Table) -> str:
    """The table as JSON, read back by `from_json`."""
    return json.dumps(dataclasses.asdict(table), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Table:
    """A table from its JSON form. Raises RecordError if it does not match."""
    return from_dict(Table, json.loads(text))


def print_results(path: Path | str = "reports/tables/results.json", console: Console | None = None) -> None:
    """Print the last table in the terminal, without making it again. Raises RecordError if there is none."""
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"no {path}: run `dvc repro` first")
    try:
        table = from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} is no results table: {error}; run `dvc repro report`") from error
    print_table(table, console)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print the table in the terminal; green is significantly better than the base, red significantly worse."""
    console = console or Console()
    known = reasons(table.sections)
    for section in table.sections:
        console.print(Text(section.title, style="bold"))
        rows = [
            [figure(cell, column, known) for cell, column in zip(row.cells, section.columns, strict=True)]
            for row in section.rows
        ]
        widths = [max((len(texts[place]) for texts in rows), default=0) for place in range(len(section.columns))]
        for part in in_parts(widths, console.width - max((len(row.label) for row in section.rows), default=0)):
            console.print(_view(section, rows, part, widths))
            console.print()
    for note in table.notes:
        console.print(Text(note, style="dim"))


def _view(section: Section, texts: Sequence[Sequence[str]], part: Sequence[int], widths: Sequence[int]) -> RichTable:
    """Some columns of a section for the terminal: where it is narrow heads wrap, and figures do not."""
    view = RichTable(box=None, pad_edge=False)
    view.add_column("", no_wrap=True)
    for place in part:
        column = section.columns[place]
        view.add_column(column.title + ARROWS[column.better], justify="right", min_width=widths[place])
    for row, figures in zip(section.rows, texts, strict=True):
        cells = [Text(figures[place], style=_colour(row.cells[place])) for place in part]
        view.add_row(Text(row.label), *cells, style="dim" if row.control else "")
    return view


def _colour(cell: Cell) -> str:
    if not mark(cell) or cell.better is None:
        return ""
    return "green" if cell.better else "red"
