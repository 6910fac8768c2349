"""The attention that policies pay to image tokens while they describe: CSR's Figure 6, by layer, over the response, and in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lookagain.records import read_measured
from lookagain.report.style import INK, look, say
from lookagain.report.tables import BASE, label

TEXTS = (("own", "along its own descriptions"), ("same", "along the base's"))  # filled, hollow


def read(path: Path | str) -> dict[str, Any]:
    """What `measure_attention` wrote; empty where it did not run. Raises RecordError for a malformed file."""
    return read_measured(path, "measure_attention", models=dict, images=int, bin=int)


def draw(found: Mapping[str, Any]) -> Figure:
    """The share on the image by layer and over the response's tokens, a line for each model; how all differ from the base."""
    figure, (layers, positions, gaps) = plt.subplots(1, 3, figsize=(13, 3.8), width_ratios=(4, 4, 5), layout="constrained")
    layers.set_title("Attention on the image by layer, %")
    positions.set_title("... over the response, %")
    gaps.set_title("Difference from the base, percentage points")
    models = found.get("models") or {}
    if not models:
        for axis in (layers, positions, gaps):
            say(axis, "not measured")
            axis.set(xticks=[], yticks=[])
        return figure
    for model, one in models.items():
        drawn = {"color": look(model)[0], "marker": look(model)[1], "alpha": _strength(model, models), "label": label(model)}
        drawn["linestyle"] = ":" if model == BASE else "-"
        _line(layers, range(1, len(one["layers"]["own"]) + 1), one["layers"]["own"], drawn)
        middles = [found["bin"] * (place + 0.5) for place in range(len(one["positions"]["own"]))]
        _line(positions, middles, one["positions"]["own"], drawn)
    layers.set_xlabel("layer of the decoder")
    layers.xaxis.get_major_locator().set_params(integer=True)
    positions.set_xlabel("token of the response")
    for axis in (layers, positions):
        axis.set_ylim(bottom=0)
    _gaps(gaps, models)
    figure.legend(*layers.get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


def _strength(model: str, models: Mapping[str, Any]) -> float:
    """How strong a line is: CSR's iterations have one colour, and are the fainter the earlier."""
    last = max((int(one[4:]) for one in models if one.startswith("csr-")), default=1)
    return 1 - 0.8 * (last - int(model[4:])) / last if model.startswith("csr-") else 1


def _line(axis: Axes, places: Sequence[float], points: Sequence[Sequence[float]], drawn: Mapping[str, Any]) -> None:
    """One model's curve with standard errors."""
    values, errors = zip(*points, strict=True)
    axis.errorbar(list(places), values, yerr=errors, markersize=4, **drawn)


def _gaps(axis: Axes, models: Mapping[str, Any]) -> None:
    """Each model's difference from the base with 95% intervals: along its own descriptions, and along the base's."""
    others = [model for model in models if model != BASE]
    axis.axvline(0, color=INK, linewidth=1)
    for place, model in enumerate(others):
        colour, shape = look(model)
        for (text, _), shift in zip(TEXTS, (-0.14, 0.14), strict=True):
            gap = models[model]["figures"][f"{text}/image_vs_base"]
            reach = [[gap["value"] - gap["low"]], [gap["high"] - gap["value"]]]
            face = colour if text == "own" else "none"
            axis.errorbar(
                gap["value"],
                place + shift,
                xerr=reach,
                color=colour,
                marker=shape,
                markerfacecolor=face,
                markersize=7,
                capsize=2.5,
            )
    axis.set_yticks(range(len(others)), [label(model) for model in others])
    axis.set_ylim(len(others) - 0.5, -0.5)
    keys = [Line2D([], [], color=INK, marker="o", linestyle="none", markerfacecolor=face) for face in (INK, "none")]
    axis.legend(keys, [name for _, name in TEXTS], loc="best", fontsize=8.5)
