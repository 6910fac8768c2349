"""Distributions: of the scores of chosen and rejected responses (CSR's Figures 5 and 8), and of images (STIC's Figures 8 and 14).

CSR's figures are of LLaVA-1.5 7B: the relevance R_I over CSR's iterations, and the probability of a response under the policy
that wrote it, which is the reference of the training on it. Here both are of all sets of pairs that have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lookagain.diagnostics import logps, read_references, relevances
from lookagain.records import Pair, read_measured, read_records
from lookagain.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW, say
from lookagain.report.tables import label

SET_LOOKS = [(c, m) for m in "os^" for c in (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW)]  # of benchmarks' images
SIDES = (("chosen", BLUE, "low"), ("rejected", VERMILION, "high"))  # with the half of a violin that is theirs
PANELS = (
    ("relevance", "Image relevance R_I of the responses"),
    ("logp", "Log-probability of the responses under the reference, nats"),
)

Scores = dict[str, dict[str, list[float]]]  # by panel and side


def read_scores(pairs: Path | str, models: Path | str, trained: Mapping[str, str]) -> dict[str, Scores]:
    """The scores of each set of pairs, by its name; `trained` gives the model that was trained on it."""
    found = {}
    for name, model in trained.items():
        path = Path(pairs) / name / "pairs.jsonl"
        if path.is_file():
            records, references = list(read_records(path, Pair)), read_references(Path(models) / model)
            found[name] = {
                "relevance": {side: relevances(records, side) for side, _, _ in SIDES},
                "logp": {side: logps(references, side) for side, _, _ in SIDES},
            }
    return found


def draw(scores: Mapping[str, Scores]) -> Figure:
    """A panel for each score: per set of pairs a violin, its left half of chosen, its right half of rejected responses."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained")
    for axis, (panel, title) in zip(axes, PANELS, strict=True):
        axis.set_title(title)
        shown = [name for name in scores if any(_spread(values) for values in scores[name][panel].values())]
        for place, name in enumerate(shown):
            for side, colour, half in SIDES:
                _half_violin(axis, scores[name][panel][side], place, colour, half)
        axis.set_xticks(range(len(shown)), [label(name) for name in shown])
        axis.grid(axis="x", visible=False)
        if not shown:
            say(axis, "not recorded")
            axis.set_yticks([])
    handles = [Patch(color=colour, alpha=0.5, label=side) for side, colour, _ in SIDES]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _spread(values: Sequence[float]) -> bool:
    """Whether values have a distribution that can be drawn."""
    return len(set(values)) > 1


def _half_violin(axis: Axes, values: Sequence[float], place: int, colour: str, half: Any) -> None:
    """One side's distribution, with a line at its median and dotted ones at its quartiles."""
    if not _spread(values):
        return
    quantiles = [0.25, 0.5, 0.75]
    drawn = axis.violinplot([values], [place], widths=0.8, showextrema=False, quantiles=[quantiles], side=half)
    for body in drawn["bodies"]:  # type: ignore[attr-defined]
        body.set(facecolor=colour, edgecolor=colour, alpha=0.5)
    drawn["cquantiles"].set(color=colour, linestyles=[":", "-", ":"], linewidths=[1, 2, 1])


def read_overlap(path: Path | str) -> dict[str, Any]:
    """What `measure_overlap` wrote; empty where it did not run. Raises RecordError for a malformed file."""
    return read_measured(path, "measure_overlap", overlap=dict, points=dict)


def draw_overlap(found: Mapping[str, Any]) -> Figure:
    """The map of images by set, and each benchmark's overlap with the unlabeled ones."""
    figure, (map_axis, axis) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(3, 2), layout="constrained")
    map_axis.set_title("Images by t-SNE of their CLIP features")
    map_axis.set(xticks=[], yticks=[])
    axis.set_title("Overlap with the unlabeled images, %")
    if not found:
        say(axis, "not measured")
        return figure
    others = dict(zip(found["overlap"], SET_LOOKS, strict=False))
    for name, (colour, shape) in {"unlabeled": (GREY, "o"), **others}.items():
        x, y = zip(*(found["points"].get(name) or [(math.nan, math.nan)]), strict=True)
        map_axis.scatter(x, y, s=9, color=colour, marker=shape, alpha=0.6, linewidths=0, label=name)
    for place, (name, (colour, shape)) in enumerate(others.items()):
        one = found["overlap"][name]
        if one["value"] is not None:
            axis.errorbar(one["value"], place, xerr=one["se"], color=colour, marker=shape, markersize=7, capsize=2.5)
    axis.set_yticks(range(len(others)), list(others))
    axis.set_ylim(len(others) - 0.5, -0.5)
    axis.set_xlim(left=-5)
    figure.legend(*map_axis.get_legend_handles_labels(), loc="outside lower center", ncols=6, markerscale=2)
    return figure
