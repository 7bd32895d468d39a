"""Train a network on the cube of a configuration and write it as a bundle, its split beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from engine.archive.search import parse_time
from engine.cube.cube import open_cube
from engine.inference.bundle import Bundle, save_bundle
from engine.inference.manifest import NAME
from engine.inference.planes import with_planes
from engine.inference.receptive import edge_share, propose_lattice, receptive_field
from engine.models.registry import pixelwise
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.lattice import Lattice
from engine.values.redact import without_secrets
from engine.values.spec import CubeSpec
from pipelines.config import CardConfig, LatticeConfig, SourceConfig, parse_config, read_yaml, with_overrides
from pipelines.cube_area import area_of, find_radar, find_scenes, grid_and_box
from pipelines.label_config import LabelsConfig, VectorLabels, label_files, labels_on
from pipelines.model_card import write_card
from training.calendars import CropCalendar
from training.calibration.examine import Calibration, examine
from training.checkpoints import remove
from training.label_check import CheckOptions, LabelReport, check_labels, write_labels
from training.labels import LabelRaster
from training.leakage import Leakage, measure_pixels, refuse_leaks
from training.lessons import CubeLessons
from training.loader import Rank
from training.loop import Progress, TrainedModel, TrainOptions, train
from training.options import Checkpoints
from training.pixels import Loaded, pixels_of
from training.split_file import write_split
from training.splits import Split
from training.stratify import Counts, count_pixels, stratified

if TYPE_CHECKING:
    import xarray as xr


Options = TypeVar("Options", bound=TrainOptions)


_PATIENCE_S = 10.0  # for how far the network looks: a remark at the end of a training


class TrainConfig(SourceConfig):
    """One network, trained on one area and season."""

    cube: CubeSpec = Field(description="Bands, resolution, period, reducer, mask.")
    labels: LabelsConfig = Field(description="What is annotated.")
    bundle: str = Field(description="Folder of the bundle to write.")
    name: str = Field(
        default="landweave model", pattern=NAME, description="Short name: letters, digits, . _ - and blanks."
    )
    licence: str = Field(default="other", description="SPDX identifier of the weights' licence.")
    lattice: LatticeConfig | None = Field(
        default=None,
        description="Windows of the map; by default 256 px that share 96, or single pixels where the network looks at"
        " no others.",
    )
    options: TrainOptions = Field(default_factory=TrainOptions, description="Network, steps, split, seed.")
    calibration: Calibration = Field(
        default="temperature", description="How probabilities are mended by the validation blocks."
    )
    card: CardConfig = Field(default_factory=CardConfig, description="What only its maker knows.")


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a training's YAML; paths and overrides as in `pipelines.config.load_config`."""
    paths = (
        "bundle",
        "options.split",
        "options.split.regions",
        "options.checkpoint.folder",
        "options.transfer.start",
    )
    raw = read_yaml(path, None, paths=paths)
    for holder, key in label_files(raw.get("labels")):
        if isinstance(holder.get(key), str) and "://" not in holder[key]:
            holder[key] = str(Path(path).parent / holder[key])
    return parse_config(with_overrides(raw, overrides), str(path), TrainConfig)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training works on.

    Attributes:
        cube: What the network sees is loaded where it fits into ``options.memory_bytes``, else it is lazy.
        labels: On the cube's pixels.
        split: On the cube's grid, its units assigned if it is stratified.
        counts: Labels of each class value in each unit of the split.
        leakage: Measured on the annotated pixels.
    """

    cube: xr.Dataset
    labels: LabelRaster
    split: Split
    counts: Counts
    leakage: Leakage

    def lines(self) -> dict[str, Any]:
        """Return what is annotated and how it is split, for people."""
        contested = f"; {self.labels.contested} px contested, not annotated" if self.labels.contested else ""
        from_where = ", ".join(f"{n} px {name}" for name, n in self.labels.source_counts().items())
        return {"labels": from_where + contested, "split": self.leakage.line()}


def prepare_training(config: TrainConfig) -> Prepared:
    """Search, open the cube, bring the labels onto its pixels, split them, and refuse leaks.

    Raises:
        InputError: If scenes, labels or split do not fit together, or the parts of the split leak.
    """
    classes = ClassScheme.from_file(config.labels.classes)
    cube = _cube(config)
    grid, box = georef_of(cube)
    pixels = pixels_of(cube, box, config.options.memory_bytes)
    if isinstance(pixels, Loaded):  # read once for all that follows
        cube = with_pixels(cube, pixels)
    labels = labels_on(config.labels, classes, (grid, box), cube, parse_time(config.time))
    if not labels.values.any():
        raise InputError("no annotated pixel lies in the area", where="labels")
    split = config.options.split.on(grid)
    counts = count_pixels(split, labels)
    split = stratified(split, counts) if split.stratify else split
    leakage = measure_pixels(split.parts(box), labels.values != 0, pixels.at)
    refuse_leaks(leakage, split)
    return Prepared(cube, labels, split, counts, leakage)


def with_pixels(cube: xr.Dataset, pixels: Loaded) -> xr.Dataset:
    """Put what was loaded into a cube, so that nothing is read twice."""
    n_bands = sum(plane.kind == "reflectance" for plane in pixels.planes) if pixels.planes else pixels.n_bands
    if n_bands:
        cube = cube.assign(reflectance=(cube["reflectance"].dims, pixels.x_TCYX[:, :n_bands]))
    return with_planes(cube, pixels.x_TCYX, pixels.planes) if pixels.planes else cube


def train_model(
    config: TrainConfig,
    progress: Callable[[Progress], None] | None = None,
    prepared: Prepared | None = None,
) -> tuple[Bundle, TrainedModel]:
    """Train on what is annotated, and write the bundle and, beside it, the split.

    While it trains its state lies beside the bundle, or where ``options.checkpoint`` says: the same call goes on
    from there, and removes it when the bundle is written.

    Args:
        config: The training.
        progress: Called after every step.
        prepared: What `prepare_training` made; default makes it.

    Raises:
        InputError: If scenes, labels or options do not fit together.
    """
    ready = prepared or prepare_training(config)
    options = state_beside(config.options, config.bundle).model_copy(update={"split": ready.split})
    trained = train(ready.cube, ready.labels, options, progress)
    spec = CubeSpec.model_validate_json(ready.cube.attrs["landweave_spec"])
    fields = trained.bundle_fields(config.name, spec, lattice_of(config), config.licence)
    lessons = CubeLessons.of(ready.cube, ready.labels, options)
    fields = examine(trained, lessons, config.calibration).given_to(fields)
    fields = replace(fields, training=fields.training | _told(config, ready))
    bundle = save_bundle(config.bundle, trained.module, config.options.architecture, fields)
    write_card(bundle)
    write_split(split_path(config), ready.split, ready.counts, ready.labels.classes, ready.leakage)
    forget_state(options)
    return bundle, trained


def state_beside(options: Options, bundle: str, *, resume: bool = True) -> Options:
    """Return options that leave a training's state beside its bundle, where they do not say where else.

    Args:
        options: Of the training.
        bundle: Folder of its bundle.
        resume: False begins anew, whatever lies there.
    """
    path = Path(bundle)
    state = options.checkpoint or Checkpoints(folder=path.with_name(f"{path.name}-training"))
    return options.model_copy(
        update={"checkpoint": state if resume else state.model_copy(update={"resume": False})}
    )


def forget_state(options: TrainOptions) -> None:
    """Remove the state of a training whose bundle is written; of several processes the first does."""
    if options.checkpoint is not None and Rank.here().number == 0:
        remove(options.checkpoint.folder)


def _told(config: TrainConfig, ready: Prepared) -> dict[str, Any]:
    """Return what the card says of the data, and what its maker says."""
    area = config.area.name or config.area.file or str(config.area.bbox)
    place = area if config.area.name else Path(area).name
    catalog = without_secrets(config.catalog) if "://" in config.catalog else Path(config.catalog).name
    data = {"area": place, "time": config.time, "catalog": catalog} | ready.lines()
    return {"data": data, "card": config.card.model_dump(mode="json")}


def lattice_of(config: TrainConfig) -> Lattice:
    """Return the windows of the map: as given, else what suits the network."""
    if config.lattice is not None:
        return config.lattice.lattice()
    alone = pixelwise(config.options.architecture, config.options.config)
    return Lattice(1, 0) if alone else LatticeConfig().lattice()


def split_path(config: TrainConfig) -> Path:
    """Return where the split of a training is written: beside its bundle."""
    bundle = Path(config.bundle)
    return bundle.with_name(f"{bundle.name}-split.json")


def check_training_labels(config: TrainConfig) -> list[tuple[LabelReport, Path]]:
    """Check each vector source of a training and write its mended file beside the bundle; searches nothing.

    Raises:
        InputError: If there is none, or a file cannot be read.
    """
    classes = ClassScheme.from_file(config.labels.classes)
    grid, _ = grid_and_box(area_of(config.area), config.crs, config.cube.resolution_m)
    calendar = CropCalendar.from_file(config.labels.calendar) if config.labels.calendar else None
    options = CheckOptions(grid.crs, parse_time(config.time), calendar)
    vectors = [s.source(None) for s in config.labels.sources if isinstance(s, VectorLabels)]
    if not vectors:
        raise InputError("no source of polygons or points to check", where="labels.sources")
    found = []
    for source in vectors:
        labels, report = check_labels(source, classes, options)
        path = Path(config.bundle).with_name(f"{source.title}-mended.gpkg")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels, report)
        found.append((report, path))
    return found


def overlap_line(bundle: Bundle) -> str:
    """Measure how far the network looks and say whether half the overlap holds it, else what would."""
    lattice, field = bundle.lattice, receptive_field(bundle, patience_s=_PATIENCE_S)
    if field.pixelwise or 2 * field.effective_px <= lattice.overlap_px:
        return f"{field.line()}: an overlap of {lattice.overlap_px} px shows it"
    proposed = propose_lattice(field, lattice.window_px)
    return (
        f"{field.line()}: an overlap of {lattice.overlap_px} px shows less than that to"
        f" {edge_share(lattice, field.effective_px):.0%} of pixels; proposed: lattice.overlap_px:"
        f" {proposed.lattice.overlap_px} ({proposed.reason})"
    )


def score_lines(trained: TrainedModel) -> dict[str, Any]:
    """Return the scores of a training for people."""
    scores = {"validation": trained.val, "test": trained.test}
    told = {
        part: f"accuracy {s.accuracy:.3f}, mean IoU {s.mean_iou:.3f}"
        for part, s in scores.items()
        if s is not None
    }
    best = f"of step {trained.best_step}; {trained.steps} of {trained.options.steps} steps made"
    return {"annotated pixels": trained.pixels, "weights": best, **told}


def _cube(config: TrainConfig) -> xr.Dataset:
    area = area_of(config.area)
    grid, box = grid_and_box(area, config.crs, config.cube.resolution_m)
    radar = find_radar(config, area, config.cube)
    return open_cube(find_scenes(config, area), config.cube, grid=grid, box=box, sentinel1=radar)
