"""What is made of the tiles when they are done: overviews, COGs, catalogue, styles, picture, seam statistic.

Of a map that was refined they show the refined one; the seam statistic is that of the map as the model made it.

::

    map.zarr/overviews/   cog/label.tif, or label.vrt and label/r3_c4.tif ...   cog/label.qml, legend.png ...
    stac/catalog.json, collection.json, <id>.json ...                           quicklook.png   seams.json

Running it again writes only the COGs below which something changed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.items import ItemTable
from engine.inference.seams import SeamReport, map_seams
from engine.products.legends import write_styles
from engine.products.mosaic import MosaicOptions, write_mosaic
from engine.products.mosaic_files import Mosaic
from engine.products.overviews import build_overviews
from engine.products.quicklook import write_quicklook
from engine.products.stac import write_stac
from engine.products.styles import CONFIDENCE_COLOURS, ramp_qml, write_qml, write_text
from engine.store.ledger import Ledger, Lookup
from engine.store.objects import Folder, join, local_path
from engine.store.remote import network
from engine.values.area import Area
from engine.values.grid import Box, tiles_over
from pipelines.describe_map import Published, describe
from pipelines.map_job import MapJob
from pipelines.publish_config import PublishConfig
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
        shown = {name: path for name, path in self.files.items() if path.endswith((".tif", ".vrt", ".png"))}
        return {"seams": self.seams.told(), **shown, "stac": self.item}


def make_products(
    job: MapJob,
    area: Area,
    table: ItemTable,
    refined: RefineJob | None = None,
    publish: PublishConfig | None = None,
) -> Products:
    """Make all products of a map, or of the refined one; what is unchanged stays as it is.

    For a run folder in a bucket the files are made in a temporary folder and uploaded, the overviews inside
    the store where it is; files of an earlier call that are no longer made are removed.
    """
    map_ = Published(job, area, table, refined, publish or PublishConfig())
    if (home := local_path(job.run_dir)) is not None:
        return _make(map_, home)
    with tempfile.TemporaryDirectory(prefix="landweave-products-") as folder:
        home = Path(folder)
        for stage in {job.name, map_.stage.name}:  # stands for the store, so that links to it are made
            (home / f"{stage}.zarr").mkdir()
        made = _make(map_, home)
        names = [p.relative_to(home).as_posix() for p in sorted(home.rglob("*")) if p.is_file()]
        for name in names:
            Folder(job.run_dir).upload(name, home / name)
        _remove_others(job.run_dir, names)
        there = {name: _moved(path, home, job) for name, path in made.files.items()}
        return Products(there, _moved(made.item, home, job), made.seams)


def _moved(path: str, home: Path, job: MapJob) -> str:
    return join(job.run_dir, Path(path).relative_to(home).as_posix())


def _remove_others(run_dir: str, names: Iterable[str]) -> None:
    """Remove from the folders that were uploaded to what was not: cells and items that are gone."""
    kept = set(names)
    for folder in sorted({name.rpartition("/")[0] for name in kept} - {""}):
        if {STAC, COGS} & set(folder.split("/")):
            for name in list(Folder(join(run_dir, folder)).names()):
                if "." in name and f"{folder}/{name}" not in kept:
                    Folder(join(run_dir, folder)).remove(name)


def _make(map_: Published, home: Path) -> Products:
    """Make the products' files in a local folder that is, or stands for, the run folder."""
    job, url = map_.job, map_.stage.store_url
    run = home if job.name == MAP else home / "versions" / job.name
    run.mkdir(parents=True, exist_ok=True)
    box = area_box(job.grid, map_.area, url)
    with network(url):
        for store in dict.fromkeys((job.store_url, url)):
            build_overviews(store)
    seams = map_seams(job.store_url, lattices_of(job.bundle), job.tile_px, box, grid=job.grid)
    (run / SEAMS_FILE).write_text(json.dumps(seams.to_dict(), indent=1))
    mosaics = _write_mosaics(map_, box, run / COGS)
    files = _write_styles(map_, run / COGS)
    main = map_.scheme_of("label") if "label" in map_.layers else map_.layers[0]
    assert main is not None  # a map with labels has classes
    files["quicklook"] = write_quicklook(
        url,
        run / QUICKLOOK,
        main,
        title=f"{map_.title}\n{map_.subtitle}",
        outline=map_.area.geometry,
        box=box,
    )
    item = write_stac(run / STAC, describe(map_, box, home, files, mosaics))
    told = {m.variable: str(m.main) for m in mosaics} | {k: str(v) for k, v in files.items()}
    return Products(told, str(item), seams)


def _write_mosaics(map_: Published, box: Box, folder: Path) -> tuple[Mosaic, ...]:
    """Write each layer as COGs; cells whose tiles have the records that they had stay as they are."""
    publish, lookup = map_.publish, Lookup(Ledger(map_.job.run_dir, map_.stage.name))

    def state(part: Box) -> str:
        found = ((tile, lookup.of(tile)) for tile in tiles_over(part, map_.stage.tile_px))
        return json.dumps([[str(tile), sorted(r.checksums.items())] for tile, r in found if r])

    options = MosaicOptions(cell_px=publish.cell_px, overviews=publish.overviews, state=state)
    url = map_.stage.store_url
    return tuple(
        write_mosaic(url, folder, name, box=box, scheme=map_.scheme_of(name), options=options)
        for name in map_.layers
    )


def _write_styles(map_: Published, folder: Path) -> dict[str, Path]:
    """Write what shows a GIS and people how the layers look."""
    files: dict[str, Path] = {}
    for name in map_.layers:
        scheme = map_.scheme_of(name)
        if name == "label" and scheme is not None:
            files |= write_styles(folder, scheme, title=map_.title)
        elif scheme is not None:
            files[f"style-{name}"] = write_qml(folder / f"{name}.qml", scheme)
        elif name == "confidence":
            files["style-confidence"] = write_text(folder / f"{name}.qml", ramp_qml(CONFIDENCE_COLOURS, 0, 1))
    return files
