"""The demo: a simulated archive, a network trained on it, its map, and the score against the truth.

Every step is what a user would run; the YAML files it writes are there to be changed and run again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engine.store.layout import open_spec
from engine.store.regions import read_region
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid
from pipelines.config import load_config
from pipelines.console import map_progress, steps_progress
from pipelines.map_area import MapResult, map_area
from pipelines.sample.archive import SampleArchive, make_sample_archive, open_sample_archive
from pipelines.train_model import load_train_config, train_model
from training.labels import PolygonSource, rasterise
from training.metrics import Scores, confusion

SOURCE = {
    "area": {"name": "Weavonia", "file": "archive/territory.geojson"},
    "time": "2023-03/2023-10",
    "catalog": "archive/catalog.json",
}
BANDS = ["blue", "green", "red", "rededge2", "nir", "swir16", "swir22"]
SCORES_FILE = "scores.json"


def run_demo(out: Path, *, seed: int = 7, workers: int | None = None) -> None:
    """Make everything in a folder; what is there already is kept, so a second call is quick."""
    console, begun = Console(), time.monotonic()
    console.print(
        "landweave demo: everything below is SIMULATED (a fictional territory with a known truth)\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    archive = _archive(out / "archive", seed)
    _train(out, console)
    result = _map(out, workers)
    scores = score(out, archive, result)
    console.print(_table(scores, ClassScheme.from_file(archive.classes)))
    told = {**result.as_dict(), "time": f"{time.monotonic() - begun:.0f} s"}
    for key, value in told.items():
        console.print(
            f"{key:<12}  {str(value).replace(f'{Path.cwd()}/', '')}", highlight=False, soft_wrap=True
        )
    console.print(f"\nLook at {out / 'map' / 'quicklook.png'}; change {out / 'map.yaml'} and run")
    console.print(f"    landweave map {out / 'map.yaml'}", highlight=False)


def _archive(folder: Path, seed: int) -> SampleArchive:
    if (folder / "catalog.json").exists():
        return open_sample_archive(folder)
    with steps_progress("archive", "steps") as show:
        return make_sample_archive(folder, seed=seed, progress=show)


def _train(out: Path, console: Console) -> None:
    """Train once; a bundle that is there is kept."""
    settings = {
        **SOURCE,
        "cube": {"bands": BANDS, "period": "1MS", "reducer": "median", "mask": "scl"},
        "labels": {"file": "archive/labels.gpkg", "column": "class_name", "classes": "archive/classes.yaml"},
        "lattice": {"window_px": 128, "overlap_px": 48, "kernel": "hann"},
        "name": "landweave demo",
        "licence": "CC0-1.0",
        "bundle": "bundle",
    }
    _write_yaml(out / "train.yaml", settings)
    if (out / "bundle" / "manifest.json").exists():
        console.print("bundle   kept: delete the folder `bundle` to train again")
        return
    with steps_progress("train", "batches") as show:
        train_model(
            load_train_config(out / "train.yaml"), lambda p: show(p.step, p.steps, f"loss {p.loss:.3f}")
        )


def _map(out: Path, workers: int | None) -> MapResult:
    cluster: dict[str, Any] = {"kind": "local"}
    if workers is not None:
        cluster["n_workers"] = workers
    settings = {**SOURCE, "bundle": "bundle", "out": "map", "tile_px": 512}
    _write_yaml(out / "map.yaml", {**settings, "cluster": cluster})
    with map_progress() as listener:
        return map_area(load_config(out / "map.yaml"), listener=listener)


def _write_yaml(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(yaml.safe_dump(settings, sort_keys=False))


def score(out: Path, archive: SampleArchive, result: MapResult) -> dict[str, Scores]:
    """Compare the map with the truth: everywhere, and where nothing was annotated."""
    import rasterio

    classes = ClassScheme.from_file(archive.classes)
    with rasterio.open(archive.truth) as file:
        truth = file.read(1)
        grid, box = Grid.of_transform(file.crs.to_wkt(), file.transform, truth.shape)
    label = _read_label(f"{result.run}/map.zarr", box)
    labels = rasterise(PolygonSource(archive.labels, "class_name"), classes, grid, box)
    unseen = labels.values == 0
    scores = {
        "everywhere": _scores(truth, label, classes),
        "outside labels": _scores(np.where(unseen, truth, 0), label, classes),
    }
    told = {name: s.as_json(classes.names) for name, s in scores.items()}
    (Path(result.run) / SCORES_FILE).write_text(json.dumps(told, indent=1))
    return scores


def _read_label(url: str, box: Box) -> NDArray[np.uint8]:
    """Read labels over a box; no data where the map does not reach."""
    label = np.zeros(box.shape_yx, np.uint8)
    both = box & open_spec(url).box
    label[both.slices_in(box)] = read_region(url, both, ["label"])["label"]
    return label


def _scores(truth: NDArray[np.uint8], label: NDArray[np.uint8], classes: ClassScheme) -> Scores:
    """Score a map; pixels without truth or without data do not count."""
    index = np.full(256, 255, np.uint8)
    index[list(classes.values)] = np.arange(len(classes.values), dtype=np.uint8)
    known = np.where(label == 0, 255, index[truth])
    return Scores.of(confusion(known, index[label], len(classes.values)))


def _table(scores: dict[str, Scores], classes: ClassScheme) -> Table:
    every, unseen = scores["everywhere"], scores["outside labels"]
    table = Table(title="The map against the (simulated) truth", title_justify="left")
    for heading in ("class", "share", "user's", "producer's", "F1", "IoU", "IoU outside labels"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    total = sum(every.support)
    for i, name in enumerate(classes.names):
        shares = (every.precision[i], every.recall[i], every.f1[i], every.iou[i], unseen.iou[i])
        table.add_row(name, f"{every.support[i] / total:.1%}", *(f"{v:.3f}" for v in shares))
    means = (every.mean_f1, every.mean_iou, unseen.mean_iou)
    table.add_section()
    table.add_row("mean of classes", "", "", "", *(f"{v:.3f}" for v in means))
    table.add_row("overall accuracy", f"{every.accuracy:.1%}")
    table.add_row("  outside the labels", f"{unseen.accuracy:.1%}")
    return table
