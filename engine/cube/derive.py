"""Features laid beside a cube's reflectance, lazily: one task makes one block of one variable, whole.

Statistics and phenology take all dates of a block in one task, without joining them first: each row
strip is put together from the dates' blocks, so that many dates need no copy of themselves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from engine.cube.features import STATISTICS, day_of_year, measure, position, split_statistic, statistics
from engine.cube.phenology import METRICS, phenology
from engine.cube.spectral import Index, find_index, find_measure, require_bands
from engine.cube.terrain import MARGIN_PX, require_metres, terrain
from engine.values.bands import find_band
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.grid import Box, Grid
from engine.values.recipe import Features, Layer

_STRIP_BYTES = 64 << 20
"""A strip of a series over all dates stays below this, as far as one row does."""


def with_features(cube: xr.Dataset, features: Features) -> xr.Dataset:
    """Add what a spec's features name to a cube; nothing is computed yet.

    Args:
        cube: With ``reflectance`` (time, band, y, x) uint16 x 10000, 0 = no data, the coordinates time,
            band, y, x and spatial_ref, and ``time_bnds`` where a step is longer than an instant.
        features: What to add.

    Returns:
        The cube with, as far as they were asked for: ``indices`` (time, index, y, x), ``statistics``
        (statistic, y, x), ``phenology`` (metric, y, x), ``day_of_year`` (time, encoding), ``position``
        (xyz, y, x), ``layers`` (layer, y, x); all float32, NaN = no data.

    Raises:
        InputError: If an index, band or statistic is unknown or named twice, the cube lacks a band that
            one needs, it is no cube, or what depends on the day is asked of a crop calendar per region.
    """
    _require_one_calendar(cube, features)
    for where in ("indices", "statistics"):
        _require_once(where, getattr(features, where))
    source = _Source.of(cube)
    added: list[xr.DataArray] = []
    if features.indices:
        added.append(_indices(source, features.indices))
    if features.statistics:
        added.append(_statistics(source, features.statistics))
    if features.phenology is not None:
        added.append(_phenology(source, features.phenology))
    if features.day_of_year:
        added.append(_day_of_year(source))
    if features.position:
        added.append(_position(source))
    if features.layers:
        added.append(_layers(source, features.layers))
    return cube.assign({str(array.name): array for array in added})


def _named(
    name: str, dims: tuple[str, ...], data: Any, labels: Sequence[str], **attributes: Any
) -> xr.DataArray:
    """Make a variable; `labels` are the coordinate of the dimension that no other variable has."""
    label = next(d for d in dims if d not in ("time", "y", "x"))
    if "y" in dims:
        attributes["grid_mapping"] = "spatial_ref"
    return xr.DataArray(data, dims=dims, coords={label: list(labels)}, name=name, attrs=attributes)


_Reduce = Callable[[tuple[str, ...], NDArray[np.uint16], NDArray[np.float32]], None]


@dataclass(frozen=True)
class _Source:
    """What features are made of.

    Attributes:
        reflectance: (time, band, y, x) uint16, one chunk of bands.
        bands: Names of the bands.
        cube: The cube itself.
        grid: Where pixels lie.
        box: The cube's pixels.
    """

    reflectance: da.Array
    bands: tuple[str, ...]
    cube: xr.Dataset
    grid: Grid
    box: Box

    @classmethod
    def of(cls, cube: xr.Dataset) -> _Source:
        if "reflectance" not in cube or set(cube["reflectance"].dims) != {"time", "band", "y", "x"}:
            raise InputError(
                "the cube has no reflectance (time, band, y, x)",
                where="cube",
                found=", ".join(map(str, cube.data_vars)),
                mend="open it with open_cube",
            )
        reflectance = cube["reflectance"].transpose("time", "band", "y", "x")
        if reflectance.dtype != np.uint16:
            raise InputError(
                "reflectance must be x 10000 with 0 = no data",
                where="cube.reflectance",
                found=reflectance.dtype,
                limit="uint16",
                mend="open a store with mask_and_scale=False",
            )
        named = [str(b) for b in cube["band"].values]
        bands = tuple(known.name if (known := find_band(b)) else b for b in named)
        grid, box = georef_of(cube)
        lazy = da.asarray(reflectance.data).rechunk({1: -1})
        return cls(lazy, bands, cube, grid, box)

    @property
    def middles(self) -> NDArray[np.datetime64]:
        """The middle of each time step, (time,) datetime64[ns]."""
        if "time_bnds" in self.cube:
            bounds = np.asarray(self.cube["time_bnds"].transpose("time", ...).values, "datetime64[ns]")
            return bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) // 2
        return np.asarray(self.cube["time"].values, "datetime64[ns]")

    @property
    def days(self) -> NDArray[np.float64]:
        """Days on the calendar of the first step's year, ascending: 1.0 is the start of its 1 January."""
        first = self.middles[:1].astype("datetime64[Y]").astype("datetime64[ns]")
        days = np.asarray((self.middles - first) / np.timedelta64(1, "D") + 1, np.float64)
        if (np.diff(days) < 0).any():
            raise InputError("the time steps are not in order", where="time", mend="cube.sortby('time')")
        return days

    def per_block(self, make: Callable[[Grid, Box], NDArray[np.float32]], first: int) -> da.Array:
        """Lay out (first, y, x) float32 of which each block is made from its own global pixels."""
        chunks = self.reflectance.chunks[2:]
        rows, cols = (tuple(itertools.accumulate(c, initial=0)) for c in chunks)
        return da.map_blocks(
            partial(_block, make, self.grid, self.box, (rows, cols)),
            chunks=((first,), *chunks),
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
            name=f"landweave-layer-{tokenize(make, self.grid, self.box, chunks)}",
        )

    def over_time(self, measures: Sequence[Index], reduce: _Reduce, first: int) -> da.Array:
        """Reduce all dates of a block to (first, y, x) float32, one task a block.

        Args:
            measures: What needs which bands; `reduce` is given those bands alone.
            reduce: Fills (first, y, x) from (time, band, y, x) and the names of its bands.
            first: Length of the first axis.
        """
        require_bands(measures, self.bands)
        used = tuple(b for b in self.bands if any(b in m.bands for m in measures))
        rows = [self.bands.index(b) for b in used]
        return da.blockwise(
            partial(_strip_by_strip, partial(reduce, used), rows, first),
            "fyx",
            self.reflectance,
            "tbyx",
            new_axes={"f": first},
            concatenate=False,
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
            name=f"landweave-series-{tokenize(reduce, used, first, self.reflectance.name)}",
        )


def _require_one_calendar(cube: xr.Dataset, features: Features) -> None:
    """Refuse what depends on the day where each region has days of its own: no one day would be right."""
    period = json.loads(cube.attrs.get("landweave_spec", "{}")).get("period")
    if not isinstance(period, dict) or period.get("kind") != "calendar":
        return
    daily = [s for s in features.statistics if s.endswith(("_slope", "_amplitude"))]
    daily += ["phenology"] * (features.phenology is not None) + ["day_of_year"] * features.day_of_year
    if daily:
        raise InputError(
            "the steps of a crop calendar lie on other days in each region",
            where="cube.features",
            found=", ".join(daily),
            mend="leave them out, or choose a period that is the same everywhere",
        )


def _require_once(where: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(
            "features must be named once each", where=f"cube.features.{where}", found=list(names)
        )


def _block(
    make: Callable[[Grid, Box], NDArray[np.float32]],
    grid: Grid,
    box: Box,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    block_id: tuple[int, ...] = (0, 0, 0),
) -> NDArray[np.float32]:
    _, row, col = block_id
    (top, bottom), (left, right) = edges[0][row : row + 2], edges[1][col : col + 2]
    return make(grid, Box(box.y0 + top, box.x0 + left, box.y0 + bottom, box.x0 + right))


def _indices(source: _Source, names: tuple[str, ...]) -> xr.DataArray:
    measures = [find_index(name) for name in names]
    require_bands(measures, source.bands)
    chunks = source.reflectance.chunks
    data = da.map_blocks(
        partial(_measure_block, source.bands, measures),
        source.reflectance,
        chunks=(chunks[0], (len(names),), *chunks[2:]),
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        name=f"landweave-indices-{tokenize(source.bands, measures, source.reflectance.name)}",
    )
    attributes = {"long_name": "spectral indices", "units": "1", **_described(measures)}
    return _named("indices", ("time", "index", "y", "x"), data, names, **attributes)


def _measure_block(
    bands: tuple[str, ...], measures: list[Index], reflectance: NDArray[np.uint16]
) -> NDArray[np.float32]:
    return measure(reflectance, bands, measures)


def _described(measures: Sequence[Index]) -> dict[str, list[str]]:
    """Say in attributes what each index is, one line each."""
    return {
        "index_long_name": [f"{m.name}: {m.long_name}" for m in measures],
        "formula": [f"{m.name} = {m.formula}" for m in measures],
        "constants": [f"{m.name}: {k} = {v:g}" for m in measures for k, v in m.constants] or ["none"],
        "reference": [f"{m.name}: {m.reference or 'a band'}" for m in measures],
    }


def _statistics(source: _Source, names: tuple[str, ...]) -> xr.DataArray:
    parts = [split_statistic(name) for name in names]
    measures = {what: find_measure(what) for what, _ in parts}
    wanted = tuple(
        (index, tuple((row, how) for row, (what, how) in enumerate(parts) if what == key))
        for key, index in measures.items()
    )
    reduce = partial(_statistics_strip, source.days, wanted)
    data = source.over_time(list(measures.values()), reduce, len(names))
    hows = [how for _, how in parts]
    attributes = {
        "long_name": "statistics over the time steps",
        "units": "1; of count: time steps; of slope: year-1",
        "meaning": [f"{how}: {STATISTICS.get(how, 'percentile')}" for how in dict.fromkeys(hows)],
        **_described(list(measures.values())),
    }
    return _named("statistics", ("statistic", "y", "x"), data, names, **attributes)


def _statistics_strip(
    days: NDArray[np.float64],
    wanted: tuple[tuple[Index, tuple[tuple[int, str], ...]], ...],
    bands: tuple[str, ...],
    reflectance: NDArray[np.uint16],
    out: NDArray[np.float32],
) -> None:
    for index, rows in wanted:
        series = measure(reflectance, bands, [index])[:, 0]
        out[[row for row, _ in rows]] = statistics(series, days, [how for _, how in rows])


def _phenology(source: _Source, name: str) -> xr.DataArray:
    index = find_measure(name)
    data = source.over_time([index], partial(_phenology_strip, source.days, index), len(METRICS))
    year = source.middles[:1].astype("datetime64[Y]")[0]
    attributes = {
        "long_name": f"phenology of {index.name}",
        "units": [f"{metric}: {unit}" for metric, (_, unit) in METRICS.items()],
        "meaning": [f"{metric}: {text}" for metric, (text, _) in METRICS.items()],
        "days": f"1.0 is the start of 1 January {year}; days go on into the next year",
        **_described([index]),
    }
    return _named("phenology", ("metric", "y", "x"), data, list(METRICS), **attributes)


def _phenology_strip(
    days: NDArray[np.float64],
    index: Index,
    bands: tuple[str, ...],
    reflectance: NDArray[np.uint16],
    out: NDArray[np.float32],
) -> None:
    out[:] = phenology(measure(reflectance, bands, [index])[:, 0], days)


def _strip_by_strip(
    reduce: Callable[[NDArray[np.uint16], NDArray[np.float32]], None],
    bands: list[int],
    first: int,
    blocks: list[list[NDArray[np.uint16]]],
) -> NDArray[np.float32]:
    """Reduce the blocks of all dates to (first, y, x) float32 in row strips; pixels do not see each other."""
    dates = [block for (block,) in blocks]
    height, width = dates[0].shape[2:]
    out = np.empty((first, height, width), np.float32)
    pixel_bytes = sum(d.shape[0] for d in dates) * (len(bands) * 2 + 4)
    for rows in _strips(height, width * pixel_bytes):
        reduce(np.concatenate([d[:, :, rows][:, bands] for d in dates]), out[:, rows])
    return out


def _strips(height: int, row_bytes: int) -> Iterator[slice]:
    """Cut rows into strips of at most `_STRIP_BYTES`, or single rows.

    >>> list(_strips(5, 32 << 20))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    rows = max(1, _STRIP_BYTES // max(1, row_bytes))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _day_of_year(source: _Source) -> xr.DataArray:
    title = "place of each step's middle on the circle of the year"
    data = day_of_year(source.middles)
    return _named("day_of_year", ("time", "encoding"), data, ["sin", "cos"], long_name=title, units="1")


def _position(source: _Source) -> xr.DataArray:
    title = "pixel centre on the unit sphere (WGS 84)"
    data = source.per_block(position, 3)
    return _named("position", ("xyz", "y", "x"), data, ["x", "y", "z"], long_name=title, units="1")


def _layers(source: _Source, layers: tuple[Layer, ...]) -> xr.DataArray:
    names = [layer.name for layer in layers]
    _require_once("layers", names)
    if any(layer.derive for layer in layers):
        require_metres(source.grid)
    data = source.per_block(partial(_read_layers, layers), len(layers))
    files = [f"{a.name}: {a.derive + ' of ' if a.derive else ''}{a.file} band {a.band}" for a in layers]
    return _named("layers", ("layer", "y", "x"), data, names, long_name="static layers", source=files)


def _read_layers(layers: tuple[Layer, ...], grid: Grid, box: Box) -> NDArray[np.float32]:
    return np.stack([_read_layer(layer, grid, box) for layer in layers])


def _read_layer(layer: Layer, grid: Grid, box: Box) -> NDArray[np.float32]:
    from engine.archive.rasters import read_raster

    if layer.derive is None:
        return read_raster(layer.file, layer.band, grid, box, layer.resampling)
    padded = read_raster(layer.file, layer.band, grid, box.pad(MARGIN_PX), layer.resampling)
    return terrain(padded, grid.resolution_yx, layer.derive)
