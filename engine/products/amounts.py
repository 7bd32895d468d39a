"""A layer of amounts as ten steps of colour: what a picture shows of a map without classes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.products.reducers import mean_blocks
from engine.store.view import MapView, in_flight
from engine.values.classes import ClassScheme, LandClass
from engine.values.grid import Box

_STEPS = 10
_SHOWN_PERCENT = (2, 98)


@dataclass(frozen=True)
class Steps:
    """A reduced layer in steps.

    Attributes:
        label: (y, x) uint8, step 1..10, 0 = no data.
        scheme: The steps as classes, named by their range.
        counts: Pixels of the picture per step, 0 included.
    """

    label: NDArray[np.uint8]
    scheme: ClassScheme
    counts: dict[int, int]


def read_steps(view: MapView, variable: str, box: Box, factor: int, block_px: int = 2048) -> Steps:
    """Reduce a layer block by block and sort its means into ten steps between the 2nd and 98th percentile.

    Args:
        view: The map.
        variable: Its layer; of several planes the first.
        box: Area to show.
        factor: Map pixels per side of a picture pixel.
        block_px: Side of the blocks that are read, rounded to whole picture pixels.
    """
    height, width = box.shape_yx
    step, no_data = max(1, block_px // factor) * factor, view.no_data(variable)
    shape = (-(-height // factor), -(-width // factor))
    means = np.full(shape, 0 if no_data is None else no_data, view.array(variable).dtype)

    def read(block: Box) -> tuple[Box, NDArray[np.generic]]:
        moved = Box(block.y0 + box.y0, block.x0 + box.x0, block.y1 + box.y0, block.x1 + box.x0)
        values = view.read(variable, moved)
        return block, values[0] if values.ndim == 3 else values

    for block, values in in_flight(read, Box(0, 0, height, width).blocks(step), workers=2):
        rows = slice(block.y0 // factor, -(-block.y1 // factor))
        cols = slice(block.x0 // factor, -(-block.x1 // factor))
        means[rows, cols] = mean_blocks(values, factor, no_data)
    attributes = view.attributes(variable)
    amounts = means * float(attributes.get("scale", 1.0)) + float(attributes.get("offset", 0.0))
    units = str(attributes.get("units", "1"))
    return into_steps(amounts, means != no_data, "" if units == "1" else f" {units}")


def into_steps(amounts: NDArray[np.float64], valid: NDArray[np.bool_], unit: str = "") -> Steps:
    """Sort amounts into ten equal steps between the 2nd and 98th percentile of the valid ones.

    >>> steps = into_steps(np.arange(101.0)[None], np.ones((1, 101), bool), " m")
    >>> steps.scheme.names[0], steps.label[0, [0, 50, 100]].tolist()
    ('below 11.6 m', [1, 6, 10])
    """
    low, high = np.percentile(amounts[valid], _SHOWN_PERCENT) if valid.any() else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, _STEPS + 1)
    label = np.where(valid, np.searchsorted(edges[1:-1], amounts, side="right") + 1, 0).astype(np.uint8)
    texts = [f"{edge:.3g}" for edge in edges[1:-1]]
    names = [
        f"below {texts[0]}{unit}",
        *(f"{a} to {b}{unit}" for a, b in itertools.pairwise(texts)),
    ]
    names.append(f"{texts[-1]}{unit} and more")
    if len(set(names)) < len(names):  # all but equal values: number the steps
        names = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    classes = (
        LandClass(value=i + 1, name=name, colour=_colour(i / (_STEPS - 1))) for i, name in enumerate(names)
    )
    counts = np.bincount(label.ravel(), minlength=_STEPS + 1)
    return Steps(label, ClassScheme(classes=tuple(classes)), {i: int(n) for i, n in enumerate(counts) if n})


def _colour(share: float) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis"](share))
