"""What is made of the tiles when they are done: overviews, COG, STAC, picture, seam statistic.

Of a map that was refined they show the refined one; the seam statistic is that of the map as the model made it.

::

    map.zarr/overviews/   cog/label.tif, confidence.tif, label.qml   stac/<id>.json
    quicklook.png         seams.json
"""

from __future__ import annotations

import datetime as dt
import json
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.archive.items import ItemTable
from engine.inference.ensemble import bundles_of
from engine.inference.predict import layer_attributes, stacked
from engine.inference.seams import SeamReport, map_seams
from engine.products.cog import write_cog
from engine.products.overviews import build_overviews
from engine.products.quicklook import write_quicklook
from engine.products.stac import MapProduct, ModelRef, write_stac
from engine.products.styles import write_qml
from engine.refine.chain import CHANGED
from engine.store.objects import Folder, join, local_path
from engine.store.remote import network
from engine.values.area import Area
from pipelines.map_job import MapJob
from pipelines.refine_job import RefineJob
from pipelines.run_folder import MAP
from pipelines.seam_check import area_box, lattices_of

SEAMS_FILE, QUICKLOOK, COGS, STAC = "seams.json", "quicklook.png", "cog", "stac"


@dataclass(frozen=True)
class Products:
    """Where the products lie, and the verdict on seams."""

    files: dict[str, str]
    item: str
    seams: SeamReport

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        files = {name: path for name, path in self.files.items() if path.endswith((".tif", ".png"))}
        return {"seams": self.seams.told(), **files, "stac": self.item}


def make_products(job: MapJob, area: Area, table: ItemTable, refined: RefineJob | None = None) -> Products:
    """Make all products of a map, or of the refined one; each replaces what an earlier run made.

    For a run folder in a bucket the files are made in a temporary folder and uploaded, the overviews inside
    the store where it is.
    """
    if (home := local_path(job.run_dir)) is not None:
        return _make(job, area, table, home, refined)
    with tempfile.TemporaryDirectory(prefix="landweave-products-") as folder:
        home = Path(folder)
        for stage in (job, refined):
            if stage is not None:  # stands for the store, so that links to it are made
                (home / f"{stage.name}.zarr").mkdir()
        made = _make(job, area, table, home, refined)
        for path in sorted(p for p in home.rglob("*") if p.is_file()):
            Folder(job.run_dir).upload(path.relative_to(home).as_posix(), path)
        there = {name: _moved(path, home, job) for name, path in made.files.items()}
        return Products(there, _moved(made.item, home, job), made.seams)


def _moved(path: str, home: Path, job: MapJob) -> str:
    return join(job.run_dir, Path(path).relative_to(home).as_posix())


def _make(job: MapJob, area: Area, table: ItemTable, home: Path, refined: RefineJob | None) -> Products:
    """Make the products' files in a local folder that is, or stands for, the run folder."""
    url, classes = (refined or job).store_url, job.bundle.classes
    run = home if job.name == MAP else home / "versions" / job.name
    run.mkdir(parents=True, exist_ok=True)
    box = area_box(job.grid, area, url)
    first, last = table.time_range
    title = f"{area.name}, {_season(first, last)}"
    with network(url):
        for store in dict.fromkeys((job.store_url, url)):
            build_overviews(store)
    seams = map_seams(job.store_url, lattices_of(job.bundle), job.tile_px, box, grid=job.grid)
    (run / SEAMS_FILE).write_text(json.dumps(seams.to_dict(), indent=1))
    names = [*_published(job), *([CHANGED] if refined else [])]
    files = {
        name: write_cog(url, run / COGS / f"{name}.tif", variable=name, box=box, scheme=classes)
        for name in names
    }
    if "label" in names:
        write_qml(run / COGS / "label.qml", classes)
    files["quicklook"] = write_quicklook(
        url,
        run / QUICKLOOK,
        classes if "label" in names else names[0],
        title=f"{title}\n{_subtitle(job, table)}",
        outline=area.geometry,
        box=box,
    )
    files["zarr"] = home / f"{(refined or job).name}.zarr"
    product = MapProduct(
        id=_item_id(f"{area.name}-{first:%Y%m}-{last:%Y%m}{job.name.removeprefix(MAP)}"),
        title=title,
        grid=job.grid,
        box=box,
        scheme=classes,
        start=first,
        end=last,
        outline=area.geometry,
        files=files,
        layers={name: _band(job, name) for name in names if name not in _WITHOUT_BAND},
        model=_model(job),
        sources=(str(home / job.items),),
        version=_version(),
    )
    item = write_stac(run / STAC, product)
    return Products({k: str(v) for k, v in files.items() if k != "zarr"}, str(item), seams)


_WITHOUT_BAND = ("label", "observations", CHANGED)

_MOST_BANDS = 32  # of a file: beyond that a reader wants the Zarr


def _published(job: MapJob) -> list[str]:
    """List the layers that become files, the main one first: flat ones, and all where there is no label."""
    layers = job.bundle.layers(job.layers)
    sizes = {name: planes.stop - planes.start for name, planes in layers.slices.items()}
    flat = [name for name, size in sizes.items() if size == 1]
    deep = [name for name, size in sizes.items() if 1 < size <= _MOST_BANDS and "label" not in sizes]
    return [*deep, *flat, "observations"]


def _band(job: MapJob, name: str) -> dict[str, Any]:
    """Say how a layer is stored, by the names of the raster extension."""
    attributes, layers = layer_attributes(job.bundle, name), job.bundle.layers(job.layers)
    found = {"data_type": layers.dtype.name, "nodata": layers.no_data(name), "scale": attributes["scale"]}
    found |= {"offset": attributes.get("offset", 0.0)}
    if attributes["units"] != "1":
        found["unit"] = attributes["units"]
    if stacked(job.bundle, name):
        found["planes"] = list(job.bundle.classes.names)
    return found


def _item_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._") or "map"


def _season(first: dt.date, last: dt.date) -> str:
    """Write a season by its months.

    >>> _season(dt.date(2023, 3, 1), dt.date(2023, 10, 31)), _season(dt.date(2017, 2, 1), dt.date(2017, 2, 28))
    ('March 2023 to October 2023', 'February 2017')
    """
    months = dict.fromkeys(f"{day:%B %Y}" for day in (first, last))
    return " to ".join(months)


def _subtitle(job: MapJob, table: ItemTable) -> str:
    simulated = "simulated " if any("simulated" in i.collection for i in table) else ""
    return f"{job.bundle.name}, {len(table)} {simulated}Sentinel-2 scene{'s' if len(table) > 1 else ''}"


def _model(job: MapJob) -> ModelRef:
    folder = Path(job.bundle.path).absolute()
    manifest = folder / "manifest.json"
    href = str(manifest) if local_path(job.run_dir) is not None else manifest.as_uri()
    weights = " + sha256:".join(b.weights_sha256 for b in bundles_of(job.bundle))
    return ModelRef(name=job.bundle.name, href=href, digest=weights)


def _version() -> str:
    try:
        return version("landweave")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "source"
