"""Speed against the peers' ways, side by side: `make bench`.

Both sides of a row run in this process on the same model and data, in turn; their outputs are compared before any figure is
printed. Needs what `dvc repro` leaves: models/base, models/reward, data/sample, data/pairs/stic and data/instruct. Writes
reports/bench.json, a list of timing.Row; `make bench-docs` makes docs/performance.md from it.

    python -m benchmarks                         all rows, about a quarter of an hour
    python -m benchmarks --rows dpo search       some; the others stay in the file as they were
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lookagain.launch import LAUNCHED
from lookagain.processes import environment

FILE = Path("reports/bench.json")


def main(names: list[str]) -> None:
    """Run rows, print a table, write reports/bench.json."""
    from benchmarks import base, epochs, paths
    from benchmarks.bench import Bench
    from benchmarks.timing import Row, as_json, peak_flops
    from lookagain.params import load_params
    from lookagain.records import atomic_write

    ways: dict[str, Callable[[Bench], Row]] = {
        "generate-one": paths.generate_one,
        "generate-64": paths.generate_64,
        "batch-1": paths.batch_1,
        "search": paths.search_csr,
        "search-prefill": paths.search_prefill,
        "dpo": epochs.dpo,
        "dpo-held": epochs.dpo_held,
        "sft": epochs.sft,
        "sft-held": epochs.sft_held,
        "pope-one": paths.questions_one,
        "pope-64": paths.questions_64,
        "pope-prefill": paths.questions_prefill,
        "clip": paths.clip,
        "base": base.passes,
        "base-muon": base.updates,
        "base-sums": base.exchange,
    }
    if unknown := sorted(set(names) - ways.keys()):
        raise SystemExit(f"no such row: {', '.join(unknown)}; rows: {', '.join(ways)}")
    gc.freeze()  # as stages do: what was imported stays, and need not be looked through again
    bench = Bench(load_params(), peak_flops())
    if bench.params.policy.source != "world":
        ways = {name: way for name, way in ways.items() if not name.startswith("base")}
        if asked := sorted(set(names) - ways.keys()):
            raise SystemExit(f"{', '.join(asked)}: about how the small world's base is trained: policy.source must be world")
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
    chosen = parser.parse_args()
    if LAUNCHED not in os.environ:  # with the settings that stages run under, which are read when a process starts
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], environment({}) | {LAUNCHED: "1"})
    main(chosen.rows)
    sys.stdout.flush()
    os._exit(0)  # libraries complain of each other when the interpreter is taken apart
