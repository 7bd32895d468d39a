"""Train a network on the cube of a configuration and write it as a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from engine.cube.cube import open_cube
from engine.inference.bundle import Bundle, save_bundle
from engine.inference.receptive import edge_share, propose_lattice, receptive_field
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.spec import CubeSpec
from pipelines.config import LatticeConfig, SourceConfig, parse_yaml
from pipelines.cube_area import area_of, find_scenes, grid_and_box, refuse_radar
from training.labels import LabelRaster, PolygonSource, rasterise
from training.loop import Progress, TrainedModel, TrainOptions, train

if TYPE_CHECKING:
    import xarray as xr


class LabelsConfig(BaseModel):
    """The annotated polygons."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str = Field(description="Vector file of annotated polygons, any CRS.")
    column: str = Field(
        default="class_name", description="Column with the class: a name, value or source code."
    )
    classes: str = Field(description="YAML of the class scheme.")
    inner_buffer_m: float = Field(
        default=0.0, ge=0, description="Shrink polygons first, to leave mixed pixels out."
    )


class TrainConfig(SourceConfig):
    """One network, trained on one area and season."""

    cube: CubeSpec = Field(description="Bands, resolution, period, reducer, mask.")
    labels: LabelsConfig = Field(description="What is annotated.")
    bundle: str = Field(description="Folder of the bundle to write.")
    name: str = Field(default="landweave model", description="Short name of the model.")
    licence: str = Field(default="other", description="SPDX identifier of the weights' licence.")
    lattice: LatticeConfig = Field(default_factory=LatticeConfig, description="Windows of the map.")
    options: TrainOptions = Field(default_factory=TrainOptions, description="Network, steps, split, seed.")


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a training's YAML; paths and overrides as in `pipelines.config.load_config`."""
    return parse_yaml(TrainConfig, path, overrides, paths=("bundle", "labels.file", "labels.classes"))


def train_model(
    config: TrainConfig, progress: Callable[[Progress], None] | None = None
) -> tuple[Bundle, TrainedModel]:
    """Search, open the cube, rasterise the labels on its grid, train, and write the bundle.

    Raises:
        InputError: If scenes, labels or options do not fit together.
    """
    cube, labels = training_data(config)
    trained = train(cube, labels, config.options, progress)
    spec = CubeSpec.model_validate_json(cube.attrs["landweave_spec"])
    fields = trained.bundle_fields(config.name, spec, config.lattice.lattice(), config.licence)
    bundle = save_bundle(config.bundle, trained.module, config.options.architecture, fields)
    return bundle, trained


def training_data(config: TrainConfig) -> tuple[xr.Dataset, LabelRaster]:
    """Search, open the lazy cube and rasterise the labels on its grid.

    Raises:
        InputError: If scenes or labels do not fit together.
    """
    classes = ClassScheme.from_file(config.labels.classes)
    cube = _cube(config)
    return cube, _labels(config, classes, cube)


def overlap_line(bundle: Bundle) -> str:
    """Measure how far the network looks and say whether half the overlap holds it, else what would."""
    lattice, field = bundle.lattice, receptive_field(bundle)
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
    return {"annotated pixels": trained.pixels, **told}


def _cube(config: TrainConfig) -> xr.Dataset:
    refuse_radar(config.cube, "cube")
    area = area_of(config.area)
    grid, box = grid_and_box(area, config.crs, config.cube.resolution_m)
    return open_cube(find_scenes(config, area), config.cube, grid=grid, box=box)


def _labels(config: TrainConfig, classes: ClassScheme, cube: xr.Dataset) -> LabelRaster:
    source = PolygonSource(
        path=config.labels.file, column=config.labels.column, inner_buffer_m=config.labels.inner_buffer_m
    )
    grid, box = georef_of(cube)
    labels = rasterise(source, classes, grid, box)
    if not labels.values.any():
        raise InputError("no annotated pixel lies in the area", where=config.labels.file)
    return labels
