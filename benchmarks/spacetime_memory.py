"""Memory of one window in the networks over time and space, against the budget, each case in a new process.

Run: ``python benchmarks/spacetime_memory.py [cases]``. A small window warms the process; what a large one adds to its
peak stands against the part ``batch`` of `engine.values.budget.tile_bytes`, per pixel of the window. A projection
must not be below what was measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

BANDS = ("blue", "green", "red", "rededge2", "nir", "swir16", "swir22")
CASES = [
    (name, dates, side, config)
    for name in ("utae", "convlstm", "convgru", "convstar", "cnn3d", "cnn3d2d", "unet3d")
    for dates, side in ((8, 384), (24, 256))
    for config in ({}, {"width": 32, "width_max": 64} if name == "utae" else {"width": 24})
]


def measure(name: str, dates: int, side: int, config: dict[str, int]) -> None:
    """Print measured and projected bytes a pixel."""
    from engine.inference.bundle import BundleFields, save_bundle
    from engine.inference.lane import Lane
    from engine.models.normalise import Standard
    from engine.models.registry import build
    from engine.values.budget import CHANNEL_BYTES, CLASS_BYTES, INPUT_BYTES, KEPT_BYTES
    from engine.values.classes import ClassScheme
    from engine.values.lattice import Lattice
    from engine.values.spec import CubeSpec
    from pipelines.plan_area import finest_channels

    n = len(BANDS)
    fields = BundleFields(
        name="memory", spec=CubeSpec(bands=BANDS, period=None, mask=None), n_dates=dates,
        classes=ClassScheme.from_names([f"class {i}" for i in range(10)]), lattice=Lattice(64, 0),
        normalisation=Standard(mean=[2000.0] * n, std=[900.0] * n),
    )  # fmt: skip
    days = tuple(10 + 350 * i // dates for i in range(dates))
    with tempfile.TemporaryDirectory() as folder:
        network = build(name, {"n_dates": dates, "n_bands": n, "n_classes": 10, **config}).eval()
        bundle = save_bundle(Path(folder), network, name, fields)
        small, large = Lane(bundle, days=days), Lane(replace(bundle, lattice=Lattice(side, 0)), days=days)
    x_BTCHW = np.full((1, dates, n, side, side), 1000, np.uint16)
    small.run(np.ascontiguousarray(x_BTCHW[..., :64, :64]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        large.run(x_BTCHW)
    found = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / side**2
    inputs = dates * (n + 1)
    finest = CHANNEL_BYTES * finest_channels(bundle, dates) + CLASS_BYTES * 10
    projected = max(INPUT_BYTES * inputs, KEPT_BYTES * inputs + finest)
    print(f"{name:9} {config!s:34} {dates:3} dates  {found:7.0f} B/px, projected {projected:7.0f}"
          f"  {projected / found:5.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("["):
        measure(*json.loads(sys.argv[1]))
    else:
        for case in CASES:
            if not sys.argv[1:] or case[0] in sys.argv[1:]:
                subprocess.run([sys.executable, __file__, json.dumps(case)], check=True)
