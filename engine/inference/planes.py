"""From a cube's variables to what a network sees: one array of planes, made lazily, the same wherever it is asked for.

::

    variable (dimension of names)         plane
    reflectance (band)                    reflectance, taken as it is
    planes (plane)                        any kind, taken as it is: a cube that was made elsewhere
    indices (index)                       index
    backscatter (polarisation)            backscatter
    layers, statistics, phenology, position   layer, repeated on each date

Floats are written in 16 bits by the plane's rule (`engine.values.planes`), pixel by pixel, so that no cut can move one.

A cube that was made elsewhere needs no reflectance: ``planes`` (time, plane, y, x) uint16 with its names in the
coordinate ``plane`` is enough, beside ``time``, ``y``, ``x`` and ``spatial_ref``; `cube_of_planes` makes one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.values.bands import find_band
from engine.values.errors import InputError, SpecError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.planes import Plane, encode, planes_of, reflectance_planes
from engine.values.spec import CubeSpec

PLANES = "planes"
"""Variable of a cube that holds planes as networks see them, (time, plane, y, x) uint16."""

_ABOUT = "landweave_planes"
"""Attribute that says what they are; without it they are indices."""

_STATIC = {"layers": "layer", "statistics": "statistic", "phenology": "metric", "position": "xyz"}
_PREFIXED = ("phenology", "position")
"""Their names say little by themselves: the plane ``peak`` of phenology is ``phenology_peak``."""

_Where = tuple[str, int]
"""A variable, and where along its dimension of names a plane stands."""


def cube_of_planes(
    values: Any, planes: Sequence[Plane], times: NDArray[Any], grid: Grid, box: Box
) -> xr.Dataset:
    """Make a cube of planes that were read elsewhere, such as indices from files, for `predict` and training.

    Args:
        values: (time, plane, y, x) over `box`, NumPy or Dask: uint16 as `engine.values.planes` stores it, or floats in
            the planes' units with NaN = no data, which are encoded (lazily where they are lazy).
        planes: What each plane is.
        times: (time,) datetime64.
        grid: Where pixels lie.
        box: Global pixels.

    Returns:
        Dataset with ``planes`` (time, plane, y, x) uint16, 0 = no data.

    Raises:
        InputError: If shape or type are others.

    >>> grid, box = Grid.make("EPSG:32633", 250.0), Box(0, 0, 2, 3)
    >>> ndvi = np.full((1, 1, 2, 3), 0.5, np.float32)
    >>> cube = cube_of_planes(ndvi, [Plane(name="NDVI", kind="index")], np.array(["2024-05-01"], "M8[D]"), grid, box)
    >>> cube.planes.dtype.name, int(cube.planes[0, 0, 0, 0])
    ('uint16', 35000)
    """
    limit = len(times), len(planes), *box.shape_yx
    if values.shape != limit or (values.dtype != np.uint16 and values.dtype.kind != "f"):
        raise InputError(
            "these are no planes",
            where="planes (time, plane, y, x)",
            found=f"{values.dtype} {values.shape}",
            limit=f"uint16 or floats {limit}",
        )
    if values.dtype != np.uint16:
        values = _encoded(values, tuple(planes), axis=1)
    coords = {"time": np.asarray(times).astype("datetime64[ns]"), **georef_coords(grid, box)}
    return with_planes(xr.Dataset(coords=coords), values, planes)


def with_planes(cube: xr.Dataset, values: Any, planes: Sequence[Plane]) -> xr.Dataset:
    """Lay planes into a cube: `predict` and training then take these.

    Args:
        cube: With time, y and x.
        values: (time, plane, y, x) uint16.
        planes: What each is.
    """
    told = {
        "grid_mapping": "spatial_ref",
        "nodata": 0,
        _ABOUT: json.dumps([plane.model_dump(exclude_none=True) for plane in planes]),
    }
    names = [plane.name for plane in planes]
    return cube.assign({PLANES: (("time", "plane", "y", "x"), values, told)}).assign_coords(plane=names)


def planes_in(cube: xr.Dataset) -> tuple[Plane, ...]:
    """List the planes that a cube holds: those of its variable ``planes``, or those its spec names, or its bands.

    Raises:
        InputError: If it has neither.
    """
    stated = cube.attrs.get("landweave_spec")
    if PLANES in cube:
        array = cube[PLANES]
        if _ABOUT in array.attrs:
            return tuple(Plane.model_validate(fields) for fields in json.loads(array.attrs[_ABOUT]))
        return tuple(Plane(name=str(name), kind="index") for name in array["plane"].values)
    if stated is not None:
        spec = CubeSpec.model_validate_json(stated) if isinstance(stated, str) else CubeSpec(**stated)
        held = _held(cube)
        return tuple(plane for plane in planes_of(spec) if plane.name in held)
    if "reflectance" not in cube:
        raise _nothing(cube)
    if "band" not in cube.coords:
        return reflectance_planes([str(i) for i in range(cube.sizes["band"])])
    return reflectance_planes([_common(str(b)) for b in cube["band"].values])


def plane_array(cube: xr.Dataset, planes: Sequence[Plane]) -> da.Array:
    """Gather planes of a cube, lazily.

    Args:
        cube: What `engine.open_cube` opened, or `cube_of_planes` made; chunks may be anything.
        planes: Which, in which order.

    Returns:
        (time, plane, y, x) uint16, 0 = no data.

    Raises:
        InputError: If the cube has neither reflectance nor planes.
        SpecError: If it lacks one of them, or reflectance or planes are not uint16.
    """
    held = _held(cube)
    missing = [plane.name for plane in planes if plane.name not in held]
    if missing:
        raise SpecError(
            f"the cube lacks {'bands' if all(p.kind == 'reflectance' for p in planes) else 'planes'}",
            where="band" if all(p.kind == "reflectance" for p in planes) else ", ".join(missing),
            found=list(held),
            limit=[plane.name for plane in planes],
            mend="open the cube with the bundle's own spec (bundle.spec)",
        )
    parts = [_part(cube, name, at, own) for name, at, own in _runs(planes, held)]
    return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=1)


def _held(cube: xr.Dataset) -> dict[str, _Where]:
    """Find where each plane stands; ``planes`` comes before all else."""
    if "reflectance" not in cube and PLANES not in cube:
        raise _nothing(cube)
    held: dict[str, _Where] = {}
    sides = {"reflectance": "band", "indices": "index", "backscatter": "polarisation", **_STATIC}
    for variable, dim in {**sides, PLANES: "plane"}.items():
        if variable not in cube or dim not in cube[variable].dims:
            continue
        size = cube[variable].sizes[dim]
        labels = cube[dim].values if dim in cube.coords else range(size)
        for at, label in enumerate(labels):
            name = _common(str(label)) if dim == "band" else str(label)
            held[f"{variable}_{name}" if variable in _PREFIXED else name] = (variable, at)
    return held


def _runs(
    planes: Sequence[Plane], held: dict[str, _Where]
) -> Iterator[tuple[str, list[int], tuple[Plane, ...]]]:
    """Yield planes that follow each other and come from one variable, with their places in it."""
    for variable, run in itertools.groupby(planes, key=lambda plane: held[plane.name][0]):
        own = tuple(run)
        yield variable, [held[plane.name][1] for plane in own], own


def _part(cube: xr.Dataset, variable: str, at: list[int], planes: tuple[Plane, ...]) -> da.Array:
    """Take planes out of one variable, (time, plane, y, x) uint16."""
    array = cube[variable]
    if variable in _STATIC:
        stack = da.asarray(array.transpose(_STATIC[variable], "y", "x").isel({_STATIC[variable]: at}).data)
        stored = _encoded(stack, planes, axis=0)
        n_dates = cube.sizes["time"]
        return da.broadcast_to(
            stored[None], (n_dates, *stored.shape), chunks=((1,) * n_dates, *stored.chunks)
        )
    dim = next(str(d) for d in array.dims if d not in ("time", "y", "x"))
    array = array.transpose("time", dim, "y", "x")
    if at != list(range(array.sizes[dim])):
        array = array.isel({dim: at})
    values = da.asarray(array.data)
    if variable in ("reflectance", PLANES):
        _require_stored(variable, values)
        return values
    return _encoded(values, planes, axis=1)


def _encoded(values: Any, planes: tuple[Plane, ...], axis: int) -> Any:
    """Encode floats whose planes lie along an axis, lazily where they are lazy."""
    if not isinstance(values, da.Array):
        return _encode(values, planes, axis)
    whole = values.rechunk({axis: -1})
    return whole.map_blocks(
        _encode, planes, axis, dtype=np.uint16, meta=np.empty((0,) * whole.ndim, np.uint16)
    )


def _encode(values: NDArray[np.floating], planes: tuple[Plane, ...], axis: int) -> NDArray[np.uint16]:
    out = np.empty(values.shape, np.uint16)
    for into, own, plane in zip(np.moveaxis(out, axis, 0), np.moveaxis(values, axis, 0), planes, strict=True):
        into[...] = encode(own, plane)
    return out


def _require_stored(variable: str, values: da.Array) -> None:
    if values.dtype != np.uint16:
        told = "x 10000, 0 = no data" if variable == "reflectance" else "0 = no data"
        raise SpecError(
            f"{variable} must be uint16 ({told})",
            found=values.dtype,
            limit="uint16",
            mend="scale by 10000, clip to 1..65535 and cast"
            if variable == "reflectance"
            else "engine.values.planes.encode writes floats so",
        )


def _common(name: str) -> str:
    """Return landweave's name of a band, or the name itself."""
    known = find_band(name)
    return known.name if known else name


def _nothing(cube: xr.Dataset) -> InputError:
    return InputError(
        "the cube has no variable 'reflectance', and no 'planes'", found=sorted(map(str, cube.data_vars))
    )
