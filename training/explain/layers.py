"""Sheets of what the layers of a network answer to: maps of patches, or strengths by class.

Shape suffixes: N example, H row, W column, K class, L layer, F unit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.explain.activations import LayerMaps, LayerStrengths
from training.explain.examples import Examples
from training.explain.sheets import Legend, Sheet
from training.explain.style import heat, limit_of, new_figure, scale_bar, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_UNITS = 64


def chosen_examples(examples: Examples, most: int = 6) -> NDArray[np.int64]:
    """Choose one example of each class, at most so many: the patch of which the class covers most."""
    covered_N = examples.mine.sum(dim=(1, 2)).numpy()
    best = [
        int(np.nonzero(examples.of == k)[0][covered_N[examples.of == k].argmax()]) for k in examples.counts
    ]
    order = sorted(best, key=lambda n: -covered_N[n])[:most]
    return np.array(sorted(order), np.int64)


def maps_sheet(found: LayerMaps, examples: Examples, legend: Legend, kind: str) -> Sheet:
    """Show the ``strength`` of each layer's activation, or where it ``speaks`` for the class."""
    maps = found.strength if kind == "strength" else found.speaks
    mine_NHW = examples.mine.numpy()
    rows, shares = [], []
    for name, size, map_NHW in zip(found.layers, found.sizes, maps, strict=True):
        for n, k in enumerate(examples.of):
            whole = _fine(map_NHW[n], mine_NHW.shape[1])
            share = float(whole[mine_NHW[n]].sum() / max(float(whole.sum()), 1e-12))
            shares.append(share)
            rows.append(
                {
                    "layer": name,
                    "channels": size[0],
                    "side": size[1],
                    "class": legend.classes.names[k],
                    "mean": float(map_NHW[n].mean()),
                    "share_on_class": share,
                    "class_covers": float(mine_NHW[n].mean()),
                }
            )
    covers = float(mine_NHW.mean())
    title, told = {
        "strength": ("Activation maps", "How strongly each layer answers, one patch a class."),
        "speaks": ("Class activation maps", "Where each layer speaks for the patch's class (Grad-CAM)."),
    }[kind]
    told += f" In the last layer shown {np.mean(shares[-len(examples) :]):.0%} lies on the pixels of the class that"
    return Sheet(
        f"activation_{kind}",
        title,
        f"{told} is annotated there, which are {covers:.0%} of the patches.",
        pd.DataFrame(rows),
        partial(_draw_maps, found, maps, examples, legend),
    )


def strengths_sheet(found: LayerStrengths, legend: Legend) -> Sheet:
    """Show what the units of each layer answer to, class by class."""
    rows = [
        {"layer": name, "unit": f, "class": legend.classes.names[k], "activation": units_KF[k, f]}
        for name, units_KF in zip(found.layers, found.units, strict=True)
        for k in range(len(units_KF))
        for f in range(units_KF.shape[1])
    ]
    return Sheet(
        "activation_strength",
        "Activations",
        "Mean activation of the units of each layer for each class, each unit scaled to its largest; units in the "
        "order of the class that they answer to most. Columns that differ between classes tell them apart.",
        pd.DataFrame(rows),
        partial(_draw_strengths, found, legend),
    )


def _draw_maps(
    found: LayerMaps, maps: tuple[NDArray[Any], ...], examples: Examples, legend: Legend
) -> Figure:
    figure = new_figure(1.75 * (len(maps) + 1), 1.9 * len(examples) + 0.3)
    grid = figure.subplots(len(examples), len(maps) + 1, squeeze=False)
    mine_NHW = examples.mine.numpy()
    for n, row in enumerate(grid):
        row[0].imshow(_picture(examples, n, legend.bands), interpolation="nearest")
        _outline(row[0], mine_NHW[n])
        titled(row[0], legend.classes.names[examples.of[n]], 8)
        for axes, map_NHW, name, size in zip(row[1:], maps, found.layers, found.sizes, strict=True):
            axes.imshow(map_NHW[n], cmap="magma", interpolation="nearest", vmin=0)
            if n == 0:
                titled(axes, f"{name}\n{size[0]} x {size[1]} x {size[2]}", 7)
        for axes in row:
            axes.set_axis_off()
    return figure


def _draw_strengths(found: LayerStrengths, legend: Legend) -> Figure:
    kept = [k for k in range(len(legend.classes.names)) if np.isfinite(found.units[0][k]).any()]
    names = tuple(legend.classes.names[k] for k in kept)
    figure = new_figure(10.5, (0.2 * len(names) + 0.75) * len(found.layers))
    grid = figure.subplots(len(found.layers), 1, squeeze=False)[:, 0]
    for axes, name, units_KF in zip(grid, found.layers, found.units, strict=True):
        shown = _ordered(units_KF[kept])
        told = tuple(str(f) for f in range(shown.shape[1]))
        drawn = heat(axes, shown, names, told, limit_of(shown), signed=True)
        axes.set_xticks([])
        titled(axes, f"{name}: {units_KF.shape[1]} units", 9)
    scale_bar(figure, drawn, list(grid), "activation, of the unit's largest")
    return figure


def _ordered(units_KF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each unit to its largest, take those that differ most, order them by the class they answer to."""
    spread_F = units_KF.std(axis=0)
    most = np.argsort(-spread_F)[:_MOST_UNITS]
    scaled = units_KF[:, most] / np.maximum(np.abs(units_KF[:, most]).max(axis=0), 1e-12)
    return scaled[:, np.lexsort((-scaled.max(axis=0), scaled.argmax(axis=0)))]


def _fine(map_HW: NDArray[Any], side: int) -> NDArray[Any]:
    """Repeat the cells of a coarser map."""
    factor = side // map_HW.shape[0]
    return np.repeat(np.repeat(map_HW, factor, axis=0), factor, axis=1)


def _picture(examples: Examples, n: int, bands: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the median of the valid dates in colour, or grey where the bands are not there."""
    rgb = ("red", "green", "blue")
    planes = [bands.index(b) for b in rgb] if set(rgb) <= set(bands) else [len(bands) // 2] * 3
    x_TCHW = examples.batch.x[n].numpy()[:, planes].astype(np.float64)
    x_TCHW[:] = np.where((x_TCHW != 0).all(axis=1, keepdims=True), x_TCHW, np.nan)
    seen_HW = np.isfinite(x_TCHW).all(axis=1).any(axis=0)
    x_TCHW[:, :, ~seen_HW] = 0.0
    picture_HW3 = np.nanmedian(x_TCHW, axis=0).transpose(1, 2, 0)
    known = picture_HW3[(picture_HW3 > 0).all(axis=2)]
    if not len(known):
        return np.full(picture_HW3.shape, 0.9)
    low, high = np.percentile(known, (2, 98))
    return np.clip((picture_HW3 - low) / max(float(high - low), 1.0), 0, 1)


def _outline(axes: Axes, mine_HW: NDArray[np.bool_]) -> None:
    if mine_HW.any() and not mine_HW.all():
        axes.contour(mine_HW, levels=[0.5], colors=["#ffffff"], linewidths=0.9)
