"""docs/performance.md from reports/bench.json, reports/scaling.json and benchmarks/notes.md: `make bench-docs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.scaling import FILE as SCALING
from benchmarks.scaling import PICTURE, SWEEPS, exponent
from lookagain.errors import UserError
from lookagain.records import atomic_write

BENCH, NOTES, PAGE = Path("reports/bench.json"), Path(__file__).with_name("notes.md"), Path("docs/performance.md")
HEAD = """# Performance

Written by `make bench-docs` from `reports/bench.json` (`make bench`) and `reports/scaling.json` (`python -m benchmarks.scaling`).

Both sides of a row run in one process, in turn, on the same model and data; their outputs are compared first: the same texts, and
losses and scores that agree but for rounding. Figures are medians of the rounds' rates. The limit is the time that a large fp32
multiplication needs for the FLOPs that the row takes at the least; `of the limit` is how near our rate comes to it. The goal is a
ratio that was set before.
"""


class PageError(UserError):
    """Figures are missing; the message says how to make them."""


def main() -> None:
    """Write the page. Raises PageError without figures."""
    if not BENCH.is_file():
        raise PageError(f"{BENCH} is missing: run `make bench` first")
    scaling = json.loads(SCALING.read_text()) if SCALING.is_file() else None
    with atomic_write(PAGE) as file:
        file.write(page(json.loads(BENCH.read_text()), scaling, NOTES.read_text()))


def page(rows: list[dict[str, Any]], scaling: dict[str, list[dict[str, float]]] | None, notes: str) -> str:
    """The whole page as Markdown."""
    parts = [HEAD, table(rows), *floors(rows), f"\n{notes}"]
    if scaling:
        parts += ["\n## How cost grows\n", growth(scaling)]
    return "\n".join(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table, with the ratio that was set as the goal."""
    lines = [
        "| path | the peer's way | unit | peer | ours | ratio | goal | of the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = "-" if row["floor_ratio"] is None else f"{row['floor_ratio']:.0%}"
        ratio = f"{row['ratio']:.1f}x" if row["ratio"] >= row["at_least"] else f"**{row['ratio']:.1f}x: missed**"
        peer, ours = (f"{rate:.4g}" if rate < 1000 else f"{rate:.0f}" for rate in (row["peer"], row["ours"]))
        rates = f"{peer} | {ours} | {ratio} | {row['at_least']:g}x"
        lines.append(f"| {row['path']} | {row['peer_way']} | {row['unit']} | {rates} | {limit} |")
    return "\n".join(lines) + "\n"


def floors(rows: list[dict[str, Any]]) -> list[str]:
    """The limits' formulae and the machines, each with the rows it stands for."""
    parts = []
    for title, key in (("Limits", "floor"), ("Measured on", "machine")):
        said: dict[str, list[str]] = {}
        for row in rows:
            said.setdefault(row[key], []).append(row["path"])
        if len(said) == 1:
            parts.append(f"{title}: {next(iter(said))}.\n")
        else:
            parts.append(f"{title}:\n\n" + "".join(f"- {text} ({'; '.join(paths)})\n" for text, paths in said.items()))
    return parts


def growth(scaling: dict[str, list[dict[str, float]]]) -> str:
    """The sweeps as a table under their picture; p of cost ~ size^p is 1 where cost is linear."""
    lines = [f"![time and memory by images, candidates and sentences]({PICTURE.name})\n"]
    lines += [
        "| sweep | sizes | seconds | peak memory, MB | p of seconds ~ size^p | p of memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in scaling.items():
        columns = [", ".join(f"{point[key]:.3g}" if key == "seconds" else f"{point[key]:.0f}" for point in points)
                   for key in ("size", "seconds", "mb")]  # fmt: skip
        grows = f"{exponent(points, 'seconds'):.2f} | {exponent(points, 'mb'):.2f}"
        lines.append(f"| {SWEEPS[name]} | {' | '.join(columns)} | {grows} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except PageError as error:
        raise SystemExit(f"error: {error}") from error
