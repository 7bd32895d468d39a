"""Does the layer ``unfamiliar`` find what a network has not learnt?

    python benchmarks/unfamiliar.py [--work FOLDER] [--steps N] [--architecture NAME] [--left-out CLASS ...]

On the (simulated) sample archive a network learns all classes but one; in the test blocks the pixels of that class are
strangers. Four scores are compared by the area under the receiver operating characteristic (0.5 = blind, 1 = all
strangers score higher than all others): the layer (Mahalanobis distance to the nearest class), one minus the
confidence (Hendrycks and Gimpel 2017), the entropy, and the mean distance to the 10 nearest of 5000 stored training
features (whitened alike). Also the share of known and of strange pixels above one half of the layer: 5% of known
ones are meant to be, in blocks that are like the validation's.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.architectures import Scene, places, scene_of
from engine.inference.unfamiliar import Familiarity
from engine.models.registry import takes_days
from training.calibration.answers import Asker, blocks_of, features_of
from training.calibration.familiarity import fit_familiarity
from training.calibration.scaling import softmax
from training.labels import LabelRaster
from training.lessons import CubeLessons, call
from training.loop import TrainedModel, TrainOptions, train
from training.splits import TEST, VAL

STORED, NEAREST = 5000, 10


def options_of(scene: Scene, args: argparse.Namespace, steps: int) -> TrainOptions:
    small = {"batch": 8, "crop_px": 32} if args.architecture == "unet" else {"batch": 16, "crop_px": 16}
    return TrainOptions(
        architecture=args.architecture, split=scene.split, steps=steps, checks=1, learning_rate=5e-3, **small
    )


def without(labels: LabelRaster, value: int) -> LabelRaster:
    """Take a class's labels away."""
    return LabelRaster(
        np.where(labels.values == value, 0, labels.values).astype(np.uint8), labels.box, labels.classes
    )


def answers(
    scene: Scene, found: TrainedModel, lessons: CubeLessons
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Return logits, features and truth of the pixels of the test places."""
    days = takes_days(found.options.architecture)
    logits, features, truths = [], [], []
    for _, box in places(scene, TEST):
        batch = lessons._window(box.pad(16), lessons._targets(TEST))
        more = (batch.dates.to(torch.float32),) if days else ()
        inner = (slice(None), slice(16, -16), slice(16, -16))
        with torch.inference_mode():
            z_KYX = call(found.module, batch, found.normalisation, days)[0][inner]
            f_FYX = found.module.features(*batch.prepared(found.normalisation), *more)[0][inner]
        truth = scene.truth[box.slices_in(scene.box)].ravel()
        known = truth != 255
        logits.append(z_KYX.flatten(1).T.numpy()[known])
        features.append(f_FYX.flatten(1).T.numpy()[known])
        truths.append(truth[known])
    return np.concatenate(logits), np.concatenate(features), np.concatenate(truths)


def nearest(
    known: Familiarity, stored_NF: NDArray[np.float32], asked_NF: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the mean whitened distance to the nearest stored features."""
    from scipy.spatial import cKDTree

    def whitened(features_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        return (features_NF - known.mean_F).astype(np.float64) @ known.whiten_FF

    return cKDTree(whitened(stored_NF)).query(whitened(asked_NF), NEAREST)[0].mean(axis=1)


def one(scene: Scene, name: str, args: argparse.Namespace) -> str:
    """Train without a class and compare; one row of the table."""
    from sklearn.metrics import roc_auc_score

    index = scene.labels.classes.names.index(name)
    value = scene.labels.classes.values[index]
    some = replace(scene, labels=without(scene.labels, value))
    lessons = CubeLessons.of(some.cube, some.labels, options_of(some, args, args.steps))
    found = train(some.cube, some.labels, options_of(some, args, args.steps))
    asker = Asker(found.module, found.normalisation, takes_days(args.architecture), blocks_of(256))
    whole = ((b, (slice(None), slice(None))) for b in itertools.islice(lessons.batches(), 64))
    features_NF, truth_N = features_of(asker, whole, 30_000)
    held_out_NF, _ = features_of(asker, lessons.part(VAL), 30_000)
    known = fit_familiarity(features_NF, truth_N, held_out_NF)
    logits_NK, asked_NF, truth_N = answers(some, found, lessons)
    strange = truth_N == index
    drawn = np.random.default_rng(0).permutation(len(truth_N))[:40_000]
    begun = time.process_time()
    distance = known.distances(asked_NF[drawn])
    middle = time.process_time()
    stored = features_NF[np.random.default_rng(1).permutation(len(features_NF))[:STORED]]
    by_neighbours = nearest(known, stored, asked_NF[drawn])
    end = time.process_time()
    p_NK = softmax(logits_NK[drawn])
    entropy = -(p_NK * np.log(np.maximum(p_NK, 1e-12))).sum(axis=1)
    scores = (distance, 1 - p_NK.max(axis=1), entropy, by_neighbours)
    areas = " | ".join(f"{roc_auc_score(strange[drawn], s):.3f}" for s in scores)
    above = distance > known.distance
    shares = f"{above[~strange[drawn]].mean():.1%} | {above[strange[drawn]].mean():.1%}"
    times = f"{1e6 * (middle - begun) / len(drawn):.1f} | {1e6 * (end - middle) / len(drawn):.1f}"
    return f"| {name} | {strange[drawn].mean():.1%} | {areas} | {shares} | {times} |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path(tempfile.gettempdir()) / "landweave-architectures"
    parser.add_argument("--work", type=Path, default=default, help="as of benchmarks/architectures.py")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--left-out", nargs="+", default=["water", "forest", "winter rapeseed", "maize"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    scene = scene_of(args.work)
    print("| left out | of the pixels | layer | 1 - confidence | entropy | 10 neighbours | known > 0.5 | strange > 0.5"
          " | us/px | neighbours, us/px |")  # fmt: skip
    print("|" + " --- |" * 10)
    for name in args.left_out:
        print(one(scene, name, args), flush=True)


if __name__ == "__main__":
    main()
