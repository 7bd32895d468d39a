"""Labels that bfloat16 changes against float32, on trained networks and real scenes; label flips per megapixel.

    python -m benchmarks.half_precision [--data FOLDER] [--steps 300]

U-Nets of four poolings are trained here on clusters of the smoothed bands (`benchmarks.real_untiled`), then the
whole scene is mapped in float32 and in bfloat16. Said beside: flips among pixels whose two most
probable classes are at least 0.1 apart, the largest change of a probability, the accuracy of both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.real_untiled import DATA, clusters, scene_33uuu, scene_austria, trained
from engine.inference.predict import predict
from engine.values.lattice import Lattice

SCENES = {"s2_ftw_austria, two dates of four bands": scene_austria, "33UUU, nine bands": scene_33uuu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", default="", help="scenes whose name holds this")
    args = parser.parse_args()
    for name, scene in SCENES.items():
        if args.only in name:
            with tempfile.TemporaryDirectory() as folder:
                print(f"{name}: {compare(scene, args.data, Path(folder), args.steps)}", flush=True)


def compare(scene: object, data: Path, folder: Path, steps: int) -> str:
    """Train, map in both precisions, count."""
    cube = scene(data)  # type: ignore[operator]
    truth = clusters(cube)
    bundle = trained(folder, cube, truth, Lattice(256, 96), steps)
    maps, seconds = [], []
    for precision in ("float32", "bfloat16"):
        lazy = predict(
            cube.chunk({"y": 512, "x": 512}),
            replace(bundle, precision=precision),
            layers=("probability", "margin"),
        )
        begun = time.process_time()
        maps.append(lazy.compute(scheduler="threads", num_workers=2))
        seconds.append(time.process_time() - begun)
    full, half = maps
    flipped = full.label.values != half.label.values
    clear = full.margin.values >= 25
    step = np.abs(full.probability.values.astype(int) - half.probability.values).max() / 250
    right = [float((m.label.values == truth).mean()) for m in maps]
    return (
        f"{flipped.sum()} of {flipped.size} labels ({flipped.mean() * 1e6:.0f} a megapixel), "
        f"{(flipped & clear).sum()} of them where the two best classes are 0.1 apart; probabilities change by at "
        f"most {step:.3f}; accuracy {right[0]:.4f} and {right[1]:.4f}; processor "
        f"{seconds[0]:.1f} and {seconds[1]:.1f} s"
    )


if __name__ == "__main__":
    main()
