"""Area: the outline of what is mapped, by name, from a file or from a box.

Longitudes and latitudes are EPSG:4326 in (longitude, latitude) order. An area with parts on both sides of
the antimeridian is held as a multipolygon cut at ±180 degrees, as RFC 7946 section 3.1.9 asks::

        parts as stored                  the same parts, unrolled (0..360)
     -180      0       180                    0       180      360
      ├█──────────────█─┤         ──►         ├────────█│█───────┤

Everything that measures a width or picks a CRS looks at the unrolled parts, so such an area is no
special case for its callers; only `bounds` then spans the whole globe.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.values.errors import InputError
from engine.values.grid import normal_crs
from engine.values.national import national_crs

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_EDGE_DEG = 0.02  # edges are cut this fine before a transform: a 2 km chord of a parallel is off by < 0.1 m
_EDGE_M = 2000.0
_UTM_BEYOND_DEG = 1.0
_SMALL_FILE = "naturalearth_lowres"
_COUNTRY_COLUMNS = ("admin", "sovereignt", "adm0_a3", "iso_a2", "iso_a3", "country", "name_0")
_NAME_COLUMNS = ("name", "name_long", "name_en", "name_1", "name_0", "formal_en", "brk_name", "nam")


@dataclass(frozen=True)
class Area:
    """A named outline.

    Attributes:
        name: What it is called in logs and reports; no part of the digest.
        geometry: Valid shapely Polygon or MultiPolygon, EPSG:4326, (longitude, latitude), without z.
        country: ISO 3166-1 alpha-3 code of the country that it is (a part of), ``""`` when unknown; it
            chooses the default CRS and is no part of the digest.
    """

    name: str
    geometry: Any
    country: str = ""

    def __post_init__(self) -> None:
        import shapely

        polygons = _snap_to_globe(_polygons(self.geometry))
        if shapely.is_empty(polygons):
            raise InputError("the area has no surface", where=self.name, mend="give polygons")
        west, south, east, north = shapely.bounds(polygons)
        if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
            raise InputError(
                "the area leaves the globe",
                where=self.name,
                found=(float(west), float(south), float(east), float(north)),
                limit="longitude -180..180, latitude -90..90",
                mend="check the CRS of the outline and the order of its axes",
            )
        object.__setattr__(self, "geometry", polygons)

    @classmethod
    def from_name(cls, name: str, file: str | Path | None = None) -> Area:
        """Find a country, or a state or province in a vector file, by its name or code.

        Without `file` the countries of Natural Earth 1:110m are searched (public domain; shipped inside
        the pyogrio package). Case and accents do not matter. ``"Bayern, Germany"`` asks for a province
        of a country.

        Args:
            name: Name, ISO code or ``"province, country"``.
            file: A vector file with a column `name`, and one of `admin`, `adm0_a3`, `iso_a2` for the country.

        Raises:
            InputError: If nothing or more than one place has that name; suggests close names.
        """
        frame = _read_frame(Path(file) if file else _countries_file(), None, None)
        found = _match(name, frame, file)
        return cls(name, found.geometry.union_all(), _country_of(found))

    @classmethod
    def from_file(cls, path: str | Path, layer: str | None = None, where: str | None = None) -> Area:
        """Read the union of all features of any vector file, in any CRS.

        Args:
            path: GeoPackage, GeoJSON, Shapefile or whatever GDAL reads.
            layer: Layer name; None takes the first.
            where: Attribute filter in SQL, e.g. ``"NAME = 'Slovenia'"``.

        Raises:
            InputError: If the file cannot be read, has no CRS, or holds no polygon.
        """
        frame = _read_frame(Path(path), layer, where)
        return cls(Path(path).stem, frame.geometry.union_all())

    @classmethod
    def from_bbox(cls, bbox: tuple[float, float, float, float], name: str = "bbox") -> Area:
        """Make an area of ``(west, south, east, north)`` in degrees.

        West greater than east means a box across the antimeridian: it is held as two parts.

        >>> Area.from_bbox((5.7, 49.4, 6.5, 50.2)).bounds
        (5.7, 49.4, 6.5, 50.2)

        Raises:
            InputError: If the numbers are no box on the globe.
        """
        import shapely

        try:
            west, south, east, north = (float(v) for v in bbox)
        except (TypeError, ValueError) as error:
            raise InputError("a box needs four numbers", where="bbox", found=bbox) from error
        on_globe = -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90
        if not on_globe or west == east:
            raise InputError(
                "not a box of longitudes and latitudes",
                where="bbox",
                found=bbox,
                limit="west, south, east, north in degrees, -180..180 and -90..90, south below north",
                mend="check the order; west > east crosses the antimeridian",
            )
        if west < east:
            return cls(name, shapely.box(west, south, east, north))
        sides = [(west, 180.0), (-180.0, east)]
        parts = [shapely.box(a, south, b, north) for a, b in sides if a < b]
        return cls(name, shapely.union_all(parts))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(west, south, east, north)`` in degrees; -180 and 180 for an area across the antimeridian."""
        west, south, east, north = (float(v) for v in self.geometry.bounds)
        return west, south, east, north

    @property
    def crosses_antimeridian(self) -> bool:
        """Whether the area is narrower when its western half is moved 360 degrees east."""
        west, _, east, _ = self.bounds
        unrolled = _unroll(self.geometry).bounds
        return bool(unrolled[2] - unrolled[0] < east - west)

    def to_crs(self, crs: Any) -> BaseGeometry:
        """Return the outline in another CRS, its edges cut finely first so that they bend rightly.

        Args:
            crs: Anything that pyproj reads.

        Returns:
            A valid shapely Polygon or MultiPolygon in the units of `crs`, (x, y) order.

        Raises:
            InputError: If the outline has no finite coordinates there.
        """
        import shapely

        fine = shapely.segmentize(self.geometry, _EDGE_DEG)
        moved = _transform(fine, "EPSG:4326", normal_crs(crs))
        if not all(map(math.isfinite, moved.bounds)):
            raise InputError("the area cannot be shown in this CRS", where=self.name, found=crs)
        if self.crosses_antimeridian:  # the cut at 180 degrees is no real edge: close it
            moved = shapely.union_all(shapely.get_parts(moved), grid_size=0.001)
        return _polygons(moved)

    def default_crs(self) -> str:
        """Choose the CRS of the area's grid.

        The WGS 84 UTM zone of the middle when the area reaches at most 1 degree beyond that zone: then
        most pixels of the archive need no warp. Else, for an area found by name, the CRS in which its
        country maps itself (`engine.values.national`); else EPSG:3035 inside Europe's extent of that CRS
        (EPSG registry); else a Lambert azimuthal equal area CRS centred on whole degrees, as WKT2.

        >>> Area.from_bbox((14.0, 45.5, 16.0, 46.5)).default_crs()
        'EPSG:32633'
        >>> Area.from_bbox((9.5, 46.4, 17.1, 49.0)).default_crs()
        'EPSG:3035'
        """
        import shapely
        from pyproj import CRS

        shape = _unroll(self.geometry) if self.crosses_antimeridian else self.geometry
        west, south, east, north = shape.bounds
        zone = int(((west + east) / 2 + 180) // 6) % 60 + 1
        middle = zone * 6 - 183.0
        middle += 360.0 if self.crosses_antimeridian and middle < 0 else 0.0
        reach = 3.0 + _UTM_BEYOND_DEG
        if middle - reach <= west and east <= middle + reach and south >= -80 and north <= 84:
            return f"EPSG:{(32600 if (south + north) / 2 >= 0 else 32700) + zone}"
        if national := national_crs(self.country, (west, south, east, north)):
            return national
        europe = CRS.from_epsg(3035).area_of_use
        if europe and shapely.box(*europe.bounds).covers(shape):
            return "EPSG:3035"
        lat, lon = round(shape.centroid.y), (round(shape.centroid.x) + 180) % 360 - 180
        return normal_crs(
            f"+proj=laea +lat_0={lat} +lon_0={lon} +x_0=0 +y_0=0 +datum=WGS84 +units=m +type=crs"
        )

    def padded(self, pad_m: float) -> Area:
        """Return the area grown by a distance in metres, for halos; 0 returns the area itself.

        Raises:
            InputError: If the distance is negative.
        """
        if pad_m < 0:
            raise InputError("padding must not be negative", where="pad_m", found=f"{pad_m} m")
        if not pad_m:
            return self
        crs = self.default_crs()
        grown = self.to_crs(crs).buffer(pad_m, quad_segs=4)
        return Area(self.name, to_lonlat(grown, crs))

    def digest(self) -> str:
        """Return the sha256 of the outline (normalised little-endian WKB); the name does not count."""
        import shapely

        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.geometry), byte_order=1)).hexdigest()

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return ("landweave.Area", self.name, self.digest())


def _countries_file() -> Path:
    """Find Natural Earth's countries inside the pyogrio package."""
    import pyogrio

    folder = Path(pyogrio.__file__).parent
    for path in sorted(folder.rglob(f"{_SMALL_FILE}.shp")):
        return path
    raise InputError(
        "this build of pyogrio ships no outlines of countries",
        where="Area.from_name",
        mend="use Area.from_file(outline) or Area.from_name(name, file=countries)",
    )


def _read_frame(path: Path, layer: str | None, where: str | None) -> Any:
    """Read a vector file as a GeoDataFrame in EPSG:4326 with valid polygons."""
    import pyogrio

    if not path.exists():
        raise InputError("no such file", where=str(path), mend="check the path of the outline")
    try:
        frame = pyogrio.read_dataframe(path, layer=layer, where=where)
    except Exception as error:  # GDAL raises many kinds: a wrong layer, a wrong filter, no vector file
        raise InputError("cannot read the outline", where=str(path), found=str(error)) from error
    if not hasattr(frame, "geometry") or frame.empty:
        raise InputError("no feature with a geometry", where=str(path), found=f"layer={layer} where={where}")
    if frame.crs is None:
        raise InputError("the outline has no CRS", where=str(path), mend="add it, e.g. with ogr2ogr -a_srs")
    crs = normal_crs(frame.crs)
    shapes = [_polygons(g) for g in frame.geometry if g is not None]
    frame = frame[frame.geometry.notna()]
    if crs not in ("EPSG:4326", "OGC:CRS84"):
        shapes = [to_lonlat(g, crs) for g in shapes]
    if all(g.is_empty for g in shapes):
        raise InputError("the file holds no polygon", where=str(path), mend="an area needs a surface")
    return frame.set_geometry(shapes, crs="EPSG:4326")


def _match(name: str, frame: Any, file: str | Path | None) -> Any:
    """Return the rows that a name means; exactly one place may match."""
    columns = {c.lower(): c for c in frame.columns}
    place, _, country = (part.strip() for part in name.partition(","))
    if country and not any(c in columns and c != "iso_a3" for c in _COUNTRY_COLUMNS):
        raise InputError(
            "states and provinces need a file of their own",
            where="Area.from_name",
            found=name,
            mend="pass file= with columns name and admin, or use Area.from_file",
        )
    rows = frame[_says(frame, columns, _COUNTRY_COLUMNS, country)] if country else frame
    found = rows[_says(rows, columns, _NAME_COLUMNS, place)]
    if found.empty:  # not a name: perhaps a code, or the country of its provinces
        found = rows[_says(rows, columns, _COUNTRY_COLUMNS, place)]
    elif len(found) > 1:
        _refuse_ambiguous(name, found, columns)
    if found.empty:
        raise InputError(
            "no place of that name",
            where=str(file or "Natural Earth countries, 1:110m"),
            found=name,
            limit="close names: " + _close_names(place, rows if len(rows) else frame, columns),
            mend="use one of the close names, or Area.from_file",
        )
    return found


def _country_of(found: Any) -> str:
    """Return the one alpha-3 code that all rows share, else ``""``."""
    columns = {c.lower(): c for c in found.columns}
    for name in ("adm0_a3", "iso_a3", "iso3", "sov_a3"):
        codes = {str(v).upper() for v in found[columns[name]]} if name in columns else set()
        if len(codes) == 1 and re.fullmatch("[A-Z]{3}", code := codes.pop()):
            return code
    names = {_plain(v) for c in _NAME_COLUMNS if c in columns for v in found[columns[c]]}
    return next((code for name, code in _NO_CODE.items() if name in names), "")


_NO_CODE = {"france": "FRA", "norway": "NOR"}
"""Countries that Natural Earth gives the code -99."""


def _says(frame: Any, columns: dict[str, str], wanted: tuple[str, ...], text: str) -> Any:
    """Return a boolean row mask: any of the wanted columns holds the text, whatever its case and accents."""
    import numpy as np

    hit = np.zeros(len(frame), dtype=bool)
    for column in (columns[w] for w in wanted if w in columns):
        hit |= np.array([_plain(v) == _plain(text) for v in frame[column]], dtype=bool)
    return hit


def _refuse_ambiguous(name: str, found: Any, columns: dict[str, str]) -> None:
    """Raise when equal names lie in different countries; parts of one country are one place."""
    country = next((columns[c] for c in _COUNTRY_COLUMNS if c in columns), None)
    owners = sorted({str(v) for v in found[country]}) if country else []
    if len(owners) > 1:
        choices = ", ".join(f"'{name}, {owner}'" for owner in owners)
        raise InputError("the name is ambiguous", where="Area.from_name", found=name, limit=choices)


def _close_names(text: str, frame: Any, columns: dict[str, str]) -> str:
    """List up to five names that look like the one that was asked for."""
    present = [columns[c] for c in _NAME_COLUMNS if c in columns]
    names = {_plain(v): str(v) for c in present for v in frame[c] if isinstance(v, str)}
    close = difflib.get_close_matches(_plain(text), names, n=5, cutoff=0.5)
    return ", ".join(names[c] for c in close) or f"none of {len(names)}"


def _plain(value: Any) -> str:
    """Write a name without case and accents.

    >>> _plain("Niederösterreich")
    'niederosterreich'
    """
    text = unicodedata.normalize("NFKD", str(value)).casefold()
    return "".join(c for c in text if not unicodedata.combining(c)).strip()


def _polygons(geometry: Any) -> Any:
    """Repair a geometry and keep its surfaces only, flat."""
    import shapely

    flat = shapely.force_2d(geometry)
    if not shapely.is_valid(flat):
        flat = shapely.make_valid(flat)
    if flat.geom_type in ("Polygon", "MultiPolygon"):
        return flat
    parts = [p for p in _leaves(flat) if p.geom_type == "Polygon"]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def _snap_to_globe(geometry: Any) -> Any:
    """Put vertices that rounding noise carried beyond ±180 or ±90 degrees back on the edge."""
    import numpy as np
    import shapely

    edge = np.array([180.0, 90.0])

    def snap(xy: Any) -> Any:
        return np.where((np.abs(xy) > edge) & (np.abs(xy) < edge + 1e-6), np.sign(xy) * edge, xy)

    return shapely.transform(geometry, snap)


def _leaves(geometry: Any) -> list[Any]:
    """Split nested collections into simple geometries."""
    import shapely

    parts = list(shapely.get_parts(geometry))
    nested = [p for p in parts if hasattr(p, "geoms")]
    return [p for p in parts if p not in nested] + [leaf for p in nested for leaf in _leaves(p)]


@functools.lru_cache(maxsize=32)
def _transformer(source: str, target: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def _transform(geometry: Any, source: str, target: str) -> Any:
    """Move the vertices of a geometry from one CRS to another."""
    import numpy as np
    import shapely

    def move(xy: Any) -> Any:
        return np.column_stack(_transformer(source, target).transform(xy[:, 0], xy[:, 1]))

    return shapely.transform(geometry, move)


def to_lonlat(geometry: Any, crs: str) -> Any:
    """Move polygons to EPSG:4326, their edges cut finely first, and cut them at the antimeridian.

    Args:
        geometry: Shapely polygons in (x, y) order.
        crs: Their CRS, anything that pyproj reads.
    """
    import shapely
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    step = _EDGE_DEG if parsed.is_geographic else _EDGE_M / parsed.axis_info[0].unit_conversion_factor
    lonlat = _transform(shapely.segmentize(geometry, step), crs, "EPSG:4326")
    moved = [_cut(_unwrap(part)) for part in shapely.get_parts(lonlat)]
    return _polygons(shapely.union_all([_polygons(m) for m in moved]))


def _unwrap(polygon: Any) -> Any:
    """Undo jumps of 360 degrees between neighbouring vertices of one polygon."""
    import numpy as np
    import shapely

    start = shapely.get_coordinates(polygon)[:1, 0]

    def near(xy: Any) -> Any:
        return np.column_stack([xy[:, 0] - 360 * np.round((xy[:, 0] - start) / 360), xy[:, 1]])

    return shapely.transform(polygon, near)


def _cut(polygon: Any) -> Any:
    """Cut what lies beyond ±180 degrees and move it to the other side."""
    import shapely

    west, _, east, _ = polygon.bounds
    if west >= -180 and east <= 180:
        return polygon
    whole = _polygons(polygon)
    bands = [(shift, shapely.box(-180 - shift, -90, 180 - shift, 90)) for shift in (-360, 0, 360)]
    parts = [_shift(shapely.intersection(whole, band), shift) for shift, band in bands]
    return shapely.union_all([_polygons(p) for p in parts if not p.is_empty])


def _shift(geometry: Any, degrees: float) -> Any:
    """Move a geometry in longitude."""
    import numpy as np
    import shapely

    return shapely.transform(geometry, lambda xy: xy + np.array([degrees, 0.0])) if degrees else geometry


def _unroll(geometry: Any) -> Any:
    """Move the parts that lie west of Greenwich 360 degrees to the east."""
    import shapely

    parts = [_shift(p, 360.0 if p.bounds[2] <= 0 else 0.0) for p in shapely.get_parts(geometry)]
    return shapely.MultiPolygon(parts) if len(parts) > 1 else parts[0]
