"""Open what a user calls a map: a run folder, a map store, or a raster file of classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from engine.archive.class_raster import ClassRaster, open_class_raster
from engine.assessment.maps import LABEL, ClassMap, Codes
from engine.products.styles import scheme_of_flags
from engine.store.objects import Folder, join
from engine.store.view import NO_DATA, MapView, open_view
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.run_folder import MAP, PLAN_FILE

REFINED = "refined"


def open_class_map(source: str, classes: str | Path | None = None, store: str | None = None) -> ClassMap:
    """Open a map of classes.

    Args:
        source: A run folder (its refined map where it has one), a Zarr store of a map, or a raster file of
            classes that GDAL reads; local or remote.
        classes: YAML of the class scheme; default what the map itself tells (CF flags, names in the file).
        store: Name of one of the run's maps: ``map``, ``refined``, the name of a version.

    Raises:
        InputError: If there is no map, or a file tells no classes.
        DataError: If it is broken.
    """
    scheme = None if classes is None else ClassScheme.from_file(classes)
    if not _is_file(source):
        if Folder(source).read(PLAN_FILE) is not None:
            name = store or _latest(source)
            return replace(_of_store(join(source, f"{name}.zarr"), scheme), note=_unfinished(source, name))
        if Folder(source).read("zarr.json") is not None:
            return _of_store(source, scheme)
        raise InputError(
            "no map there",
            where=source,
            found=f"neither {PLAN_FILE} (a run folder) nor zarr.json (a store)",
            mend="give a run folder, a .zarr or a raster file",
        )
    return _of_file(open_class_raster(source), scheme)


def _is_file(source: str) -> bool:
    """Tell a raster file from a folder; of an address only its ending tells."""
    if "://" in source or source.startswith("/vsi"):
        return source.startswith("/vsi") or PurePosixPath(source).suffix.lower() in _RASTERS
    return Path(source).is_file()


_RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".nc", ".png")


def _latest(run: str) -> str:
    """Return the name of the map that leaves the house: the refined one where there is one."""
    return REFINED if Folder(join(run, f"{REFINED}.zarr")).read("zarr.json") is not None else MAP


def _unfinished(run: str, stage: str) -> str:
    """Say how many tiles of a stage are not made, as its last status counts them."""
    try:
        counts = json.loads(Folder(run).read(f"status/{stage}.json") or b"{}").get("counts", {})
    except ValueError:  # a status that is written just now
        return ""
    missing = counts.get("total", 0) - counts.get("done", 0) - counts.get("reused", 0)
    return (
        f"{missing} of {counts['total']} tiles of {stage} are not made: there is no data"
        if missing > 0
        else ""
    )


def _of_store(url: str, scheme: ClassScheme | None) -> ClassMap:
    view = open_view(url)
    flat = tuple(name for name in view.variables if view.array(name).ndim == 2)
    if LABEL not in flat:
        raise InputError("the map has no classes", where=url, found=", ".join(view.variables), limit=LABEL)
    if scheme is None:
        scheme = scheme_of_flags(view.attributes(LABEL), url)
    no_data = {name: value for name in flat if (value := _no_data(view, name)) is not None}
    return ClassMap(url, view.grid, view.box, scheme, view.read, flat, no_data)


def _no_data(view: MapView, name: str) -> int | None:
    return view.no_data(name) if name in NO_DATA else None


def _of_file(file: ClassRaster, scheme: ClassScheme | None) -> ClassMap:
    scheme = scheme or _told_by(file)
    codes = Codes.of(scheme, file.no_data)

    def read(layer: str, box: Box) -> NDArray[np.uint8]:
        return codes.translate(file.read(box), file.href)

    return ClassMap(file.href, file.grid, file.box, scheme, read)


def _told_by(file: ClassRaster) -> ClassScheme:
    """Make a scheme of the names in a file; without names each number is a class of its own.

    Raises:
        InputError: If 0 seems to be a class, which no map of ours can hold.
    """
    names = {v: n for v, n in file.names.items() if 1 <= v <= 255 and v != file.no_data}
    if not names:
        if file.no_data not in (None, 0):
            raise InputError(
                "the file does not tell its classes",
                where=file.href,
                found=f"no names, no data {file.no_data:g}",
                mend="give a class scheme (--classes); codes may be any numbers, 0 too",
            )
        names = {value: str(value) for value in range(1, 256) if value in file.colours or not file.colours}
    plain = ClassScheme.from_names([str(v) for v in range(1, 256)])
    colours = {c.value: c.colour for c in plain.classes} | {v: c for v, c in file.colours.items() if v}
    return ClassScheme(
        classes=tuple(LandClass(value=v, name=names[v], colour=colours[v]) for v in sorted(names))
    )
