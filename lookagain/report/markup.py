"""The page's building blocks as HTML: tables, images, drawings, marked descriptions. Text goes in plain and is escaped here."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image as PILImage

from lookagain.report.examples import spans
from lookagain.report.style import INK

THUMBNAIL = 320  # px: larger images are scaled down to this
LOSSLESS = 128 * 128  # pixels: up to here an image is PNG, above JPEG


def text(value: object) -> str:
    """Escaped text."""
    return html.escape(str(value))


def items(lines: Iterable[str], kind: str = "") -> str:
    """A list of plain sentences; what stands between backticks is code."""
    written = [re.sub(r"`([^`]+)`", r"<code>\1</code>", text(line)) for line in lines]
    return f'<ul class="{kind}">{"".join(f"<li>{line}</li>" for line in written)}</ul>'


def cell(value: object, kind: str = "", title: str = "", below: str = "") -> str:
    """A table's cell; `below` is a second, smaller line."""
    attributes = "".join(f' {name}="{text(given)}"' for name, given in (("class", kind), ("title", title)) if given)
    return f"<td{attributes}>{text(value)}{f'<small>{text(below)}</small>' if below else ''}</td>"


def row(label: str, cells: Iterable[str], kind: str = "") -> str:
    """A table's row; `main` is the kind of a row whose figures its group is sorted by."""
    return f'<tr class="{kind}"><th scope="row">{text(label)}</th>{"".join(cells)}</tr>'


def table(heads: Sequence[str], groups: Iterable[Iterable[str]], kind: str = "sortable") -> str:
    """A table in a box that scrolls by itself. Rows of one group (a model and its control) stay together when it is sorted."""
    head = "".join(f'<th scope="col">{text(one)}</th>' for one in heads)
    bodies = "".join(f"<tbody>{''.join(group)}</tbody>" for group in groups)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>{bodies}</table></div>'


def details(title: str, content: str) -> str:
    """Something that is closed until it is asked for."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def card(picture: str, note: str, content: str) -> str:
    """An image with a note under it, and what belongs to it beside."""
    return f'<article><div>{picture}<p class="note">{text(note)}</p></div><div>{content}</div></article>'


def photo(image: PILImage.Image, name: str) -> str:
    """A small image; one of few pixels is shown without smoothing."""
    kind = "photo pixels" if max(image.size) < 128 else "photo"
    return f'<img class="{kind}" src="{data_uri(image, THUMBNAIL)}" alt="{text(name)}">'


def data_uri(image: PILImage.Image, limit: int | None) -> str:
    """An image inside an attribute, scaled down to `limit` px where it is larger."""
    if limit and max(image.size) > limit:
        image = image.copy()
        image.thumbnail((limit, limit))
    kind = "PNG" if image.width * image.height <= LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 88}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(path: Path, caption: str, titled: bool = False) -> str:
    """An SVG inside the page: ids of its own, and ink in the page's text colour. It scrolls where the screen is narrow.

    `titled` is for one that bears its caption itself.
    """
    name, svg = path.stem, path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="([^"]*)"', r'<svg \1style="max-width:\2"', svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{text(caption)}" ', 1)
    below = "" if titled else f"<figcaption>{text(caption)}</figcaption>"
    return f'<figure><div class="scroll">{svg}</div>{below}</figure>'


def mark_objects(description: str, objects: Iterable[str]) -> str:
    """A description with the objects that it names marked: those of its image, and those that are absent.

    The mentions are exactly those that CHAIR counts.
    """
    present, pieces, end = set(objects), [], 0
    for start, stop, category in spans(description):
        kind, where = ("present", "in the image") if category in present else ("absent", "not in the image")
        mark = f'<mark class="{kind}" title="{text(f"{category}: {where}")}">{text(description[start:stop])}</mark>'
        pieces += [text(description[end:start]), mark]
        end = stop
    return "".join([*pieces, text(description[end:])])
