"""Origins: how a lazy cube was opened, remembered in this process by the name of its Dask array.

A Dataset's attributes must stay plain values, so what opened it (scenes, reader) stands here instead. The
name of a Dask array hashes what makes it, so an origin is never that of another cube; a slice of a cube
finds its origin through the graph, a cube that was changed in any other way finds none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.archive.items import ItemTable
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    import xarray as xr

    from engine.archive.reader import Reader

_KEPT = 16
_SAME_PIXELS = ("getitem-", "take-", "shuffle-", "rechunk-", "transpose-")
"""Dask layers that pick or move pixels and change none."""


@dataclass(frozen=True)
class Origin:
    """How a cube was opened.

    Attributes:
        items: The scenes.
        spec: What a pixel is.
        grid: Where pixels lie.
        box: Which pixels.
        reader: How they are read, None for the default.
    """

    items: ItemTable
    spec: CubeSpec
    grid: Grid
    box: Box
    reader: Reader | None


_ORIGINS: OrderedDict[str, Origin] = OrderedDict()
_LOCK = threading.Lock()


def remember(cube: xr.Dataset, origin: Origin) -> xr.Dataset:
    """Remember how a cube was opened, and return the cube; the last 16 are kept."""
    with _LOCK:
        _ORIGINS[_name(cube)] = origin
        while len(_ORIGINS) > _KEPT:
            _ORIGINS.popitem(last=False)
    return cube


def origin_of(cube: xr.Dataset) -> Origin | None:
    """Find how a cube, or the cube that it is a slice of, was opened; None if nobody knows."""
    name = _name(cube)
    if not name:
        return None
    dependencies = cube["reflectance"].data.dask.dependencies
    while name not in _ORIGINS:
        below = dependencies.get(name, ())
        if not name.startswith(_SAME_PIXELS) or len(below) != 1:
            return None
        (name,) = below
    return _ORIGINS.get(name)


def _name(cube: xr.Dataset) -> str:
    """Return the name of the reflectance's Dask array, ``""`` without one."""
    data: Any = cube["reflectance"].data if "reflectance" in cube else None
    return str(data.name) if hasattr(data, "dask") else ""
