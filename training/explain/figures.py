"""Figures of explanations, drawn from the results' arrays.

Shape suffixes: N example, A head, S step, C band, K class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from training.explain.confidence import Confidence
from training.explain.hidden import Hidden
from training.explain.hiding import InSeason, Occlusion
from training.explain.permutation import Permutation
from training.explain.style import (
    ACCENT,
    INK,
    QUIET,
    WRONG,
    bare,
    heat,
    limit_of,
    named,
    new_figure,
    panels,
    scale_bar,
    titled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CLASSES = 20


def draw_permutation(found: Permutation, bands: tuple[str, ...], dates: tuple[str, ...]) -> Figure:
    """Draw bars of the loss of accuracy, a dot for each shuffle."""
    parts = [(bands, found.bands, "bands")] + ([(dates, found.dates, "dates")] if dates else [])
    high = 0.26 * max(len(names) for names, _, _ in parts) + 1.2
    figure = new_figure(6.0 * len(parts), min(14.0, max(2.8, high)))
    grid = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (names, losses, kind) in zip(grid, parts, strict=True):
        places = np.arange(len(names))
        axes.barh(places, losses.mean(axis=1), color=ACCENT, height=0.7)
        for repeat in losses.T:
            axes.plot(repeat, places, ".", color=INK, markersize=3, alpha=0.6)
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.invert_yaxis()
        bare(axes)
        named(axes, "y", names)
        titled(axes, f"{kind}: loss of accuracy when shuffled")
    return figure


def draw_occlusion(found: Occlusion, classes: ClassScheme, names: tuple[str, ...], axis: str) -> Figure:
    """Draw the loss of accuracy as bars, and under them what each class loses."""
    rows = found.probability.T  # (K, J)
    figure = new_figure(min(16.0, max(6.5, 0.42 * len(names) + 3.2)), 2.6 + 0.27 * len(rows))
    top, under = figure.subplots(2, 1, height_ratios=[1.0, max(0.8, 0.17 * len(rows))])
    top.bar(np.arange(len(names)), found.accuracy, color=ACCENT, width=0.7)
    top.axhline(0, color=QUIET, linewidth=0.8)
    top.set_xlim(-0.5, len(names) - 0.5)
    bare(top)
    top.set_xticks([])
    titled(top, f"loss of accuracy without each of the {axis}")
    drawn = heat(under, rows, classes.names, names, limit_of(rows), signed=True)
    titled(under, "loss of the true class's probability", 9)
    scale_bar(figure, drawn, under, "probability")
    return figure


def draw_in_season(found: InSeason, classes: ClassScheme, names: tuple[str, ...]) -> Figure:
    """Draw accuracy and F1, and the recall of each class, against the last date known."""
    steps = np.arange(len(names))
    figure = new_figure(12.5, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(steps, found.accuracy, color=INK, linewidth=2.4, marker="o", markersize=4, label="accuracy")
    left.plot(steps, found.f1, color=ACCENT, linewidth=1.6, marker="o", markersize=3, label="mean F1")
    left.axhline(found.chance, color=QUIET, linestyle=":", label="most frequent class alone")
    held = found.reached()
    left.axvline(held, color=QUIET, linewidth=0.8)
    left.annotate(
        f" 95% held from {names[held]}", (held, 0.02), color=QUIET, fontsize=8, ha=_side(held, len(names))
    )
    titled(left, "with the dates up to")
    for k, colour in enumerate(_colours(classes)):
        if np.isfinite(found.recall[:, k]).any():
            told = f"{classes.names[k]} ({found.support[k]:,})"
            right.plot(steps, found.recall[:, k], color=colour, linewidth=1.8, label=told)
    titled(right, "recall of each class (its annotated pixels)")
    for axes in (left, right):
        axes.set_ylim(0, 1.02)
        bare(axes)
        named(axes, "x", names)
    left.legend(frameon=False, fontsize=8, loc="best")
    right.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _side(step: int, steps: int) -> str:
    return "left" if step < steps / 2 else "right"


def draw_attribution(
    values: tuple[NDArray[Any], NDArray[Any]],
    classes: ClassScheme,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    unit: str,
) -> Figure:
    """Draw band x date: the strength over all classes, then each class signed.

    Args:
        values: Signed and absolute means, (K, S, C) each.
        classes: Their names.
        names: Of bands and steps.
        unit: Of the values.
    """
    signed_KSC, strength_KSC = values
    bands, steps = names
    shown = [k for k in range(len(signed_KSC)) if np.isfinite(signed_KSC[k]).any()][:_MOST_CLASSES]
    rows, columns = panels(len(shown) + 1)
    wide = min(4.6, max(2.6, 0.17 * len(steps) + 1.2))
    figure = new_figure(wide * columns + 1.2, (0.19 * len(bands) + 1.1) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    whole_CS = shares(strength_KSC).T
    heat(grid[0], whole_CS, bands, steps, limit_of(whole_CS), signed=False)
    titled(grid[0], f"all classes: share, up to {limit_of(whole_CS):.0%}", 9)
    for axes, k in zip(grid[1:], shown, strict=False):  # a scale for each: one class may dwarf all others
        limit = limit_of(signed_KSC[k])
        drawn = heat(axes, signed_KSC[k].T / limit, bands, steps, 1.0, signed=True)
        titled(axes, f"{classes.names[k]}  ±{limit:.2g}", 9)
    for axes in grid[len(shown) + 1 :]:
        axes.set_axis_off()
    scale_bar(figure, drawn, list(grid), f"for (+) or against (-), of ± {unit}")
    return figure


def shares(strength_KSC: NDArray[Any]) -> NDArray[np.float64]:
    """Return each cell's share of a class's strength, the mean over the classes that have any: (S, C)."""
    total_K = np.nansum(strength_KSC, axis=(1, 2))
    told = total_K > 0
    if not told.any():
        return np.zeros(strength_KSC.shape[1:])
    found: NDArray[np.float64] = (strength_KSC[told] / total_K[told, None, None]).mean(axis=0)
    return found


def draw_attention(
    values_KAS: NDArray[Any], even_KS: NDArray[Any], classes: ClassScheme, names: tuple[str, ...]
) -> Figure:
    """Draw class x date for the mean of the heads, and each head's mean over the classes as lines."""
    figure = new_figure(min(16.0, max(8.0, 0.45 * len(names) + 4)), 3.4 + 0.27 * len(values_KAS))
    top, under = figure.subplots(2, 1, height_ratios=[1.0, max(0.8, 0.14 * len(values_KAS))])
    steps = np.arange(len(names))
    for a in range(values_KAS.shape[1]):
        top.plot(steps, np.nanmean(values_KAS[:, a], axis=0), linewidth=1.2, label=f"head {a + 1}")
    top.plot(steps, np.nanmean(even_KS, axis=0), color=QUIET, linestyle=":", label="all dates alike")
    top.set_xlim(-0.5, len(names) - 0.5)
    top.set_ylim(bottom=0)
    bare(top)
    named(top, "x", names)
    top.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    titled(top, "attention of each head, mean over the classes")
    mean_KS = values_KAS.mean(axis=1)
    drawn = heat(under, mean_KS, classes.names, names, limit_of(mean_KS), signed=False)
    titled(under, "attention for each class, mean over the heads", 9)
    scale_bar(figure, drawn, under, "weight")
    return figure


def draw_confidence(found: Confidence, classes: ClassScheme) -> Figure:
    """Draw a histogram for each class that the network says: right under wrong."""
    said = [k for k in range(len(found.right)) if (found.right[k] + found.wrong[k]).any()][:_MOST_CLASSES]
    rows, columns = panels(len(said))
    figure = new_figure(3.1 * columns, 2.1 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    centres, wide = (found.edges[:-1] + found.edges[1:]) / 2, float(np.diff(found.edges)[0]) * 0.92
    for axes, k in zip(grid, said, strict=False):
        right, wrong = found.right[k], found.wrong[k]
        axes.bar(centres, right, wide, color=ACCENT, label="right")
        axes.bar(centres, wrong, wide, bottom=right, color=WRONG, label="wrong")
        total = int(right.sum() + wrong.sum())
        bare(axes)
        titled(axes, f"{classes.names[k]}: {right.sum() / total:.0%} right of {total:,} px", 8)
        axes.set_xlim(0, 1)
    for axes in grid[len(said) :]:
        axes.set_axis_off()
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    figure.supxlabel("probability of the class that is said", fontsize=9, color=QUIET)
    return figure


def draw_hidden(found: Hidden, classes: ClassScheme, of_N: NDArray[np.int64]) -> Figure:
    """Draw a column for each picture: PCA above, t-SNE below."""
    kinds = [("PCA", found.pca)] + ([("t-SNE", found.tsne)] if len(found.tsne) else [])
    figure = new_figure(2.5 * len(found.names) + 1.6, 2.6 * len(kinds) + 0.4)
    grid = figure.subplots(len(kinds), len(found.names), squeeze=False)
    for row, (kind, points) in zip(grid, kinds, strict=True):
        for j, axes in enumerate(row):
            _scatter(axes, points[j], classes, of_N)
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(kind, color=INK)
        if kind == "PCA":  # one pair of axes for all: what moves, moves
            low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
            rim = 0.05 * np.maximum(high - low, 1e-6)
            for axes in row:
                axes.set_xlim(low[0] - rim[0], high[0] + rim[0])
                axes.set_ylim(low[1] - rim[1], high[1] + rim[1])
    for j, axes in enumerate(grid[0]):
        titled(
            axes,
            f"{found.names[j]}\naccuracy {found.accuracy[j]:.0%}, silhouette {found.silhouette[j]:.2f}",
            8,
        )
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=7, markerscale=1.6)
    return figure


def _scatter(axes: Axes, points_N2: NDArray[Any], classes: ClassScheme, of_N: NDArray[np.int64]) -> None:
    size = float(np.clip(2500 / len(of_N), 6, 30))
    for k, colour in enumerate(_colours(classes)):
        mine = of_N == k
        if mine.any():
            axes.scatter(
                points_N2[mine, 0],
                points_N2[mine, 1],
                s=size,
                color=colour,
                label=classes.names[k],
                alpha=0.85,
                linewidth=0,
            )


def _colours(classes: ClassScheme) -> list[str]:
    return [c.colour for c in classes.classes]
