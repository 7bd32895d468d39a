r"""Settings of a training on a table of series: where the samples are, and what their columns mean.

::

    samples:                            # one row a sample and date, and the table of the samples
      values: timeseries.csv.gz
      file: samples.csv
      columns: {label: label, x: longitude, y: latitude, crs: EPSG:4326}
      rename: {B07: B04}
      classes: classes.yaml

    samples:                            # one row a sample
      file: fields.csv
      pattern: '(?P<band>NDVI)_doy(?P<step>\d+)'
      steps: year                       # column with the year; steps are days of it
      columns: {label: crop, group: region}
      classes: classes.yaml
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.inference.manifest import NAME
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.spec import CubeSpec
from pipelines.config import CardConfig, parse_config, read_yaml, with_overrides
from training.calibration.examine import Calibration
from training.series import Columns, SeriesTable, read_long, read_wide
from training.tables.train import TableOptions


class ColumnsConfig(BaseModel):
    """What the columns of a table of samples are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str = Field(default="label", description="The class: a name, a source code or a value.")
    x: str | None = Field(default="longitude", description="First coordinate; null: no places.")
    y: str | None = Field(default="latitude", description="Second coordinate.")
    crs: str = Field(default="EPSG:4326", description="CRS of the coordinates.")
    group: str | None = Field(default=None, description="What belongs together: region, campaign, farm.")
    weight: str | None = Field(default=None, description="Weight of a sample, 0..1.")
    sample: str = Field(default="sample_id", description="Number of the sample, in tables of values.")
    date: str = Field(default="date", description="Day, in tables of values.")


class SamplesConfig(BaseModel):
    """A table of labelled series: values (one row a sample and date), or a pattern of columns (one row a sample)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str = Field(description="CSV (also compressed) or Parquet of the samples.")
    values: str | None = Field(default=None, description="Table with one row a sample and date.")
    pattern: str | None = Field(
        default=None, description="Regular expression of columns of values, with groups band and step."
    )
    steps: str | dict[str, str] | None = Field(
        default=None,
        description="Step to date; or a column with the year (steps are days of it); or COLUMN+months.",
    )
    missing: float | None = Field(default=None, description="Number that means missing, with pattern.")
    bands: tuple[str, ...] | None = Field(
        default=None, description="Columns of values; default all of numbers."
    )
    rename: dict[str, str] = Field(default_factory=dict, description="Bands that are really others.")
    remap: dict[str, str | None] = Field(
        default_factory=dict, description="The table's codes to names of classes, null to leave out."
    )
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="Names of columns.")
    classes: str = Field(description="YAML of the class scheme.")

    @model_validator(mode="after")
    def _one_form(self) -> SamplesConfig:
        if (self.values is None) == (self.pattern is None):
            raise ValueError("give values (one row a sample and date) or pattern (one row a sample)")
        return self

    def read(self) -> SeriesTable:
        """Read the table.

        Raises:
            InputError: If a file or column is missing, or no sample has a class of the scheme.
        """
        classes = ClassScheme.from_file(self.classes)
        columns = Columns(**self.columns.model_dump(), remap=self.remap)
        if self.values is not None:
            table = read_long(self.values, self.file, classes, columns, self.bands)
        else:
            table = read_wide(self.file, str(self.pattern), classes, columns, self.steps, self.missing)
        if not len(table):
            raise InputError(
                "no sample has a class of the scheme",
                where=self.file,
                found=table.left_out,
                limit=classes.names,
            )
        return table.rename(self.rename)


class TableTrainConfig(BaseModel):
    """One network, trained on a table of series."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    samples: SamplesConfig = Field(description="The table.")
    cube: CubeSpec = Field(
        description="What maps will be made of: its bands and indices are taken from the table. No bands: a cube of "
        "planes made elsewhere, with the table's own bands."
    )
    crs: str | None = Field(
        default=None,
        description="Projected CRS in which a split counts blocks and distances, of cube.resolution_m.",
    )
    bundle: str = Field(description="Folder of the bundle to write.")
    name: str = Field(
        default="landweave model", pattern=NAME, description="Short name: letters, digits, . _ - and blanks."
    )
    licence: str = Field(default="other", description="SPDX identifier of the weights' licence.")
    options: TableOptions = Field(default_factory=TableOptions, description="Network, steps, split, seed.")
    calibration: Calibration = Field(
        default="temperature", description="How probabilities are mended by the validation samples."
    )
    card: CardConfig = Field(default_factory=CardConfig, description="What only its maker knows.")


def load_table_config(path: str | Path, overrides: list[str] | None = None) -> TableTrainConfig | None:
    """Read a training's YAML if it is one on a table (it has ``samples``), else return None.

    Relative paths start at the YAML's folder.

    Raises:
        InputError: If a setting is wrong.
    """
    raw = read_yaml(
        path,
        None,
        paths=(
            "bundle",
            "options.split",
            "options.split.regions",
            "options.checkpoint.folder",
            "options.transfer.start",
        ),
    )
    samples = raw.get("samples")
    if samples is None:
        return None
    if isinstance(samples, dict):
        for key in ("file", "values", "classes"):
            if isinstance(samples.get(key), str) and "://" not in samples[key]:
                samples[key] = str(Path(path).parent / samples[key])
    return parse_config(with_overrides(raw, overrides), str(path), TableTrainConfig)
