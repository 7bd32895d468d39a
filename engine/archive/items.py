"""ItemTable: what the archive holds for a search, frozen and hashed.

A record keeps what decides a pixel (assets, CRS, processing baseline, claimed offsets) and what finds it
(footprint, time, tile). Hrefs are absolute and unsigned. Tables are stored as GeoParquet 1.1 and come back
exactly equal.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.archive.footprints import box_outline, cut_footprint, turned
from engine.values.errors import InputError
from engine.values.grid import normal_crs

TABLE_FORMAT = 2
"""Version of the GeoParquet layout of an `ItemTable`; 1 had neither `orbit_state` nor the probe's fields."""

_META_KEY = b"landweave:items"
_KNOWN_FORMATS = (1, TABLE_FORMAT)


BLANK_WKB = bytes.fromhex("010300000000000000")
"""Footprint of an item that shows nothing: ``POLYGON EMPTY``."""


@dataclass(frozen=True, order=True, slots=True)
class AssetRecord:
    """One band of an item: where its file is.

    Attributes:
        band: Name in landweave's vocabulary, e.g. ``nir``.
        href: Absolute, unsigned address.
        nodata: No-data value that the catalogue states, or None.
        size_bytes: Size of the file that the catalogue states, or None; decides no pixel.
    """

    band: str
    href: str
    nodata: float | None = None
    size_bytes: int | None = field(default=None, compare=False)


def _asset_fields(asset: AssetRecord) -> dict[str, Any]:
    """Return what of an asset decides a pixel."""
    return {"band": asset.band, "href": asset.href, "nodata": asset.nodata}


@dataclass(frozen=True)
class ItemRecord:
    """One scene: a tile of one acquisition.

    Attributes:
        id: Identifier within the collection.
        collection: Collection identifier, ``""`` when the item names none.
        provider: ``earth-search``, ``planetary-computer``, ``cdse``, ``sample`` or ``other``.
        datetime: Acquisition time, aware, UTC.
        geometry_wkb: Footprint, EPSG:4326, little-endian WKB, normalised.
        crs: CRS of the pixels as ``EPSG:n`` or WKT2, ``""`` when the catalogue states none.
        tile: MGRS tile such as ``33UUU``, ``""`` when unknown.
        datatake: Identifier of the acquisition without its processing baseline, ``""`` when unknown.
        platform: Lower case, e.g. ``sentinel-2a``.
        relative_orbit: Relative orbit, or None.
        baseline: Processing baseline such as ``05.09``, or None.
        cloud_cover: Percent, 0..100, or None.
        offset_applied: Whether the provider has already taken the radiometric offset off, or None.
        claimed_offset: Offset in DN that the catalogue claims, or None.
        assets: Bands, sorted by name.
        claimed_scale: Reflectance per DN that the catalogue claims, or None.
        datastrip: Start of sensing of the datastrip (radar: start and end of the slice), ``""`` when unknown.
        generated: When the product was generated, ``""`` when unknown.
        orbit_state: ``ascending`` or ``descending``, ``""`` when unknown.
        probed_offset: Offset in DN that the pixels show where they contradict the metadata and are trusted
            (`engine.archive.probe`), else None.
        probe: What the pixels said of the offset, ``""`` while nobody looked; no part of the digest.
    """

    id: str
    collection: str
    provider: str
    datetime: dt.datetime
    geometry_wkb: bytes
    crs: str
    tile: str
    datatake: str
    platform: str
    relative_orbit: int | None
    baseline: str | None
    cloud_cover: float | None
    offset_applied: bool | None
    claimed_offset: float | None
    assets: tuple[AssetRecord, ...]
    claimed_scale: float | None = None
    datastrip: str = ""
    generated: str = ""
    orbit_state: str = ""
    probed_offset: float | None = None
    probe: str = ""

    @property
    def geometry(self) -> Any:
        """The footprint as a shapely geometry, EPSG:4326."""
        import shapely

        return shapely.from_wkb(self.geometry_wkb)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands it has."""
        return tuple(a.band for a in self.assets)

    def asset(self, band: str) -> AssetRecord:
        """Return the asset of a band.

        Raises:
            InputError: If the item has no such band; names both.
        """
        for asset in self.assets:
            if asset.band == band:
                return asset
        raise InputError(
            "the item lacks a band",
            where=f"item {self.id}, band {band}",
            found=", ".join(self.bands) or "no bands",
            limit=band,
            mend="ask for other bands, or search another collection",
        )

    def canonical(self) -> str:
        """Return the canonical JSON of what decides a pixel; records that give the same pixels are equal."""
        fields = {name: getattr(self, name) for name in _DECIDING}
        fields["datetime"] = self.datetime.astimezone(dt.UTC).isoformat(timespec="microseconds")
        fields["geometry_wkb"] = self.geometry_wkb.hex()
        fields["assets"] = [_asset_fields(a) for a in self.assets]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()


_DECIDING = tuple(f.name for f in dataclasses.fields(ItemRecord) if f.name != "probe")


@dataclass(frozen=True)
class ItemTable:
    """The items of a search, sorted by (datetime, id).

    Attributes:
        items: The records.
        time_range: First and last day that was asked for, both inclusive.
        superseded: Ids that were found and dropped because a newer processing of the same acquisition is
            here; no part of the digest.
    """

    items: tuple[ItemRecord, ...]
    time_range: tuple[dt.date, dt.date]
    superseded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ordered = sorted(self.items, key=lambda i: (i.datetime, i.id, i.collection, i.provider))
        object.__setattr__(self, "items", tuple(ordered))
        object.__setattr__(self, "superseded", tuple(sorted(self.superseded)))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ItemRecord]:
        return iter(self.items)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __reduce__(self) -> tuple[Any, ...]:  # the search tree stays behind
        return type(self), (self.items, self.time_range, self.superseded)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("landweave.ItemTable", self.digest())

    def digest(self) -> str:
        """Return the sha256 over the canonical records and the time range."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        total = hashlib.sha256("/".join(d.isoformat() for d in self.time_range).encode())
        for item in self.items:
            total.update(item.digest().encode())
        return total.hexdigest()

    @functools.cached_property
    def _index(self) -> tuple[Any, list[Any]]:
        """Search tree of the different footprints, and for each the items that have it; made once a process."""
        import numpy as np
        import shapely

        having: dict[bytes, list[int]] = {}
        for number, item in enumerate(self.items):
            having.setdefault(item.geometry_wkb, []).append(number)
        shapes = [_valid(cut_footprint(shape)) for shape in shapely.from_wkb(list(having))]
        return shapely.STRtree(shapes), [np.array(numbers) for numbers in having.values()]

    def in_bounds(self, bounds_xyxy: tuple[float, float, float, float], crs: Any) -> ItemTable:
        """Keep the items whose footprint may touch a box.

        Footprints are simplified outlines with straight edges in degrees, so 2 km are added on each side:
        an item too many reads as no data, an item too few would be a hole.

        Args:
            bounds_xyxy: ``(left, bottom, right, top)`` in units of `crs`.
            crs: Anything that pyproj reads.
        """
        import numpy as np

        if not self.items:
            return self
        tree, having = self._index
        outlines = turned(box_outline(bounds_xyxy, normal_crs(crs)))
        hits = np.unique(tree.query(outlines, predicate="intersects")[1]).tolist()
        numbers = np.sort(np.concatenate([having[h] for h in hits])).tolist() if hits else []
        return self._part(tuple(map(self.items.__getitem__, numbers)))

    def _part(self, items: tuple[ItemRecord, ...]) -> ItemTable:
        """Return a table of some of the items, which are in order as they are."""
        part = object.__new__(ItemTable)
        part.__dict__.update(items=items, time_range=self.time_range, superseded=self.superseded)
        return part

    def without(self, ids: Collection[str]) -> ItemTable:
        """Return the table with some items blank: their dates stay, and nothing of them is ever read."""
        if not ids:
            return self
        blanked = (dataclasses.replace(i, geometry_wkb=BLANK_WKB) if i.id in ids else i for i in self.items)
        return dataclasses.replace(self, items=tuple(blanked))

    def in_time(self, start: dt.date, end_exclusive: dt.date) -> ItemTable:
        """Keep the items acquired on days ``start <= day < end_exclusive`` (UTC)."""
        kept = tuple(i for i in self.items if start <= i.datetime.date() < end_exclusive)
        return ItemTable(kept, (start, end_exclusive - dt.timedelta(days=1)), self.superseded)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as GeoParquet 1.1 (WKB, longitude and latitude)."""
        import pyarrow.parquet as pq

        pq.write_table(_to_arrow(self), str(path), compression="zstd")

    @classmethod
    def from_parquet(cls, path: str | Path) -> ItemTable:
        """Read what `to_parquet` wrote, exactly.

        Raises:
            InputError: If the file is missing or was not written by `to_parquet`.
        """
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(str(path))
        except (OSError, ValueError) as error:
            raise InputError("cannot read the item table", where=str(path), found=str(error)) from error
        meta = json.loads((table.schema.metadata or {}).get(_META_KEY, b"{}"))
        if meta.get("format") not in _KNOWN_FORMATS:
            raise InputError(
                "not an item table of this version",
                where=str(path),
                found=f"format {meta.get('format')}",
                limit=f"format {TABLE_FORMAT}",
                mend="pass other GeoParquet files to search(catalog=...)",
            )
        start, end = (dt.date.fromisoformat(d) for d in meta["time_range"])
        return cls(tuple(_from_arrow(table)), (start, end), tuple(meta["superseded"]))


def is_item_table(path: str | Path) -> bool:
    """Tell whether a parquet file was written by `ItemTable.to_parquet`."""
    import pyarrow.parquet as pq

    try:
        return _META_KEY in (pq.read_schema(str(path)).metadata or {})
    except (OSError, ValueError):
        return False


def drop_superseded(records: Iterable[ItemRecord]) -> tuple[list[ItemRecord], tuple[str, ...]]:
    """Keep the newest processing of each tile and datatake.

    Two datastrips of one datatake on one tile are different pixels: both stay. The newest is decided by
    baseline, then time of generation, then id, whatever the order of the input. Records without tile or
    datatake cannot be compared and stay.

    Returns:
        The records kept, in input order, and the ids dropped, sorted.
    """
    records = list(dict.fromkeys(records))
    best: dict[tuple[str, ...], ItemRecord] = {}
    for record in records:
        key = _acquisition(record)
        if key not in best or _version(record) > _version(best[key]):
            best[key] = record
    kept = [r for r in records if best[_acquisition(r)] is r]
    return kept, tuple(sorted(r.id for r in records if best[_acquisition(r)] is not r))


def _acquisition(record: ItemRecord) -> tuple[str, ...]:
    """Return what two processings of the same pixels have in common.

    Radar has no tiles: its slices are told apart by their start and end.
    """
    slice_of_radar = record.datastrip if record.platform.startswith("sentinel-1") else ""
    if record.datatake and (record.tile or slice_of_radar):
        return record.collection, record.tile, record.datatake, record.datastrip
    return record.collection, record.id


def _version(record: ItemRecord) -> tuple[tuple[int, ...], str, str, str]:
    """Return what grows with each new processing."""
    baseline = tuple(int(p) for p in record.baseline.split(".")) if record.baseline else ()
    return baseline, record.generated, record.id, record.digest()


def _valid(shape: Any) -> Any:
    import shapely

    return shape if shape.is_valid else shapely.make_valid(shape)


def _to_arrow(table: ItemTable) -> Any:
    """Lay a table out as GeoParquet 1.1: https://geoparquet.org/releases/v1.1.0/."""
    import pyarrow as pa
    import shapely

    asset = pa.struct(
        [("band", pa.string()), ("href", pa.string()), ("nodata", pa.float64()), ("size_bytes", pa.int64())]
    )
    kinds = {
        "datetime": pa.timestamp("us", tz="UTC"),
        "geometry": pa.binary(),
        "relative_orbit": pa.int32(),
        "cloud_cover": pa.float64(),
        "offset_applied": pa.bool_(),
        "claimed_offset": pa.float64(),
        "claimed_scale": pa.float64(),
        "probed_offset": pa.float64(),
        "assets": pa.list_(asset),
    }
    names = [_column(f.name) for f in dataclasses.fields(ItemRecord)]
    fields = [f.name for f in dataclasses.fields(ItemRecord) if f.name != "assets"]
    rows = [
        {_column(k): getattr(item, k) for k in fields}
        | {"assets": [_asset_fields(a) | {"size_bytes": a.size_bytes} for a in item.assets]}
        for item in table.items
    ]
    shapes = [item.geometry for item in table.items]
    column = {"encoding": "WKB", "geometry_types": sorted({s.geom_type for s in shapes})}
    if shapes:
        column["bbox"] = [float(v) for v in shapely.total_bounds(shapes)]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    ours = {
        "format": TABLE_FORMAT,
        "time_range": [d.isoformat() for d in table.time_range],
        "superseded": list(table.superseded),
    }
    schema = pa.schema(
        [(n, kinds.get(n, pa.string())) for n in names],
        metadata={b"geo": json.dumps(geo).encode(), _META_KEY: json.dumps(ours).encode()},
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _column(field: str) -> str:
    return "geometry" if field == "geometry_wkb" else field


def _from_arrow(table: Any) -> Iterator[ItemRecord]:
    """Rebuild the records of a table, column by column: rows as dictionaries are slow."""
    names = [f.name for f in dataclasses.fields(ItemRecord) if _column(f.name) in table.column_names]
    columns = {name: table.column(_column(name)).to_pylist() for name in names if name != "assets"}
    columns["datetime"] = [moment.astimezone(dt.UTC) for moment in columns["datetime"]]
    columns["assets"] = _assets_from_arrow(table.column("assets").combine_chunks())
    for values in zip(*(columns[name] for name in names), strict=True):
        yield ItemRecord(**dict(zip(names, values, strict=True)))


def _assets_from_arrow(lists: Any) -> list[tuple[AssetRecord, ...]]:
    """Rebuild each record's assets; names of bands are shared, there are few of them."""
    flat = lists.flatten()
    bands, hrefs, nodata = (flat.field(name).to_pylist() for name in ("band", "href", "nodata"))
    told = any(flat.type.field(i).name == "size_bytes" for i in range(flat.type.num_fields))
    sizes = flat.field("size_bytes").to_pylist() if told else [None] * len(bands)  # older tables have none
    rows = zip(bands, hrefs, nodata, sizes, strict=True)
    records = [AssetRecord(sys.intern(b), h, n, s) for b, h, n, s in rows]
    ends = list(itertools.accumulate(lists.value_lengths().to_pylist()))
    return [tuple(records[a:b]) for a, b in itertools.pairwise([0, *ends])]
