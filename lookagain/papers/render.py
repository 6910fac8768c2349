"""A filled table as text: terminal, Markdown, CSV and LaTeX (booktabs).

Every row has up to four lines: the paper's numbers, ours (`ours`, or the name of a small base's publisher, whose benchmarks are its
own), the 95% interval, and the difference (at scale) or the gains of ours and the paper's. Numbers are traced in notes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lookagain.papers.cells import OWN, Cell, Filled, FilledRow
from lookagain.papers.tables import Column, column_of
from lookagain.records import atomic_write

ARROWS = {"up": " ↑", "down": " ↓", None: ""}
LABEL_WIDTH = 26  # characters of a row's label in the terminal
QUIET = ("paper", "95%")  # kinds of lines that are printed dim
FORMATS = {"markdown": "md", "csv": "csv", "latex": "tex"}  # and the ending of their files
SMALL_NOTE = (
    "Lines `{publisher}` are figures of a small base on its publisher's own benchmarks of the same kind, not on the "
    "published ones; `gain` is what a row has over the first row of its policy: ours (the paper's)."
)
SCALE_NOTE = (
    "`difference` is ours less the paper's; `±` is one standard error, bootstrapped over images, and `95%` its interval."
)


@dataclass(frozen=True)
class Line:
    """One printed line of a row."""

    label: str  # of the row, empty but on its first line
    kind: str  # paper | ours, or the publisher | 95% | difference | gain
    texts: list[str]


def lines(filled: Filled, places: Sequence[int] | None = None) -> list[Line]:
    """The lines of a table, or of some of its columns; a line that says nothing is left out, but for each row's first."""
    places = range(len(filled.columns)) if places is None else places
    known, marks = filled.reasons, provenance_marks(filled)
    made = []
    for row in filled.rows:
        pairs = [(row.cells[place], filled.columns[place]) for place in places]
        kinds = {
            "paper": [_paper(cell, column) for cell, column in pairs],
            filled.publisher or "ours": [_ours(cell, column, known) for cell, column in pairs],
            "95%": [_interval(cell, column) for cell, column in pairs],
            "difference": [_signed(cell.difference, column) for cell, column in pairs],
            "gain": [_gains(cell, column) if filled.publisher else "" for cell, column in pairs],
        }
        said = {kind: texts for kind, texts in kinds.items() if set(texts) - {"", "–"}} or {"paper": kinds["paper"]}
        label = f"{row.label} [{marks[row.label]}]" if row.label in marks else row.label
        made += [Line("" if place else label, kind, texts) for place, (kind, texts) in enumerate(said.items())]
    return made


def provenance_marks(filled: Filled) -> dict[str, str]:
    """A letter for each distinct source of numbers, by row label."""
    sources = list(dict.fromkeys(str(row.provenance) for row in filled.rows if row.provenance))
    letters = {source: _letter(place) for place, source in enumerate(sources)}
    return {row.label: letters[str(row.provenance)] for row in filled.rows if row.provenance}


def _letter(place: int) -> str:
    return chr(ord("a") + place % 26) * (place // 26 + 1)


def notes(filled: Filled) -> list[str]:
    """The table's notes, then why numbers are missing, then where ours come from."""
    table = filled.table
    reading = SMALL_NOTE.format(publisher=filled.publisher) if filled.publisher else SCALE_NOTE
    means = [f"{column.title}: {column.small}" for column in filled.columns if column.small and filled.publisher]
    missing = [f"n/a [{number}]: {reason}" for number, reason in enumerate(filled.reasons, 1)]
    absent = any(cell.published is None and cell.unpublished != OWN for row in filled.rows for cell in row.cells)
    dash = [f"–: {table.unpublished}"] if absent else []
    marks = provenance_marks(filled)
    sources = {marks[row.label]: str(row.provenance) for row in filled.rows if row.provenance}
    return [*table.notes, reading, *means, *dash, *missing, *(f"[{mark}] {source}" for mark, source in sources.items())]


def title(filled: Filled) -> str:
    """ "CSR, Table 9: ..." """
    source = filled.table.source
    return f"{source.paper}, {source.place}: {filled.table.title}"


def measured_rows(filled: Filled) -> int:
    """How many rows of a model of ours hold a number that was measured."""
    rows = [row for row in filled.rows if row.model is not None and row.provenance is not None]
    return sum(any(cell.value is not None for cell in row.cells) for row in rows)


def head(filled: Filled, column: Column) -> str:
    """A column's title; the publisher's own columns say so."""
    own = filled.publisher and column not in filled.table.columns
    return f"{f'{filled.publisher}: ' if own else ''}{column.title}{ARROWS[column.better]}"


def _number(value: float | None, column: Column) -> str:
    if value is None:
        return ""
    written = f"{abs(value):.3g}" if column.digits > 4 else f"{abs(value):.{column.digits}f}"  # learning rates and the like
    return f"−{written}" if value < 0 and float(written) else written


def _signed(value: float | None, column: Column) -> str:
    return "" if value is None else f"{'+' if value >= 0 else '−'}{_number(abs(value), column)}"


def _paper(cell: Cell, column: Column) -> str:
    """The paper's number; a dash where it prints none, nothing where the column is the publisher's."""
    return "" if cell.unpublished == OWN else "–" if cell.published is None else _number(cell.published, column)


def _ours(cell: Cell, column: Column, known: Sequence[str]) -> str:
    if cell.value is None:
        return f"n/a [{known.index(cell.reason) + 1}]" if cell.reason else ""
    error = f" ± {_number(cell.se, column)}" if cell.se is not None else ""
    return _number(cell.value, column) + error


def _interval(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"{_number(cell.low, column)} to {_number(cell.high, column)}"


def _gains(cell: Cell, column: Column) -> str:
    if cell.gain is None:
        return ""
    paper = f" ({_signed(cell.published_gain, column)})" if cell.published_gain is not None else ""
    return _signed(cell.gain, column) + paper


def print_table(filled: Filled, console: Console | None = None) -> None:
    """Print a table in the terminal, in as many parts as its width needs."""
    console = console or Console()
    console.print(Text(title(filled), style="bold"))
    for part in _parts(filled, console.width):
        view = RichTable(box=None, pad_edge=False)
        view.add_column("", overflow="fold", max_width=LABEL_WIDTH)
        view.add_column("")
        for place in part:
            view.add_column(head(filled, filled.columns[place]), justify="right")
        for line in lines(filled, part):
            view.add_row(Text(line.label), Text(line.kind), *map(Text, line.texts), style="dim" if line.kind in QUIET else "")
        console.print(view)
        console.print()
    for note in notes(filled):
        console.print(Text(note, style="dim"))


def print_list(tables: Sequence[Filled], console: Console | None = None) -> None:
    """Print all tables by name, and how many of their rows are measured."""
    view = RichTable(box=None, pad_edge=False)
    for column in ("name", "", "", "measured"):
        view.add_column(column, justify="right" if column == "measured" else "left")
    for filled in tables:
        table, own = filled.table, [row for row in filled.rows if row.model is not None]
        done = measured_rows(filled)
        where = f"{table.source.paper} {table.source.place}"
        view.add_row(table.name, Text(where), Text(table.title), f"{done} of {len(own)}" if own else "–")
    (console or Console()).print(view)


def _parts(filled: Filled, width: int) -> list[list[int]]:
    """The columns' places in groups that fit the terminal."""
    made = lines(filled)
    room = width - min(LABEL_WIDTH, max(len(line.label) for line in made)) - max(len(line.kind) for line in made) - 2
    heads = [head(filled, column) for column in filled.columns]
    return in_parts([max(len(title), *(len(line.texts[place]) for line in made)) for place, title in enumerate(heads)], room)


def in_parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns' places in groups that fit into `room` characters, with two between columns; a wider one stands alone."""
    parts: list[list[int]] = []
    used = room + 1
    for place, width in enumerate(widths):
        if used + 2 + width > room:
            parts, used = [*parts, []], 0
        parts[-1].append(place)
        used += 2 + width
    return parts


def to_markdown(filled: Filled) -> str:
    """A table as Markdown."""
    heads = [head(filled, column) for column in filled.columns]
    rows = [_markdown_row(["", "", *heads]), "|:--|:--" + "|--:" * len(heads) + "|"]
    rows += [_markdown_row([f"**{line.label}**" if line.label else "", line.kind, *line.texts]) for line in lines(filled)]
    return "\n".join([f"# {title(filled)}", "", *rows, "", *(f"- {_escaped(note)}" for note in notes(filled)), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_")


CSV_HEAD = (
    "table row column benchmark metric published value se low high difference gain published_gain reason "
    "experiment model git_revision params_hash overrides data_hash code_changed"
).split()


TRACED = 7  # the last columns, which trace a number


def to_csv(filled: Filled) -> str:
    """A table as CSV, a line for each cell, with all that traces it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for row, written in zip(filled.rows, filled.table.rows, strict=True):
        for column, cell in zip(filled.columns, row.cells, strict=True):
            source = _source(column_of(written, column))
            own = cell.value is not None or cell.unpublished == OWN
            benchmark = filled.publisher if filled.publisher and own and column.param is None else "official"
            numbers = [
                cell.published,
                cell.value,
                cell.se,
                cell.low,
                cell.high,
                cell.difference,
                cell.gain,
                cell.published_gain,
            ]
            where = _traced(row) if cell.value is not None else [""] * TRACED
            writer.writerow([filled.table.name, row.label, column.title, benchmark, source, *numbers, cell.reason, *where])
    return buffer.getvalue()


def _source(column: Column) -> str:
    filed = ": ".join([column.file, "/".join(column.at or [])]) if column.file else ""
    return column.metric or ("mean" if column.mean else column.param or column.log or column.pairs or filed)


def _traced(row: FilledRow) -> list[str]:
    made = row.provenance
    if made is None:
        return [""] * TRACED
    overrides = " ".join(f"{key}={value}" for key, value in made.overrides.items())
    return [made.experiment, made.model, made.revision, made.params_hash, overrides, made.data_hash, " ".join(made.changed)]


LATEX = (
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {letter: f"${letter}$" for letter in "<>|"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        '"': "''",
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "λ": r"$\lambda$",
        "α": r"$\alpha$",
    }
)


def to_latex(filled: Filled) -> str:
    """A table as LaTeX: needs the package booktabs."""
    heads = " & ".join(latex(head(filled, column)) for column in filled.columns)
    made = [rf"\begin{{tabular}}{{ll{'r' * len(filled.columns)}}}", r"\toprule", rf" & & {heads} \\", r"\midrule"]
    for number, line in enumerate(lines(filled)):
        if line.label and number:
            made.append(r"\addlinespace")
        made.append(" & ".join(latex(text) for text in (line.label, line.kind, *line.texts)) + r" \\")
    made += [r"\bottomrule", r"\end{tabular}"]
    footnotes = "\n".join(rf"{{\footnotesize\noindent {latex(note)}\par}}" for note in notes(filled))
    return "\n".join([f"% {title(filled)}; needs the package booktabs", *made, "", footnotes, ""])


def latex(text: str) -> str:
    """Text with LaTeX's own characters escaped, and what stands between backticks as code."""
    plain = "".join(LATEX.get(letter, letter) for letter in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", plain)


def render(filled: Filled, form: str) -> str:
    """A table as text in one of `FORMATS`."""
    return {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}[form](filled)


def write(filled: Filled, folder: Path | str) -> None:
    """Write a table into a folder in all forms, as <name>.md, .csv and .tex."""
    for form, ending in FORMATS.items():
        with atomic_write(Path(folder) / f"{filled.table.name}.{ending}") as file:
            file.write(render(filled, form))
