"""Settings of labels: where they come from, and how each source becomes labels on the cube's pixels.

::

    labels:                          # one source: its settings stand here
      file: fields.gpkg
      column: crop
      classes: classes.yaml

    labels:                          # several: the larger weight wins
      classes: classes.yaml
      sources:
        - {file: fields.gpkg, column: crop, inner_buffer_m: 10, start_column: sown, end_column: harvested}
        - {file: survey.csv, column: crop, xy: [lon, lat]}
        - {kind: map, file: worldcover.tif, legend: worldcover, remap: {Tree cover: forest}, weight: 0.5}
        - {kind: rules, rules: [{class: water, when: ["NDVI_max < 0.1"]}]}
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_maps import MapSource, read_map
from training.labels import LabelRaster, PolygonSource, combine, rasterise
from training.weak import Confident, Rule, agreement, confident, label_by_rules

if TYPE_CHECKING:
    import xarray as xr

_MAPS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
_Weight = Annotated[float, Field(gt=0, le=1)]
_Remap = dict[str, str | None]


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str | None = Field(default=None, description="Name of the source; default the file's.")


class VectorLabels(_Source):
    """Annotated polygons, points or lines, or a table of points."""

    kind: Literal["vectors"] = "vectors"
    file: str = Field(description="Vector file of any CRS, or with xy a table (CSV, Parquet) of points.")
    column: str = Field(
        default="class_name", description="Column with the class: a name, value or source code."
    )
    layer: str | None = Field(default=None, description="Layer of the file; default the first.")
    where: str | None = Field(default=None, description="Attribute filter in SQL.")
    xy: tuple[str, str] | None = Field(default=None, description="Columns of a table's coordinates.")
    crs: str | None = Field(default=None, description="CRS of a table, or of a file that declares none.")
    remap: _Remap = Field(
        default_factory=dict, description="The file's codes to names of classes, null to leave out."
    )
    skip_unknown: bool = Field(default=False, description="Leave out unknown classes, instead of an error.")
    rule: Literal["centre", "all_touched"] = Field(
        default="centre", description="A polygon takes pixels whose centre it holds, or all that it touches."
    )
    inner_buffer_m: float = Field(
        default=0.0, ge=0, description="Shrink polygons first, to leave mixed pixels out."
    )
    weight: _Weight = Field(default=1.0, description="How much the labels count.")
    weight_column: str | None = Field(default=None, description="Column with each label's own weight, 0..1.")
    start_column: str | None = Field(default=None, description="Column with the first day of a label.")
    end_column: str | None = Field(default=None, description="Column with its last day.")
    background: str | None = Field(
        default=None,
        description="Class of what no label claims within `complete`; elsewhere it is not annotated.",
    )
    complete: str | None = Field(default=None, description="Vector file of where everything is annotated.")

    def source(self, season: tuple[dt.date, dt.date] | None) -> PolygonSource:
        """Return the source; labels out of season are left out."""
        told = self.model_dump(exclude={"kind", "file"})
        return PolygonSource(path=self.file, season=season, **told)


class MapLabels(_Source):
    """A raster of classes, on any grid and with any legend."""

    kind: Literal["map"] = "map"
    file: str = Field(description="Raster that GDAL reads.")
    band: int = Field(default=1, ge=1, description="Number of the band.")
    legend: Literal["worldcover", "corine", "eucropmap", "cdl"] | None = Field(
        default=None, description="What its numbers mean; default the codes and values of the classes."
    )
    remap: _Remap = Field(
        default_factory=dict,
        description="Numbers, or names of the legend, to names of classes; null leaves out.",
    )
    skip_unknown: bool = Field(default=True, description="Leave out unknown numbers, instead of an error.")
    erode_px: int = Field(default=1, ge=0, le=64, description="Pixels left out at the rim of each patch.")
    weight: _Weight = Field(default=0.5, description="How much the labels count.")

    def source(self) -> MapSource:
        """Return the source."""
        told = self.model_dump(exclude={"kind", "file"})
        return MapSource(path=self.file, **told)


class AgreementLabels(_Source):
    """Pixels on which several maps agree."""

    kind: Literal["agreement"] = "agreement"
    maps: tuple[MapLabels, ...] = Field(min_length=2, description="The maps.")
    at_least: int | None = Field(default=None, ge=2, description="How many must agree; default all.")
    erode_px: int = Field(default=1, ge=0, le=64, description="Pixels left out at the rim of each patch.")
    weight: _Weight = Field(default=0.7, description="How much a pixel counts on which all agree.")


class RuleLabels(_Source):
    """What a season looks like: thresholds on indices."""

    kind: Literal["rules"] = "rules"
    rules: tuple[Rule, ...] = Field(min_length=1, description="Rules; those of one class are alternatives.")
    erode_px: int = Field(default=1, ge=0, le=64, description="Pixels left out at the rim of each patch.")
    weight: _Weight = Field(default=0.5, description="How much the labels count.")


class PredictionLabels(_Source):
    """A map of ours, where the model was sure: self-training."""

    kind: Literal["prediction"] = "prediction"
    map: str = Field(description="map.zarr of a run on the same grid.")
    least: float = Field(default=0.9, ge=0, le=1, description="Smallest confidence.")
    share: float = Field(default=0.5, gt=0, le=1, description="Largest share of each class's pixels.")
    erode_px: int = Field(default=1, ge=0, le=64, description="Pixels left out at the rim of each patch.")
    weight: _Weight = Field(default=0.5, description="Times the confidence: how much the labels count.")


LabelSource = Annotated[
    VectorLabels | MapLabels | AgreementLabels | RuleLabels | PredictionLabels, Field(discriminator="kind")
]


class LabelsConfig(BaseModel):
    """What is annotated: one source whose settings stand here, or several under `sources`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    classes: str = Field(description="YAML of the class scheme.")
    sources: tuple[LabelSource, ...] = Field(min_length=1, description="Sources; the larger weight wins.")
    calendar: str | None = Field(
        default=None,
        description="Crop calendar (YAML, CSV) by which labels are checked, besides the cube's time.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "sources" in value:
            return value | {"sources": [_with_kind(s) for s in value["sources"] or ()]}
        own = {k: value[k] for k in value if k in ("classes", "calendar")}
        return own | {"sources": [_with_kind({k: v for k, v in value.items() if k not in own})]}


def _with_kind(source: Any) -> Any:
    """Tell a source's kind from its file."""
    if not isinstance(source, dict) or "kind" in source:
        return source
    raster = str(source.get("file", "")).lower().endswith(_MAPS)
    return {"kind": "map" if raster else "vectors"} | source


def label_files(labels: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where the settings of labels, as read from YAML, name files."""
    if not isinstance(labels, dict):
        return
    yield from ((labels, key) for key in ("classes", "calendar", "file", "complete", "map"))
    for source in labels.get("sources") or ():
        if isinstance(source, dict):
            yield from ((source, key) for key in ("file", "complete", "map"))
            yield from ((m, "file") for m in source.get("maps") or () if isinstance(m, dict))


def labels_on(
    config: LabelsConfig,
    classes: ClassScheme,
    place: tuple[Grid, Box],
    cube: xr.Dataset,
    season: tuple[dt.date, dt.date],
) -> LabelRaster:
    """Bring all sources onto the cube's pixels and lay them on one another.

    Args:
        config: The sources.
        classes: Scheme.
        place: The cube's grid and box.
        cube: The cube; read only for rules.
        season: The cube's first and last day.

    Raises:
        InputError: If a source cannot be read, or annotates no pixel.
    """
    found: list[LabelRaster] = []
    for source in config.sources:
        if isinstance(source, PredictionLabels):
            found.append(_predicted(source, classes, place, found))
        else:
            found.append(_one(source, classes, place, cube, season))
    return combine(found)


def _one(
    source: VectorLabels | MapLabels | AgreementLabels | RuleLabels,
    classes: ClassScheme,
    place: tuple[Grid, Box],
    cube: xr.Dataset,
    season: tuple[dt.date, dt.date],
) -> LabelRaster:
    if isinstance(source, VectorLabels):
        return rasterise(source.source(season), classes, *place)
    if isinstance(source, MapLabels):
        return read_map(source.source(), classes, *place)
    if isinstance(source, AgreementLabels):
        maps = [read_map(m.source(), classes, *place) for m in source.maps]
        return agreement(maps, source.at_least, source.erode_px, source.weight)
    labels, _ = label_by_rules(cube, source.rules, classes, source.weight, source.erode_px)
    return labels


def _predicted(
    source: PredictionLabels, classes: ClassScheme, place: tuple[Grid, Box], known: list[LabelRaster]
) -> LabelRaster:
    import numpy as np
    import xarray as xr

    from engine.values.georef import georef_of

    grid, box = place
    try:
        made = xr.open_zarr(source.map, chunks=None)
        label, confidence = made["label"], made["confidence"]
        there = georef_of(made)
    except (OSError, KeyError, ValueError) as error:
        raise InputError("cannot read the map", where=source.map, mend=str(error)) from error
    meanings = classes.flag_attributes()["flag_meanings"]
    if there[0] != grid or label.attrs.get("flag_meanings") != meanings:
        raise InputError(
            "the map has another grid or other classes than the cube",
            where=source.map,
            found=f"{there[0].crs[:40]} {there[0].resolution_yx}, {label.attrs.get('flag_meanings')}",
            limit=f"{grid.crs[:40]} {grid.resolution_yx}, {meanings}",
        )
    shared = box & there[1]
    values, sure = np.zeros(box.shape_yx, np.uint8), np.full(box.shape_yx, 255, np.uint8)
    if shared:
        values[shared.slices_in(box)] = label[shared.slices_in(there[1])].values
        sure[shared.slices_in(box)] = confidence[shared.slices_in(there[1])].values
    like = combine(known) if known else LabelRaster(np.zeros_like(values), box, classes)
    how = Confident(source.least, source.share, source.erode_px, source.weight)
    return confident(values, sure, like, how, source.name or f"prediction of {Path(source.map).parent.name}")
