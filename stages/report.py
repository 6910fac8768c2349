"""The report: tables, figures and a page from the metrics, and the experiment's row in MLflow.

Run:    python -m lookagain.launch report
Reads:  reports/metrics/, data/answers/, data/pairs/, data/benchmarks/<evaluate.split>/, data/sample/, data/attention.json,
        data/overlap.json, models/*/*.json, tables/
Writes: reports/tables/ (in papers/ the papers' tables beside this run's numbers), reports/figures/ (PNG and SVG, images.png),
        reports/index.html
"""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.papers.experiments import CACHE, workspace
from lookagain.papers.figures import write_all
from lookagain.params import flatten, load_params, read_raw
from lookagain.records import atomic_write
from lookagain.report import attention, distributions, examples, figures, page, tables

SHOWN = 2  # evaluated models whose descriptions stand between those of the base and of CSR


def main() -> None:
    """Write and print the report."""
    params = load_params()
    evaluated = params.evaluate.models
    models = tables.models_of(list(evaluated), params.csr.iterations)
    chain = [model for model in models if model.startswith("csr-")]
    policies = list(dict.fromkeys(["base", *params.methods.values(), *(entry.policy for entry in evaluated.values()), *chain]))
    sources = [*params.methods, *chain]
    with runtime.stage("report", params, ["reports/metrics"]) as run, ProcessPoolExecutor(1) as beside:
        if not run.is_main:
            return
        # Of this run alone: DVC does not know that other experiments were made since. `lookagain tables` shows those too.
        # The commit that holds its dvc.lock is known only later, and no output may depend on the one checked out.
        here = [workspace(cache=runtime.root() / CACHE, revision="")]
        papers = beside.submit(write_all, read_raw(), here, "reports/tables/papers", "reports/figures/papers")
        metrics = tables.read_all("reports/metrics", models)
        table = tables.build(metrics)
        tables.write(table, "reports/tables")
        figures.write_tradeoff(metrics, "reports/tables/tradeoff.csv")
        trained = {**params.methods, **{model: model for model in chain}}  # by the set of pairs
        scores = distributions.read_scores("data/pairs", "models", trained)
        looked, overlap = attention.read("data/attention.json"), distributions.read_overlap("data/overlap.json")
        figures.write(metrics, figures.read_logs("models", policies), scores, looked, overlap, "reports/figures")
        benchmark, seed, pixels = f"data/benchmarks/{params.evaluate.split}", params.seed, params.data.max_image_pixels
        examples.contact_sheet(f"{benchmark}/images", seed, pixels).save("reports/figures/images.png")
        lineages = page.read_lineages("models", policies)
        started_from = {lineage.get("parent") for lineage in lineages.values()}  # as STIC's first stage, which the second ends
        ends = [model for model, entry in evaluated.items() if not entry.dar and entry.policy not in started_from]
        shown = ["base", *ends[-SHOWN:], chain[-1]]
        files = [f"data/answers/{model}.jsonl" for model in shown] + [f"data/pairs/{source}/pairs.jsonl" for source in sources]
        absent = [f"nothing is shown of {path}: no such file here" for path in files if not Path(path).is_file()]
        content = page.Content(
            metrics=metrics,
            table=table,
            figures=Path("reports/figures"),
            params={key: value for key, value in flatten(params).items() if not key.startswith("runtime.")},
            lineages=lineages,
            gallery=examples.read_gallery(benchmark, "data/answers", shown, seed, pixels),
            pairs=examples.read_pairs("data/pairs", sources, seed, pixels),
            diagnostics=tables.read_all("reports/metrics/pairs", list(params.methods))
            | tables.read_all("reports/metrics/pairs_csr", chain),
            papers=papers.result(),
            missing=[*page.missing_figures(metrics), *absent, *skipped_images("data/sample/skipped.json")],
        )
        with atomic_write("reports/index.html") as file:
            file.write(page.render(content))
        tables.print_table(table)
        print("reports/index.html shows all of it")
        final = {
            f"{model}/{key}": metric.value
            for model, known in metrics.items()
            for key, metric in (known or {}).items()
            if metric.value is not None
        }
        tracking.parent(final, ["reports/index.html", "reports/tables"], examples.as_tables(content.gallery, content.pairs))


def skipped_images(path: str) -> list[str]:
    """What the sample left out."""
    skipped = json.loads(Path(path).read_text()) if Path(path).is_file() else []
    return [f"image {entry['image_id']} of the pool was skipped: {entry['reason']}" for entry in skipped]
