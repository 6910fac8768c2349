"""A filled table as a figure, PNG and SVG: a panel for each column, a line for each row, the paper's numbers hollow, ours filled.

Style and colours are those of the report's figures: told apart with any colour vision, by shape too, the same bytes for the same
numbers. Bars are 95% intervals, or a standard error to each side where a figure has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lookagain.cards import publisher_of
from lookagain.papers import render
from lookagain.papers.cells import Cell, Filled, fill
from lookagain.papers.experiments import Experiment
from lookagain.papers.render import head, title
from lookagain.papers.tables import names, read
from lookagain.report.style import BLUE, STYLE, VERMILION, save

ACROSS = 4  # panels side by side
WIDTH = 96  # characters of the title


def write(filled: Filled, folder: Path | str) -> bool:
    """Write <name>.png and <name>.svg; False, and nothing written, where no number was measured."""
    if not filled.measured:
        return False
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        save(draw(filled), folder / filled.table.name)
    return True


def write_all(raw: Mapping[str, Any], found: Sequence[Experiment], into: Path | str, drawn: Path | str) -> list[Filled]:
    """Fill all tables; write those in which something was measured into one folder, and the figures among them into another."""
    publisher = publisher_of(raw)
    filled = [fill(read(name), raw, found, publisher) for name in names()]
    for one in filled:
        if one.measured:
            render.write(one, into)
            if one.table.kind == "figure":
                write(one, drawn)
    return filled


def draw(filled: Filled) -> Figure:
    """The columns that have a number of ours; if none has, of the paper's."""
    places = [place for place in range(len(filled.columns)) if any(row.cells[place].value is not None for row in filled.rows)]
    across = min(ACROSS, len(places))
    down = -(-len(places) // across)
    rows = [row for row in filled.rows if any(_known(row.cells[place]) for place in places)]
    size = (2.2 + 2.6 * across, 1.4 + down * (0.9 + 0.3 * len(rows)))
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for axis, place in zip(panels, places, strict=False):
        axis.set_title(head(filled, filled.columns[place]))
        _panel(axis, [row.cells[place] for row in rows], filled.publisher or "ours")
        axis.margins(x=0.12)
    for axis in panels[len(places) :]:
        axis.set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = {name: handle for axis in panels for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    figure.suptitle(title(filled)[:WIDTH], x=0.01, ha="left", fontsize=11)
    return figure


def _known(cell: Cell) -> bool:
    return cell.value is not None or cell.published is not None


def _panel(axis: Axes, cells: Sequence[Cell], ours: str) -> None:
    """One column: the paper's numbers and ours, a row each; the first row is on top."""
    printed = [(cell.published, place) for place, cell in enumerate(cells) if cell.published is not None]
    if printed:
        values, places = zip(*printed, strict=True)
        axis.plot(values, places, "D", color=VERMILION, markerfacecolor="none", markersize=6, label="paper")
    measured = [(cell, place) for place, cell in enumerate(cells) if cell.value is not None]
    if measured:
        values = tuple(cell.value or 0.0 for cell, _ in measured)
        errors = [[_reach(cell, side) for cell, _ in measured] for side in ("low", "high")]
        places = tuple(place for _, place in measured)
        axis.errorbar(values, places, xerr=errors, fmt="o", color=BLUE, markersize=6, capsize=2.5, label=ours)


def _reach(cell: Cell, side: str) -> float:
    """How far a bar reaches from the value."""
    end = cell.low if side == "low" else cell.high
    return max(0.0, abs(end - (cell.value or 0.0))) if end is not None else cell.se or 0.0
