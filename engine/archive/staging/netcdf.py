"""NetCDF cubes (CF: time, y, x, with a variable or a band dimension per band) as layers.

GDAL's own NetCDF driver reads them, so no pixel is copied: a layer is one band of ``NETCDF:"path":variable``
and GDAL counts bands over the other dimensions, the last one fastest::

      refl (time: 3, band: 2, y, x)      GDAL band 1 2   3 4   5 6
                                            time 0 0   1 1   2 2
                                            band 0 1   0 1   0 1
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.staging.layers import Hints, Layer, check_numbers, claims_of, opened, raster_of
from engine.archive.staging.names import date_in, maybe_band
from engine.values.bands import Band, band
from engine.values.errors import InputError

SUFFIXES = {".nc", ".nc4", ".cdf"}


@dataclass(frozen=True)
class _Axes:
    """What the dimensions of a variable besides y and x say.

    Attributes:
        times: Date of each GDAL band, None where no dimension is a time.
        bands: Name of each GDAL band along the band dimension, None without one.
    """

    times: list[dt.datetime | None]
    bands: list[str | None]


def netcdf_layers(path: Path, hints: Hints, level: str | None, copy: bool) -> list[Layer]:
    """Return the layers of one NetCDF file; variables that are no band are passed over.

    Args:
        path: The file.
        hints: What the user gives; bands are taken for the variables in their order, or for the values
            of the band dimension.
        level: Processing level.
        copy: Whether pixels are copied, so that they may be floating-point numbers.

    Raises:
        InputError: Saying what is missing.
    """
    hints = hints.beside(path)
    with opened(str(path)) as file:
        variables = list(file.subdatasets) or [str(path)]
    layers: list[Layer] = []
    seen: list[str] = []
    for number, source in enumerate(variables):
        with opened(source) as file:
            name = str(file.tags(1).get("NETCDF_VARNAME", "")) if file.count else ""
            seen.append(name or source)
            one_each = hints.bands and len(hints.bands) == len(variables)
            given = band(hints.bands[number]) if one_each else None
            layers += _layers(file, source, path, given or maybe_band(name), (hints, level, copy))
    if not layers:
        raise InputError(f"holds no known band (variables: {', '.join(seen)[:200]}): name them with --bands")
    return layers


def _layers(
    file: Any,
    source: str,
    path: Path,
    named: Band | None,
    how: tuple[Hints, str | None, bool],
) -> list[Layer]:
    """Return the layers of one variable."""
    hints, level, copy = how
    axes = _axes(file, hints)
    fallback = hints.dates[0] if len(hints.dates) == 1 else date_in(path.stem)
    clock = any(t and t.time() != dt.time() for t in axes.times)
    layers = []
    for index, (time, label) in enumerate(zip(axes.times, axes.bands, strict=True), 1):
        found = maybe_band(label) if label is not None else named
        if found is None:
            continue
        moment = time or fallback
        if moment is None:
            raise InputError("has no time dimension and no date in its name: give it with --dates")
        check_numbers(file.dtypes[index - 1], hints, copy)
        scale, offset = claims_of(file, index, hints)
        stamp = f"{moment:%Y-%m-%dT%H%M%S}" if clock else f"{moment:%Y-%m-%d}"
        layer = Layer(
            item=f"{path.stem}_{stamp}",
            moment=moment,
            band=found,
            source=source,
            index=index,
            raster=raster_of(file, index, _nodata(file, index, hints)),
            alone=False,
            level=level or "",
            scale=scale,
            offset=offset,
        )
        layers.append(layer)
    return layers


def _nodata(file: Any, index: int, hints: Hints) -> float | None:
    """Return the no-data value: given, else declared, else the highest of unsigned integers, else None.

    GDAL states a default where the variable declares none: for integers that is no declaration, for
    floating-point numbers it is what GDAL puts in the place of NaN.
    """
    if hints.nodata is not None:
        return hints.nodata
    variable = file.tags(index).get("NETCDF_VARNAME", "")
    tags = file.tags()
    told = any(f"{variable}#{key}" in tags for key in ("_FillValue", "missing_value"))
    if told or file.dtypes[index - 1].startswith("float"):
        declared: float | None = file.nodatavals[index - 1]
        return declared
    return {"uint8": 255.0, "uint16": 65535.0}.get(file.dtypes[index - 1])


def _axes(file: Any, hints: Hints) -> _Axes:
    """Read time and band of each GDAL band from the dimensions besides y and x.

    Raises:
        InputError: If a dimension is neither and longer than 1.
    """
    tags = file.tags()
    names = _listed(tags.get("NETCDF_DIM_EXTRA", "{}"))
    values: list[list[Any]] = []
    kinds: list[str] = []
    for name in names:
        size = int(_listed(tags[f"NETCDF_DIM_{name}_DEF"])[0])
        told = _listed(tags.get(f"NETCDF_DIM_{name}_VALUES", "{}"))
        if " since " in tags.get(f"{name}#units", ""):
            kinds.append("time")
            values.append(_moments(told, tags[f"{name}#units"], tags.get(f"{name}#calendar", "standard")))
        elif hints.bands and len(hints.bands) == size:
            kinds.append("band")
            values.append(list(hints.bands))
        elif any(maybe_band(v) for v in told):
            kinds.append("band")
            values.append(told)
        elif size == 1:
            kinds.append("other")
            values.append([None])
        else:
            raise InputError(f"has a dimension {name} of {size} that is neither time nor bands")
    rows = list(itertools.product(*values))
    time, label = (kinds.index(k) if k in kinds else None for k in ("time", "band"))
    times = [None if time is None else row[time] for row in rows]
    return _Axes(times, [None if label is None else str(row[label]) for row in rows])


def _listed(text: str) -> list[str]:
    """Read GDAL's notation of a list.

    >>> _listed("{time,band}"), _listed("{}")
    (['time', 'band'], [])
    """
    return [part for part in re.sub(r"[{}]", "", text).split(",") if part]


def _moments(values: list[str], units: str, calendar: str) -> list[dt.datetime]:
    """Decode CF times, UTC, to the second.

    >>> str(_moments(["12226"], "days since 1990-01-01", "standard")[0])
    '2023-06-23 00:00:00+00:00'
    """
    import numpy as np
    import xarray as xr

    attributes = {"units": units, "calendar": calendar}
    raw = xr.Dataset({"t": ("t", np.array([float(v) for v in values]), attributes)})
    try:
        decoded = xr.decode_cf(raw)["t"].values.astype("datetime64[s]")
    except (ValueError, OverflowError) as error:
        raise InputError(f"its times cannot be read ({units}, {calendar})") from error
    return [dt.datetime.fromtimestamp(int(t), dt.UTC) for t in decoded.astype(np.int64)]
