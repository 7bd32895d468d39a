"""Plans against the runs that follow them: does the time lie in the interval, does the memory hold.

Run: ``python benchmarks/plan_honesty.py [--archive FOLDER] [--probe 6] [--runs 12]``. Simulated archive, made
if it is not there; areas, seasons, composites, bundles and tile sizes differ from run to run, and none of them
served to choose the constants of `engine.runs.estimate`. Each is planned with a probe; then what the probe left is
made by a new cluster. Time is from asking for workers to the last record. Prints a line per run, and the share of runs
within the interval, the median error of its middle, and projected against measured memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from engine.inference.bundle import BundleFields, save_bundle
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.runs.driver import RunEvent, RunOptions
from engine.runs.estimate import LEVEL
from engine.store.lease import Lease
from engine.values.classes import ClassScheme
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import RunConfig
from pipelines.map_area import prepare
from pipelines.plan_map import PlanOptions, plan_map
from pipelines.sample.archive import SampleArchive, make_sample_archive, open_sample_archive
from pipelines.tile_stage import Around, run_jobs

THREE = ["red", "nir", "swir16"]
SIX = ["blue", "green", "red", "nir", "swir16", "swir22"]
RUNS: list[dict[str, Any]] = [
    {"part": (0.0, 0.0, 0.8, 0.7), "tile": 96, "bands": THREE},
    {"part": (0.3, 0.0, 1.0, 0.8), "tile": 128, "bands": THREE, "window": 96},
    {"part": (0.0, 0.3, 0.9, 1.0), "tile": 160, "bands": SIX},
    {"part": (0.2, 0.2, 1.0, 1.0), "tile": 128, "bands": SIX, "width": 16},
    {"part": (0.1, 0.1, 0.9, 0.8), "tile": 112, "bands": THREE, "time": "2023-04/2023-07", "dates": 4},
    {"part": (0.1, 0.3, 0.9, 0.9), "tile": 128, "bands": SIX, "reducer": "geomedian"},
    {"part": (0.3, 0.1, 0.9, 0.9), "tile": 96, "bands": THREE, "reducer": "max_ndvi", "window": 96},
    {"part": (0.0, 0.0, 1.0, 0.6), "tile": 144, "bands": THREE, "gap_fill": "linear", "width": 16},
    {"part": (0.0, 0.2, 0.7, 1.0), "tile": 112, "bands": SIX, "time": "2023-05/2023-09", "dates": 5},
    {"part": (0.2, 0.2, 1.0, 0.9), "tile": 128, "bands": THREE, "sharpen": "ratio"},
    {"part": (0.3, 0.0, 1.0, 0.9), "tile": 96, "bands": THREE, "reducer": "best", "window": 32},
    {"part": (0.1, 0.1, 0.8, 0.8), "tile": 192, "bands": SIX, "width": 16},
]


def archive_in(folder: Path) -> SampleArchive:
    if (folder / "catalog.json").exists():
        return open_sample_archive(folder)
    return make_sample_archive(folder, seed=23, size_m=10_240, n_dates=8, zones=(33,))


def area_of(archive: SampleArchive, part: tuple[float, float, float, float]) -> list[float]:
    from pyproj import Transformer

    left, bottom, right, top = archive.bounds
    x, y = right - left, top - bottom
    turn = Transformer.from_crs(archive.crs, "EPSG:4326", always_xy=True)
    return list(
        turn.transform_bounds(
            left + part[0] * x, bottom + part[1] * y, left + part[2] * x, bottom + part[3] * y
        )
    )


def config_of(number: int, case: dict[str, Any], archive: SampleArchive, folder: Path) -> RunConfig:
    torch.manual_seed(number)
    scheme, dates, window = (
        ClassScheme.from_file(archive.classes),
        case.get("dates", 8),
        case.get("window", 64),
    )
    cube = {k: case[k] for k in ("bands", "reducer", "gap_fill", "sharpen") if k in case}
    n_bands = len(case["bands"])
    sizes = {
        "n_dates": dates,
        "n_bands": n_bands,
        "n_classes": len(scheme.values),
        "width": case.get("width", 8),
    }
    fields = BundleFields(
        name="random", spec=CubeSpec(**cube), n_dates=dates, classes=scheme, lattice=Lattice(window, window // 4),
        normalisation=Standard(mean=[2000.0] * n_bands, std=[900.0] * n_bands), licence="CC0-1.0",
    )  # fmt: skip
    bundle = folder / f"bundle-{number}"
    save_bundle(bundle, build("unet", {**sizes, "stem": 8, "depth": 2}).eval(), "unet", fields)
    return RunConfig(
        area=area_of(archive, case["part"]), time=case.get("time", "2023-03/2023-10"), catalog=str(archive.catalog),
        crs=archive.crs, bundle=str(bundle), out=str(folder / f"run-{number}"), tile_px=case["tile"], probe="off",
        products=False, cluster={"n_workers": 2},
    )  # fmt: skip


def make_the_rest(config: RunConfig) -> tuple[float, int, int]:
    """Do as `map` does after its preparations; seconds to the last record, tiles, highest memory."""
    last = [0.0]

    def hear(event: RunEvent, km2: float) -> None:
        if event.kind == "done":
            last[0] = time.monotonic()

    with Lease(config.out) as lease:
        made = prepare(config)
        begun = time.monotonic()
        _, summaries = run_jobs([made.job], made.area, Around(lease, RunOptions(), config.cluster, hear))
    return last[0] - begun, summaries[-1].done, summaries[-1].peak_bytes


def measure(number: int, archive: SampleArchive, folder: Path, probe: int) -> tuple[bool, float, float]:
    config = config_of(number, RUNS[number], archive, folder)
    plan = plan_map(config, PlanOptions(probe=probe))
    said, made = plan.left_s, plan.probe
    assert said is not None
    assert made is not None
    seconds, tiles, peak = make_the_rest(config)
    memory = sum(plan.memory.values()) / max(peak, made.peak_bytes)
    error = said.middle / seconds - 1
    print(
        f"{number:2}  {tiles:3} tiles of {config.tile_px} px  said {said.low:5.0f} .. {said.middle:5.0f} .."
        f" {said.high:5.0f} s  took {seconds:5.0f} s  {'in ' if seconds in said else 'OUT'}  error {error:+.0%}"
        f"  startup said {made.startup_s:.0f} s  memory projected/measured {memory:.2f}",
        flush=True,
    )
    return seconds in said, abs(error), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--archive", type=Path, default=Path(tempfile.gettempdir()) / "landweave-archive-10km"
    )
    parser.add_argument("--probe", type=int, default=6)
    parser.add_argument("--runs", type=int, default=len(RUNS))
    args = parser.parse_args()
    archive = archive_in(args.archive)
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(n, archive, Path(folder), args.probe) for n in range(min(args.runs, len(RUNS)))]
    held, errors, memory = zip(*found, strict=True)
    print(
        f"{len(found)} runs: {sum(held)} within the interval ({sum(held) / len(held):.0%}; it promises {LEVEL:.0%}),"
        f" median error {statistics.median(errors):.0%},"
        f" memory projected/measured {min(memory):.2f} .. {max(memory):.2f}"
    )


if __name__ == "__main__":
    main()
