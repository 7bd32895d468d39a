"""Where a refinement's first step reads: a map, with no data all around it.

::

        asked
      ┌───────────────┐
      │ 0 0 0 0 0 0 0 │     what lies outside the map, or outside the pixels that may be looked at, is no data:
      │ 0 0 ┌─────────┼──   label 0, confidence and probability 255
      │ 0 0 │ map     │
      └─────┼─────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.refine.steps import Layers, Source
from engine.store.view import NO_DATA, open_view
from engine.values.errors import InputError
from engine.values.grid import Box

LAYERS = ("label", "confidence", "probability")
"""Layers that a refinement may look at."""

CHANGED = "changed"
"""Layer of a refined map: (y, x) uint8, number of the last step that changed a pixel's label; 0 = none did."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Layers over any box, from arrays in memory.

    Attributes:
        layers: Name to array (..., y, x) uint8, covering `box`.
        box: Pixels that the arrays cover.
    """

    layers: Layers
    box: Box

    def __call__(self, box: Box) -> Layers:
        """Return the layers over a box."""
        inner = box & self.box
        at = inner.slices_in(self.box) if inner else None
        cut = {n: a if at is None else a[(..., *at)] for n, a in self.layers.items()}
        return _padded(cut, inner, box)


class StoreSource:
    """Layers over any box, from a map's Zarr.

    Args:
        url: The store.
        names: Layers to read; those that the map does not have are left out, but for ``label``.
        within: Pixels that may be looked at; None for all.

    Raises:
        InputError: If there is no map, it has no labels, or a layer is asked for that steps cannot read.
    """

    def __init__(self, url: str, names: Iterable[str], within: Box | None = None) -> None:
        self.view = open_view(url)
        names = tuple(names)
        require_layers(url, names, self.view.variables)
        self.names = tuple(n for n in names if n in self.view.variables)
        self.box = self.view.box if within is None else self.view.box & within

    def __call__(self, box: Box) -> Layers:
        """Return the layers over a box."""
        inner = box & self.box
        if not inner:
            empty = {n: np.empty((*self.view.array(n).shape[:-2], 0, 0), np.uint8) for n in self.names}
            return _padded(empty, inner, box)
        return _padded({n: self.view.read(n, inner) for n in self.names}, inner, box)


def require_layers(where: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Refuse a map without the layers that the steps need.

    Raises:
        InputError: If it has no label, or a step needs probabilities that it has not.
    """
    there = tuple(there)
    needed = [n for n in names if n in ("label", "probability") and n not in there]
    if needed:
        probability = needed == ["probability"]
        raise InputError(
            "the map lacks a layer that the steps need",
            where=where,
            found=", ".join(there) or "no layer",
            limit=needed[0],
            mend="make the map with `layers: [probability]`" if probability else "refine a map of classes",
        )


def clipped(source: Source, within: Box) -> Source:
    """Return a source that sees nothing outside some pixels."""

    def read(box: Box) -> Layers:
        layers, inner = source(box), box & within
        at = inner.slices_in(box) if inner else (slice(0, 0), slice(0, 0))
        return _padded({n: a[(..., *at)] for n, a in layers.items()}, inner, box)

    return read


def rows_of(source: Source, box: Box, band_px: int = 512) -> Callable[[int, int], NDArray[np.uint8]]:
    """Return what reads rows of the classes in a box, counted from its first; best from the first to the last.

    Stored chunks are higher than the strips that are asked for, so rows are read by bands and the last one is kept.
    """
    height, held = box.shape_yx[0], dict[int, NDArray[np.uint8]]()

    def band(number: int) -> NDArray[np.uint8]:
        if number not in held:
            held.clear()
            y0, y1 = number * band_px, min((number + 1) * band_px, height)
            held[number] = source(Box(box.y0 + y0, box.x0, box.y0 + y1, box.x1))["label"]
        return held[number]

    def read(y0: int, y1: int) -> NDArray[np.uint8]:
        numbers = range(y0 // band_px, -(-y1 // band_px))
        parts = [band(n)[max(0, y0 - n * band_px) : y1 - n * band_px] for n in numbers]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def beside(before: Source, after: Source) -> Source:
    """Return a source of the layers before, but for the label after; where it differs, `CHANGED` is 1."""

    def read(box: Box) -> Layers:
        layers, label = before(box), after(box)["label"]
        return {**layers, "label": label, CHANGED: (label != layers["label"]).astype(np.uint8)}

    return read


def no_data_of(name: str) -> int:
    """Return what stands for no data in a layer of a map."""
    return NO_DATA.get(name, 0 if name == "observations" else 255)


def _padded(layers: Mapping[str, NDArray[Any]], inner: Box, box: Box) -> Layers:
    """Put layers over a part of a box into no data; read only where nothing is added."""
    if inner == box:
        return layers
    found = {}
    for name, array in layers.items():
        found[name] = np.full((*array.shape[:-2], *box.shape_yx), no_data_of(name), array.dtype)
        if inner:
            found[name][(..., *inner.slices_in(box))] = array
    return found
