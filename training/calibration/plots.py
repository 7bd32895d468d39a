"""The reliability figure: how often a network is right, by how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw_reliability(path: Path, parts: Mapping[str, Mapping[str, Any]], title: str = "") -> None:
    """Draw one panel for each part, before and after calibration, with the share of items below.

    Args:
        path: PNG to write.
        parts: Name of a part to what `training.calibration.reliability.Reliability.as_json` gives under ``before``
            and ``after``.
        title: Above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(parts), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(parts), squeeze=False, sharex=True, height_ratios=[3, 1])
    for column, (name, told) in enumerate(parts.items()):
        _panel(axes[0, column], axes[1, column], name, told)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _panel(upper: Any, lower: Any, name: str, told: Mapping[str, Any]) -> None:
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="as sure as right")
    for which, colour, marker in (("before", "tab:orange", "o"), ("after", "tab:blue", "s")):
        bins = told[which]["bins"]
        sure, right = [b["confidence"] for b in bins], [b["right"] for b in bins]
        label = f"{'network' if which == 'before' else 'bundle'}: error {told[which]['ece']:.3f}"
        upper.plot(sure, right, marker=marker, markersize=4, color=colour, label=label)
    total = sum(b["items"] for b in told["after"]["bins"]) or 1
    for b in told["after"]["bins"]:
        middle, width = (b["from"] + b["to"]) / 2, b["to"] - b["from"]
        lower.bar(middle, b["items"] / total, width=0.95 * width, color="tab:blue")
    upper.set(title=name, ylabel="share of right labels", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="confidence", ylabel="share of items")
    upper.legend(fontsize=8, loc="lower right")
    upper.grid(alpha=0.3)
