"""Real tables of labelled series as `real_tables.py` needs them: read, named, with the split that belongs to each.

Sources and licences: the README of the data's folder. What is chosen here is chosen by rule, before any training:
classes by their number of samples, bands that are computed alike everywhere, splits by space.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.values.classes import ClassScheme, LandClass
from engine.values.grid import Grid
from training.series import Columns, SeriesTable, joined, read_long, read_wide
from training.splits import Samples, Split
from training.tables.folds import cross_validation
from training.tables.planes import with_indices

_COLOURS = ("#e3b448", "#3a6b35", "#cbd18f", "#8e6c8a", "#4f7cac", "#c0504d", "#7f7f7f", "#2f9e8f", "#d98c5f")
_LEAST_SAMPLES = 100  # of a class, over all
_LEAST_PLACES, _LEAST_THERE = 2, 10  # leave-one-region-out: regions that hold a class, samples in each


@dataclass(frozen=True, eq=False)
class Task:
    """One question to a table.

    Attributes:
        name: Such as ``bahia``.
        table: The samples, with all bands that every model sees.
        split: What a unit is.
        folds: Units tested together; 0: one at a time.
        drawn: What the bootstrap draws together, where units are too few to draw; None: units of `split`.
            By years: each sample by itself.
    """

    name: str
    table: SeriesTable
    split: Split
    folds: int
    drawn: Split | None = None

    def drawn_units(self) -> NDArray[Any]:
        """Return what the bootstrap draws together, a name for each sample."""
        split = self.drawn or self.split
        if split.by == "years":
            return np.array([f"{i:06d}" for i in range(len(self.table))], object)
        return split.units_of(self.samples())

    def samples(self) -> Samples:
        """Return what the split needs."""
        return self.table.samples()

    def deal(self, seed: int) -> tuple[Split, ...]:
        """Return the folds of one deal."""
        return cross_validation(self.split, self.samples(), self.folds, seed)


def scheme(names: list[str]) -> ClassScheme:
    """Number classes in alphabetical order."""
    return ClassScheme(
        classes=tuple(
            LandClass(value=i + 1, name=n, colour=_COLOURS[i % len(_COLOURS)])
            for i, n in enumerate(sorted(names))
        )
    )


def bahia(data: Path) -> Task:
    """CBERS-4, 23 dates: blocks of 32 km, 5 folds, 1.6 km apart."""
    folder = data / "cbers4_bahia"
    table = read_long(
        folder / "cbers4_bahia_timeseries.csv.gz",
        folder / "cbers4_bahia_samples.csv",
        scheme(["Cerradao", "Cerrado", "Cropland", "Pasture"]),
        Columns(),
        bands=["BAND13", "BAND14", "BAND15", "BAND16"],
    )
    table = table.rename({"BAND13": "blue", "BAND14": "green", "BAND15": "red", "BAND16": "nir"})
    split = Split(block_px=500, buffer_px=25).on(Grid.make("EPSG:31983", 64))
    return Task("bahia", with_indices(table, ("NDVI", "EVI")), split, 5)


def rondonia(data: Path) -> Task:
    """Sentinel-2, 36 dates: blocks of 10 km, 5 folds, 500 m apart."""
    folder = data / "s2_rondonia"
    table = read_long(
        folder / "s2_20LKP_timeseries.csv.gz",
        folder / "s2_20LKP_samples.csv",
        scheme(["Deforestation", "Forest", "NonForest"]),
        Columns(),
        bands=["B02", "B03", "B07", "B08", "B8A", "B11", "B12"],
    )
    table = table.rename({"B07": "B04"})  # its source's name for what is red
    split = Split(block_px=1000, buffer_px=50).on(Grid.make("EPSG:32720", 10))
    return Task("rondonia", with_indices(table, ("NDVI", "NDMI")), split, 5)


def cawa_blocks(data: Path) -> Task:
    """NDVI of fields, 23 steps: blocks of 10 km, 5 folds, 1 km apart; classes of 100 fields and more."""
    frame = pd.read_csv(_cawa(data))
    counts = frame["label_1"].value_counts()
    table = _cawa_table(data, [str(n) for n in counts.index[counts >= _LEAST_SAMPLES]])
    return Task("cawa", table, _cawa_split(), 5)


def cawa_regions(data: Path) -> Task:
    """The same fields, one region left out at a time; classes that two regions hold ten times each."""
    frame = pd.read_csv(_cawa(data))
    held = frame.groupby(["label_1", "region"]).size().unstack(fill_value=0) >= _LEAST_THERE
    names = held.index[held.sum(axis=1) >= _LEAST_PLACES]
    return Task(
        "cawa regions", _cawa_table(data, list(names)), Split(by="groups", buffer_px=0), 0, _cawa_split()
    )


def deafrica(data: Path) -> Task:
    """Crop or not from two half-years' features, one of five regions left out at a time."""
    tables = [_deafrica_region(data, name) for name in _REGIONS]
    return Task("deafrica", joined(tables), Split(by="groups", buffer_px=0), 0, Split(by="years"))


TASKS: dict[str, Callable[[Path], Task]] = {
    "bahia": bahia,
    "rondonia": rondonia,
    "cawa": cawa_blocks,
    "cawa-regions": cawa_regions,
    "deafrica": deafrica,
}

_REGIONS = ("central", "eastern", "indian_ocean", "sahel", "south_eastern")


def _cawa_split() -> Split:
    return Split(block_px=1000, buffer_px=100).on(Grid.make("EPSG:32642", 10))


def _cawa(data: Path) -> Path:
    return data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz"


def _cawa_table(data: Path, names: list[str]) -> SeriesTable:
    pattern = r"(?P<band>ndvi)_doy(?P<step>\d+)"
    columns = Columns(label="label_1", group="region")
    return read_wide(_cawa(data), pattern, scheme(names), columns, steps="year").rename({"ndvi": "NDVI"})


def _deafrica_region(data: Path, region: str) -> SeriesTable:
    """Read one region; the slope, which has no date, stands at both."""
    path = data / "deafrica_cropmask" / f"{region}_training_data.txt.gz"
    pattern = r"(?P<band>(?!Class).+?)(?:_(?P<step>S[12]))?"
    classes = ClassScheme(
        classes=(
            LandClass(value=1, name="crop", colour="#e3b448", codes=(1,)),
            LandClass(value=2, name="other", colour="#7f7f7f", codes=(0,)),
        )
    )
    dates = {"": dt.date(2019, 1, 1), "S1": dt.date(2019, 4, 1), "S2": dt.date(2019, 10, 1)}
    table = read_wide(path, pattern, classes, Columns(label="Class", x=None, y=None), steps=dates)
    values = table.values[:, 1:].copy()
    slope = table.bands.index("slope")
    values[:, :, slope] = table.values[:, :1, slope]
    group = np.full(len(table), region, object)
    return replace(table, values=values, dates=table.dates[:, 1:], group=group, source=region)
