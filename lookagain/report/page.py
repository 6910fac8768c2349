"""reports/index.html: one self-contained page. It needs no network and no JavaScript; light, dark, wide and narrow.

Images and pairs shown are drawn by seed, never chosen for what they show. Everything that models or files say is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from lookagain.records import Provenance
from lookagain.report import tables
from lookagain.report.examples import Example, PairExample, spans
from lookagain.report.figures import INK
from lookagain.report.tables import BASE, Metrics, Table, control_key, figure, label, mark

LEVEL = 0.05  # of the summary's tests
PAIR_COLUMNS = (  # of the table of pairs: title, key, decimals
    ("pairs", "pairs/all/pairs", 0),
    ("planned", "pairs/all/planned", 0),
    ("equal, dropped", "pairs/all/equal_dropped", 0),
    ("words chosen", "pairs/chosen/length", 1),
    ("words rejected", "pairs/rejected/length", 1),
    ("gap", "pairs/all/length_gap", 1),
    ("CHAIR_I chosen", "pairs/chosen/chair_i", 1),
    ("CHAIR_I rejected", "pairs/rejected/chair_i", 1),
    ("reward margin", "pairs/all/reward_margin", 2),
)
THUMBNAIL = 320  # px: larger images are scaled down to this
CAPTIONS = {
    "csr_iterations": "CSR over its iterations; the base is iteration 0. Dotted: the base's descriptions cut to that model's "
    "length. Bars are standard errors over images.",
    "tradeoff": "Hallucination against recall. An arrow leads from the base's descriptions, cut to a model's mean length, to "
    "the model: its gain or loss at equal length.",
    "training": "Training: loss, margin between the rewards of chosen and rejected, and how often the chosen one is "
    "preferred; faint: single steps. STIC's second stage is supervised: it has a loss of another kind, and no margin.",
}


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    metrics: Mapping[str, Metrics | None]
    table: Table
    figures: Path  # folder of SVGs
    params: Mapping[str, Any]  # flat
    revision: str  # of git
    lineages: Mapping[str, dict]
    gallery: Sequence[Example] = ()
    pairs: Mapping[str, list[PairExample]] = field(default_factory=dict)
    diagnostics: Mapping[str, Metrics | None] = field(default_factory=dict)  # by method: `diagnostics.diagnose`
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


def summary(metrics: Mapping[str, Metrics | None]) -> list[str]:
    """A sentence for each model: CHAIR_S and recall sampled at T = 1 against its control, POPE against the base."""
    lines = []
    for model, known in metrics.items():
        if known is None:
            continue
        parts = [
            _against_control(known, "chair_sampled/chair_s", "CHAIR_S"),
            _against_control(known, "chair_sampled/recall", "recall"),
        ]
        accuracy = known.get("pope/adversarial/accuracy")
        if accuracy and accuracy.value is not None:
            p = tables.p_against_base(known, "pope/adversarial/accuracy")
            tested = "" if p is None else f" (p = {p:.2g} against the base)"
            parts.append(f"POPE adversarial accuracy {accuracy.value:.1f}{tested}")
        if found := "; ".join(part for part in parts if part):
            lines.append(f"{label(model)}, sampled at T = 1: {found}.")
    return lines


def _against_control(metrics: Metrics, key: str, title: str) -> str:
    """One figure against the base cut to the same length, by their paired bootstrap."""
    mine, control = metrics.get(key), metrics.get(control_key(key))
    if mine is None or mine.value is None:
        return ""
    if control is None or control.value is None:
        return f"{title} {mine.value:.1f}"
    p = metrics.get(f"{key}_p_vs_truncated_base")
    verdict = "not distinguishable from"
    if p is not None and p.value is not None and p.value < LEVEL:
        verdict = "above" if mine.value > control.value else "below"
    return f"{title} {mine.value:.1f}, {verdict} the {control.value:.1f} of the base cut to its length"


def mark_objects(text: str, objects: Iterable[str]) -> str:
    """A description as HTML, the objects it names marked: those of its image, and those that are absent.

    The mentions are exactly those that CHAIR counts.
    """
    present, pieces, end = set(objects), [], 0
    for start, stop, category in spans(text):
        kind = "present" if category in present else "absent"
        title = html.escape(f"{category}: {'in the image' if kind == 'present' else 'not in the image'}")
        pieces += [html.escape(text[end:start]), f'<mark class="{kind}" title="{title}">{html.escape(text[start:stop])}</mark>']
        end = stop
    return "".join([*pieces, html.escape(text[end:])])


def render(content: Content) -> str:
    """The page's HTML."""
    sections: list[tuple[str, str, Callable[[Content], str]]] = [
        ("summary", "Summary", _summary),
        ("results", "Results", _results),
        ("figures", "Figures", _figures),
        ("gallery", "Descriptions", _gallery),
        ("pairs", "Preference pairs", _pairs),
        ("missing", "Not measured", _missing),
        ("provenance", "Provenance", _provenance),
    ]
    nav = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{make(content)}</section>' for name, title, make in sections)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>LookAgain: results</title><style>{CSS}</style></head><body><header><h1>LookAgain</h1>"
        f"<p>Self-training of a vision-language model, before and after</p><nav>{nav}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def _summary(content: Content) -> str:
    facts = " · ".join(
        f"{html.escape(name)} <b>{html.escape(str(content.params[name]))}</b>"
        for name in ("data.source", "policy.source", "lambda", "csr.iterations", "evaluate.split", "seed")
        if name in content.params
    )
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in summary(content.metrics))
    note = f"One seed. “Below” and “above”: p < {LEVEL} by the paired bootstrap on the same images, uncorrected."
    return f'<p class="facts">{facts}</p><ul>{lines}</ul><p class="note">{note}</p>'


def _results(content: Content) -> str:
    known = tables.reasons(content.table.sections)
    parts = []
    for section in content.table.sections:
        head = "".join(f"<th>{html.escape(column.title)}{tables.ARROWS[column.better]}</th>" for column in section.columns)
        rows = []
        for row in section.rows:
            cells = "".join(
                f'<td class="{_class(cell)}">{html.escape(figure(cell, column, known))}</td>'
                for cell, column in zip(row.cells, section.columns, strict=True)
            )
            rows.append(f'<tr class="{"control" if row.control else "model"}"><th>{html.escape(row.label)}</th>{cells}</tr>')
        parts.append(
            f'<h3>{html.escape(section.title)}</h3><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in content.table.notes)
    return "".join(parts) + f'<ul class="note">{notes}</ul>'


def _class(cell: tables.Cell) -> str:
    if not mark(cell) or cell.better is None:
        return ""
    return "better" if cell.better else "worse"


def _figures(content: Content) -> str:
    parts = []
    for name, caption in CAPTIONS.items():
        path = content.figures / f"{name}.svg"
        if path.is_file():
            drawing = _inline_svg(path, name, caption)
            parts.append(f'<figure><div class="scroll">{drawing}</div><figcaption>{caption}</figcaption></figure>')
    sheet = content.figures / "images.png"
    if sheet.is_file():
        source = _data_uri(PILImage.open(sheet).convert("RGB"), None)
        caption = "Evaluation images drawn by seed."
        parts.append(f'<figure><img class="sheet" src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return "".join(parts)


def _inline_svg(path: Path, name: str, caption: str) -> str:
    """An SVG for use inside a page: ids of its own, and ink in the page's text colour."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption)}" ', 1)


def _gallery(content: Content) -> str:
    if not content.gallery:
        return "<p>No descriptions: no answers file has any.</p>"
    cards = []
    for example in content.gallery:
        texts = "".join(
            f"<dt>{html.escape(label(model))} <small>{html.escape(how)}</small></dt>"
            f"<dd>{mark_objects(text, example.objects)}</dd>"
            for model, how, text in example.descriptions
        )
        truth = html.escape(", ".join(sorted(example.objects)) or "nothing of COCO's categories")
        cards.append(
            f'<article><div>{_image(example.image, example.image_id)}<p class="note">In the image: {truth}</p></div>'
            f"<dl>{texts}</dl></article>"
        )
    key = '<mark class="present">in the image</mark> <mark class="absent">not in the image</mark>'
    return f'<p class="note">{len(cards)} evaluation images drawn by seed. Named objects: {key}</p>{"".join(cards)}'


def _pairs(content: Content) -> str:
    parts = [
        _pair_table(content.diagnostics),
        '<p class="note">Drawn by seed. The training image is the one shown, always clean.</p>',
    ]
    for method, examples in content.pairs.items():
        cards = "".join(_pair(example) for example in examples)
        parts.append(f"<h3>{html.escape(label(method))}</h3>{cards}")
    return "".join(parts)


def _pair_table(diagnostics: Mapping[str, Metrics | None]) -> str:
    """Figures of all sets of pairs; what was not counted or measured is a dash that says why where it is known."""
    rows = []
    for method, figures in diagnostics.items():
        cells = []
        for _, key, decimals in PAIR_COLUMNS:
            metric = (figures or {}).get(key)
            if metric is None or metric.value is None:
                cells.append(f'<td title="{html.escape(metric.reason or "" if metric else "not counted here")}">–</td>')
            else:
                se = "" if metric.se is None else f" <small>± {metric.se:.{decimals}f}</small>"
                cells.append(f"<td>{metric.value:.{decimals}f}{se}</td>")
        rows.append(f'<tr class="model"><th>{html.escape(label(method))}</th>{"".join(cells)}</tr>')
    if not rows:
        return ""
    head = "".join(f"<th>{title}</th>" for title, _, _ in PAIR_COLUMNS)
    note = "CHAIR_I, in %, is of descriptions and short answers alike. Reward margin: mean over the last tenth of the training."
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="note">{note}</p>'
    )


def _pair(example: PairExample) -> str:
    pair = example.pair
    texts = _response("chosen", pair.chosen, pair.chosen_provenance, pair.prompt)
    for text, provenance in zip(pair.rejected, pair.rejected_provenance, strict=True):
        texts += _response("rejected", text, provenance, pair.prompt)
    return (
        f'<article><div>{_image(example.image, pair.image_id)}<p class="note">{html.escape(pair.id)}</p></div>'
        f"<dl><dt>prompt</dt><dd>{html.escape(pair.prompt)}</dd>{texts}</dl></article>"
    )


def _response(role: str, text: str, made: Provenance, prompt: str) -> str:
    """A response with how it was made; its own prompt where it differs from the training prompt."""
    facts = [] if made.prompt == prompt else [f"asked “{made.prompt}”"]
    transform = dict(made.image_transform)
    name = str(transform.pop("name", "none"))
    settings = _settings(transform)
    facts.append("clean image" if name == "none" else f"image: {name.replace('_', ' ')}{f' ({settings})' if settings else ''}")
    facts += [_settings(made.decoding), f"seed {made.seed}"]
    if made.score is not None:
        facts.append(f"reward {made.score:.3g}")
    note = html.escape(" · ".join(fact for fact in facts if fact))
    return f'<dt class="{role}">{role}</dt><dd>{html.escape(text)}<p class="note">{note}</p></dd>'


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {f'{v:.3g}' if isinstance(v, float) else v}" for name, v in values.items())


def _missing(content: Content) -> str:
    if not content.missing:
        return "<p>Nothing was skipped; every figure of the tables was measured.</p>"
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in content.missing) + "</ul>"


def _provenance(content: Content) -> str:
    params = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for name, value in content.params.items()
    )
    models = "".join(
        f"<tr><th>{html.escape(label(model))}</th><td><code>{html.escape(str(lineage.get('fingerprint', ''))[:16])}</code></td>"
        f"<td>{html.escape(str(lineage.get('parent') or lineage.get('base') or ''))}</td>"
        f"<td><details><summary>all</summary><pre>{html.escape(json.dumps(lineage, indent=1))}</pre></details></td></tr>"
        for model, lineage in content.lineages.items()
    )
    return (
        f"<p>Git revision <code>{html.escape(content.revision)}</code></p>"
        '<div class="scroll"><table class="plain"><thead><tr><th>model</th><th>fingerprint</th><th>made from</th>'
        f"<th>lineage</th></tr></thead><tbody>{models}</tbody></table></div><details><summary>All params</summary>"
        f'<div class="scroll"><table class="plain"><tbody>{params}</tbody></table></div></details>'
        '<p class="note">Graphics of the small world: Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0.</p>'
    )


def _image(image: PILImage.Image, name: str) -> str:
    small = "pixels" if max(image.size) < 128 else ""
    return f'<img class="photo {small}" src="{_data_uri(image, THUMBNAIL)}" alt="{html.escape(name)}">'


def _data_uri(image: PILImage.Image, limit: int | None) -> str:
    """An image inside an attribute: PNG where it is small, else JPEG scaled down to `limit` px."""
    if limit and max(image.size) > limit:
        image = image.copy()
        image.thumbnail((limit, limit))
    kind = "PNG" if image.width * image.height <= 128 * 128 else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 88}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


CSS = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --ink: #24292f; --soft: #59636e; --line: #d5dae0;
  --good: #00704d; --bad: #a83f00; --absent: #ffd9c2; --present: #d3efe4; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --ink: #e6e9ec; --soft: #a0a8b2;
  --line: #353b43; --good: #4cc9a0; --bad: #ff9a5c; --absent: #6d2f0d; --present: #0f4a37; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { margin: 0; font-size: 1.9rem; } header p { margin: 0; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 12px; padding-bottom: 8px;
  border-bottom: 1px solid var(--line); }
a { color: inherit; }
section { margin: 32px 0 48px; } h2 { font-size: 1.35rem; margin: 0 0 8px; } h3 { font-size: 1.05rem; margin: 24px 0 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100%; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; } tr.model + tr.model, tr.control + tr.model { border-top: 1px solid var(--line); }
tbody th:first-child, thead th:first-child { position: sticky; left: 0; background: var(--page); }
tr.control th, tr.control td { color: var(--soft); font-weight: 400; padding-top: 0; }
td.better { color: var(--good); font-weight: 600; } td.worse { color: var(--bad); font-weight: 600; }
table.plain th, table.plain td { text-align: left; border-bottom: 1px solid var(--line); font-weight: 400;
  vertical-align: top; }
.note, figcaption, small { color: var(--soft); font-size: .86rem; } .facts { color: var(--soft); }
p.note { margin: 6px 0; } ul { padding-left: 1.2em; } li { margin: 3px 0; }
figure { margin: 16px 0 28px; } figure svg { display: block; width: 100%; min-width: 680px; height: auto; }
img.sheet { max-width: 100%; image-rendering: pixelated; border-radius: 6px; }
article { display: grid; grid-template-columns: 176px 1fr; gap: 16px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 14px; margin: 12px 0; }
article > * { min-width: 0; } article p { overflow-wrap: anywhere; }
img.photo { width: 100%; max-width: 320px; border-radius: 4px; display: block; } img.pixels { image-rendering: pixelated; }
dl { display: grid; grid-template-columns: 112px 1fr; gap: 6px 12px; margin: 0; font-size: .94rem; align-content: start; }
dt { font-weight: 600; } dt small { display: block; font-weight: 400; } dd { margin: 0; overflow-wrap: anywhere; }
dt.chosen { color: var(--good); } dt.rejected { color: var(--bad); }
mark { color: inherit; border-radius: 3px; padding: 0 2px; } mark.present { background: var(--present); }
mark.absent { background: var(--absent); text-decoration: underline wavy; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; text-align: left; }
summary { cursor: pointer; } code { font-size: .9em; }
@media (max-width: 640px) { article { grid-template-columns: 1fr; } dl { grid-template-columns: 1fr; gap: 2px; }
  dd { margin-bottom: 8px; } dt small { display: inline; } img.photo { max-width: 192px; } th, td { padding: 5px 7px; } }
"""
