"""A simulated archive with known truth: Sentinel-2 L2A as it would lie in a catalogue.

Everything is made up and says so: the territory, its tiles, the pixels. What is true to life is the
form: overlapping tiles of two UTM zones, two orbits with partial footprints, clouds and their shadows, two
radiometric baselines, one COG per band, Sentinel-1 scenes of two relative orbits, a STAC catalogue, labels
of some of the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid
from pipelines.sample.labels import territory, write_labels, write_territory
from pipelines.sample.radar import (
    LOOKS,
    POLARISATIONS,
    RADAR_NODATA,
    RADAR_ORBITS,
    Frame,
    Pass,
    frame_of_orbit,
    ground_power,
    radar_schedule,
    render_pass,
)
from pipelines.sample.radar_stac import Slice, make_radar_item
from pipelines.sample.scenes import SCL, Pixels, View, cut, factor_of, render_scene
from pipelines.sample.sky import Scene, make_sky, schedule
from pipelines.sample.spectra import BANDS, Traits, field_traits
from pipelines.sample.stac import (
    COLLECTION,
    RADAR_COLLECTION,
    TileOfScene,
    make_item,
    write_catalogue,
    write_items_parquet,
)
from pipelines.sample.truth import EPSG, SCHEME, Landscape, make_landscape
from pipelines.sample.zones import ZONES, Sheet, make_sheets

Progress = Callable[[int, int, str], None]

_OVERVIEW_PX = 2400  # shorter rasters are read whole as fast; an overview would add a third to the archive

_README = """Simulated sample archive of landweave
=====================================

Everything in this folder is SIMULATED. The territory is fictional, no satellite measured these pixels,
and no farmer grew these crops. It serves to try the software and to test it against a known truth.

Made from seed {seed}: {side_km:.1f} x {side_km:.1f} km, {dates} dates in {year}. The boundary between UTM
zones 32 and 33 runs through the territory. Truth and labels lie in EPSG:{epsg}, the tiles of
Sentinel-2 in zones {zones}.

catalog.json       STAC catalogue; items and their Cloud Optimized GeoTIFFs lie below {collection}/
                   and {radar}/
items.parquet      the items of Sentinel-2 as stac-geoparquet; hrefs are relative to this folder
truth.tif          class of every 10 m pixel (uint8, 0 = no data)
labels.gpkg        polygons of about a third of the fields, and of some forest, water and built-up land
classes.yaml       the classes
territory.geojson  outline of the territory (EPSG:4326)

Reflectance is DN / 10000; from processing baseline 04.00 on it is (DN - 1000) / 10000, as in the real
archive. 0 = no data. SCL follows the scene classification of Sen2Cor.

Backscatter is gamma nought as linear power (float32, {nodata:g} = no data) of {looks:g} looks, of relative
orbits {orbits}.
"""


@dataclass(frozen=True)
class SampleArchive:
    """Where the parts of a simulated archive lie.

    Attributes:
        root: Folder.
        catalog: Static STAC catalogue, of Sentinel-2 and Sentinel-1.
        items_parquet: The items of Sentinel-2 as stac-geoparquet.
        truth: Class of each 10 m pixel, uint8 GeoTIFF.
        labels: Polygons with class_name and class_value, GeoPackage in `crs`.
        classes: Class scheme, YAML.
        territory: Outline, GeoJSON in EPSG:4326.
        crs: CRS of truth and labels, and of the tiles of that zone.
        bounds: Left, bottom, right, top of the truth in `crs`.
    """

    root: Path
    catalog: Path
    items_parquet: Path
    truth: Path
    labels: Path
    classes: Path
    territory: Path
    crs: str
    bounds: tuple[float, float, float, float]


def make_sample_archive(
    folder: str | Path,
    *,
    seed: int = 7,
    size_m: int = 20_480,
    n_dates: int = 15,
    zones: tuple[int, ...] = ZONES,
    workers: int = 2,
    progress: Progress | None = None,
) -> SampleArchive:
    """Make a simulated archive in a new or empty folder.

    The same seed, size and number of dates give the same pixels, whatever the number of workers.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of everything random.
        size_m: Side of the territory's square in metres, widened to a multiple of 60.
        n_dates: Number of Sentinel-2 datatakes in the season, 2..40, and of passes of each radar orbit.
        zones: UTM zones of the tiles: both, or only that of the truth.
        workers: Threads; each holds one datatake in memory (about 0.4 GB at full size).
        progress: Called with steps done, steps in all, and what was done.

    Raises:
        ConflictError: If the folder holds anything already.
        InputError: If the size, the number of dates or a zone is out of range.
    """
    root = Path(folder)
    scenes = schedule(n_dates)
    if root.exists() and any(root.iterdir()):
        raise ConflictError(
            "the folder for the sample archive is not empty",
            where=str(root),
            mend="choose another",
        )
    passes = radar_schedule(n_dates)
    tell, total = progress or _silent, n_dates + len(passes) + 2
    tell(0, total, "simulated landscape")
    land = make_landscape(seed, size_m)
    maker = _Maker(root, land, field_traits(land), make_sheets(land, zones))
    root.mkdir(parents=True, exist_ok=True)
    tell(1, total, f"simulated landscape with {len(land.crop)} fields")
    items = _write_scenes(maker, (*scenes, *passes), workers, lambda done, what: tell(done, total, what))
    archive = _write_rest(root, land, items)
    (root / "README.txt").write_text(_readme(maker, scenes))
    tell(total, total, "catalogue, truth and labels")
    return archive


def write_cog(path: Path, values: NDArray[Any], grid: Grid, box: Box, *, layer: bool = False) -> None:
    """Write a single-band Cloud Optimized GeoTIFF, one overview where it is large.

    Args:
        path: File to write.
        values: (y, x) array; no data is 0 in integers, `RADAR_NODATA` in floats.
        grid: Its grid.
        box: Its pixels.
        layer: Whether the values are classes, which must not be averaged.
    """
    import rasterio
    from affine import Affine

    profile: dict[str, Any] = {
        "driver": "COG",
        "height": values.shape[0],
        "width": values.shape[1],
        "count": 1,
        "dtype": values.dtype,
        "crs": grid.crs,
        "transform": Affine(*grid.transform_of(box)),
        "nodata": RADAR_NODATA if values.dtype.kind == "f" else 0,
        "compress": "DEFLATE",
        "level": 6,
        "predictor": "NO" if layer else "FLOATING_POINT" if values.dtype.kind == "f" else "STANDARD",
        "blocksize": 512,
        "overviews": "AUTO" if max(values.shape) > _OVERVIEW_PX else "NONE",
        "overview_count": 1,
        "overview_resampling": "MODE" if layer else "AVERAGE",
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)


@dataclass(frozen=True)
class _Maker:
    """What all scenes are made from.

    Attributes:
        root: Folder of the archive.
        land: The truth.
        traits: Traits of its fields.
        sheets: The land as the zones' tiles see it.
    """

    root: Path
    land: Landscape
    traits: Traits
    sheets: tuple[Sheet, ...]

    @property
    def zones(self) -> tuple[int, ...]:
        return tuple(s.zone for s in self.sheets)

    @cached_property
    def frames(self) -> dict[int, Frame]:
        """Pixels of the radar scenes by relative orbit."""
        return {o.number: frame_of_orbit(self.land, o, self.zones) for o in RADAR_ORBITS}


def _write_scenes(
    maker: _Maker, scenes: tuple[Scene | Pass, ...], workers: int, tell: Callable[[int, str], None]
) -> list[dict[str, Any]]:
    """Render and write all scenes in a pool of threads; return the items in order of time and tile."""
    items: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = {pool.submit(_write, maker, s): s for s in scenes}
        for done, job in enumerate(as_completed(jobs), start=2):
            items += job.result()
            tell(done, f"simulated scene of {jobs[job].time:%Y-%m-%d}")
    return sorted(items, key=lambda i: (i["properties"]["datetime"], i["id"]))


def _write(maker: _Maker, scene: Scene | Pass) -> list[dict[str, Any]]:
    return _write_scene(maker, scene) if isinstance(scene, Scene) else _write_pass(maker, scene)


def _write_scene(maker: _Maker, scene: Scene) -> list[dict[str, Any]]:
    """Render one scene in each zone and write those of its tiles that hold any data."""
    sky = make_sky(maker.land, scene)
    items = []
    for sheet in maker.sheets:
        view = View(sheet.sky(sky), sheet.seen(scene), sheet.zone)
        pixels = render_scene(sheet.land, maker.traits, scene, view)
        for tile, box in sheet.tiles.items():
            part = TileOfScene(tile, box, scene, sheet)
            if cut(pixels.arrays["B01"], "B01", sheet.land.box, box).any():
                _write_bands(maker.root / COLLECTION / part.id, part, pixels)
                items.append(make_item(part, pixels))
    return items


def _write_bands(folder: Path, part: TileOfScene, pixels: Pixels) -> None:
    folder.mkdir(parents=True)
    for name in (*BANDS, SCL):
        values = np.ascontiguousarray(cut(pixels.arrays[name], name, part.sheet.land.box, part.box))
        grid = Grid.make(part.sheet.land.grid.crs, 10 * factor_of(name))
        box = Box(*(edge // factor_of(name) for edge in (part.box.y0, part.box.x0, part.box.y1, part.box.x1)))
        write_cog(folder / f"{name}.tif", values, grid, box, layer=name == SCL)


def _write_pass(maker: _Maker, one: Pass) -> list[dict[str, Any]]:
    """Render one radar pass and write its two slices."""
    frame = maker.frames[one.orbit.number]
    power = render_pass(maker.land, ground_power(maker.land, maker.traits, one.day), frame, one)
    items = []
    for part in (Slice(number, one, frame) for number in range(len(frame.slices))):
        folder = maker.root / RADAR_COLLECTION / part.id
        folder.mkdir(parents=True)
        for name, plane in zip(POLARISATIONS, power, strict=True):
            values = np.ascontiguousarray(plane[part.box.slices_in(frame.box)])
            write_cog(folder / f"{name}.tif", values, frame.grid, part.box)
        items.append(make_radar_item(maker.land, part))
    return items


def _write_rest(root: Path, land: Landscape, items: list[dict[str, Any]]) -> SampleArchive:
    """Write catalogue, truth, labels, classes and outline."""
    import geopandas as gpd

    outline = territory(land)
    optical = [i for i in items if i["collection"] == COLLECTION]
    write_territory(root / "territory.geojson", outline)
    bbox = gpd.GeoSeries([outline], crs=f"EPSG:{EPSG}").to_crs("EPSG:4326").total_bounds.round(6).tolist()
    write_cog(root / "truth.tif", land.truth, land.grid, land.box, layer=True)
    (root / "classes.yaml").write_text(SCHEME.to_yaml())
    return SampleArchive(
        root=root,
        catalog=write_catalogue(root, items, bbox),
        items_parquet=write_items_parquet(root / "items.parquet", optical),
        truth=root / "truth.tif",
        labels=write_labels(root / "labels.gpkg", land),
        classes=root / "classes.yaml",
        territory=root / "territory.geojson",
        crs=f"EPSG:{EPSG}",
        bounds=land.bounds,
    )


def _readme(maker: _Maker, scenes: tuple[Scene, ...]) -> str:
    return _README.format(
        seed=maker.land.seed,
        side_km=maker.land.truth.shape[1] / 100,
        dates=len(scenes),
        year=scenes[0].time.year,
        epsg=EPSG,
        collection=COLLECTION,
        radar=RADAR_COLLECTION,
        zones=" and ".join(map(str, maker.zones)),
        nodata=RADAR_NODATA,
        looks=LOOKS,
        orbits=" and ".join(f"{o.number} ({o.state}, {o.bias_db:+g} dB)" for o in RADAR_ORBITS),
    )


def _silent(done: int, total: int, what: str) -> None:
    """Tell nobody."""


def open_sample_archive(folder: str | Path) -> SampleArchive:
    """Find the parts of an archive that `make_sample_archive` made earlier.

    Raises:
        InputError: If the folder holds none, or only a part of one.
    """
    import rasterio

    root = Path(folder)
    names = ("catalog.json", "items.parquet", "truth.tif", "labels.gpkg", "classes.yaml", "territory.geojson")
    missing = [n for n in names if not (root / n).exists()]
    if missing:
        raise InputError(
            "not a whole sample archive", where=str(root), found=f"no {', '.join(missing)}", mend="delete it"
        )
    with rasterio.open(root / "truth.tif") as file:
        crs, bounds = f"EPSG:{file.crs.to_epsg()}", tuple(file.bounds)
    paths = dict(
        zip(("catalog", "items_parquet", "truth", "labels", "classes", "territory"), names, strict=True)
    )
    return SampleArchive(root=root, crs=crs, bounds=bounds, **{k: root / n for k, n in paths.items()})
