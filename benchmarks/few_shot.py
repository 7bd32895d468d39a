"""What a start is worth where labels are few, on the sample archive (SIMULATED, so that its truth is known).

    python benchmarks/few_shot.py [--work FOLDER] [--architecture unet] [--items 1 5] [--draws 3] [--steps 100]

A network is pretrained on weak labels of the training blocks: the truth at 100 m (majority of 10 x 10 px, as coarse
land cover maps have it), every fifth of these cells with a class at random. Then a few fields a class are drawn, and
the network is trained on them alone, from fresh weights and from the weak ones at two pairs of rates. All are scored
by the macro F1 over the whole truth of the test blocks (256 px, 16 px apart); intervals are Student's over the draws.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from architectures import SPLIT, Scene, scene_of
from numpy.typing import NDArray

from engine.inference.bundle import save_bundle
from engine.values.lattice import Lattice
from training.few_shot import FewShots, few_shot_cube, paired_gain, table
from training.labels import LabelRaster
from training.loop import TrainOptions, train
from training.splits import TEST, TRAIN
from training.transfer import TransferOptions

COARSE_PX = 10


def weak_labels(scene: Scene) -> LabelRaster:
    """Return the coarse, partly wrong map of the training blocks, and the truth of the test blocks."""
    classes = scene.labels.classes
    values = np.array([*classes.values, *[0] * (256 - len(classes.values))], np.uint8)[scene.truth]
    height, width = (side // COARSE_PX * COARSE_PX for side in values.shape)
    rng = np.random.default_rng(0)
    cells = values[:height, :width].reshape(height // COARSE_PX, COARSE_PX, width // COARSE_PX, COARSE_PX)
    votes = np.stack([(cells == value).sum(axis=(1, 3)) for value in classes.values])
    coarse = np.array(classes.values, np.uint8)[votes.argmax(axis=0)]
    wrong = rng.random(coarse.shape) < 0.2
    coarse[wrong] = rng.choice(np.array(classes.values, np.uint8), int(wrong.sum()))
    weak = np.zeros_like(values)
    weak[:height, :width] = coarse.repeat(COARSE_PX, 0).repeat(COARSE_PX, 1)
    return replace(scene.labels, values=_parted(scene, weak, values))


def good_labels(scene: Scene) -> LabelRaster:
    """Return the labelled fields of the training blocks, and the truth of the test blocks."""
    classes = scene.labels.classes
    values = np.array([*classes.values, *[0] * (256 - len(classes.values))], np.uint8)[scene.truth]
    return replace(scene.labels, values=_parted(scene, scene.labels.values, values))


def _parted(scene: Scene, train_YX: NDArray[np.uint8], test_YX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    known = np.where(scene.parts == TRAIN, train_YX, 0)
    return np.where(scene.parts == TEST, test_YX, known).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "landweave-architectures")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--items", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    scene = scene_of(args.work)
    options = TrainOptions(
        architecture=args.architecture, split=SPLIT, steps=3 * args.steps, batch=8, crop_px=32, checks=1
    )
    options = options.model_copy(update={"split": scene.split})
    begun = time.perf_counter()
    weak = train(scene.cube, weak_labels(scene), options)
    assert weak.test is not None
    print(f"weak labels alone, {options.steps} steps: macro F1 {weak.test.mean_f1:.3f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fields = weak.bundle_fields("weak labels", scene.spec, Lattice(128, 32), "CC0-1.0")
        save_bundle(folder, weak.module, args.architecture, fields)
        short = options.model_copy(update={"steps": args.steps})
        ways = {"fresh weights": short} | {
            f"from weak labels, rates {body:g} and {head:g}": short.model_copy(
                update={"transfer": TransferOptions(start=folder, body_rate=body, head_rate=head)}
            )
            for body, head in ((1e-5, 1e-4), (1e-3, 1e-3))
        }
        shots = FewShots(items=tuple(args.items), draws=args.draws)
        rows = few_shot_cube(
            scene.cube, good_labels(scene), ways, shots, lambda told: print(told, flush=True)
        )
    print(table(rows))
    fresh, *started = rows
    for name in started:
        for one, other in zip(rows[fresh], rows[name], strict=True):
            gain, low, high = paired_gain(one, other)
            print(f"{name}, {one.items} a class: {gain:+.3f} ({low:+.3f} to {high:+.3f}) over {fresh}")
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
