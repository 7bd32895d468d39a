"""A cube as a store: what `open_cube` makes, written down and opened again as the very same Dataset.

The store's layout is read off a lazy cube (names, dimensions, types, attributes), so whatever a cube's
spec asks for has a place::

    time x ... x y x x    Variable   tiles are written, one time step a chunk
    anything else         Series     written whole with the metadata
    coordinates           labels of the dimensions, with their attributes

The group's attributes carry the Dataset's own, and under `STAGED_ATTR` what was staged and how far it is.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from engine.store.layout import Dim, Series, StoreSpec, Variable, open_store
from engine.store.objects import join, local_path
from engine.store.storespec import TIME
from engine.values.area import Area
from engine.values.errors import ConflictError, InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec

STORE = "cube.zarr"
STAGED_ATTR, CUBE_SPEC_ATTR, ITEMS_ATTR = "landweave_cube", "landweave_spec", "landweave_items"
INCOMPLETE_ATTR = "landweave_incomplete"

WIDE_CODEC = "blosc-lz4:5"
"""Of reflectances (`benchmarks/cube_store.py`): writes about 1.6 times as fast as zstd at level 1 and reads a patch
in about 60% of its time, for 13% more bytes."""

_PLACE = {"y", "x", "spatial_ref"}
_INNER_CHUNKS = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class Stage:
    """One staging of time steps into a cube.

    Attributes:
        name: Stage of the ledger: ``cube``, and ``cube-2024-03`` for what was appended.
        steps: First time step and the one after the last.
        asked: First and last day that were asked for, ISO 8601.
        begins: First day that was searched, ISO 8601.
        state: ``being made``, ``complete`` or ``partial``.
        missing: Tiles without a record, the first thousand, when it is partial.
    """

    name: str
    steps: tuple[int, int]
    asked: tuple[str, str]
    begins: str
    state: str = "being made"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Staged:
    """What a cube's store holds beyond the arrays.

    Attributes:
        box: Global pixels that the cube covers; the store's own box is larger, whole shards.
        attrs: Names of the Dataset's own attributes among the group's.
        stages: What was staged, in order of time.
    """

    box: Box
    attrs: tuple[str, ...]
    stages: tuple[Stage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Write it as JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Staged:
        """Read what `to_dict` wrote."""
        stages = tuple(
            Stage(
                **s | {"steps": tuple(s["steps"]), "asked": tuple(s["asked"]), "missing": tuple(s["missing"])}
            )
            for s in fields["stages"]
        )
        return cls(Box(**fields["box"]), tuple(fields["attrs"]), stages)

    def incomplete(self) -> str:
        """Say in words what is not there yet, empty when all is there."""
        told = []
        for stage in (s for s in self.stages if s.state != "complete"):
            first, end = stage.steps
            lost = f", without the tiles {', '.join(stage.missing)}" if stage.missing else ""
            if stage.state == "partial" and not stage.missing:
                lost = ", gaps.json of the run says what could not be read"
            told.append(f"{stage.name} (time steps {first}..{end - 1}) is {stage.state}{lost}")
        return "; ".join(told)


def store_spec(cube: xr.Dataset, grid: Grid, box: Box, shard_px: int, title: str = "") -> StoreSpec:
    """Describe the store that holds cubes like this one over a box.

    Args:
        cube: A lazy cube of the same spec and time steps, over any pixels; only its small arrays without
            pixels are computed.
        grid: Where pixels lie.
        box: Global pixels to cover; grown outward to whole shards.
        shard_px: Side of a shard in pixels.
        title: One line for people.

    Raises:
        InputError: If a coordinate other than y, x and spatial_ref has pixels.
    """
    dims = {str(n): _dim(cube, str(n)) for n in cube.sizes if n not in _PLACE and n != "nv"}
    variables, series = [], []
    for name, array in cube.variables.items():
        if name in _PLACE or name in dims or name == f"{TIME}_bnds":
            continue
        own = tuple(dims[str(d)] for d in array.dims if d not in _PLACE)
        if array.dims[-2:] == ("y", "x") and name not in cube.coords:
            variables.append(_variable(str(name), array, own))
        elif not _PLACE & set(array.dims):
            series.append(_series(str(name), array, own, coordinate=name in cube.coords))
        else:
            raise InputError("a cube's store has no place for this array", where=str(name), found=array.dims)
    chunk = next(c for c in _INNER_CHUNKS if shard_px % c == 0)
    return StoreSpec(grid, box, shard_px, tuple(variables), chunk, title, series=tuple(series))


def dataset_attrs(cube: xr.Dataset) -> dict[str, Any]:
    """Return a cube's own attributes as JSON values."""
    attrs: dict[str, Any] = json.loads(json.dumps(cube.attrs, default=_plain))
    return attrs


def _variable(name: str, array: xr.Variable, dims: tuple[Dim, ...]) -> Variable:
    attrs = _attrs(array)
    no_data = attrs.get("nodata", 0 if array.dtype.kind in "iu" else float("nan"))
    wide = array.dtype.kind in "iu" and array.dtype.itemsize > 1
    return Variable(name, array.dtype.name, no_data, dims, attrs, WIDE_CODEC if wide else "")


def _series(name: str, array: xr.Variable, dims: tuple[Dim, ...], *, coordinate: bool) -> Series:
    values = np.asarray(array.values)
    dtype = "str" if values.dtype.kind in "UO" else values.dtype.name
    return Series(name, dtype, dims, tuple(values.ravel().tolist()), _attrs(array), coordinate)


def _dim(cube: xr.Dataset, name: str) -> Dim:
    """Describe a dimension; time has one step a chunk, so that it can grow."""
    if name not in cube.coords:
        return Dim(name, tuple(range(cube.sizes[name])), labelled=False)
    values, attrs = cube[name].values, _attrs(cube[name].variable)
    if name != TIME:
        return Dim(name, tuple(values.tolist()), attrs=attrs)
    bounds = None
    if f"{TIME}_bnds" in cube.coords:
        bounds = tuple((_iso(a), _iso(b)) for a, b in cube[f"{TIME}_bnds"].values)
    return Dim(name, tuple(_iso(v) for v in values), 1, bounds, attrs)


def _iso(moment: np.datetime64) -> str:
    """Write a time as ISO 8601, a midnight as its date.

    >>> _iso(np.datetime64("2023-03-01T00:00")), _iso(np.datetime64("2023-03-01T10:20:30"))
    ('2023-03-01', '2023-03-01T10:20:30')
    """
    return str(np.datetime_as_string(moment, unit="s")).removesuffix("T00:00:00")


def _attrs(array: xr.Variable) -> dict[str, Any]:
    attrs: dict[str, Any] = json.loads(json.dumps(array.attrs, default=_plain))
    return attrs


def _plain(value: Any) -> Any:
    """Turn numpy's values into Python's."""
    return value.tolist()


def store_of(place: str | Path) -> str:
    """Return the URL of the cube's store in a run folder, or of a store itself."""
    url = str(place).rstrip("/")
    path = local_path(url)
    if path is not None:
        url = str(path.absolute())
    return url if url.endswith(".zarr") else join(url, STORE)


def read_staged(url: str) -> tuple[StoreSpec, Staged, dict[str, Any]]:
    """Read what a cube's store says about itself: layout, stages and all attributes.

    Raises:
        InputError: If there is no complete store, or it holds no cube.
    """
    root, spec = open_store(url)
    attrs = dict(root.attrs)
    if STAGED_ATTR not in attrs:
        raise InputError("the store holds no cube", where=url, mend="make it with `landweave cube`")
    return spec, Staged.from_dict(attrs[STAGED_ATTR]), attrs


def open_stored(
    place: str | Path,
    spec: CubeSpec | None = None,
    area: Area | None = None,
    *,
    grid: Grid | None = None,
    box: Box | None = None,
    chunks_yx: tuple[int, int] = (1024, 1024),
    partial: bool = False,
) -> xr.Dataset:
    """Open a staged cube lazily: the Dataset that `engine.open_cube` gives for the same scenes and box.

    Pixels are the same wherever the area's outline or its halo reaches; fixed grid blocks further away,
    and tiles that were not written yet, read as no data. A cube with such tiles has the attribute
    ``landweave_incomplete``, which says which, and a warning is logged.

    Args:
        place: Run folder or the ``cube.zarr`` in it: a path or any URL that fsspec reads.
        spec: What the cube must be; None takes it as it is. A spec without a season fits any.
        area: What to cover; default everything that was staged.
        grid: Must be the store's, if given.
        box: Global pixels to cover instead of the area's bounds.
        chunks_yx: Size of a chunk in pixels, about: whole inner chunks of the store, on its own lattice.
        partial: The caller knows that some tiles may be missing: no warning.

    Raises:
        InputError: If there is no cube, or the area or box reaches beyond what was staged.
        SpecError: If it is not the cube of `spec`.
        ConflictError: If it lies on another grid.
    """
    url = store_of(place)
    layout, staged, attrs = read_staged(url)
    if spec is not None:
        own, steps = CubeSpec.model_validate_json(attrs[CUBE_SPEC_ATTR]), len(layout.dims[TIME].labels)
        spec.require(own, n_dates=steps, other_n_dates=steps)
    if grid is not None and grid != layout.grid:
        raise ConflictError("the cube lies on another grid", where=url, found=layout.grid, limit=grid)
    if box is None:
        bounds = None if area is None else area.to_crs(layout.grid.crs).bounds
        box = staged.box if bounds is None else layout.grid.box_of_bounds(bounds)
    if not box or not staged.box.holds(box):
        raise InputError(
            "the staged cube does not reach so far",
            where=url,
            found=box,
            limit=staged.box,
            mend="ask for less, or stage a larger area or halo_px",
        )
    own_attrs = {name: attrs[name] for name in staged.attrs}
    if (told := staged.incomplete()) and not partial:
        logging.getLogger(__name__).warning("%s is incomplete: %s", url, told)
        own_attrs[INCOMPLETE_ATTR] = told
    token = tokenize(url, layout.to_dict(), staged.to_dict(), attrs.get(ITEMS_ATTR))
    source = _Source(url, layout, box, _edges(box, layout.chunk_px, chunks_yx), token)
    return _to_dataset(source, own_attrs)


@dataclass(frozen=True)
class _Source:
    """Where the blocks of an opened cube come from."""

    url: str
    layout: StoreSpec
    box: Box
    edges: tuple[tuple[int, ...], tuple[int, ...]]
    token: str


def _edges(box: Box, inner_px: int, chunks_yx: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut a box on multiples of whole inner chunks, so that none is decoded twice.

    >>> _edges(Box(-100, 0, 2200, 700), 256, (1100, 1024))
    ((-100, 0, 1024, 2048, 2200), (0, 700))
    """
    cut = []
    for (lo, hi), chunk in zip(((box.y0, box.y1), (box.x0, box.x1)), chunks_yx, strict=True):
        step = max(1, chunk // inner_px) * inner_px
        cut.append((lo, *range((lo // step + 1) * step, hi, step), hi))
    return cut[0], cut[1]


def _to_dataset(source: _Source, attrs: Mapping[str, Any]) -> xr.Dataset:
    layout = source.layout
    variables: dict[str, Any] = {v.name: _lazy(source, v) for v in layout.variables}
    coords: dict[str, Any] = {}
    for series in layout.series:
        names = tuple(d.name for d in series.dims)
        (coords if series.coordinate else variables)[series.name] = (names, series.array(), series.attrs)
    for dim in (d for d in layout.dims.values() if d.labelled):
        coords |= _coordinate(dim)
    coords |= georef_coords(layout.grid, source.box)
    return xr.Dataset(variables, coords=coords, attrs=dict(attrs))


def _coordinate(dim: Dim) -> dict[str, Any]:
    if dim.name != TIME:
        return {dim.name: (dim.name, np.asarray(dim.labels), dict(dim.attrs))}
    found = {dim.name: (dim.name, np.array(dim.labels, "datetime64[ns]"), dict(dim.attrs))}
    if dim.bounds is not None:
        found[f"{dim.name}_bnds"] = ((dim.name, "nv"), np.array(dim.bounds, "datetime64[ns]"), {})  # type: ignore[assignment]
    return found


def _lazy(source: _Source, variable: Variable) -> tuple[tuple[str, ...], da.Array, dict[str, Any]]:
    """Make one variable: a task reads one block of one time step."""
    rows, cols = (tuple(b - a for a, b in itertools.pairwise(axis)) for axis in source.edges)
    lead = [(d.chunk_len,) * (len(d.labels) // d.chunk_len) for d in variable.dims]
    array = da.map_blocks(
        functools.partial(_read, source.url, source.token, variable.name, _origin(source, variable)),
        chunks=(*lead, rows, cols),
        dtype=variable.dtype,
        meta=np.empty((0,) * (len(lead) + 2), variable.dtype),
        name=f"landweave-stored-{tokenize(source.token, source.edges, variable.name)}",
    )
    return (*(d.name for d in variable.dims), "y", "x"), array, dict(variable.attrs)


_Origin = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


def _origin(source: _Source, variable: Variable) -> _Origin:
    """Return the block edges inside the stored array, and the steps of each extra dimension's chunk."""
    box = source.layout.box
    rows, cols = source.edges
    inside = tuple(y - box.y0 for y in rows), tuple(x - box.x0 for x in cols)
    return inside, tuple(d.chunk_len for d in variable.dims)


def _read(
    url: str, token: str, name: str, origin: _Origin, block_id: tuple[int, ...] | None = None
) -> NDArray[Any]:
    """Read one block; what was never written is no data."""
    (rows, cols), lead = origin
    assert block_id is not None
    *at, row, col = block_id
    steps = (slice(i * n, (i + 1) * n) for i, n in zip(at, lead, strict=True))
    where = (*steps, slice(rows[row], rows[row + 1]), slice(cols[col], cols[col + 1]))
    return np.asarray(_array(url, name, token)[where])


@lru_cache(maxsize=64)
def _array(url: str, name: str, token: str) -> Any:
    """Open an array once a process; the token tells a store that has grown from what it was."""
    return open_store(url)[0][name]


def growth_barriers(spec: CubeSpec) -> str:
    """Say why a cube's earlier time steps depend on later ones, so that nothing can be appended.

    >>> growth_barriers(CubeSpec(bands=["red"], gap_fill="linear"))
    'gap_fill'

    Returns:
        The settings concerned, empty when it can grow.
    """
    told = ["gap_fill"] if spec.gap_fill is not None else []
    if spec.features is not None:
        told += [f"features.{n}" for n in ("statistics", "phenology") if getattr(spec.features, n)]
    return ", ".join(told)
