"""Export a map in the formats of others: COG or mosaic, a Zarr for GDAL, legend, statistics, catalogue.

The map is that of a run (the refined one where there is one) or any map store. Everything is streamed, so a
country takes as much memory as a village. Files that are there already and would not differ are left alone.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.assessment.count import BLOCK_PX, ClassCounts, count_classes
from engine.assessment.maps import ClassMap
from engine.products.gdal_zarr import write_gdal_zarr
from engine.products.legends import write_styles
from engine.products.look import look_of
from engine.products.mosaic import CELL_PX, MosaicOptions, write_mosaic
from engine.products.mosaic_files import Mosaic
from engine.products.styles import scheme_of_flags, write_qml, write_text
from engine.store.objects import join, local_path
from engine.store.view import MapView, open_view
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.config import AreaConfig, part_named
from pipelines.cube_area import area_of
from pipelines.export_stac import Exported, write_catalogue
from pipelines.run_folder import MAP, read_plan
from pipelines.tile_inputs import area_in

Listener = Callable[[int, int, str], None]
Format = Literal["cog", "gdal", "legend", "statistics", "stac"]


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        run: Run folder, or a map store (``.zarr``); local or any fsspec URL.
        out: Local folder that the files go to.
        formats: Which.
        layers: Layers by name; empty takes all.
        area: Part of the map: a name, a vector file, or ``w,s,e,n``; the box around it is cut out.
        store: Name of the store in the run folder without ``.zarr``; None takes the refined map, else the map.
        options: Sizes and overviews of COGs.
        time: First and last month or day of the imagery, for the catalogue; None takes the run's.
        title: Title of the catalogue; None takes area and time.
    """

    run: str
    out: Path
    formats: tuple[Format, ...] = ("cog", "legend")
    layers: tuple[str, ...] = ()
    area: str | None = None
    store: str | None = None
    options: MosaicOptions = field(default_factory=lambda: MosaicOptions(CELL_PX))
    time: str | None = None
    title: str | None = None


def export_map(request: ExportRequest, listener: Listener | None = None) -> dict[str, Any]:
    """Write a map in the formats that were asked for; a catalogue describes COGs, so these come with it.

    Args:
        request: What.
        listener: Called with (steps done, steps in all, what) of each file in turn.

    Returns:
        Paths by what they are, and the map that was exported.

    Raises:
        InputError: If there is no such map, layer or part.
    """
    if local_path(str(request.out)) is None:
        raise InputError("exports are written to a local folder", where="--out", found=str(request.out))
    view = view_of(request.run, request.store)
    names = _layers(view, request.layers)
    box = _box(request, view)
    told: dict[str, Any] = {"map": view.url}
    request.out.mkdir(parents=True, exist_ok=True)
    mosaics: list[Mosaic] = []
    for name in names if {"cog", "stac"} & set(request.formats) else ():
        options = request.options
        mosaics.append(write_mosaic(view.url, request.out, name, box=box, options=options, listener=listener))
        told[name] = str(mosaics[-1].main)
    files: dict[str, Path] = {}
    if "gdal" in request.formats:
        path = request.out / f"{Path(view.url).stem}-gdal.zarr"
        files["gdal"] = Path(write_gdal_zarr(view.url, path, variables=names, box=box, listener=listener))
    counts = None
    if "statistics" in request.formats:
        counts = counts_of(view, box, listener)
        files |= _write_statistics(view, counts, request.out)
    if "legend" in request.formats:
        files |= _legends(view, names, request.out, counts)
    told |= {key: str(path) for key, path in files.items()}
    if "stac" in request.formats:
        what = Exported(
            request.run, view, box, request.out, tuple(mosaics), files, request.time, request.title
        )
        told["stac"] = str(write_catalogue(what))
    return told


def counts_of(
    view: MapView, box: Box | None = None, listener: Listener | None = None, block_px: int = BLOCK_PX
) -> ClassCounts:
    """Count pixels and true hectares of each class of a map, the same for any size of blocks.

    Raises:
        InputError: If it is no map of classes.
    """
    if "label" not in view.variables or not view.is_classes("label"):
        raise InputError(
            "not a map of classes", where=view.url, found=", ".join(view.variables), limit="label"
        )
    scheme = scheme_of_flags(view.attributes("label"), view.url)
    source = ClassMap(view.url, view.grid, view.crop(box), scheme, view.read)
    return count_classes(source, block_px, listener)


def _write_statistics(view: MapView, counts: ClassCounts, out: Path) -> dict[str, Path]:
    """Write the classes with pixels, hectares and share of the area with data, as CSV and JSON."""
    scheme, total = scheme_of_flags(view.attributes("label"), view.url), sum(counts.hectares.values())
    rows = [
        {
            "value": land.value,
            "name": land.name,
            "pixels": counts.pixels.get(land.value, 0),
            "hectares": round(counts.hectares.get(land.value, 0.0), 4),
            "share": round(counts.hectares.get(land.value, 0.0) / total, 8) if total else 0.0,
        }
        for land in scheme.classes
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    told = {"map": view.url, "crs": view.grid.crs, "hectares": "true area on the ellipsoid", "classes": rows}
    written = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    return {
        "statistics": write_text(out / "statistics.csv", text.getvalue()),
        "statistics-json": write_text(out / "statistics.json", written),
    }


def view_of(run: str, store: str | None = None) -> MapView:
    """Open the map of a run folder, or a map store.

    Raises:
        InputError: If there is none; names what was looked for.
    """
    if store is None and run.rstrip("/").endswith(".zarr"):
        return open_view(run.rstrip("/"))
    tried = [store] if store else ["refined", MAP]
    for name in tried:
        with contextlib.suppress(InputError):
            return open_view(join(run, f"{name}.zarr"))
    raise InputError(
        "no map there",
        where=run,
        found=", ".join(f"no {name}.zarr" for name in tried),
        mend="give the folder of a run, a map store (.zarr), or --store with the name of one",
    )


def _layers(view: MapView, wanted: tuple[str, ...]) -> list[str]:
    for name in wanted:
        view.array(name)  # refuses an unknown one, naming those that there are
    return list(wanted or view.variables)


def _box(request: ExportRequest, view: MapView) -> Box | None:
    """Return the pixels to export: those of the part, else of the run's area, else all."""
    plan: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        plan = read_plan(request.run)
    if request.area is not None:
        known = (plan.get("config") or {}).get("area") or {"bbox": (0, 0, 1, 1)}
        area = area_of(part_named(request.area, AreaConfig.model_validate(known)))
    elif "outline" in plan:
        area = area_in(request.run, plan["outline"])
    else:
        return None
    box = view.grid.box_of_bounds(area.to_crs(view.grid.crs).bounds) & view.box
    if not box:
        raise InputError("the part lies outside the map", where="--area", found=area.name, limit=view.box)
    return box


def _legends(view: MapView, names: list[str], out: Path, counts: ClassCounts | None) -> dict[str, Path]:
    """Write all styles and legends of the map, and the QGIS style of other layers of codes."""
    told: dict[str, Path] = {}
    for name in names:
        if (scheme := look_of(view, name).scheme) is None:
            continue
        if name == "label":
            pixels = counts.pixels if counts else None
            told |= write_styles(out, scheme, counts=pixels)
        else:
            told[f"style-{name}"] = write_qml(out / f"{name}.qml", scheme)
    return told
