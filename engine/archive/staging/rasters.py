"""GeoTIFF and JPEG 2000 files, of one band or many, as layers.

A band's name comes from what the user gives, from its description, or (one band) from the file's name;
its date from what the user gives, its description, the file's metadata or name::

    eight bands, bands = (red, green, blue, nir), dates = (2021-05-01, 2021-08-01)

      1 red   2 green   3 blue   4 nir   │   5 red   6 green   7 blue   8 nir
      └────────── 2021-05-01 ────────────┘   └────────── 2021-08-01 ──────────┘
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from engine.archive.staging.layers import Hints, Layer, check_numbers, claims_of, opened, raster_of
from engine.archive.staging.names import (
    band_in,
    date_in,
    level_in,
    maybe_band,
    product_facts,
    product_in,
    tile_in,
)
from engine.values.bands import Band, band
from engine.values.errors import InputError

SUFFIXES = {".jp2", ".tif", ".tiff"}
_ACQUIRED = ("ACQUISITIONDATETIME", "ACQUISITION_DATE", "ACQUISITION_DATETIME", "SENSING_TIME")


def raster_layers(path: Path, place: str, hints: Hints, level: str | None, copy: bool) -> list[Layer]:
    """Return the layers of one file.

    Args:
        path: The file.
        place: Its path as far as product names may stand in it.
        hints: What the user gives.
        level: Processing level; None reads it from names.
        copy: Whether pixels are copied, so that they may be floating-point numbers.

    Raises:
        InputError: Saying what is missing.
    """
    hints = hints.beside(path)
    with opened(str(path)) as file:
        bands, stem = _bands(path, file, hints)
        dates = _dates(file, stem, bands, hints)
        layers = []
        product = product_in(place)
        for index, found in bands.items():
            nodata = file.nodatavals[index - 1] if hints.nodata is None else hints.nodata
            check_numbers(file.dtypes[index - 1], hints, copy)
            scale, offset = claims_of(file, index, hints)
            layer = Layer(
                item=_item(product or stem, dates, index),
                moment=dates[index],
                band=found,
                source=str(path),
                index=index,
                raster=raster_of(file, index, nodata),
                alone=file.count == 1 and nodata == file.nodatavals[0],
                tile=tile_in(stem),
                level=level or level_in(path.stem, product),
                facts=tuple(product_facts(product).items()),
                scale=scale,
                offset=offset,
            )
            layers.append(layer)
    return layers


def _item(name: str, dates: dict[int, dt.datetime], index: int) -> str:
    """Name a scene by its file, and by its date where the name does not tell it."""
    moment = dates[index]
    try:
        told = date_in(name)
    except InputError:
        told = None
    if told and len(set(dates.values())) == 1:
        return name
    return f"{name}_{moment:%Y-%m-%d}" + (f"T{moment:%H%M%S}" if moment.time() != dt.time() else "")


def _bands(path: Path, file: Any, hints: Hints) -> tuple[dict[int, Band], str]:
    """Return the bands by their number in the file, and the file's name without a band."""
    count = file.count
    if hints.bands and count % len(hints.bands) == 0:
        named = [band(n) for n in hints.bands] * (count // len(hints.bands))
        return dict(enumerate(named, 1)), path.stem
    if count == 1:
        described = maybe_band(file.descriptions[0])
        if described and not maybe_band(path.stem):
            return {1: described}, path.stem
        found, stem = band_in(path.stem)
        return {1: found}, stem
    if hints.bands:
        raise InputError(f"has {count} bands, no multiple of the {len(hints.bands)} that are named")
    found_ones = {i: b for i, d in enumerate(file.descriptions, 1) if (b := maybe_band(d))}
    if not found_ones:
        told = ", ".join(d for d in file.descriptions[:12] if d) or "none described"
        raise InputError(f"has {count} bands ({told}), no known one: name them with --bands")
    return found_ones, path.stem


def _dates(file: Any, stem: str, bands: dict[int, Band], hints: Hints) -> dict[int, dt.datetime]:
    """Return the date of each band by its number in the file."""
    if hints.dates:
        return _given_dates(bands, hints)
    described = {i: date_in(file.descriptions[i - 1] or "") for i in bands}
    usual = _acquired(file) or date_in(stem)
    dates = {i: d or usual for i, d in described.items()}
    if None in dates.values():
        raise InputError("no date in its name, metadata or band descriptions: give it with --dates")
    pairs = [(b.name, dates[i]) for i, b in bands.items()]
    again = next((name for name, d in pairs if pairs.count((name, d)) > 1), None)
    if again:
        groups = len(bands) // len({b.name for b in bands.values()})
        raise InputError(f"has {again} several times: give the {groups} dates with --dates")
    return {i: d for i, d in dates.items() if d is not None}


def _given_dates(bands: dict[int, Band], hints: Hints) -> dict[int, dt.datetime]:
    """Give each group of bands its date; a group ends where a band comes again."""
    groups: list[list[int]] = [[]]
    for index, found in bands.items():
        if found in [bands[i] for i in groups[-1]]:
            groups.append([])
        groups[-1].append(index)
    if len(groups) != len(hints.dates):
        raise InputError(
            f"has {len(bands)} bands in {len(groups)} groups, but {len(hints.dates)} dates are given"
        )
    return {i: date for group, date in zip(groups, hints.dates, strict=True) for i in group}


def _acquired(file: Any) -> dt.datetime | None:
    """Return the acquisition time that the metadata tell; never the time at which a file was written."""
    tags = {**file.tags(), **file.tags(ns="IMAGERY")}
    told = {k.upper(): str(v) for k, v in tags.items()}
    return next((date_in(told[k]) for k in _ACQUIRED if k in told), None)
