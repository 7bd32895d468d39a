"""What radar adds: networks on Sentinel-2, on Sentinel-1 and 2 stacked, and fused, trained alike on the sample archive.

    python benchmarks/fusion.py [--work FOLDER] [--seconds S] [--seeds N] [--only NAME ...]
    python benchmarks/fusion.py --table

The sample archive is SIMULATED, Sentinel-1 over it included; the table compares ways to use it and says nothing of
real radar. All see the same months (`TIME`) in 4 bands, and where it says so VV and VH. The same processor seconds of
one core decide the number of steps. Blocks of 64 px, 4 px apart, are drawn into training, validation and test; test
is what is annotated there. One JSON line per network and seed stands in ``FOLDER/results.jsonl``; what is there
is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from engine.cube.cube import open_cube
from engine.inference.planes import plane_array, with_planes
from engine.values.classes import ClassScheme
from engine.values.planes import planes_of
from engine.values.spec import CubeSpec
from pipelines.config import SourceConfig
from pipelines.cube_area import area_of, find_radar, find_scenes, grid_and_box
from pipelines.sample.archive import make_sample_archive, open_sample_archive
from pipelines.sample.stac import RADAR_COLLECTION
from training.labels import LabelRaster, PolygonSource, rasterise
from training.loop import TrainedModel, TrainOptions, train
from training.splits import Split

SEED, SIZE_M, DATES = 11, 5120, 16
TIME = "2023-04/2023-07"
BANDS = ("blue", "green", "red", "nir")
SPLIT = Split(block_px=64, buffer_px=4, val=0.15, test=0.3, seed=5)
UNET = {"width": 16, "stem": 16, "depth": 3}
FUSED = {"width": 16, "series": 8, "depth": 3}
NETWORKS: dict[str, tuple[bool, str, dict[str, Any]]] = {
    "U-Net, optical alone": (False, "unet", UNET),
    "U-Net, planes stacked": (True, "unet", UNET),
    "two branches, optical alone": (False, "fusion_unet", FUSED),
    "two branches, early": (True, "fusion_unet", FUSED),
    "two branches, early, shared": (True, "fusion_unet", {**FUSED, "weights": "shared"}),
    "two branches, late": (True, "fusion_unet", {**FUSED, "fusion": "late"}),
    "Transformer, three branches": (True, "fusion_transformer", {"width": 16}),
}
"""By name: whether radar is seen, the architecture, its configuration."""


def scene_of(work: Path) -> tuple[xr.Dataset, LabelRaster]:
    """Make archive and cube, radar beside it; the planes are read once and kept."""
    place = work / "archive"
    made = (place / "catalog.json").exists()
    archive = (
        open_sample_archive(place)
        if made
        else make_sample_archive(place, seed=SEED, size_m=SIZE_M, n_dates=DATES, zones=(33,))
    )
    catalog = str(archive.catalog)
    radar = {"catalog": catalog, "collection": RADAR_COLLECTION}
    config = SourceConfig.model_validate(
        {"area": {"file": str(archive.territory)}, "time": TIME, "catalog": catalog, "sentinel1": radar}
    )
    spec, area = CubeSpec(bands=BANDS, sentinel1=True), area_of(config.area)
    grid, box = grid_and_box(area, None, spec.resolution_m)
    scenes, passes = find_scenes(config, area), find_radar(config, area, spec)
    cube = open_cube(scenes, spec, grid=grid, box=box, sentinel1=passes)
    stored = work / "planes.npy"
    if not stored.exists():
        np.save(stored, plane_array(cube, planes_of(spec)).compute(scheduler="threads"))
    classes = ClassScheme.from_file(archive.classes)
    labels = rasterise(PolygonSource(archive.labels, "class_name"), classes, grid, box)
    return with_planes(cube.drop_vars(list(cube.data_vars)), np.load(stored), planes_of(spec)), labels


def trial(cube: xr.Dataset, labels: LabelRaster, name: str, seed: int, seconds: float) -> dict[str, Any]:
    """Time a few steps, then train for the seconds that are given and score the test blocks."""
    radar, architecture, config = NETWORKS[name]
    if not radar:
        planes = planes_of(CubeSpec(bands=BANDS))
        cube = with_planes(cube.drop_dims("plane"), cube.planes.values[:, : len(planes)], planes)
    ends: list[float] = []

    def once(steps: int, note: bool) -> TrainedModel:
        options = TrainOptions(
            architecture=architecture,
            config=config,
            split=SPLIT,
            steps=steps,
            batch=8,
            crop_px=32,
            checks=1,
            seed=seed,
            learning_rate=5e-3,
        )
        return train(cube, labels, options, lambda _: ends.append(time.process_time()) if note else None)

    once(6, note=True)
    steps = int(np.clip(seconds / float(np.median(np.diff(ends)[1:-1])), 8, 2000))
    begun = time.process_time()
    found = once(steps, note=False)
    assert found.test is not None
    return {
        "name": name,
        "seed": seed,
        "steps": steps,
        "seconds": round(time.process_time() - begun, 1),
        "parameters": sum(p.numel() for p in found.module.parameters()),
        "accuracy": found.test.accuracy,
        "mean_iou": found.test.mean_iou,
        "pixels": found.pixels["test"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Write the mean of the seeds and their range as Markdown."""
    lines = [
        "| network | parameters | steps | seeds | accuracy | mean IoU |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name in NETWORKS:
        own = [row for row in rows if row["name"] == name]
        if own:
            told = [
                f"{100 * np.mean(v):.1f}% ({100 * min(v):.1f} to {100 * max(v):.1f})"
                for v in ([row[key] for row in own] for key in ("accuracy", "mean_iou"))
            ]
            steps = round(np.mean([row["steps"] for row in own]))
            lines.append(
                f"| {name} | {own[0]['parameters']:,} | {steps} | {len(own)} | {told[0]} | {told[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("fusion-work"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    results = args.work / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    if not args.table:
        cube, labels = scene_of(args.work)
        for seed in range(args.seeds):
            for name in args.only:
                if not any((row["name"], row["seed"]) == (name, seed) for row in rows):
                    rows.append(trial(cube, labels, name, seed, args.seconds))
                    print(rows[-1], flush=True)
                    with results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
