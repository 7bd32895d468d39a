"""Where labels as vectors come from: any vector file, or a table with coordinates.

Rows become `Labels`: one class value, a source, a weight and a range of dates each. What cannot (an unknown
class, no geometry) is told by `training.label_check`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import normal_crs
from training.label_values import Labels

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

Rule = Literal["centre", "all_touched"]
"""Which pixels a polygon takes: those whose centre lies inside, or all that it touches."""

_LONG_EDGE_M, _LONG_EDGE_DEG = 2000.0, 0.02


@dataclass(frozen=True)
class PolygonSource:
    """Annotated polygons, points or lines in a file.

    Attributes:
        path: Any vector file that GDAL reads (GeoPackage, GeoJSON, shapefile), GeoParquet; or, with `xy`, a
            table of points (CSV, also compressed, or Parquet).
        column: Column that holds the class: a name, a source code or a value of the scheme.
        layer: Layer of the file; None takes the first.
        inner_buffer_m: Polygons shrink by this many metres first: mixed pixels at field edges teach the
            wrong thing. Points and lines do not shrink.
        skip_unknown: Leave out features whose class is not in the scheme, instead of an error.
        rule: Which pixels a polygon takes.
        remap: The source's codes to names of classes, None to leave out; before the scheme's own codes.
        where: Attribute filter in SQL, of vector files: ``"quality > 2"``.
        xy: Columns of the coordinates, of tables.
        crs: CRS of the coordinates of a table, or of a vector file that declares none.
        weight: How much the labels count, 0..1.
        weight_column: Column with each label's own weight, 0..1, times `weight`.
        start_column: Column with the first day for which a label holds.
        end_column: Column with its last day; without it the first day is the only one.
        name: Name of the source; default the file's.
        background: Class of what no feature claims inside `complete`; without both, it is not annotated.
        complete: Vector file of the places in which everything is annotated.
        season: First and last day: labels that hold on no day of it are left out.
    """

    path: str | Path
    column: str
    layer: str | None = None
    inner_buffer_m: float = 0.0
    skip_unknown: bool = False
    rule: Rule = "centre"
    remap: Mapping[str, str | None] = field(default_factory=dict)
    where: str | None = None
    xy: tuple[str, str] | None = None
    crs: str | None = None
    weight: float = 1.0
    weight_column: str | None = None
    start_column: str | None = None
    end_column: str | None = None
    name: str | None = None
    background: str | None = None
    complete: str | Path | None = None
    season: tuple[dt.date, dt.date] | None = None

    @property
    def title(self) -> str:
        """Name of the source."""
        return self.name or Path(self.path).stem

    @property
    def columns(self) -> list[str]:
        """Columns that are needed, beside the geometry."""
        named = (self.column, self.weight_column, self.start_column, self.end_column)
        return [c for c in dict.fromkeys(named) if c]


def read_labels(source: PolygonSource, classes: ClassScheme) -> Labels:
    """Read all labels of a file.

    Args:
        source: Where they are.
        classes: Scheme; ``codes`` map the source's own codes.

    Raises:
        InputError: If the file or a column cannot be read, or a class is unknown and `skip_unknown` is off.
    """
    frame = frame_of(source, classes)
    refuse_unknown(source, classes, frame.loc[frame["value"] == 0, "label"])
    return known_labels(frame, classes)


def known_labels(frame: gpd.GeoDataFrame, classes: ClassScheme) -> Labels:
    """Keep the rows of a frame that have a class and a geometry."""
    kept = frame[(frame["value"] != 0) & frame.geometry.notna() & ~frame.geometry.is_empty]
    return Labels(kept.drop(columns="label"), classes)


def refuse_unknown(source: PolygonSource, classes: ClassScheme, labels: pd.Series[Any]) -> None:
    """Refuse labels without a class, unless the source says to skip them or maps them to None."""
    left_out = {key for key, value in source.remap.items() if value is None}
    unknown = sorted({str(v) for v in labels if key_of(v) not in left_out})
    if unknown and not source.skip_unknown:
        raise InputError(
            "polygons have classes that the scheme does not know",
            where=f"{source.path}: {source.column}",
            found=unknown[:20],
            limit=f"names {classes.names}, or codes of the scheme",
            mend="add them as codes of a class, remap them, or set skip_unknown",
        )


def frame_of(
    source: PolygonSource, classes: ClassScheme, bbox: tuple[float, float, float, float] | None = None
) -> gpd.GeoDataFrame:
    """Read rows as they are, with the columns of `Labels` and ``label``, the class as the source writes it.

    Args:
        source: Where they are.
        classes: Scheme; an unknown class has value 0.
        bbox: Only rows whose box touches this one, in the file's CRS.

    Raises:
        InputError: If the file or a column cannot be read.
    """
    import geopandas as gpd

    raw = _read(source, bbox)
    lookup = lookup_of(classes, source.remap)
    labels = raw[source.column]
    weight = raw[source.weight_column].to_numpy(float) if source.weight_column else 1.0
    start = _days(raw, source.start_column, source)
    columns = {
        "value": np.array([lookup.get(key_of(v), 0) for v in labels], np.uint8),
        "source": source.title,
        "weight": weight * source.weight,
        "start": start,
        "end": _days(raw, source.end_column, source) if source.end_column else start,
        "label": labels,
    }
    frame = gpd.GeoDataFrame(columns, index=raw.index, geometry=raw.geometry.to_numpy(), crs=raw.crs)
    return frame if source.season is None else frame[~outside(frame, *source.season)]


def outside(frame: gpd.GeoDataFrame, first: Any, last: Any) -> NDArray[np.bool_]:
    """Tell which labels hold on no day from `first` to `last` (days, or one each); without dates they do."""
    start = frame["start"].to_numpy("datetime64[D]")
    end = frame["end"].to_numpy("datetime64[D]")
    found: NDArray[np.bool_] = (start > np.asarray(last, "datetime64[D]")) | (
        end < np.asarray(first, "datetime64[D]")
    )
    return found


def lookup_of(classes: ClassScheme, remap: Mapping[str, str | None]) -> dict[str, int]:
    """Return what each name, code or value of a source means: a class value.

    What the source remaps wins over a name, a name over a code, a code over a plain value.

    Raises:
        InputError: If `remap` names a class that is not in the scheme.
    """
    table = classes.lookup()
    for code, name in remap.items():
        value = 0 if name is None else classes.lookup().get(key_of(name), 0)
        if name is not None and not value:
            raise InputError(
                "a remap names no class of the scheme",
                where=f"labels.remap: {code}",
                found=name,
                limit=classes.names,
            )
        table[key_of(code)] = value
    return table


def key_of(value: Any) -> str:
    """Write 3, 3.0 and "3" alike: GIS files turn integers into floats when a row is empty."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def crs_of(source: PolygonSource) -> str:
    """Return the CRS of a vector file or table.

    Raises:
        InputError: If it has none.
    """
    if source.xy:
        return normal_crs(source.crs or "EPSG:4326")
    import pyogrio

    if Path(source.path).suffix == ".parquet":
        return normal_crs(_read(source, None).crs)
    return _declared(pyogrio.read_info(source.path, layer=source.layer)["crs"], source)


def _declared(crs: Any, source: PolygonSource) -> str:
    if crs is None and source.crs is None:
        raise InputError(
            "the polygons have no CRS", where=str(source.path), mend="declare it: crs: EPSG:4326"
        )
    return normal_crs(crs or source.crs)


def to_grid_crs(frame: gpd.GeoDataFrame, crs: str) -> gpd.GeoDataFrame:
    """Bring labels into the CRS of a grid; long edges are cut first so that they bend rightly.

    Raises:
        InputError: If only a ballpark transformation is known.
    """
    import shapely

    from engine.archive.warp import require_transform, same_crs

    here = normal_crs(frame.crs)
    if same_crs(here, crs):
        return frame.set_crs(crs, allow_override=True)
    require_transform(here, crs)
    step = _LONG_EDGE_DEG if frame.crs.is_geographic else _LONG_EDGE_M
    geometry = frame.geometry.to_numpy()
    long = _extent(geometry) > step
    if long.any():
        geometry = geometry.copy()
        geometry[long] = shapely.segmentize(geometry[long], step)
    return frame.set_geometry(geometry, crs=frame.crs).to_crs(crs)


def _extent(geometry: Any) -> Any:
    """Return the longer side of each geometry's box; 0 without one."""
    import shapely

    bounds = shapely.bounds(geometry)
    return np.nan_to_num(np.fmax(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]))


def _days(raw: gpd.GeoDataFrame, column: str | None, source: PolygonSource) -> pd.Series[Any]:
    """Read a column of dates; years and months too, of the end their last day. What is no date is missing."""
    import pandas as pd

    if column is None:
        return pd.Series(pd.NaT, index=raw.index, dtype="datetime64[ns]")
    days = raw[column]
    if pd.api.types.is_numeric_dtype(days):
        days = days.astype("Int64")
    days = days.astype("string")
    found = pd.to_datetime(days, errors="coerce", format="ISO8601", utc=True).dt.tz_localize(None)
    if column != source.end_column:
        return found
    length = days.str.len().fillna(0)
    found = found.where(length != 4, found + pd.offsets.YearEnd(0))
    return found.where(length != 7, found + pd.offsets.MonthEnd(0))


def _read(source: PolygonSource, bbox: tuple[float, float, float, float] | None) -> gpd.GeoDataFrame:
    path = Path(source.path)
    if not path.exists() and "://" not in str(source.path):
        raise InputError("cannot read the polygons", where=str(path), mend="check the path")
    try:
        frame = _read_table(source, bbox) if source.xy else _read_vectors(source, bbox)
    except InputError:
        raise
    except Exception as error:  # pyogrio, pyarrow and GDAL raise their own kinds
        raise InputError("cannot read the polygons", where=str(path), mend=str(error)) from error
    _require_columns(source, source.columns, frame.columns)
    return frame.set_crs(_declared(frame.crs, source), allow_override=True)


def _require_columns(source: PolygonSource, wanted: list[str], there: Any) -> None:
    for column in wanted:
        if column not in there:
            raise InputError(
                "the file has no such column",
                where=str(source.path),
                found=column,
                limit=", ".join(map(str, there)),
            )


def _read_vectors(source: PolygonSource, bbox: tuple[float, float, float, float] | None) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pyogrio

    if Path(source.path).suffix == ".parquet":
        frame = gpd.read_parquet(source.path)
        return frame if bbox is None else frame.cx[bbox[0] : bbox[2], bbox[1] : bbox[3]]
    if bbox is None:
        _require_columns(source, source.columns, pyogrio.read_info(source.path, layer=source.layer)["fields"])
    frame = pyogrio.read_dataframe(
        source.path,
        layer=source.layer,
        columns=source.columns,
        where=source.where,
        bbox=bbox,
        fid_as_index=True,
    )
    if not isinstance(frame, gpd.GeoDataFrame):
        raise InputError(
            "the file has no geometry", where=str(source.path), mend="a table needs xy: [longitude, latitude]"
        )
    return frame


def _read_table(source: PolygonSource, bbox: tuple[float, float, float, float] | None) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pandas as pd

    x, y = source.xy or ("", "")
    path = Path(source.path)
    table = (
        pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep=None, engine="python")
    )
    _require_columns(source, [x, y, *source.columns], table.columns)
    points = gpd.points_from_xy(table[x], table[y])
    frame = gpd.GeoDataFrame(table[source.columns], geometry=points, crs=source.crs or "EPSG:4326")
    return frame if bbox is None else frame.cx[bbox[0] : bbox[2], bbox[1] : bbox[3]]
