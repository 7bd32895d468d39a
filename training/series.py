"""Tables of time series: labelled samples with their values, from long or wide files.

::

    long    one row a sample and date       sample_id | date | B02 | B03 ...   + samples: sample_id | x | y | label
    wide    one row a sample                label | x | y | ndvi_doy001 | ndvi_doy017 ...
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import normal_crs
from training.label_sources import key_of, lookup_of
from training.splits import Samples

if TYPE_CHECKING:
    import pandas as pd

    from training.label_values import Labels


@dataclass(frozen=True, eq=False)
class SeriesTable:
    """Labelled samples with a value for each date and band.

    Attributes:
        values: (sample, time, band) float32, NaN = missing.
        dates: (sample, time) datetime64[D], NaT = no such date.
        bands: Names of the bands.
        value: (sample,) uint8, class values of the scheme.
        classes: The classes.
        x: (sample,) float64, in the units of `crs`; NaN = unknown.
        y: (sample,) float64.
        crs: CRS of the places.
        group: (sample,) str: what belongs together (region, campaign, farm); ``""`` = none.
        weight: (sample,) float32, 0..1.
        source: Where the table is from.
        left_out: Classes that the scheme does not know, with the number of their samples.
    """

    values: NDArray[np.float32]
    dates: NDArray[Any]
    bands: tuple[str, ...]
    value: NDArray[np.uint8]
    classes: ClassScheme
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: str
    group: NDArray[Any]
    weight: NDArray[np.float32]
    source: str = "series"
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, times, bands = self.values.shape
        sizes = {name: len(getattr(self, name)) for name in ("value", "x", "y", "group", "weight")}
        if set(sizes.values()) != {n} or self.dates.shape != (n, times) or len(self.bands) != bands:
            raise InputError(
                "parts of the table do not fit together",
                where=self.source,
                found=f"{sizes}, dates {self.dates.shape}, {len(self.bands)} bands",
                limit=f"values (sample, time, band) {self.values.shape}",
            )
        if self.values.dtype != np.float32:
            raise InputError("series are float32", where=self.source, found=self.values.dtype)
        strange = sorted(set(self.value.tolist()) - set(self.classes.values))
        if strange:
            raise InputError(
                "values are no class", where=self.source, found=strange, limit=self.classes.values
            )

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, which: NDArray[Any]) -> SeriesTable:
        """Return some samples, by mask or index."""
        names = ("values", "dates", "value", "x", "y", "group", "weight")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    @property
    def missing(self) -> float:
        """Share of values that are missing."""
        return float(np.isnan(self.values).mean())

    def counts(self) -> dict[str, int]:
        """Samples of each class, in the scheme's order."""
        found = np.bincount(self.value, minlength=256)
        return {c.name: int(found[c.value]) for c in self.classes.classes}

    def years(self) -> NDArray[np.int64]:
        """Return the year of each sample's middle date, 0 without dates, (sample,)."""
        days = self.dates.astype("datetime64[D]").astype(np.int64).astype(np.float64)
        days[np.isnat(self.dates)] = np.nan
        known = np.isfinite(days).any(axis=1)
        middle = np.full(len(self), np.nan)
        middle[known] = np.nanmedian(days[known], axis=1)
        stamps = np.where(known, middle, 0).astype("datetime64[D]")
        return np.where(known, stamps.astype("datetime64[Y]").astype(np.int64) + 1970, 0)

    def samples(self) -> Samples:
        """Return what a split needs to know."""
        return Samples(self.x, self.y, self.crs, self.value, self.years(), self.group)

    def rename(self, bands: Mapping[str, str]) -> SeriesTable:
        """Give bands other names: a source may have mixed them up.

        Raises:
            InputError: If a band is not there, or two would have one name.
        """
        strange = sorted(set(bands) - set(self.bands))
        names = tuple(bands.get(name, name) for name in self.bands)
        if strange or len(set(names)) < len(names):
            raise InputError(
                "cannot rename the bands", where=self.source, found=strange or names, limit=self.bands
            )
        return replace(self, bands=names)

    def band(self, name: str) -> NDArray[np.float32]:
        """Return one band, (sample, time) float32.

        Raises:
            InputError: If there is none of that name.
        """
        if name not in self.bands:
            raise InputError("no such band", where=self.source, found=name, limit=self.bands)
        found: NDArray[np.float32] = self.values[:, :, self.bands.index(name)]
        return found

    def index_difference(self, index: str, high: str, low: str) -> float:
        """Compare a stored normalised difference with that of two bands: the median absolute difference.

        Near zero the bands are what they are called; else one of them is another one.
        """
        a, b = self.band(high), self.band(low)
        with np.errstate(invalid="ignore", divide="ignore"):
            computed = (a - b) / (a + b)
        return float(np.nanmedian(np.abs(computed - self.band(index))))

    def during(self, start: dt.date, end: dt.date) -> SeriesTable:
        """Blank values outside a range of days, both included."""
        outside = ~((self.dates >= np.datetime64(start)) & (self.dates <= np.datetime64(end)))
        return replace(self, values=np.where(outside[:, :, None], np.float32(np.nan), self.values))

    def labels(self) -> Labels:
        """Return the samples as points, for a raster of labels; those without a place are left out."""
        import geopandas as gpd

        from training.label_values import Labels

        known = np.isfinite(self.x) & np.isfinite(self.y)
        days = self.dates[known]
        there = ~np.isnat(days)
        first = np.where(there, days, np.datetime64("9999-01-01")).min(axis=1).astype("datetime64[s]")
        last = np.where(there, days, np.datetime64("0001-01-01")).max(axis=1).astype("datetime64[s]")
        no_date = ~there.any(axis=1)
        first[no_date], last[no_date] = np.datetime64("NaT"), np.datetime64("NaT")
        columns = {
            "value": self.value[known],
            "source": self.source,
            "weight": self.weight[known].astype(float),
            "start": first,
            "end": last,
        }
        points = gpd.points_from_xy(self.x[known], self.y[known])
        return Labels(gpd.GeoDataFrame(columns, geometry=points, crs=self.crs), self.classes)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table of samples mean what.

    Attributes:
        label: The class: a name, a source code, or a value of the scheme.
        x: First coordinate.
        y: Second coordinate.
        crs: CRS of the coordinates.
        group: What belongs together, None for nothing.
        weight: Weight of a sample, 0..1, None for one.
        sample: Number of the sample, in long tables.
        date: Day, in long tables.
        remap: The source's codes to names of classes, None to leave out.
    """

    label: str = "label"
    x: str | None = "longitude"
    y: str | None = "latitude"
    crs: str = "EPSG:4326"
    group: str | None = None
    weight: str | None = None
    sample: str = "sample_id"
    date: str = "date"
    remap: Mapping[str, str | None] = field(default_factory=dict)


def read_long(
    values: str | Path,
    samples: str | Path,
    classes: ClassScheme,
    columns: Columns,
    bands: Sequence[str] | None = None,
) -> SeriesTable:
    """Read a table with one row a sample and date, and the table of its samples.

    Args:
        values: CSV (also compressed) or Parquet: sample, date, bands.
        samples: The same: sample, label, coordinates.
        classes: Scheme; unknown classes are left out and counted.
        columns: What the columns are called.
        bands: The bands; default all columns of numbers.

    Raises:
        InputError: If a file or column is missing, or a sample has two rows of one date.
    """
    import pandas as pd

    rows, table = _frame(values), _frame(samples)
    _need(rows, [columns.sample, columns.date, *(bands or ())], values)
    _need(table, [columns.sample], samples)
    names = list(bands or rows.select_dtypes("number").columns.difference([columns.sample], sort=False))
    twice = rows.duplicated([columns.sample, columns.date])
    if twice.any():
        raise InputError(
            "a sample has several rows of one date",
            where=str(values),
            found=rows.loc[twice, columns.sample].iloc[0],
            mend="keep one of them",
        )
    rows = rows[rows[columns.sample].isin(table[columns.sample])]
    rows = rows.assign(day=pd.to_datetime(rows[columns.date])).sort_values([columns.sample, "day"])
    number = pd.Index(table[columns.sample]).get_indexer(rows[columns.sample])
    order = rows.groupby(columns.sample, sort=False).cumcount().to_numpy()
    shape = (len(table), int(order.max(initial=0)) + 1)
    found = np.full((*shape, len(names)), np.nan, np.float32)
    found[number, order] = rows[names].to_numpy(np.float32)
    dates = np.full(shape, np.datetime64("NaT"), "datetime64[D]")
    dates[number, order] = rows["day"].to_numpy("datetime64[D]")
    return _table(table, found, dates, tuple(names), classes, columns, Path(samples).stem)


def read_wide(
    path: str | Path,
    pattern: str,
    classes: ClassScheme,
    columns: Columns,
    steps: Mapping[str, dt.date | str] | str | None = None,
    missing: float | None = None,
) -> SeriesTable:
    r"""Read a table with one row a sample and a column for each band and date.

    Args:
        path: CSV (also compressed; also separated by blanks, with a header after ``#``) or Parquet.
        pattern: Regular expression of those columns, with groups ``band`` and ``step``:
            ``(?P<band>ndvi)_doy(?P<step>\d+)``. Without ``step`` all are of one date.
        classes: Scheme; unknown classes are left out and counted.
        columns: What the other columns are called.
        steps: Step to its date; or the name of a column with each sample's year, steps being days of the
            year; or of one with each sample's first day, steps being months from there, told as
            ``COLUMN+months``. None: without dates.
        missing: Number that means missing.

    Raises:
        InputError: If the file or a column is missing, or no column has the pattern.
    """
    table = _frame(path)
    found = [(name, m) for name in table.columns if (m := re.fullmatch(pattern, str(name)))]
    if not found:
        raise InputError(
            "no column is named like that",
            where=str(path),
            found=pattern,
            limit=", ".join(map(str, table.columns[:20])),
        )
    grouped = [(name, m.groupdict()) for name, m in found]
    bands = tuple(dict.fromkeys(str(g["band"]) for _, g in grouped))
    order = sorted({g.get("step") or "" for _, g in grouped}, key=lambda s: (len(s), s))
    values = np.full((len(table), len(order), len(bands)), np.nan, np.float32)
    for name, g in grouped:
        values[:, order.index(g.get("step") or ""), bands.index(g["band"])] = table[name].to_numpy(np.float32)
    if missing is not None:
        values[values == np.float32(missing)] = np.nan
    dates = _step_dates(table, order, steps, path)
    return _table(table, values, dates, bands, classes, columns, Path(path).name.split(".")[0])


def _step_dates(
    table: pd.DataFrame, order: list[str], steps: Mapping[str, dt.date | str] | str | None, path: str | Path
) -> NDArray[Any]:
    """Return (sample, time) datetime64[D]."""
    if steps is None:
        return np.full((len(table), len(order)), np.datetime64("NaT"), "datetime64[D]")
    if not isinstance(steps, str):
        lacking = sorted(set(order) - {str(s) for s in steps})
        if lacking:
            raise InputError(
                "steps without a date", where=str(path), found=lacking, limit=sorted(map(str, steps))
            )
        by_step = {str(s): np.datetime64(d, "D") for s, d in steps.items()}
        return np.tile([by_step[s] for s in order], (len(table), 1))
    column, _, unit = steps.partition("+")
    _need(table, [column], path)
    numbers = np.array([int(s) for s in order])
    if unit == "months":
        first = table[column].to_numpy("datetime64[M]")
        return (first[:, None] + numbers[None, :]).astype("datetime64[D]")
    year = np.array([np.datetime64(f"{int(y)}-01-01", "D") for y in table[column]])
    return np.asarray(year[:, None] + (numbers[None, :] - 1))


def _table(
    table: pd.DataFrame,
    values: NDArray[np.float32],
    dates: NDArray[Any],
    bands: tuple[str, ...],
    classes: ClassScheme,
    columns: Columns,
    source: str,
) -> SeriesTable:
    """Keep samples of known classes."""
    named = [columns.label, columns.x, columns.y, columns.group, columns.weight]
    _need(table, [c for c in named if c], source)
    lookup = lookup_of(classes, columns.remap)
    keys = np.array([key_of(v) for v in table[columns.label]], object)
    value = np.array([lookup.get(k, 0) for k in keys], np.uint8)
    known = value != 0
    unknown, counted = np.unique(keys[~known].astype(str), return_counts=True)
    n = len(table)
    x, y = (table[c].to_numpy(float) if c else np.full(n, np.nan) for c in (columns.x, columns.y))
    group = table[columns.group].astype(str).to_numpy(object) if columns.group else np.full(n, "", object)
    weight = table[columns.weight].to_numpy(np.float32) if columns.weight else np.ones(n, np.float32)
    return SeriesTable(
        values[known],
        dates[known],
        bands,
        value[known],
        classes,
        x[known],
        y[known],
        normal_crs(columns.crs),
        group[known],
        weight[known],
        source,
        dict(zip(unknown.tolist(), counted.tolist(), strict=True)),
    )


def joined(tables: Sequence[SeriesTable]) -> SeriesTable:
    """Lay tables of the same bands and dates' number below one another; each gives its name as group if it has none.

    Raises:
        InputError: If bands, classes, CRS or the number of dates differ.
    """
    if not tables:
        raise InputError("no tables to join", where="series")
    first = tables[0]
    for t in tables[1:]:
        here, there = (
            (t.bands, t.values.shape[1], t.crs, t.classes.digest()),
            (first.bands, first.values.shape[1], first.crs, first.classes.digest()),
        )
        if here != there:
            raise InputError(
                "tables differ in bands, dates, CRS or classes", where=t.source, found=here, limit=there
            )
    groups = [np.where(t.group == "", t.source, t.group) for t in tables]
    return replace(
        first,
        values=np.concatenate([t.values for t in tables]),
        dates=np.concatenate([t.dates for t in tables]),
        value=np.concatenate([t.value for t in tables]),
        x=np.concatenate([t.x for t in tables]),
        y=np.concatenate([t.y for t in tables]),
        weight=np.concatenate([t.weight for t in tables]),
        group=np.concatenate(groups),
        source="+".join(t.source for t in tables),
    )


def _frame(path: str | Path) -> pd.DataFrame:
    import pandas as pd

    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        frame = pd.read_csv(path, sep=r"\s+" if ".txt" in path.suffixes else ",")
    except (OSError, ValueError) as error:
        raise InputError("cannot read the table", where=str(path), mend=str(error)) from error
    if str(frame.columns[0]) == "#":  # the header stands behind a comment sign
        names = list(frame.columns[1:])
        frame = frame.iloc[:, : len(names)].set_axis(names, axis=1)
    return frame


def _need(table: pd.DataFrame, columns: Sequence[str], where: str | Path) -> None:
    lacking = [c for c in columns if c not in table.columns]
    if lacking:
        raise InputError(
            "the table lacks columns",
            where=str(where),
            found=", ".join(lacking),
            limit=", ".join(map(str, table.columns[:40])),
        )
