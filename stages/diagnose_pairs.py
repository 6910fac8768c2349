"""Figures of preference pairs: counts, lengths, CHAIR_I, relevance and log-probs of both sides, reward margin after training.

Run:    python -m lookagain.launch diagnose_pairs METHOD MODEL, or `diagnose_pairs csr T` for all iterations up to T
Reads:  data/pairs/, models/MODEL/*.json, data/pool_truth/ (the objects of the unlabeled images, where the pool has annotations)
Writes: reports/metrics/pairs/METHOD.json, or reports/metrics/pairs_csr/csr-1.json to csr-T.json
"""

import json
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.diagnostics import diagnose, read_references
from lookagain.metrics import chair
from lookagain.pairs import read_pairs
from lookagain.params import load_params
from lookagain.records import write_metrics

TRUTH = Path("data/pool_truth")


def main(method: str, model: str) -> None:
    """Figures of one method, or of CSR's iterations."""
    params = load_params()
    if method == "csr":
        sets = {f"csr-{t}": f"csr-{t}" for t in range(1, int(model) + 1)}
        folder = Path("reports/metrics/pairs_csr")
    else:
        sets, folder = {method: model}, Path("reports/metrics/pairs")
    inputs = [TRUTH, *(f"data/pairs/{name}" for name in sets), *(f"models/{trained}" for trained in sets.values())]
    with (
        runtime.stage(f"diagnose_pairs@{method}", params.seed, inputs) as run,
        tracking.child(f"diagnose_pairs@{method}", {}, enabled=run.is_main) as track,
    ):
        if not run.is_main:
            return
        files = TRUTH / "instances.json", TRUTH / "captions.json"
        truth = chair.read_truth(*files) if files[0].is_file() else {}
        for step, (name, trained) in enumerate(sets.items(), 1):
            counts = json.loads(Path(f"data/pairs/{name}/counts.json").read_text())
            log = json.loads(Path(f"models/{trained}/training_log.json").read_text())
            references = read_references(f"models/{trained}")
            figures = diagnose(read_pairs(f"data/pairs/{name}"), counts, log, truth, params.seed, references)
            write_metrics(folder / f"{name}.json", figures)
            track.metrics({key: metric.value for key, metric in figures.items() if metric.value is not None}, step=step)
            print(f"{name}: {', '.join(f'{k[6:]} {m.value:g}' for k, m in figures.items() if m.value is not None)}")
