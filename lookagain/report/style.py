"""How the report's and the tables' figures look: ink, colours, shapes, and how a figure is written.

Colours are Okabe and Ito's, told apart with any colour vision; shapes differ too. Backgrounds are clear and the ink has one colour,
so that a page can set both. A figure is a PNG and an SVG whose bytes depend on the numbers alone (no date, fixed ids).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lookagain.report.tables import BASE

INK = "#24292f"  # text and axes; a page replaces it in the SVG
SKY, OLIVE, GREY, YELLOW = "#56b4e9", "#999933", "#8c959f", "#f0e442"
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "font.family": "DejaVu Sans",  # packaged with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "lookagain",
    "savefig.dpi": 160,
}
LOOKS = {  # of models; CSR's iterations are vermilion circles, any other model is purple
    BASE: (INK, "*"),
    "stic-stage1": (SKY, "v"),
    "stic": (BLUE, "s"),
    "stic-dar": (GREEN, "D"),
    "seva": (ORANGE, "P"),
    "povid": (OLIVE, "X"),
    "self-rewarding": (GREY, "^"),
}


def save(figure: Figure, path: Path) -> None:
    """Write <path>.png and <path>.svg, and close the figure. The second takes the first's layout, half of a drawing's work."""
    figure.savefig(path.with_name(f"{path.name}.png"), facecolor="white", metadata={"Software": None})
    figure.set_layout_engine("none")
    figure.savefig(path.with_name(f"{path.name}.svg"), transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def look(model: str) -> tuple[str, str]:
    """A model's colour and marker, by method."""
    if model.startswith("csr-"):
        return VERMILION, "o"
    return LOOKS.get(model, (PURPLE, "P"))


def say(axis: Axes, text: str) -> None:
    """Words in the middle of an empty panel: why nothing is drawn there."""
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
