"""Projected against measured memory of a worker, over tile sizes and kinds of cubes, each in a new process.

Run: ``python benchmarks/plan_memory.py [--archive FOLDER] [--tiles 512 1024 2048] [--only NAME ...]``.
Maps and cubes of a simulated archive are made by one new worker process of one thread; its highest resident
memory during a tile stands against `engine.values.budget`. A projection must not be below what was measured,
nor above 1.5 times it. Prints a line per case and the extremes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from engine.inference.bundle import BundleFields, save_bundle
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import CubeConfig, RunConfig
from pipelines.make_cube import make_cube
from pipelines.map_area import map_area
from pipelines.run_folder import read_plan
from pipelines.sample.archive import SampleArchive, make_sample_archive, open_sample_archive

THREE = ["red", "nir", "swir16"]
TEN = [
    "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22",
]  # fmt: skip
MAPS: dict[str, dict[str, Any]] = {
    "map": {"bands": THREE},
    "map, 10 bands": {"bands": TEN},
    "map, filled": {"bands": TEN, "gap_fill": "linear"},
    "map, sharpened": {"bands": THREE, "sharpen": "ratio"},
    "map, best pixel": {"bands": THREE, "reducer": "best"},
    "map, geomedian": {"bands": TEN, "reducer": "geomedian"},
    "map, probability": {"bands": THREE},
    "map, a quarter": {"bands": TEN, "period": "1QS"},
}
WINDOWS = {"map, window 608": 608, "map, window 1120": 1120}
MAPS |= {name: {"bands": TEN} for name in WINDOWS}
CUBES: dict[str, dict[str, Any]] = {
    "cube": {"bands": TEN},
    "cube, filled": {"bands": TEN, "gap_fill": "whittaker"},
    "cube, statistics": {
        "bands": THREE,
        "features": {"indices": ["NDVI"], "statistics": ["NDVI_mean", "red_p90"]},
    },
    "cube, variability": {"bands": TEN, "reducer": "geomedian", "variability": True},
    "cube, phenology": {"bands": THREE, "gap_fill": "linear", "features": {"phenology": "NDVI"}},
    "cube, sharpened best": {"bands": TEN, "reducer": "best", "sharpen": "ratio"},
}


def archive_in(folder: Path) -> SampleArchive:
    if (folder / "catalog.json").exists():
        return open_sample_archive(folder)
    return make_sample_archive(folder, seed=11, size_m=20_480, n_dates=8, zones=(33,))


def bundle_of(folder: Path, spec: dict[str, Any], archive: SampleArchive, window: int = 256) -> Path:
    torch.manual_seed(0)
    scheme, made = ClassScheme.from_file(archive.classes), CubeSpec(**spec)
    dates = 8 if made.period == "1MS" else 4
    config = {"n_dates": dates, "n_bands": len(made.bands), "n_classes": len(scheme.values)}
    fields = BundleFields(
        name="random", spec=made, n_dates=dates, classes=scheme, lattice=Lattice(window, window * 3 // 8),
        normalisation=Standard(mean=[2000.0] * len(made.bands), std=[900.0] * len(made.bands)), licence="CC0-1.0",
    )  # fmt: skip
    network = build("unet", config | {"width": 8, "stem": 8, "depth": 2}).eval()
    save_bundle(folder, network, "unet", fields)
    return folder


def area_of(archive: SampleArchive, tile_px: int) -> list[float]:
    """A box in the middle of the territory that one tile and its halo fill."""
    from pyproj import Transformer

    left, bottom, right, top = archive.bounds
    side = 10 * tile_px
    x0 = min(-(-int(left + 2000) // side) * side, right - 1000)
    y0 = min(-(-int(bottom + 2000) // side) * side, top - 1000)
    x1, y1 = min(x0 + side, right), min(y0 + side, top)
    turn = Transformer.from_crs(archive.crs, "EPSG:4326", always_xy=True)
    return list(turn.transform_bounds(x0 + 200, y0 + 200, x1 - 200, y1 - 200))


def measure(name: str, tile_px: int, archive: SampleArchive, folder: Path) -> float:
    out = folder / f"{name}-{tile_px}".replace(" ", "-").replace(",", "")
    common = {
        "area": area_of(archive, tile_px), "time": "2023-03/2023-10", "catalog": str(archive.catalog), "probe": "off",
        "crs": archive.crs, "out": str(out), "tile_px": tile_px, "cluster": {"n_workers": 1, "memory_limit": "8GiB"},
    }  # fmt: skip
    begun = time.monotonic()
    if name in MAPS:
        bundle = bundle_of(folder / "bundle", MAPS[name], archive)
        result = map_area(
            RunConfig(
                **common,
                bundle=str(bundle),
                products=False,
                window=WINDOWS.get(name, "trained"),
                layers=("probability",) if name.endswith("probability") else (),
            )
        ).summary
        projected = read_plan(str(out))["projected_bytes"]
    else:
        result = make_cube(CubeConfig(**common, cube=CubeSpec(**CUBES[name]))).summary
        projected = read_plan(str(out), "cube")["projected_bytes"]
    ratio = projected / result.peak_bytes
    print(
        f"{name:24} {tile_px:5} px  {result.done} tile(s)  measured {result.peak_bytes / 2**30:5.2f}  projected"
        f" {projected / 2**30:5.2f} GiB  ratio {ratio:.2f}  ({time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--archive", type=Path, default=Path(tempfile.gettempdir()) / "landweave-archive-20km"
    )
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    archive = archive_in(args.archive)
    with tempfile.TemporaryDirectory() as folder:
        ratios = [
            measure(name, tile, archive, Path(folder))
            for name in args.only or [*MAPS, *CUBES]
            for tile in args.tiles
        ]
    held = sum(1.0 <= r <= 1.5 for r in ratios)
    print(
        f"projected / measured: {min(ratios):.2f} .. {max(ratios):.2f}; {held} of {len(ratios)} within 1.0 .. 1.5"
    )


if __name__ == "__main__":
    main()
