"""Pictures of an assessment: the confusion of classes, accuracies and areas with intervals, what depends on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, FIRST, SECOND = "#1b2327", "#66727a", "#2f6f73", "#c07a2b"
_DPI = 120
_CELL_IN = 0.46
_WORTH_TELLING = 0.005


@dataclass(frozen=True)
class Mark:
    """A figure with its interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def draw_confusion(
    path: str | Path,
    names: Sequence[str],
    matrix_KK: NDArray[Any],
    *,
    rows: str,
    columns: str,
    title: str,
    digits: int | None = None,
) -> Path:
    """Draw a confusion matrix: colours are shares of each row, numbers are the entries.

    Args:
        path: PNG to write.
        names: (K,) of the classes.
        matrix_KK: (K, K) counts, or shares of the area.
        rows: What the rows are.
        columns: What the columns are.
        title: Above all.
        digits: Digits of the numbers; None writes shares of the row in percent.
    """
    used = np.flatnonzero(matrix_KK.any(axis=0) | matrix_KK.any(axis=1))
    matrix = matrix_KK[np.ix_(used, used)].astype(float)
    labels = [names[int(k)] for k in used]
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    longest = max(map(len, labels), default=4)
    side = max(2.2, _CELL_IN * len(used))
    figure = _figure(side + 0.09 * longest + 1.6, side + 0.07 * longest + 1.0)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="YlGnBu", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(
        range(len(used)), labels, rotation=45 if longest > 4 else 0, ha="right" if longest > 4 else "center"
    )
    axes.set_yticks(range(len(used)), labels)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    for i, j in np.ndindex(*matrix.shape):
        if matrix[i, j] and (digits is not None or share[i, j] >= _WORTH_TELLING):
            text = f"{100 * share[i, j]:.0f}" if digits is None else f"{matrix[i, j]:,.{digits}f}"
            dark = "white" if share[i, j] > 0.55 else INK
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=dark)
    axes.set_xlabel(columns, fontsize=9, color=QUIET)
    axes.set_ylabel(rows, fontsize=9, color=QUIET)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("share of the row", fontsize=8, color=QUIET)
    bar.ax.tick_params(labelsize=7, colors=QUIET)
    bar.outline.set_visible(False)
    return _saved(figure, axes, path, title)


def draw_accuracies(
    path: str | Path,
    names: Sequence[str],
    users: Sequence[Mark],
    producers: Sequence[Mark],
    title: str,
    labels: tuple[str, str] = ("user's accuracy", "producer's accuracy"),
) -> Path:
    """Draw user's and producer's accuracy of each class with their intervals.

    Args:
        path: PNG to write.
        names: Of the classes.
        users: One a class.
        producers: One a class.
        title: Above all.
        labels: What both are called.
    """
    figure = _figure(7.0, 1.2 + 0.36 * len(names))
    axes = figure.subplots()
    for shift, marks, colour, label in (
        (-0.14, users, FIRST, labels[0]),
        (0.14, producers, SECOND, labels[1]),
    ):
        _whiskers(axes, [i + shift for i in range(len(names))], marks, colour, label)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("accuracy with interval", fontsize=9, color=QUIET)
    _dress(axes)
    axes.legend(
        fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.6 / len(names) - 0.06), ncols=2
    )
    return _saved(figure, axes, path, title)


def draw_areas(
    path: str | Path, names: Sequence[str], mapped: Sequence[float], estimated: Sequence[Mark], title: str
) -> Path:
    """Draw the mapped area of each class against the estimated one with its interval, hectares.

    Args:
        path: PNG to write.
        names: Of the classes.
        mapped: Hectares by counting pixels.
        estimated: Hectares from the sample.
        title: Above all.
    """
    figure = _figure(7.0, 1.3 + 0.4 * len(names))
    axes = figure.subplots()
    at = np.arange(len(names))
    axes.barh(at - 0.18, mapped, height=0.34, color="#b9c4c6", label="mapped (pixels counted)")
    values = [m.value or 0.0 for m in estimated]
    axes.barh(at + 0.18, values, height=0.34, color=FIRST, alpha=0.75, label="estimated from the sample")
    _whiskers(axes, list(at + 0.18), estimated, INK, None, dot=False)
    axes.set_yticks(at, list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    axes.set_xlabel("hectares", fontsize=9, color=QUIET)
    _dress(axes)
    axes.legend(fontsize=8, frameon=False, loc="best")
    return _saved(figure, axes, path, title)


def draw_by_bins(
    path: str | Path, panels: Sequence[tuple[str, Sequence[str], Sequence[Mark], Sequence[float]]], title: str
) -> Path:
    """Draw accuracy by bins of something, with how much lies in each bin below; one column a panel.

    Args:
        path: PNG to write.
        panels: What it depends on, the bins' names, accuracy in each, share of points (or area) in each.
        title: Above all.
    """
    figure = _figure(max(4.6, 4.2 * len(panels)), 4.4)
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=[3, 1])
    for (name, bins, marks, shares), upper, lower in zip(panels, grid[0], grid[1], strict=True):
        at = [i for i, m in enumerate(marks) if m.value is not None]
        _bars(upper, at, [marks[i] for i in at])
        upper.set(ylim=(0, 1.03), xlim=(-0.6, len(bins) - 0.4), ylabel="accuracy")
        upper.set_xticks([])
        lower.bar(range(len(bins)), shares, color="#b9c4c6", width=0.9)
        lower.set_xlim(-0.6, len(bins) - 0.4)
        step = max(1, -(-len(bins) // 12))
        lower.set_xticks(range(0, len(bins), step), list(bins)[::step], rotation=45, ha="right")
        lower.set(xlabel=name, ylabel="share")
        for axes in (upper, lower):
            _dress(axes, along="y")
    return _saved(figure, grid[0, 0], path, title)


def _bars(axes: Axes, at: list[int], marks: list[Mark]) -> None:
    values = np.array([m.value for m in marks], float)
    ends = np.array(
        [[m.value if m.low is None else m.low, m.value if m.high is None else m.high] for m in marks], float
    )
    axes.plot(at, values, marker="o", markersize=4, color=FIRST, linewidth=1)
    if len(at):
        axes.vlines(at, ends[:, 0], ends[:, 1], color=FIRST, linewidth=1.6)


def _whiskers(
    axes: Axes, at: list[float], marks: Sequence[Mark], colour: str, label: str | None, *, dot: bool = True
) -> None:
    known = [(y, m, m.value) for y, m in zip(at, marks, strict=True) if m.value is not None]
    for y, mark, _ in known:
        if mark.low is not None and mark.high is not None:
            axes.hlines(y, mark.low, mark.high, color=colour, linewidth=1.8)
    if dot:
        axes.plot(
            [value for _, _, value in known],
            [y for y, _, _ in known],
            "o",
            color=colour,
            markersize=5,
            label=label,
        )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _dress(axes: Axes, along: str = "x") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="x" if along == "x" else "y", alpha=0.25)
    axes.set_axisbelow(True)


def _saved(figure: Figure, axes: Axes, path: str | Path, title: str) -> Path:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    figure.savefig(path)
    return Path(path)
