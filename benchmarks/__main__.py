"""Speed against the peers' ways, side by side: `make bench`.

Both sides of a row run in this process on the same model and data, in turn; their outputs are compared before any figure is
printed. Needs what `dvc repro` leaves: models/base, models/scorer, data/sample, data/pairs/stic and data/instruct. Writes
reports/bench.json, a list of timing.Row; `make bench-docs` makes docs/performance.md from it.

    python -m benchmarks                         all rows, about a quarter of an hour
    python -m benchmarks --rows dpo search       some; the others stay in the file as they were
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

FILE = Path("reports/bench.json")


def main(names: list[str]) -> None:
    """Run rows, print a table, write reports/bench.json."""
    from benchmarks import epochs, paths
    from benchmarks.bench import Bench
    from benchmarks.timing import Row, as_json, peak_flops
    from lookagain.params import load_params
    from lookagain.records import atomic_write

    ways: dict[str, Callable[[Bench], Row]] = {
        "generate-one": paths.generate_one,
        "generate-64": paths.generate_64,
        "search": paths.search_csr,
        "dpo": epochs.dpo,
        "dpo-held": epochs.dpo_held,
        "sft": epochs.sft,
        "sft-held": epochs.sft_held,
        "pope-one": paths.questions_one,
        "pope-64": paths.questions_64,
        "clip": paths.clip,
    }
    if unknown := sorted(set(names) - ways.keys()):
        raise SystemExit(f"no such row: {', '.join(unknown)}; rows: {', '.join(ways)}")
    bench = Bench(load_params(), peak_flops())
    table = Table(title=f"Speed in turn; a large multiplication runs at {bench.peak / 1e9:.0f} GFLOP/s")
    for column in ("path", "peer", "ours", "unit", "ratio", "goal", "of the limit"):
        table.add_column(column)
    earlier = {row["path"]: row for row in json.loads(FILE.read_text())} if FILE.is_file() else {}
    rows: dict[str, Row] = {}
    for name in names or ways:
        row = ways[name](bench)
        rows[row.path] = row
        print(f"{row.path}: {row.ratio:.1f}x", file=sys.stderr)
        limit = "-" if row.floor_ratio is None else f"{row.floor_ratio:.0%}"
        rates = f"{row.peer:.1f}", f"{row.ours:.1f}", row.unit
        table.add_row(row.path, *rates, f"{row.ratio:.1f}x", f"{row.at_least:g}x", limit)
    kept = [row for path, row in earlier.items() if path not in rows] if names else []
    with atomic_write(FILE) as file:
        json.dump(kept + as_json(list(rows.values())), file, indent=1)
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks")
    parser.add_argument("--rows", nargs="*", default=[], help="some rows alone; the others stay in reports/bench.json")
    main(parser.parse_args().rows)
