"""A map of western Bahia from samples around it: train on series, map 23 dates x 680 x 1000 pixels, score, look.

Run: ``python benchmarks/bahia_map.py FOLDER [--seeds 1]`` (``LANDWEAVE_TEST_DATA`` names the folder of real data).

The 55 samples that lie on the rasters are held out, and those nearer than 1.6 km to one of them; the others train.
The networks are those of `real_tables.py`, one of each kind and seed, written as bundles and joined in an ensemble,
which `engine.predict` maps: the planes (NDVI, EVI) of the rasters are read as the cube, and nothing of the samples'
own values is used for the score. Written beside the bundles: ``map.png``, ``map.json``, ``label.tif``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import real_models
import real_series
import xarray as xr
from affine import Affine
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from pyproj import Transformer

from engine.inference.bundle import save_bundle
from engine.inference.ensemble import Ensemble, create_ensemble
from engine.inference.planes import cube_of_planes
from engine.inference.predict import predict
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.planes import Plane
from engine.values.spec import CubeSpec
from training.metrics import Scores, confusion
from training.series import Columns, SeriesTable, read_long
from training.splits import TEST, TRAIN, Split
from training.tables.train import train_table

_DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
_PLANES = (Plane(name="NDVI", kind="index"), Plane(name="EVI", kind="index"))
_BUFFER_PX = 25
_KINDS = ("mlp", "cnn1d")


def main() -> None:
    """Train, map, score, draw."""
    options = _arguments()
    folder = _DATA / "cbers4_bahia"
    cube, grid, box = open_rasters(folder)
    table = samples_of(folder, grid, box)
    split = Split(by="groups", buffer_px=_BUFFER_PX, assigned={"map": "test"}).on(grid)
    parts = split.parts_of(table.samples())
    start, cpu = time.perf_counter(), time.process_time()
    model = train(table, split, options.folder, options.seeds)
    trained_s, trained_cpu = time.perf_counter() - start, time.process_time() - cpu
    start, cpu = time.perf_counter(), time.process_time()
    out = predict(cube, model).compute(scheduler="synchronous")
    told = {
        "pixels": int(np.prod(out["label"].shape)),
        "train": {
            "samples": int((parts == TRAIN).sum()),
            "seconds": round(trained_s),
            "cpu": round(trained_cpu),
        },
        "map": {"seconds": round(time.perf_counter() - start), "cpu": round(time.process_time() - cpu)},
        "score": score(out, table[parts == TEST], (grid, box)),
        "area_share": shares(out, table),
    }
    (options.folder / "map.json").write_text(json.dumps(told, indent=2))
    write_tif(out, grid, box, options.folder / "label.tif")
    draw(out, table[parts == TEST], (grid, box), options.folder / "map.png")
    print(json.dumps(told, indent=2))


def open_rasters(folder: Path) -> tuple[xr.Dataset, Grid, Box]:
    """Read the 46 rasters as one cube of planes; each date is the first day of its 16."""
    starts = sorted({path.name.split("_")[5] for path in folder.glob("CB4_*_NDVI.tif")})
    with rasterio.open(next(folder.glob("CB4_*_NDVI.tif"))) as first:
        grid, box = Grid.of_transform(first.crs.to_wkt(), first.transform, first.shape)
    values = np.empty((len(starts), len(_PLANES), *box.shape_yx), np.float32)
    for t, start in enumerate(starts):
        for c, plane in enumerate(_PLANES):
            (path,) = folder.glob(f"CB4_*_{start}_*_{plane.name}.tif")
            with rasterio.open(path) as file:
                stored = file.read(1)
                values[t, c] = np.where(stored == file.nodata, np.nan, stored / 10_000)
    times = np.array(starts, "datetime64[D]")
    cube = cube_of_planes(values, _PLANES, times, grid, box)
    return cube.chunk({"time": -1, "plane": -1, "y": 170, "x": 250}), grid, box


def samples_of(folder: Path, grid: Grid, box: Box) -> SeriesTable:
    """Read the samples; group ``map`` lies on the rasters."""
    table = read_long(
        folder / "cbers4_bahia_timeseries.csv.gz",
        folder / "cbers4_bahia_samples.csv",
        real_series.scheme(["Cerradao", "Cerrado", "Cropland", "Pasture"]),
        Columns(),
        bands=[plane.name for plane in _PLANES],
    )
    row, col = pixels_of(table, grid, box)
    height, width = box.shape_yx
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    return replace(table, group=np.where(inside, "map", "around").astype(object))


def train(table: SeriesTable, split: Split, folder: Path, seeds: int) -> Ensemble:
    """Train one network of each kind and seed, and join them."""
    members = []
    for kind in _KINDS:
        for seed in range(seeds):
            trained = train_table(
                table, real_models.options_of(kind, split, len(table), seed), planes=_PLANES
            )
            spec = CubeSpec(bands=(), resolution_m=64, period=None, reducer="first", mask="none")
            fields = trained.bundle_fields(f"{kind} {seed}", spec, Lattice(1, 0), "other")
            path = folder / f"{kind}-{seed}"
            save_bundle(path, trained.module, kind, fields)
            members.append((path, 1))
    return create_ensemble(folder / "ensemble", members, "western Bahia")


def pixels_of(table: SeriesTable, grid: Grid, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column of each sample on the rasters; others lie outside 0..height, width."""
    x, y = Transformer.from_crs(table.crs, grid.crs, always_xy=True).transform(table.x, table.y)
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    row, col = np.floor((ay - y) / res_y) - box.y0, np.floor((x - ax) / res_x) - box.x0
    return row.astype(np.int64), col.astype(np.int64)


def score(out: xr.Dataset, held: SeriesTable, where: tuple[Grid, Box]) -> dict[str, Any]:
    """Score the map at the samples that were held out."""
    row, col = pixels_of(held, *where)
    values = np.asarray(held.classes.values)
    truth = np.searchsorted(values, held.value)
    predicted = np.searchsorted(values, out["label"].values[row, col])
    return Scores.of(confusion(truth, predicted, len(values))).as_json(held.classes.names)


def shares(out: xr.Dataset, table: SeriesTable) -> dict[str, float]:
    """Return the share of each class in the map."""
    found = np.bincount(out["label"].values.ravel(), minlength=256)
    return {c.name: round(float(found[c.value] / found.sum()), 3) for c in table.classes.classes}


def write_tif(out: xr.Dataset, grid: Grid, box: Box, path: Path) -> None:
    """Write the labels where any tool opens them."""
    height, width = box.shape_yx
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    transform = Affine(*grid.transform_of(box))
    with rasterio.open(
        path, "w", crs=grid.crs, transform=transform, nodata=0, compress="deflate", **profile
    ) as file:
        file.write(out["label"].values.astype(np.uint8), 1)


def draw(out: xr.Dataset, held: SeriesTable, where: tuple[Grid, Box], path: Path) -> None:
    """Draw labels, the samples held out in their true colour, and the confidence."""
    classes = held.classes.classes
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 6), layout="constrained")
    colours = ListedColormap(["#ffffff", *(c.colour for c in classes)])
    left.imshow(out["label"].values, cmap=colours, vmin=0, vmax=len(classes), interpolation="nearest")
    row, col = pixels_of(held, *where)
    for c in classes:
        mine = held.value == c.value
        left.scatter(col[mine], row[mine], s=36, c=c.colour, edgecolors="black")
    handles = [plt.Rectangle((0, 0), 1, 1, color=c.colour) for c in classes]
    left.legend(
        handles,
        [c.name for c in classes],
        loc="upper center",
        ncols=len(classes),
        bbox_to_anchor=(0.5, -0.05),
    )
    left.set_title("classes; circles: samples held out, in their true class")
    shown = right.imshow(out["confidence"].values / 250, vmin=0.25, vmax=1, cmap="viridis")
    figure.colorbar(shown, ax=right, shrink=0.8)
    right.set_title("confidence")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
