"""Gap filling, lazily: all dates of a block of pixels in one task."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from engine.cube.gapfill import fill_in_place
from engine.values.errors import InputError
from engine.values.recipe import GapFill
from engine.values.spec import CubeSpec


def with_gaps_filled(cube: xr.Dataset, how: GapFill) -> xr.Dataset:
    """Fill the missing dates of a cube, a date without any scene like any other.

    One task fills all dates of one block of pixels, and one each cuts reflectance and flags from it,
    whatever the number of dates; the cube's chunks in y and x stay. A task holds its block twice, as chunks
    and as one array: dates x bands x y x x x 4 bytes (12 dates, 10 bands, 1024 x 1024: 0.5 GB).

    Args:
        cube: With ``reflectance`` (time, band, y, x) uint16, 0 = no data, and ``time_bnds`` (time, nv); a
            date stands in the middle of its bounds, or without bounds on its ``time``.
        how: Method, longest gap, smoothness; see `engine.cube.gapfill.fill_gaps`.

    Returns:
        The cube with ``reflectance`` filled, ``filled`` (time, y, x) uint8 (0 observed, 1 between two
        dates, 2 from one side, 255 still no data) and ``observations`` as it was: 0 where filled.

    Raises:
        InputError: If the cube is filled already or its dates are not in order.
    """
    if "filled" in cube:
        raise InputError("the cube's gaps are filled already", where="filled", mend="fill the cube once")
    reflectance = cube["reflectance"].transpose("time", "band", "y", "x")
    data = reflectance.data if cube["reflectance"].chunks else da.from_array(reflectance.data)
    n_dates, n_bands = data.shape[:2]
    planes = da.blockwise(
        partial(_fill_block, days=middle_days(cube), how=how),
        "pyx",
        data,
        "tbyx",
        new_axes={"p": n_dates * (n_bands + 1)},
        dtype=np.uint16,
        meta=np.empty((0, 0, 0), np.uint16),
        name=f"landweave-filled-{tokenize(data.name, middle_days(cube).tolist(), how.model_dump_json())}",
    )
    flags = {
        "grid_mapping": "spatial_ref",
        "long_name": "how the date was filled",
        "flag_values": np.array([0, 1, 2, 255], np.uint8),
        "flag_meanings": "observed between_two_dates from_one_side no_data",
    }
    filled = cube.assign(
        reflectance=(reflectance.dims, _values_of(planes, n_dates, n_bands), reflectance.attrs),
        filled=(("time", "y", "x"), planes[n_dates * n_bands :].astype(np.uint8), flags),
    )
    if "landweave_spec" in cube.attrs:
        spec = CubeSpec.model_validate_json(cube.attrs["landweave_spec"])
        filled.attrs["landweave_spec"] = spec.model_copy(update={"gap_fill": how}).model_dump_json()
    return filled


def middle_days(cube: xr.Dataset) -> NDArray[np.float64]:
    """Return the middle day of each date, (time,) float64 days since 1970.

    >>> bounds = np.array([["2023-03-01", "2023-04-01"]], "datetime64[ns]")
    >>> cube = xr.Dataset(coords={"time": bounds[:, 0], "time_bnds": (("time", "nv"), bounds)})
    >>> float(middle_days(cube)[0]) - float(middle_days(cube.drop_vars("time_bnds"))[0])
    15.5
    """
    dates = (
        cube["time_bnds"].to_numpy() if "time_bnds" in cube.variables else cube["time"].to_numpy()[:, None]
    )
    minutes = dates.astype("datetime64[m]").astype(np.int64)
    return np.asarray(minutes.mean(axis=1) / 1440)


def _values_of(planes: da.Array, n_dates: int, n_bands: int) -> da.Array:
    """Cut the values out of the planes, (time, band, y, x), without copying."""
    return da.map_blocks(
        _first_planes,
        planes,
        shape_tb=(n_dates, n_bands),
        new_axis=0,
        chunks=((n_dates,), (n_bands,), *planes.chunks[1:]),
        dtype=np.uint16,
        meta=np.empty((0, 0, 0, 0), np.uint16),
    )


def _first_planes(planes: NDArray[np.uint16], shape_tb: tuple[int, int]) -> NDArray[np.uint16]:
    return planes[: shape_tb[0] * shape_tb[1]].reshape(*shape_tb, *planes.shape[1:])


def _fill_block(parts: Any, days: NDArray[np.float64], how: GapFill) -> NDArray[np.uint16]:
    """Fill a block: (time x band + time, y, x) uint16, first the values, date by date, then the flags.

    So both are contiguous views of one array, and nothing is copied but the chunks into it.
    """
    rows = [list(row) for row in parts]
    n_dates, n_bands = sum(row[0].shape[0] for row in rows), sum(part.shape[1] for part in rows[0])
    planes = np.empty((n_dates * (n_bands + 1), *rows[0][0].shape[2:]), np.uint16)
    values = _first_planes(planes, (n_dates, n_bands))
    t = 0
    for row in rows:
        np.concatenate(row, axis=1, out=values[t : t + row[0].shape[0]])
        t += row[0].shape[0]
    planes[n_dates * n_bands :] = fill_in_place(values, days, how)
    return planes
