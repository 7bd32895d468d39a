"""A simulated archive with known truth: Sentinel-2 L2A as it would lie in a catalogue.

Everything is made up and says so: the territory, its tiles, the pixels. What is true to life is the
form: two overlapping tiles, two orbits with partial footprints, clouds and their shadows, two
radiometric baselines, one COG per band, a STAC catalogue, labels of some of the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import ConflictError
from engine.values.grid import Box
from pipelines.sample_labels import territory, write_labels, write_territory
from pipelines.sample_scenes import SCL, Pixels, cut, factor_of, render_scene
from pipelines.sample_sky import Scene, schedule
from pipelines.sample_spectra import BANDS, Traits, field_traits
from pipelines.sample_stac import (
    COLLECTION,
    TileOfScene,
    make_item,
    tile_boxes,
    write_catalogue,
    write_items_parquet,
)
from pipelines.sample_truth import EPSG, SCHEME, Landscape, make_landscape

Progress = Callable[[int, int, str], None]

_OVERVIEW_PX = 2400  # shorter rasters are read whole as fast; an overview would add a third to the archive

_README = """Simulated sample archive of landweave
=====================================

Everything in this folder is SIMULATED. The territory is fictional, no satellite measured these pixels,
and no farmer grew these crops. It serves to try the software and to test it against a known truth.

Made from seed {seed}: {side_km:.1f} x {side_km:.1f} km, {dates} dates in {year}, EPSG:{epsg}.

catalog.json       STAC catalogue; items and their Cloud Optimized GeoTIFFs lie below {collection}/
items.parquet      the same items as stac-geoparquet; hrefs are relative to this folder
truth.tif          class of every 10 m pixel (uint8, 0 = no data)
labels.gpkg        polygons of about a third of the fields, and of some forest, water and built-up land
classes.yaml       the classes
territory.geojson  outline of the territory (EPSG:4326)

Reflectance is DN / 10000; from processing baseline 04.00 on it is (DN - 1000) / 10000, as in the real
archive. 0 = no data. SCL follows the scene classification of Sen2Cor.
"""


@dataclass(frozen=True)
class SampleArchive:
    """Where the parts of a simulated archive lie.

    Attributes:
        root: Folder.
        catalog: Static STAC catalogue.
        items_parquet: The same items as stac-geoparquet.
        truth: Class of each 10 m pixel, uint8 GeoTIFF.
        labels: Polygons with class_name and class_value, GeoPackage in `crs`.
        classes: Class scheme, YAML.
        territory: Outline, GeoJSON in EPSG:4326.
        crs: CRS of all rasters.
        bounds: Left, bottom, right, top of the rasters in `crs`.
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
    workers: int = 2,
    progress: Progress | None = None,
) -> SampleArchive:
    """Make a simulated archive in a new or empty folder.

    The same seed, size and number of dates give the same pixels, whatever the number of workers.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of everything random.
        size_m: Side of the territory's square in metres, widened to a multiple of 60.
        n_dates: Number of datatakes in the season, 2..40.
        workers: Threads; each holds one datatake in memory (about 0.4 GB at full size).
        progress: Called with steps done, steps in all, and what was done.

    Raises:
        ConflictError: If the folder holds anything already.
        InputError: If the size or number of dates is out of range.
    """
    root = Path(folder)
    scenes = schedule(n_dates)
    if root.exists() and any(root.iterdir()):
        raise ConflictError(
            "the folder for the sample archive is not empty",
            where=str(root),
            mend="choose another",
        )
    tell = progress or _silent
    tell(0, n_dates + 2, "simulated landscape")
    land = make_landscape(seed, size_m)
    root.mkdir(parents=True, exist_ok=True)
    tell(1, n_dates + 2, f"simulated landscape with {len(land.crop)} fields")
    items = _write_scenes(root, land, scenes, workers, tell)
    archive = _write_rest(root, land, items)
    (root / "README.txt").write_text(_readme(land, scenes))
    tell(n_dates + 2, n_dates + 2, "catalogue, truth and labels")
    return archive


def write_cog(path: Path, values: NDArray[Any], transform: tuple[float, ...], *, layer: bool = False) -> None:
    """Write a single-band Cloud Optimized GeoTIFF, no-data 0, one overview where it is large.

    Args:
        path: File to write.
        values: (y, x) array.
        transform: Affine coefficients a..f.
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
        "crs": f"EPSG:{EPSG}",
        "transform": Affine(*transform),
        "nodata": 0,
        "compress": "DEFLATE",
        "level": 6,
        "predictor": "NO" if layer else "STANDARD",
        "blocksize": 512,
        "overviews": "AUTO" if max(values.shape) > _OVERVIEW_PX else "NONE",
        "overview_count": 1,
        "overview_resampling": "MODE" if layer else "AVERAGE",
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)


def _write_scenes(
    root: Path, land: Landscape, scenes: tuple[Scene, ...], workers: int, tell: Progress
) -> list[dict[str, Any]]:
    """Render and write all scenes in a pool of threads; return the items in order of time and tile."""
    traits = field_traits(land)
    items: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = {pool.submit(_write_scene, root, land, traits, s): s for s in scenes}
        for done, job in enumerate(as_completed(jobs), start=2):
            items += job.result()
            tell(done, len(scenes) + 2, f"simulated scene of {jobs[job].time:%Y-%m-%d}")
    return sorted(items, key=lambda i: (i["properties"]["datetime"], i["id"]))


def _write_scene(root: Path, land: Landscape, traits: Traits, scene: Scene) -> list[dict[str, Any]]:
    """Render one scene and write those of its tiles that hold any data."""
    pixels = render_scene(land, traits, scene)
    items = []
    for tile, box in tile_boxes(land.box).items():
        part = TileOfScene(tile, box, scene)
        if cut(pixels.arrays["B01"], "B01", land.box, box).any():
            _write_bands(root / COLLECTION / part.id, land, part, pixels)
            items.append(make_item(land, part, pixels))
    return items


def _write_bands(folder: Path, land: Landscape, part: TileOfScene, pixels: Pixels) -> None:
    folder.mkdir(parents=True)
    for name in (*BANDS, SCL):
        values = np.ascontiguousarray(cut(pixels.arrays[name], name, land.box, part.box))
        transform = _transform(land, part.box, factor_of(name))
        write_cog(folder / f"{name}.tif", values, transform, layer=name == SCL)


def _transform(land: Landscape, box: Box, factor: int) -> tuple[float, ...]:
    a, b, c, d, e, f = land.grid.transform_of(box)
    return a * factor, b, c, d, e * factor, f


def _write_rest(root: Path, land: Landscape, items: list[dict[str, Any]]) -> SampleArchive:
    """Write catalogue, truth, labels, classes and outline."""
    import geopandas as gpd

    outline = territory(land)
    write_territory(root / "territory.geojson", outline)
    bbox = gpd.GeoSeries([outline], crs=f"EPSG:{EPSG}").to_crs("EPSG:4326").total_bounds.round(6).tolist()
    write_cog(root / "truth.tif", land.truth, land.grid.transform_of(land.box), layer=True)
    (root / "classes.yaml").write_text(SCHEME.to_yaml())
    return SampleArchive(
        root=root,
        catalog=write_catalogue(root, items, bbox),
        items_parquet=write_items_parquet(root / "items.parquet", items),
        truth=root / "truth.tif",
        labels=write_labels(root / "labels.gpkg", land),
        classes=root / "classes.yaml",
        territory=root / "territory.geojson",
        crs=f"EPSG:{EPSG}",
        bounds=land.bounds,
    )


def _readme(land: Landscape, scenes: tuple[Scene, ...]) -> str:
    return _README.format(
        seed=land.seed,
        side_km=land.truth.shape[1] / 100,
        dates=len(scenes),
        year=scenes[0].time.year,
        epsg=EPSG,
        collection=COLLECTION,
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
