"""How the figures look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, ACCENT, WRONG = "#1b2327", "#66727a", "#2f6f73", "#c0504d"
DPI = 110
SIGNED, AMOUNT = "PuOr", "YlGnBu"
MOST_TICKS = 14


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panels(n: int, wide: int = 4) -> tuple[int, int]:
    """Return rows and columns for so many panels.

    >>> panels(5), panels(3)
    ((2, 4), (1, 3))
    """
    columns = max(1, min(wide, n))
    return -(-n // columns), columns


def titled(axes: Axes, text: str, size: float = 10) -> None:
    """Put a title at the upper left."""
    axes.set_title(text, loc="left", color=INK, fontsize=size)


def bare(axes: Axes) -> None:
    """Take away the frame's upper and right side."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8, colors=QUIET)


def named(axes: Axes, along: str, names: tuple[str, ...]) -> None:
    """Name the ticks of an axis, leaving some out where they are many."""
    shown = np.arange(len(names))[:: max(1, -(-len(names) // MOST_TICKS))]
    labels = [names[i] for i in shown]
    if along == "x":
        turned = 90 if max(map(len, labels), default=0) * len(labels) > 40 else 0
        axes.set_xticks(shown, labels, fontsize=7, color=QUIET, rotation=turned)
    else:
        axes.set_yticks(shown, labels, fontsize=8, color=QUIET)
    axes.tick_params(length=0)


def heat(
    axes: Axes,
    values: NDArray[Any],
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    limit: float,
    *,
    signed: bool,
) -> Any:
    """Draw a table in colours: signed with white at zero, or amounts from zero up; grey = nothing known."""
    axes.set_facecolor("#e4e7e9")
    drawn = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=SIGNED if signed else AMOUNT,
        vmin=-limit if signed else 0.0,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    named(axes, "x", columns)
    named(axes, "y", rows)
    for side in axes.spines.values():
        side.set_visible(False)
    return drawn


def limit_of(values: NDArray[Any]) -> float:
    """Return the largest absolute value, never zero."""
    known = np.abs(values[np.isfinite(values)])
    return max(float(known.max(initial=0.0)), 1e-9)


def scale_bar(figure: Figure, drawn: Any, axes: Any, label: str) -> None:
    """Add a colour bar beside axes."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.01)
    bar.set_label(label, fontsize=8, color=QUIET)
    bar.ax.tick_params(labelsize=7, colors=QUIET)
    bar.outline.set_visible(False)
