"""The report's figures: CSR over its iterations, hallucination against recall, training curves, pairs, images, attention."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lookagain.records import RecordError, atomic_write
from lookagain.report import attention, distributions
from lookagain.report.style import BLUE, GREEN, LOOKS, STYLE, VERMILION, look, save, say
from lookagain.report.tables import BASE, Metrics, control_key, label

FIGURES = ("csr_iterations", "tradeoff", "training", "pairs", "attention", "overlap")  # each a .png and a .svg
SAMPLED = "T = 1"


def write(
    metrics: Mapping[str, Metrics | None],
    logs: Mapping[str, list[dict]],
    scores: Mapping[str, distributions.Scores],
    looked: Mapping[str, Any],
    overlap: Mapping[str, Any],
    folder: Path | str,
) -> None:
    """Write every figure of `FIGURES` as PNG and SVG; one without data says so.

    `logs` are those of `read_logs`, `scores` and `overlap` those of `distributions.read_scores` and
    `read_overlap`, `looked` what `attention.read` found.
    """
    known = {model: figures for model, figures in metrics.items() if figures is not None}
    makers: dict[str, Callable[[], Figure]] = {
        "csr_iterations": lambda: csr_iterations(known),
        "tradeoff": lambda: tradeoff(known),
        "training": lambda: training(logs),
        "pairs": lambda: distributions.draw(scores),
        "attention": lambda: attention.draw(looked),
        "overlap": lambda: distributions.draw_overlap(overlap),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name in FIGURES:
            save(makers[name](), folder / name)


def read_logs(folder: Path | str, models: Sequence[str]) -> dict[str, list[dict]]:
    """Trainers' logs by model, where they are: lists of {"step", "loss", ...}. Raises RecordError for a malformed one."""
    logs = {}
    for model in models:
        path = Path(folder) / model / "training_log.json"
        if path.is_file():
            try:
                logs[model] = [dict(entry) for entry in json.loads(path.read_text())]
            except (ValueError, TypeError) as error:
                raise RecordError(f"{path} is no training log: {error}; train {model} again") from error
    return logs


def csr_iterations(metrics: Mapping[str, Metrics]) -> Figure:
    """CHAIR_S, recall, words and adversarial POPE over CSR's iterations; the base is iteration 0."""
    chain = {0: metrics[BASE]} | {int(model[4:]): m for model, m in metrics.items() if model.startswith("csr-")}
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    panels = [
        (axes[0], "CHAIR_S, %  (lower is better)", "chair_s", True),
        (axes[1], "Object recall, %  (higher is better)", "recall", True),
        (axes[2], "Words in a description", "length", False),
    ]
    for axis, title, name, control in panels:
        for benchmark, colour, shape, how in (("chair_sampled", VERMILION, "s", SAMPLED), ("chair", BLUE, "o", "greedy")):
            key = f"{benchmark}/{name}"
            _line(axis, chain, key, colour, shape, how, "-")
            if control:
                _line(axis, chain, control_key(key), colour, shape, f"{how}: base cut to that length", ":")
        axis.set_title(title)
    _line(axes[3], chain, "pope/adversarial/accuracy", GREEN, "D", "accuracy", "-")
    axes[3].set_title("POPE adversarial accuracy, %")
    for axis in axes:
        axis.set_xticks(sorted(chain), ["base" if t == 0 else str(t) for t in sorted(chain)])
        axis.set_xlabel("CSR iteration")
        axis.margins(x=0.08, y=0.15)
    axes[0].set_ylim(bottom=0)
    handles, names = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _line(axis: Axes, chain: Mapping[int, Metrics], key: str, colour: str, shape: str, name: str, style: str) -> None:
    """One metric over iterations with its errors; iterations without a value leave a gap."""
    found = [(t, chain[t].get(key)) for t in sorted(chain)]
    points = [(t, metric.value, metric.se or 0.0) for t, metric in found if metric is not None and metric.value is not None]
    if not points:
        return
    control = style == ":"
    axis.errorbar(
        [t for t, _, _ in points],
        [value for _, value, _ in points],
        yerr=[error for _, _, error in points],
        color=colour,
        linestyle=style,
        marker=shape,
        markerfacecolor="none" if control else colour,
        markersize=5,
        linewidth=1.2 if control else 1.8,
        alpha=0.8 if control else 1,
        capsize=2.5,
        label=name,
    )


class Point(NamedTuple):
    """A model's or control's place in the trade-off, with standard errors."""

    chair_s: float
    recall: float
    chair_s_error: float
    recall_error: float


def tradeoff(metrics: Mapping[str, Metrics]) -> Figure:
    """CHAIR_S against recall, an arrow from each model's control to the model: up and left is a gain at equal length."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axis, benchmark, title in zip(
        axes, ("chair", "chair_sampled"), ("Greedy descriptions", "Sampled at T = 1"), strict=True
    ):
        for model, known in metrics.items():
            point, control = _point(known, benchmark), _point(known, f"{benchmark}/truncated_base")
            if point and control:
                arrow = {"arrowstyle": "-|>", "color": look(model)[0], "alpha": 0.5, "shrinkA": 6, "shrinkB": 7}
                axis.annotate("", point[:2], control[:2], arrowprops=arrow)
                _draw_point(axis, control, model, is_control=True)
            if point:
                _draw_point(axis, point, model, is_control=False)
        axis.margins(0.1)
        axis.set_title(title)
        axis.set_xlabel("CHAIR_S, %  (left is better)")
        axis.set_ylabel("object recall, %  (up is better)")
    entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))  # CSR's iterations are one
    title = "filled: model, CSR with its iteration · hollow: base cut to the model's mean length · bars: one standard error"
    legend = figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=7, title=title)
    legend.get_title().set_fontsize(9)
    return figure


def _point(metrics: Metrics, prefix: str) -> Point | None:
    """The point of metrics under a prefix, or None where one is missing."""
    x, y = metrics.get(f"{prefix}/chair_s"), metrics.get(f"{prefix}/recall")
    if x is None or y is None or x.value is None or y.value is None:
        return None
    return Point(x.value, y.value, x.se or 0.0, y.se or 0.0)


def write_tradeoff(metrics: Mapping[str, Metrics | None], path: Path | str) -> None:
    """The trade-off's points as CSV, for `dvc plots`."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "decoding", "chair_s", "recall"])
        for model, known in metrics.items():
            for benchmark, decoding in (("chair", "greedy"), ("chair_sampled", SAMPLED)):
                point = _point(known or {}, benchmark)
                if point:
                    writer.writerow([model, decoding, point.chair_s, point.recall])


def _draw_point(axis: Axes, point: Point, model: str, is_control: bool) -> None:
    """A marker with error bars; an iteration of CSR carries its number."""
    colour, shape = look(model)
    number = model[4:] if model.startswith("csr-") and not is_control else ""
    axis.errorbar(
        point.chair_s,
        point.recall,
        xerr=point.chair_s_error,
        yerr=point.recall_error,
        color=colour,
        marker=shape,
        linestyle="none",
        markerfacecolor="none" if is_control else colour,
        markersize=10 if number else 6 if is_control else 8,
        elinewidth=0.8,
        label="_" if is_control else "CSR" if number else label(model),
    )
    if number:
        axis.annotate(
            number, point[:2], ha="center", va="center_baseline", color="white", fontsize=7.5, weight="bold", zorder=9
        )


CURVES = (
    ("loss", ("loss",)),
    ("reward margin", ("reward_margin", "rewards/margins")),  # ours, trl's own
    ("share of pairs with chosen preferred", ("reward_accuracy", "rewards/accuracies")),
)
STYLES = ("-", "--", "-.", ":")  # of models of one colour
SMOOTHING = 20  # a curve is the mean over this fraction of its steps; single steps are noisy


def training(logs: Mapping[str, list[dict]]) -> Figure:
    """Loss, reward margin and reward accuracy over optimiser steps, a line for each trained model."""
    figure, axes = plt.subplots(1, len(CURVES), figsize=(12, 3.4), layout="constrained")
    for axis, (title, names) in zip(axes, CURVES, strict=True):
        others = [model for model in logs if model not in LOOKS and not model.startswith("csr-")]
        drawn = [_curve(axis, model, log, names, others) for model, log in logs.items()]
        axis.set_title(title)
        axis.set_xlabel("optimiser step")
        if not any(drawn):
            say(axis, "not logged")
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles)))
    return figure


def _curve(axis: Axes, model: str, log: Sequence[Mapping], names: Sequence[str], others: Sequence[str]) -> bool:
    """One model's curve of the first of `names` that its log has; False if it has none. `others` have no look of their own."""
    for name in names:
        points = [(entry["step"], entry[name]) for entry in log if name in entry and "step" in entry]
        if points:
            colour, style = look(model)[0], "-"
            if model.startswith("csr-"):
                style = STYLES[(int(model[4:]) - 1) % len(STYLES)]
            elif model not in LOOKS:
                style = STYLES[others.index(model) % len(STYLES)]
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, color=colour, linewidth=0.7, alpha=0.18)
            axis.plot(
                steps,
                running_mean(values, len(values) // SMOOTHING),
                color=colour,
                linestyle=style,
                linewidth=1.6,
                label=label(model),
            )
            return True
    return False


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with up to `reach` neighbours on either side."""
    windows = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(window) / len(window) for window in windows]
