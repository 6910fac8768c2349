"""reports/index.html: one self-contained page. It needs no network, and JavaScript only to sort its tables.

Light, dark, wide and narrow. Images and pairs shown are drawn by seed, never chosen for what they show. Everything that models or
files say is escaped; the page's own script is the only one that may run, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from lookagain.papers import render as paper_render
from lookagain.papers.cells import Filled
from lookagain.papers.reading import NOT_RUN
from lookagain.report import tables
from lookagain.report.examples import Example, PairExample
from lookagain.report.markup import cell, data_uri, details, drawing, items, row, table, text
from lookagain.report.showcase import gallery, pairs
from lookagain.report.tables import BASE, Metrics, Table, control_key, figure, label, mark

LEVEL = 0.05  # of the summary's tests
FACTS = ("lambda", "csr.iterations", "evaluate.split", "seed")
SUMMARY = (("CHAIR_S ↓", "chair_sampled/chair_s"), ("recall ↑", "chair_sampled/recall"))
SUMMARY_NOTE = (
    "CHAIR_S and recall in %, of descriptions sampled at T = 1; under each figure, how it stands to the base's descriptions cut to "
    f"the same mean length. “Above” and “below”: p < {LEVEL} by the paired bootstrap on the same images; “like”: not "
    "distinguishable. One seed; p-values uncorrected."
)
CAPTIONS = {
    "csr_iterations": "CSR over its iterations; the base is iteration 0. Dotted: the base's descriptions cut to that model's "
    "length. Bars are standard errors over images.",
    "tradeoff": "Hallucination against recall. An arrow leads from the base's descriptions, cut to a model's mean length, to "
    "the model: its gain or loss at equal length.",
    "training": "Training: loss, margin between the rewards of chosen and rejected, and how often the chosen one is "
    "preferred; faint: single steps. STIC's second stage is supervised: it has a loss of another kind, and no margin.",
    "pairs": "Chosen and rejected responses: relevance to their image (CSR's Figure 5; 100 times the cosine, mean over sentences) "
    "and log-probability under the policy that the training starts from (CSR's Figure 8). Lines: median and quartiles.",
    "attention": "Of all attention (mean over heads) that a description's tokens are written with, the part on the image (CSR's "
    "Figure 6). Where descriptions get shorter, fewer tokens stand behind the image, and its part grows by itself: hollow marks "
    "are of the same text for all. Bars are standard errors over images, on the right 95% intervals.",
    "overlap": "Unlabeled images that self-training uses, and those of the benchmarks (STIC's Figures 8 and 14). Overlap: how "
    "often one of an image's ten nearest is an unlabeled one, 100% as in a random mixture; bars are standard errors. Scenes are "
    "the images of POPE and CHAIR.",
}


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    metrics: Mapping[str, Metrics | None]
    table: Table
    figures: Path  # folder of SVGs; those of the papers' figures in its folder `papers`
    params: Mapping[str, Any]  # flat
    lineages: Mapping[str, dict]
    gallery: Sequence[Example] = ()
    pairs: Mapping[str, list[PairExample]] = field(default_factory=dict)
    diagnostics: Mapping[str, Metrics | None] = field(default_factory=dict)  # by method: `diagnostics.diagnose`
    papers: Sequence[Filled] = ()  # all of the papers' tables, filled with what this run measured
    missing: Sequence[str] = ()  # what was skipped or not measured, a sentence each


def read_lineages(folder: Path | str, models: Sequence[str]) -> dict[str, dict]:
    """Each policy's lineage.json, where there is one."""
    paths = {model: Path(folder) / model / "lineage.json" for model in models}
    return {model: json.loads(path.read_text()) for model, path in paths.items() if path.is_file()}


def missing_figures(metrics: Mapping[str, Metrics | None]) -> list[str]:
    """Sentences on what was not measured: models without metrics, and null metrics by their reason."""
    by_reason: dict[str, list[str]] = {}
    for model, figures in metrics.items():
        if figures is None:
            by_reason.setdefault("not evaluated: no metrics file", []).append(label(model))
        for key, metric in (figures or {}).items():
            of_base = model == BASE and ("_vs_base" in key or "truncated_base" in key)  # the base against itself
            if metric.value is None and not of_base:
                by_reason.setdefault(metric.reason or "", []).append(f"{label(model)} {key}")
    return [f"{reason} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" for reason, names in by_reason.items()]


def render(content: Content) -> str:
    """The page's HTML."""
    sections = [
        ("summary", "Summary", _summary(content)),
        ("results", "Results", _results(content.table)),
        ("figures", "Figures", _figures(content.figures)),
        ("papers", "The papers' tables", _papers(content)),
        ("gallery", "Descriptions", gallery(content.gallery)),
        ("pairs", "Preference pairs", pairs(content.pairs, content.diagnostics)),
        ("missing", "Not measured", _missing(content)),
        ("provenance", "Provenance", _provenance(content)),
    ]
    nav = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{inside}</section>' for name, title, inside in sections)
    style, script = ((files("lookagain.report") / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>LookAgain: results</title><style>{style}</style></head><body><header><h1>LookAgain</h1>"
        f"<p>Self-training of a vision-language model, before and after</p></header><nav>{nav}</nav>"
        f"<main>{body}</main><script>{script}</script></body></html>\n"
    )


def _summary(content: Content) -> str:
    params, base = content.params, content.lineages.get(BASE, {})
    known = {"base": base.get("model_name") or base.get("base")} | {name: params[name] for name in FACTS if name in params}
    facts = " · ".join(f"{text(name)} <b>{text(value)}</b>" for name, value in known.items() if value is not None)
    groups = [[row(label(model), summary(known), "main")] for model, known in content.metrics.items() if known is not None]
    heads = ["", *(title for title, _ in SUMMARY), "POPE adversarial ↑"]
    return f'<p class="facts">{facts}</p>{table(heads, groups)}<p class="note">{SUMMARY_NOTE}</p>'


def summary(known: Metrics) -> list[str]:
    """A model's cells: CHAIR_S and recall sampled at T = 1 against the base cut to its length, POPE against the base."""
    cells = [_against_control(known, key, better="down" if "chair_s" in key.split("/")[1] else "up") for _, key in SUMMARY]
    accuracy = known.get("pope/adversarial/accuracy")
    if accuracy is None or accuracy.value is None:
        return [*cells, cell("–")]
    p = tables.p_against_base(known, "pope/adversarial/accuracy")
    return [*cells, cell(f"{accuracy.value:.1f}", below="" if p is None else f"p = {p:.2g}")]


def _against_control(metrics: Metrics, key: str, better: str) -> str:
    """One figure against the base cut to the same length, by their paired bootstrap."""
    mine, control = metrics.get(key), metrics.get(control_key(key))
    if mine is None or mine.value is None:
        return cell("–", title=(mine and mine.reason) or "")
    if control is None or control.value is None:
        return cell(f"{mine.value:.1f}")
    p = metrics.get(f"{key}_p_vs_truncated_base")
    verdict, kind = "like", ""
    if p is not None and p.value is not None and p.value < LEVEL:
        verdict = "above" if mine.value > control.value else "below"
        kind = "better" if (verdict == "above") == (better == "up") else "worse"
    return cell(f"{mine.value:.1f}", kind, below=f"{verdict} {control.value:.1f}")


def _results(results: Table) -> str:
    known = tables.reasons(results.sections)
    parts = []
    for section in results.sections:
        groups: list[list[str]] = []
        for entry in section.rows:
            pairs_of = zip(entry.cells, section.columns, strict=True)
            cells = [cell(figure(one, column, known), _kind(one)) for one, column in pairs_of]
            if not entry.control:
                groups.append([])
            groups[-1].append(row(entry.label, cells, "control" if entry.control else "main"))
        heads = ["", *(column.title + tables.ARROWS[column.better] for column in section.columns)]
        parts.append(f"<h3>{text(section.title)}</h3>{table(heads, groups)}")
    return "".join(parts) + items(results.notes, "note")


def _kind(one: tables.Cell) -> str:
    if not mark(one) or one.better is None:
        return ""
    return "better" if one.better else "worse"


def _figures(folder: Path) -> str:
    paths = {folder / f"{name}.svg": caption for name, caption in CAPTIONS.items()}
    parts = [drawing(path, caption) for path, caption in paths.items() if path.is_file()]
    sheet = folder / "images.png"
    if sheet.is_file():
        source, caption = data_uri(PILImage.open(sheet).convert("RGB"), None), "Evaluation images drawn by seed."
        parts.append(f'<figure><img class="sheet" src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return "".join(parts)


def _papers(content: Content) -> str:
    """Tables in which this run measured something, each closed until it is asked for."""
    measured = [filled for filled in content.papers if filled.measured]
    if not measured:
        return "<p>None: this run measured no figure of a table's columns.</p>"
    return "".join(details(paper_render.title(filled), _paper(filled, content.figures / "papers")) for filled in measured)


def _paper(filled: Filled, drawn: Path) -> str:
    groups: list[list[str]] = []
    for line in paper_render.lines(filled):
        if line.label:
            groups.append([])
        kind = "main" if line.kind == (filled.publisher or "ours") else "control" if line.kind in paper_render.QUIET else ""
        cells = [cell(one, "missing" if one.startswith("n/a") else "") for one in line.texts]
        groups[-1].append(row(line.label, [cell(line.kind, "kind"), *cells], kind))
    heads = ["", "", *(paper_render.head(filled, column) for column in filled.columns)]
    path = drawn / f"{filled.table.name}.svg"
    picture = drawing(path, paper_render.title(filled), titled=True) if path.is_file() else ""
    return picture + table(heads, groups) + items(paper_render.notes(filled), "note")


def _missing(content: Content) -> str:
    lines = items(content.missing) if content.missing else "<p>Every figure of the results tables was measured.</p>"
    unfinished = "".join(filter(None, map(_not_run, content.papers)))
    if not unfinished:
        return lines
    about = "What is not measured here, by table: the command runs the rows that can be; the reasons are of the rest."
    return f"{lines}<h3>Of the papers' tables</h3><p>{about}</p>{unfinished}"


def _not_run(filled: Filled) -> str:
    """What a table lacks: the command that measures it, and the reasons that no run would mend; nothing where it is whole."""
    ours = [entry for entry in filled.rows if entry.model is not None]
    reasons = [reason for reason in filled.reasons if not reason.startswith(NOT_RUN)]
    runs = f"<p><code>lookagain grid {text(filled.table.name)}</code></p>" if any(entry.missing for entry in ours) else ""
    if not runs and not reasons:
        return ""
    done = f"{paper_render.measured_rows(filled)} of {len(ours)} rows" if ours else "no row of a model of ours"
    return details(f"{paper_render.title(filled)}: {done}", runs + items(reasons, "note"))


def _provenance(content: Content) -> str:
    models = [[row(label(model), _lineage(lineage))] for model, lineage in content.lineages.items()]
    credits = content.lineages.get(BASE, {}).get("credits")  # of the images, as the base's publisher states them
    params = [[row(name, [cell(json.dumps(value, ensure_ascii=False))])] for name, value in content.params.items()]
    return (
        table(["model", "fingerprint", "made from", "lineage"], models, "plain")
        + details("All params", table(["param", "value"], params, "plain"))
        + (f'<p class="note">{text(credits)}</p>' if credits else "")
    )


def _lineage(lineage: Mapping[str, Any]) -> list[str]:
    whole = details("all", f"<pre>{text(json.dumps(lineage, indent=1))}</pre>")
    fingerprint = f"<td><code>{text(str(lineage.get('fingerprint', ''))[:16])}</code></td>"
    return [fingerprint, cell(lineage.get("parent") or lineage.get("base") or ""), f"<td>{whole}</td>"]
