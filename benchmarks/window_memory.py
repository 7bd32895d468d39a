"""Memory of one window in a network, measured against the budget, each case in a new process.

Run: ``python benchmarks/window_memory.py``. A U-Net evaluates one window after a small one has warmed the process;
what the process grows by stands against the part ``batch`` of `engine.values.budget.tile_bytes`. A projection
must not be below what was measured, nor above 1.5 times it by much: the whole tile is held to that
(`benchmarks/plan_memory.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil

BASE = {"dates": 1, "bands": 10, "classes": 10, "width": 16, "stem": 32, "depth": 4, "window": 512}
CASES: list[dict[str, int]] = [
    {"window": 256}, {}, {"window": 1120}, {"width": 24}, {"width": 8, "stem": 8, "depth": 2}, {"classes": 30},
    {"classes": 60, "width": 8}, {"dates": 8}, {"dates": 8, "width": 8, "stem": 8, "depth": 2},
    {"width": 8, "stem": 64, "depth": 2}, {"classes": 2, "width": 4, "stem": 4, "depth": 2},
    {"width": 24, "window": 1120},
]  # fmt: skip


def measure(case: dict[str, int]) -> None:
    from dataclasses import replace

    from engine.inference.bundle import BundleFields, save_bundle
    from engine.inference.lane import Lane
    from engine.models.normalise import Standard
    from engine.models.registry import build
    from engine.values.budget import Reading, TileShape, tile_bytes
    from engine.values.classes import ClassScheme
    from engine.values.grid import Box
    from engine.values.lattice import Lattice
    from engine.values.spec import CubeSpec
    from pipelines.plan_area import finest_channels

    n = case["bands"]
    bands = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")[
        :n
    ]
    sizes = {"n_dates": case["dates"], "n_bands": n, "n_classes": case["classes"]}
    shape = {k: case[k] for k in ("width", "stem", "depth")} | {"width_max": 8 * case["width"]}
    fields = BundleFields(
        name="memory", spec=CubeSpec(bands=bands, period=None, mask=None), n_dates=case["dates"],
        classes=ClassScheme.from_names([f"class {i}" for i in range(case["classes"])]), lattice=Lattice(64, 0),
        normalisation=Standard(mean=[2000.0] * n, std=[900.0] * n),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_bundle(Path(folder), build("unet", sizes | shape).eval(), "unet", fields)
        side = case["window"]
        lattice = Lattice(side, 0)
        lanes = [Lane(bundle), Lane(replace(bundle, lattice=lattice))]
    rng = np.random.default_rng(0)
    cell = rng.integers(200, 4000, (1, case["dates"], n, 32, 32)).astype(np.uint16)
    lanes[0].run(np.tile(cell, (1, 1, 1, 2, 2)))
    windows = np.tile(cell, (1, 1, 1, side // 32, side // 32))
    process, ended, grown = psutil.Process(), threading.Event(), [0]
    start = process.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.005):
            grown[0] = max(grown[0], process.memory_info().rss - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        lanes[1].run(windows)
    ended.set()
    watcher.join()
    tile = TileShape(
        Box(0, 0, side, side), lattice, Reading(n, 1, side), case["dates"], case["classes"],
        channels=finest_channels(bundle, case["dates"]),
    )  # fmt: skip
    projected = tile_bytes(tile)["batch"]
    told = ", ".join(f"{k} {v}" for k, v in case.items() if k != "bands")
    print(
        f"{told}: measured {grown[0] / 2**20:.0f} MiB, projected {projected / 2**20:.0f}, "
        f"ratio {projected / grown[0]:.2f}, {grown[0] / side**2:.0f} bytes a pixel"
    )


def main() -> None:
    if len(sys.argv) > 1:
        measure(json.loads(sys.argv[1]))
        return
    for case in CASES:
        subprocess.run([sys.executable, __file__, json.dumps(BASE | case)], check=True)


if __name__ == "__main__":
    main()
