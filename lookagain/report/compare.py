"""Two models side by side: every figure on which models are tested, its difference, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lookagain import stats
from lookagain.records import Metric
from lookagain.report.tables import p_against_base

WIDTH = 94  # characters that the table takes, on narrower terminals too
VERSUS = "_vs_base"  # how a comparison's keys end: the second model takes the base's place


@dataclass(frozen=True)
class Difference:
    """A figure of the first model, and what it has over the second; p-values paired, and corrected (Holm) over all figures."""

    key: str
    first: Metric
    gap: Metric
    p: float
    p_holm: float


def differences(metrics: Mapping[str, Metric]) -> list[Difference]:
    """All comparisons in the metrics of one model that was scored against another."""
    known = dict(metrics)
    keys = [key.removesuffix(VERSUS) for key in known if key.endswith(VERSUS) and key.removesuffix(VERSUS) in known]
    tested = [(key, p) for key in keys if (p := p_against_base(known, key)) is not None]
    corrected = stats.holm([p for _, p in tested])
    return [Difference(key, known[key], known[key + VERSUS], p, holm) for (key, p), holm in zip(tested, corrected, strict=True)]


def show(rows: list[Difference], first: str, second: str, console: Console | None = None) -> None:
    """Print the differences; what is significant after correction is bold."""
    table = Table(title=f"{first} against {second}, on the same images", title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in (first, second, "gap", "95% interval", "p", "p (Holm)"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        value, gap = row.first.value or 0.0, row.gap.value or 0.0
        interval = f"{row.gap.low or 0.0:+.1f}, {row.gap.high or 0.0:+.1f}"
        style = "bold" if row.p_holm < 0.05 else ""
        figures = f"{value:.1f}", f"{value - gap:.1f}", f"{gap:+.1f}", interval, f"{row.p:.2g}", f"{row.p_holm:.2g}"
        table.add_row(row.key, *figures, style=style)
    (console or Console(width=max(Console().width, WIDTH))).print(table)
