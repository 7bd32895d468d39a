"""Series of a table as the planes that a network sees: uint16, 0 = no data, by `engine.values.planes`.

A band that landweave knows is reflectance or backscatter, a spectral index of its catalogue is an index;
anything else (rain, slope, somebody's own statistic) is a layer, whose step is chosen to hold its range.

Shape suffixes: N sample, T date, C plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.values.bands import find_band
from engine.values.errors import InputError
from engine.values.planes import Plane, encode
from training.series import SeriesTable

_STEPS = 60_000
"""Steps over the range of a layer; what lies a little beyond the range still has a number."""


def with_indices(table: SeriesTable, names: Sequence[str]) -> SeriesTable:
    """Append spectral indices computed from the table's bands, by the formulas that a cube's features have.

    Args:
        table: Reflectance 0..1 under names that landweave knows.
        names: Of `engine.cube.spectral.catalogue`; those that the table has already are replaced.

    Raises:
        InputError: If an index is unknown or lacks a band.
    """
    from engine.cube.spectral import evaluate, find_index, require_bands

    if not names:
        return table
    own = {found.name: i for i, b in enumerate(table.bands) if (found := find_band(b)) and b not in names}
    indices = [find_index(name) for name in names]
    require_bands(indices, tuple(own))
    shape = table.values.shape[:2]
    flat = {name: np.ascontiguousarray(table.values[:, :, i].ravel()) for name, i in own.items()}
    computed = [evaluate(index.tree, flat).reshape(shape) for index in indices]
    kept = [i for i, b in enumerate(table.bands) if b not in names]
    values = np.concatenate([table.values[:, :, kept], np.stack(computed, axis=2)], axis=2)
    values[~np.isfinite(values)] = np.nan
    return replace(table, values=values, bands=(*(table.bands[i] for i in kept), *names))


def planes_of_table(table: SeriesTable) -> tuple[Plane, ...]:
    """Choose the plane of each band by its name; the range of layers is that of the table.

    >>> import datetime as dt
    >>> from training.tables.planes import _plane
    >>> _plane("B04", np.array([0.1])).kind, _plane("NDVI", np.array([0.1])).kind
    ('reflectance', 'index')
    """
    return tuple(_plane(name, table.values[:, :, i]) for i, name in enumerate(table.bands))


def stored_series(table: SeriesTable, planes: Sequence[Plane]) -> NDArray[np.uint16]:
    """Write a table's values in 16 bits.

    Args:
        table: Any units, NaN = missing.
        planes: One for each of its bands.

    Returns:
        (N, T, C) uint16, 0 = no data.

    Raises:
        InputError: If the planes are not the table's bands.
    """
    names = tuple(plane.name for plane in planes)
    if names != table.bands:
        raise InputError(
            "the planes are not the table's bands", where=table.source, found=table.bands, limit=names
        )
    return np.stack([encode(table.values[:, :, i], plane) for i, plane in enumerate(planes)], axis=2)


def _plane(name: str, values: NDArray[np.floating]) -> Plane:
    from engine.cube.spectral import catalogue

    found = find_band(name)
    if found is not None and found.kind in ("reflectance", "backscatter"):
        return Plane(name=name, kind=found.kind)
    known = values[np.isfinite(values)]
    if name in catalogue() and (not known.size or np.quantile(np.abs(known), 0.99) < 3):
        return Plane(name=name, kind="index")
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    room = max((high - low) * 0.05, 1e-6)
    return Plane(name=name, kind="layer", low=low - room, scale=_STEPS / (high - low + 2 * room))


def with_bands(table: SeriesTable, names: Sequence[str]) -> SeriesTable:
    """Choose bands and their order, by landweave's names: ``B04`` of the table is ``red``.

    Raises:
        InputError: If one is not there.
    """
    known = {(found.name if (found := find_band(b)) else b): i for i, b in enumerate(table.bands)}
    lacking = [name for name in names if name not in known]
    if lacking:
        raise InputError(
            "the table lacks what the map's cube will show",
            where=table.source,
            found=", ".join(known),
            limit=", ".join(lacking),
            mend="rename the table's bands, or leave these out of cube",
        )
    return replace(table, values=table.values[:, :, [known[n] for n in names]], bands=tuple(names))
