"""Every architecture of the registry, trained alike on the sample archive and compared in one table.

    python benchmarks/architectures.py [--work FOLDER] [--only NAME ...] [--seeds N] [--seconds S]
    python benchmarks/architectures.py --table

The sample archive is SIMULATED, so that its truth is known everywhere. All networks get the same: the cube
(8 months of 6 bands), labels of a third of the fields, optimiser, one-cycle schedule and peak of the learning rate,
and the same seconds of one core's processor time to train, from which the number of steps follows. So a heavy
network takes few steps: the table says what this budget buys, not what each network reaches in the end. Batches
are 8 patches of 32 x 32 px; of pixel-wise networks, to which neighbours tell nothing, 16 of 16 x 16 px.

Networks whose name begins with ``fusion`` also see Sentinel-1 (vv, vh). Presto begins with its published weights
(``--presto FILE``), under a linear head, and sees 8 patches of 8 x 8 px; without the file it is left out.

Blocks of 256 px are drawn into training, validation (one in eight) and test (one in four), 16 px apart. Test
blocks are scored against the truth, fields without labels and field borders included, in the same places for all;
windows of 128 px answer their inner 96. The temperature is fitted on windows of the validation blocks, against
the labels there. The forest (300 trees) and the boosting are scikit-learn's, not tuned and not held to the seconds,
on at most 60 000 labelled training pixels.

Intervals: 1000 replicates, blocks and seeds drawn with replacement. ms/km2: processor time of the network on one
core, windows overlapping by 32 px, without reading and writing. One JSON line per architecture and seed stands in
``FOLDER/results.jsonl``; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from engine.cube.cube import open_cube
from engine.inference.blend import ROWS
from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.inference.lane import Lane
from engine.inference.planes import with_planes
from engine.inference.predict import days_of
from engine.models.normalise import Standard
from engine.models.registry import architectures, pixelwise
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import RadarConfig, SourceConfig
from pipelines.cube_area import area_of, find_radar, find_scenes, grid_and_box
from pipelines.demo import SOURCE
from pipelines.sample.archive import SampleArchive, make_sample_archive, open_sample_archive
from pipelines.sample.stac import RADAR_COLLECTION
from training.calibration.reliability import Reliability, equal_widths, reliability
from training.calibration.scaling import fit_temperature, softmax
from training.intervals import confusions
from training.labels import LabelRaster, PolygonSource, rasterise
from training.loop import Progress, TrainOptions, train
from training.metrics import Scores
from training.sources import seen_of
from training.splits import TEST, TRAIN, VAL, Split
from training.transfer import TransferOptions

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")  # whole groups of Presto's
SPLIT = Split(block_px=256, buffer_px=16, val=0.125, test=0.25, seed=5)
WINDOW_PX, OVERLAP_PX = 128, 32
PLACES_PER_BLOCK = {TEST: 1, VAL: 1}
PATCHES = {False: {"batch": 8, "crop_px": 32}, True: {"batch": 16, "crop_px": 16}}
PRESTO_PATCHES = {"batch": 8, "crop_px": 8}
FOREST_PIXELS = 60_000
TREES = ("random_forest", "gradient_boosting")
CONFIGS: dict[str, dict[str, Any]] = {"presto": {"bands": list(BANDS), "head": "linear"}}
"""Fields that have no default; all else is as the registry's configuration has it."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The sample archive as one training sees it.

    `values` (time, plane, y, x) is what networks see; `truth` (y, x) holds class indices, 255 = unknown; `labels`
    those pixels that are annotated.
    """

    cube: xr.Dataset
    values: NDArray[np.uint16]
    box: Box
    truth: NDArray[np.uint8]
    labels: LabelRaster
    parts: NDArray[np.uint8]
    spec: CubeSpec
    split: Split

    @property
    def n_classes(self) -> int:
        return len(self.labels.classes.classes)


# --- the scene ------------------------------------------------------------------------------------------


def scene_of(work: Path, radar: bool = False) -> Scene:
    """Make the archive and read its cube once, with Sentinel-1 or without; all is kept."""
    archive = _archive(work / "archive")
    config = SourceConfig.model_validate(
        SOURCE
        | {"area": {"name": "Weavonia", "file": str(archive.territory)}, "catalog": str(archive.catalog)}
    )
    spec = CubeSpec(bands=BANDS, period="1MS", reducer="median", mask="scl", sentinel1=radar or None)
    area, lies = area_of(config.area), {"catalog": str(archive.catalog), "collection": RADAR_COLLECTION}
    config = config.model_copy(update={"sentinel1": RadarConfig.model_validate(lies)})
    grid, box = grid_and_box(area, None, spec.resolution_m)
    radar_scenes = find_radar(config, area, spec)
    cube = open_cube(find_scenes(config, area), spec, grid=grid, box=box, sentinel1=radar_scenes)
    stored = work / ("planes.npy" if radar else "cube.npy")
    seen, planes = seen_of(cube)
    if not stored.exists():
        np.save(stored.with_suffix(".part.npy"), seen.compute(scheduler="threads").values)
        stored.with_suffix(".part.npy").rename(stored)
    values = np.load(stored)
    cube = (
        with_planes(cube, values, planes)
        if planes
        else cube.assign(reflectance=(cube["reflectance"].dims, values))
    )
    classes = ClassScheme.from_file(archive.classes)
    labels = rasterise(PolygonSource(archive.labels, "class_name"), classes, grid, box)
    split = SPLIT.on(grid)
    truth = _truth(archive, grid, box, classes)
    return Scene(cube, values, box, truth, labels, split.parts(box), spec, split)


def _archive(folder: Path) -> SampleArchive:
    return open_sample_archive(folder) if (folder / "catalog.json").exists() else make_sample_archive(folder)


def _truth(archive: SampleArchive, grid: Grid, box: Box, classes: ClassScheme) -> NDArray[np.uint8]:
    import rasterio

    with rasterio.open(archive.truth) as file:
        values = file.read(1)
        there, extent = Grid.of_transform(file.crs.to_wkt(), file.transform, values.shape)
    if there.anchor_xy != grid.anchor_xy:
        raise SystemExit(f"the truth lies on another grid: {there} and {grid}")
    index = np.full(256, 255, np.uint8)
    index[list(classes.values)] = np.arange(len(classes.values), dtype=np.uint8)
    truth, both = np.full(box.shape_yx, 255, np.uint8), box & extent
    truth[both.slices_in(box)] = index[values[both.slices_in(extent)]]
    return truth


def places(scene: Scene, part: int) -> Iterator[tuple[int, Box]]:
    """Yield block numbers and boxes of `WINDOW_PX` less `OVERLAP_PX` that lie wholly in a part and in the cube."""
    side, margin, block = WINDOW_PX - OVERLAP_PX, OVERLAP_PX // 2, SPLIT.block_px
    blocks = [b for b in scene.box.pad(block).blocks(block) if b & scene.box]
    rng = np.random.default_rng(0)
    for number, whole in enumerate(blocks):
        corners = [(y, x) for y in (whole.y0 + margin, whole.y0 + margin + side)
                   for x in (whole.x0 + margin, whole.x0 + margin + side)]  # fmt: skip
        found = [Box(y, x, y + side, x + side) for y, x in rng.permutation(corners).tolist()]
        fits = [b for b in found if scene.box.holds(b.pad(margin)) and _in_part(scene, b, part)]
        for box in fits[: PLACES_PER_BLOCK[part]]:
            yield number, box


def _in_part(scene: Scene, box: Box, part: int) -> bool:
    at = box.slices_in(scene.box)
    return bool((scene.parts[at] == part).all() and (scene.truth[at] != 255).any())


# --- training -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Made:
    """A trained bundle, steps, processor seconds of the training, and parameters (trees: nodes)."""

    bundle: Bundle
    steps: int
    seconds: float
    parameters: int


def trained_network(scene: Scene, name: str, seed: int, args: argparse.Namespace, folder: Path) -> Made:
    """Time a few steps, then train for the seconds that are given."""
    labels = _training_labels(scene)
    step_s = _seconds_per_step(scene, labels, name, args)
    steps = args.steps or int(np.clip(args.seconds / step_s, 8, 2000))
    begun = time.process_time()
    found = train(scene.cube, labels, _options(scene, name, seed, steps, args))
    seconds = time.process_time() - begun
    lattice = Lattice(1, 0) if pixelwise(name) else Lattice(WINDOW_PX, OVERLAP_PX, "trim")
    fields = found.bundle_fields(name.replace("_", " "), scene.spec, lattice, "CC0-1.0")
    bundle = save_bundle(folder, found.module, name, fields)
    return Made(bundle, steps, seconds, sum(p.numel() for p in found.module.parameters()))


def _training_labels(scene: Scene) -> LabelRaster:
    """Leave out what does not train: the loop scores nothing, which would not be of the budget."""
    values = np.where(scene.parts == TRAIN, scene.labels.values, np.uint8(0))
    return LabelRaster(values, scene.labels.box, scene.labels.classes)


def _options(scene: Scene, name: str, seed: int, steps: int, args: argparse.Namespace) -> TrainOptions:
    return TrainOptions(
        architecture=name,
        config=CONFIGS.get(name, {}),
        split=scene.split,
        steps=steps,
        checks=1,
        seed=seed,
        **(PRESTO_PATCHES if name == "presto" else PATCHES[pixelwise(name)]),
        learning_rate=args.learning_rate,
        transfer=_published(args) if name == "presto" else None,
    )


def _published(args: argparse.Namespace) -> TransferOptions:
    """Let Presto begin with its published weights, which change at a tenth of the new head's rate."""
    rate = args.learning_rate
    return TransferOptions(start=str(args.presto), body_rate=rate / 10, head_rate=rate)


def _seconds_per_step(scene: Scene, labels: LabelRaster, name: str, args: argparse.Namespace) -> float:
    """Return the processor time of one step, after two that warm up; the median of four."""
    ends: list[float] = []

    def note(progress: Progress) -> None:
        ends.append(time.process_time())

    train(scene.cube, labels, _options(scene, name, 0, 6, args), note)
    return float(np.median(np.diff(ends)[1:]))


def trained_trees(scene: Scene, name: str, seed: int, args: argparse.Namespace, folder: Path) -> Made:
    """Fit scikit-learn's trees on rows of pixels, as they will be mapped: reflectance x 10000, 0 = no data."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    from engine.inference.sklearn_onnx import bundle_sklearn

    values = _training_labels(scene).values
    ys, xs = np.nonzero(values)
    drawn = np.random.default_rng(seed).permutation(len(ys))[:FOREST_PIXELS]
    x_TCN = scene.values[:, :, ys[drawn], xs[drawn]]
    x_TCN = np.where((x_TCN != 0).all(axis=1, keepdims=True), x_TCN, 0)
    rows, truth = x_TCN.reshape(-1, len(drawn)).T.astype(np.float32), values[ys[drawn], xs[drawn]]
    kind = RandomForestClassifier if name == "random_forest" else HistGradientBoostingClassifier
    settings = {"n_estimators": 300, "min_samples_leaf": 2, "n_jobs": 1} if name == "random_forest" else {}
    begun = time.process_time()
    estimator = kind(random_state=seed, **settings).fit(rows, truth)
    seconds = time.process_time() - begun
    n_bands = len(BANDS)
    fields = BundleFields(
        name=name.replace("_", " "),
        spec=scene.spec,
        n_dates=len(x_TCN),
        classes=scene.labels.classes,
        lattice=Lattice(1, 0),
        normalisation=Standard(mean=(0.0,) * n_bands, std=(1.0,) * n_bands),
    )
    bundle = bundle_sklearn(folder, estimator, fields)
    return Made(bundle, 0, seconds, _nodes(estimator))


def _nodes(estimator: Any) -> int:
    if hasattr(estimator, "estimators_"):
        return int(sum(tree.tree_.node_count for tree in estimator.estimators_))
    return int(sum(tree.get_n_leaf_nodes() * 2 - 1 for row in estimator._predictors for tree in row))


# --- scoring --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answers:
    """Logits (N, K) of pixels with truth and data, their truth and block, and the time it took a km2."""

    logits: NDArray[np.float32]
    truth: NDArray[np.uint8]
    block: NDArray[np.int64]
    ms_km2: float


def answers(scene: Scene, bundle: Bundle, part: int, *, annotated: bool = False) -> Answers:
    """Let prediction's lane answer in the places of a part; with `annotated` where labels are."""
    days = days_of(scene.cube) if bundle.takes_days else ()
    lane, values, n_bands = Lane(bundle, days=days), scene.values, len(BANDS)
    truth = np.where(scene.labels.values > 0, scene.truth, 255) if annotated else scene.truth
    logits, truths, blocks, seconds = [], [], [], 0.0
    for number, box in places(scene, part):
        at = box.slices_in(scene.box)
        known = (truth[at] != 255) & (values[(slice(None), slice(n_bands), *at)] != 0).all(axis=1).any(axis=0)
        begun = time.process_time()
        z_KYX = _logits(lane, values, box, scene.box)
        seconds += time.process_time() - begun
        logits.append(z_KYX[:, known].T)
        truths.append(truth[at][known])
        blocks.append(np.full(int(known.sum()), number))
    km2 = len(logits) * (WINDOW_PX - OVERLAP_PX) ** 2 * 1e-4
    joined = np.concatenate(logits), np.concatenate(truths), np.concatenate(blocks)
    return Answers(*joined, 1000 * seconds / max(km2, 1e-9))


def _logits(lane: Lane, values: NDArray[np.uint16], box: Box, extent: Box) -> NDArray[np.float32]:
    """Answer the pixels of one place, (K, y, x); of foreign graphs the logarithm of the probabilities."""
    side = box.shape_yx[0]
    margin = 0 if lane.bundle.pixelwise else OVERLAP_PX // 2
    x_TCHW = np.ascontiguousarray(values[(..., *box.pad(margin).slices_in(extent))])
    with torch.inference_mode():
        if lane.bundle.pixelwise:
            flat_TCN = x_TCHW.reshape(*x_TCHW.shape[:2], -1)
            rows = [_row(flat_TCN[..., i : i + ROWS]) for i in range(0, side * side, ROWS)]
            parts = [lane.outputs(*lane.prepared(row))[0, :, :, 0].numpy() for row in rows]
            z_KYX = np.concatenate(parts, axis=1)[:, : side * side].reshape(-1, side, side)
        else:
            z_KHW = lane.outputs(*lane.prepared(x_TCHW[None]))[0].float().numpy()
            z_KYX = z_KHW[:, margin : margin + side, margin : margin + side]
    return np.log(np.maximum(z_KYX, 1e-7)) if lane.bundle.layout.output == "probabilities" else z_KYX


def _row(x_TCN: NDArray[np.uint16]) -> NDArray[np.uint16]:
    row = np.zeros((1, *x_TCN.shape[:2], ROWS, 1), np.uint16)
    row[0, :, :, : x_TCN.shape[2], 0] = x_TCN
    return row


def measured(scene: Scene, made: Made) -> dict[str, Any]:
    """Score a bundle; sums by block, from which intervals are drawn later."""
    val = answers(scene, made.bundle, VAL, annotated=True)
    temperature = fit_temperature(val.logits, val.truth)
    test = answers(scene, made.bundle, TEST)
    matrices = confusions(test.truth, test.logits.argmax(axis=1), test.block, scene.n_classes)
    return {
        "steps": made.steps,
        "seconds": round(made.seconds, 1),
        "parameters": made.parameters,
        "temperature": round(temperature, 4),
        "ms_km2": round(test.ms_km2, 2),
        "confusion": matrices.tolist(),
        "raw": _bins(softmax(test.logits), test),
        "scaled": _bins(softmax(test.logits, temperature), test),
    }


def _bins(p_NK: NDArray[np.float64], test: Answers) -> list[list[list[float]]]:
    """Return (block, [count, confidence, right], bin) sums."""
    found = []
    for block in np.unique(test.block):
        here = test.block == block
        bins = reliability(p_NK[here], test.truth[here])
        found.append([np.round(v, 3).tolist() for v in (bins.count, bins.confidence, bins.right)])
    return found


# --- results --------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines that are there; of the same architecture, seed and budget the last counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = {(r["architecture"], r["seed"], r["budget"]): r for r in map(json.loads, lines)}
    return list(found.values())


def run(args: argparse.Namespace) -> None:
    """Make what is missing, one architecture and seed after the other."""
    results, scenes = args.work / "results.jsonl", dict[bool, Scene]()
    done = {(r["architecture"], r["seed"]) for r in rows_of(results) if r["budget"] == budget(args)}
    for name, seed in ((n, s) for s in range(args.seeds) for n in args.only or usual(args)):
        if (name, seed) in done:
            continue
        radar = name.startswith("fusion")
        if radar not in scenes:
            scenes = {
                radar: scene_of(args.work, radar)
            }  # one at a time: each takes more than half a gigabyte
        scene = scenes[radar]
        print(f"{name}, seed {seed} ...", end=" ", flush=True)
        try:
            row = one(scene, name, seed, args)
        except Exception as error:  # the others go on; what failed is told and tried again next time
            print(f"FAILED: {error}\n{traceback.format_exc(limit=-3)}")
            continue
        with results.open("a") as file:
            file.write(json.dumps({"architecture": name, "seed": seed, "budget": budget(args), **row}) + "\n")
        scores = Scores.of(np.sum(row["confusion"], axis=0))
        print(
            f"{row['steps']} steps in {row['seconds']} s, accuracy {scores.accuracy:.3f}, {row['ms_km2']} ms/km2"
        )


def one(scene: Scene, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and score one architecture with one seed."""
    torch.set_num_threads(1)
    make: Callable[..., Made] = trained_trees if name in TREES else trained_network
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        return measured(scene, make(scene, name, seed, args, Path(folder)))


def every() -> tuple[str, ...]:
    """Return all names: the trees, then the registry."""
    return *TREES, *architectures()


def usual(args: argparse.Namespace) -> tuple[str, ...]:
    """Return what is made unless `--only` asks: Presto comes from its published weights, not from seconds."""
    return tuple(name for name in every() if name != "presto" or args.presto)


def budget(args: argparse.Namespace) -> str:
    """Say what each had."""
    return f"{args.steps} steps" if args.steps else f"{args.seconds:g} s"


# --- the table ------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], replicates: int = 1000) -> str:
    """Write the Markdown table, best accuracy first."""
    names = sorted({r["architecture"] for r in rows})
    entries = sorted((_entry([r for r in rows if r["architecture"] == n], replicates) for n in names),
                     key=lambda e: -e[0])  # fmt: skip
    heads = ("architecture", "seeds", "steps", "train s", "accuracy %", "macro F1", "mean IoU", "ECE", "ECE, T", "T",
             "parameters", "ms/km2")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for _, cells in entries)])


def _entry(rows: list[dict[str, Any]], replicates: int) -> tuple[float, list[str]]:
    """Return the accuracy to sort by, and the cells of one architecture."""
    matrices_SGKK = np.array([r["confusion"] for r in rows], np.float64)
    bins_ASGVB = np.array([[r["raw"] for r in rows], [r["scaled"] for r in rows]])
    values = _figures(matrices_SGKK.sum(axis=1), bins_ASGVB.sum(axis=2))
    rng, n_seeds, n_blocks = np.random.default_rng(0), len(rows), matrices_SGKK.shape[1]
    drawn = []
    for _ in range(replicates):
        seeds = rng.integers(n_seeds, size=n_seeds)
        times_G = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks))
        matrices = np.tensordot(matrices_SGKK[seeds], times_G, axes=([1], [0]))
        bins = np.tensordot(bins_ASGVB[:, seeds], times_G, axes=([2], [0]))
        drawn.append(_figures(matrices, bins))
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    accuracy, *shares = (f"{v:.3f} ({a:.3f}-{b:.3f})" for v, a, b in zip(values, low, high, strict=True))
    accuracy = f"{100 * values[0]:.1f} ({100 * low[0]:.1f}-{100 * high[0]:.1f})"
    mean = {
        k: float(np.mean([r[k] for r in rows]))
        for k in ("steps", "seconds", "temperature", "parameters", "ms_km2")
    }
    steps = f"{mean['steps']:.0f}" if mean["steps"] else "-"
    name = rows[0]["architecture"]
    counted = f"{mean['parameters']:,.0f}" + (" nodes" if name in TREES else "")
    tail = [f"{mean['temperature']:.2f}", counted, f"{mean['ms_km2']:.1f}"]
    trained = f"{mean['seconds']:.0f}"
    return values[0], [name, str(n_seeds), steps, trained, accuracy, *shares, *tail]


def _figures(matrices_SKK: NDArray[np.float64], bins_ASVB: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the means over seeds: accuracy, macro F1, mean IoU, ECE as it is and with the temperature."""
    scores = [Scores.of(m) for m in matrices_SKK]
    means = [float(np.mean([getattr(s, f) for s in scores])) for f in ("accuracy", "mean_f1", "mean_iou")]
    errors = [np.mean([Reliability(equal_widths(), *v).error for v in of_seeds]) for of_seeds in bins_ASVB]
    return *means, *map(float, errors)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path(tempfile.gettempdir()) / "landweave-architectures"
    parser.add_argument("--work", type=Path, default=default, help="archive, cube and results")
    parser.add_argument(
        "--only", nargs="+", choices=every(), help="some architectures; default all but presto"
    )
    parser.add_argument("--presto", type=Path, help="published weights of Presto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one core to train each")
    parser.add_argument("--steps", type=int, default=0, help="the same steps for all instead")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--table", action="store_true", help="print the table and make nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        run(args)
    rows = [r for r in rows_of(args.work / "results.jsonl") if r["budget"] == budget(args)]
    print(table(rows) if rows else "nothing is there yet")


if __name__ == "__main__":
    main()
