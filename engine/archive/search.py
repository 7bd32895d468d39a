"""Search: which items of a catalogue show an area in a season.

A STAC API, a static catalogue, a folder of items and a GeoParquet file all give the same `ItemTable` for
the same items: sources only deliver, the filters here decide.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.catalogs import Query, extent_of, items_of
from engine.archive.items import ItemRecord, ItemTable, drop_superseded, is_item_table
from engine.archive.stac import item_record
from engine.values.area import Area
from engine.values.errors import InputError

Day = dt.date | dt.datetime | str


@dataclass(frozen=True)
class _Counts:
    """What was seen on the way, for the error message of an empty search."""

    records: tuple[ItemRecord, ...]
    in_area: tuple[ItemRecord, ...]
    in_both: tuple[ItemRecord, ...]


@dataclass(frozen=True)
class _Passes:
    """Relative orbits and direction that are wanted; empty takes all."""

    relative: frozenset[int] = frozenset()
    state: str = ""

    @classmethod
    def read(cls, orbits: Sequence[int | str] | str | None) -> _Passes:
        several = () if orbits is None else (orbits,) if isinstance(orbits, str) else tuple(orbits)
        states = {str(o) for o in several if isinstance(o, str)}
        if len(states) > 1 or states - {"ascending", "descending"}:
            raise InputError(
                "cannot read the orbits",
                where="orbits",
                found=orbits,
                limit="numbers, ascending or descending",
            )
        return cls(frozenset(int(o) for o in several if not isinstance(o, str)), next(iter(states), ""))

    def hold(self, record: ItemRecord) -> bool:
        """Tell whether a record is of these passes."""
        on_orbit = not self.relative or record.relative_orbit in self.relative
        return on_orbit and self.state in ("", record.orbit_state)


def search(
    area: Area,
    time: str | tuple[Day, Day],
    catalog: str | Path = "earth-search",
    collection: str | None = None,
    max_cloud: float | None = None,
    pad_m: float = 0.0,
    orbits: Sequence[int | str] | str | None = None,
) -> ItemTable:
    """Find the items that show an area in a time range.

    An item belongs when its footprint touches the area and its time lies in the range. Of several
    processings of one acquisition the newest stays; clouds are looked at after that, so that a stricter
    limit never brings an older processing back.

    Args:
        area: What is to be mapped.
        time: ``"2023"``, ``"2023-05"``, ``"2023-03/2023-10"``, ``"2023-05-03/2023-06-10"``: first to last
            day, both inclusive, UTC; or a pair of dates.
        catalog: ``earth-search``, ``planetary-computer``, ``cdse``, the URL of a STAC API or of a static
            catalogue, or the path of a ``catalog.json``, an item file, a folder, or a GeoParquet file.
        collection: Collection id; None takes the provider's Sentinel-2 L2A, or all that a file holds, but
            for radar beside it.
        max_cloud: Highest cloud cover in percent; items that do not tell theirs stay.
        pad_m: The area grows by this many metres first, for halos.
        orbits: Only these relative orbits, or only ``ascending`` or ``descending`` passes, or both in one
            list; items that do not tell theirs are left out.

    Raises:
        InputError: If nothing is found (says what was searched and what there would be), if the time
            cannot be read, or if items of several collections would be mixed.
        RetryableError: If a service does not answer.
    """
    start, end = parse_time(time)
    wanted, passes = area.padded(pad_m), _Passes.read(orbits)
    source = str(catalog)
    query = Query(wanted, f"{start}T00:00:00Z", f"{end + dt.timedelta(days=1)}T00:00:00Z", collection)
    counts = _filter(_records(source, query), query, (start, end))
    kept, superseded = drop_superseded(counts.in_both)
    kept = [r for r in kept if passes.hold(r)]
    if counts.in_both and not kept:
        raise _other_passes(source, counts.in_both, passes)
    clear = [r for r in kept if max_cloud is None or r.cloud_cover is None or r.cloud_cover <= max_cloud]
    if not clear:
        raise _nothing(source, query, (start, end), counts, max_cloud)
    _refuse_mixture(source, clear)
    return ItemTable(tuple(clear), (start, end), superseded)


def parse_time(time: str | tuple[Day, Day]) -> tuple[dt.date, dt.date]:
    """Read a time range as its first and last day, both inclusive.

    >>> parse_time("2023-03/2023-10")
    (datetime.date(2023, 3, 1), datetime.date(2023, 10, 31))
    >>> parse_time("2024-02")
    (datetime.date(2024, 2, 1), datetime.date(2024, 2, 29))

    Raises:
        InputError: If it cannot be read or ends before it starts.
    """
    parts: list[Any] = time.split("/") if isinstance(time, str) else list(time)
    if len(parts) not in (1, 2):
        raise _bad_time(time)
    start, end = _day(parts[0], 0, time), _day(parts[-1], 1, time)
    if end < start:
        raise InputError("the time range is empty", where="time", found=time, mend="swap start and end")
    return start, end


def _day(value: Day, last: int, time: Any) -> dt.date:
    """Return the first (0) or last (1) day of a year, month or day."""
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    found = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?(?:T.*)?", str(value).strip())
    if not found:
        raise _bad_time(time)
    year, month, day = (int(g) if g else None for g in found.groups())
    assert year is not None
    month = month or (12 if last else 1)
    try:
        return dt.date(year, month, day or (calendar.monthrange(year, month)[1] if last else 1))
    except (ValueError, calendar.IllegalMonthError) as error:
        raise _bad_time(time) from error


def _bad_time(time: Any) -> InputError:
    return InputError(
        "cannot read the time range",
        where="time",
        found=time,
        limit="YYYY, YYYY-MM or YYYY-MM-DD, one or two with a slash",
        mend="e.g. 2023-03/2023-10",
    )


def _records(source: str, query: Query) -> Iterable[ItemRecord]:
    """Read the records of a source; our own tables need no translation."""
    if source.endswith(".parquet") and Path(source).is_file() and is_item_table(source):
        return ItemTable.from_parquet(source)
    return (item_record(item, base) for item, base in items_of(source, query))


def _filter(records: Iterable[ItemRecord], query: Query, days: tuple[dt.date, dt.date]) -> _Counts:
    """Keep what touches the area and lies in the time range; remember the rest for the error message."""
    import shapely

    everything = tuple(r for r in records if query.collection in (None, r.collection))
    if query.collection is None:
        everything = tuple(r for r in everything if not _is_radar(r)) or everything
    shapely.prepare(query.area.geometry)
    in_area = tuple(r for r in everything if _touches(r, query.area))
    in_both = tuple(r for r in in_area if days[0] <= r.datetime.date() <= days[1])
    return _Counts(everything, in_area, in_both)


def _touches(record: ItemRecord, area: Area) -> bool:
    """Tell whether the footprint touches the area; both are cut at the antimeridian."""
    import shapely

    footprint = record.geometry
    if not footprint.is_valid:
        footprint = shapely.make_valid(footprint)
    return bool(area.geometry.intersects(footprint))


def _is_radar(record: ItemRecord) -> bool:
    return record.platform.startswith("sentinel-1")


def _refuse_mixture(source: str, records: list[ItemRecord]) -> None:
    """Refuse items of several collections: reflectances of different processing levels do not mix."""
    names = sorted({r.collection for r in records})
    if len(names) > 1:
        raise InputError(
            "the catalogue holds items of several collections here",
            where=source,
            found=", ".join(n or "(none)" for n in names),
            mend="choose one with collection=",
        )


def _other_passes(source: str, records: tuple[ItemRecord, ...], passes: _Passes) -> InputError:
    there = sorted({f"{r.relative_orbit or '?'} {r.orbit_state}".strip() for r in records})
    asked = [*map(str, sorted(passes.relative)), *filter(None, [passes.state])]
    return InputError(
        "no items of these orbits",
        where=source,
        found=", ".join(there),
        limit=", ".join(asked),
        mend="orbits",
    )


def _nothing(
    source: str, query: Query, days: tuple[dt.date, dt.date], counts: _Counts, max_cloud: float | None
) -> InputError:
    """Say what was searched, what came close, and why it did not count."""
    searched = f"{days[0]}/{days[1]}, bounds {tuple(round(b, 3) for b in query.area.bounds)}"
    searched += f", collection {query.collection}" if query.collection else ""
    if counts.in_both:
        lowest = min((r.cloud_cover for r in counts.in_both if r.cloud_cover is not None), default=100.0)
        found = f"{len(counts.in_both)} items, the clearest with {lowest:.1f}% cloud"
        return InputError("all items are too cloudy", where=source, found=found, limit=f"{max_cloud}%")
    if counts.in_area:
        times = sorted(r.datetime.date() for r in counts.in_area)
        near = min(times, key=lambda d: min(abs(d - days[0]), abs(d - days[1])))
        found = f"{len(times)} items there from {times[0]} to {times[-1]}, the nearest on {near}"
    elif counts.records:
        import shapely

        box = shapely.total_bounds([r.geometry for r in counts.records]).round(3).tolist()
        found = f"{len(counts.records)} items elsewhere, within {tuple(box)}"
    else:
        found = extent_of(source, query.collection) or "no items"
    return InputError(
        "no items found", where=source, found=found, limit=searched, mend="check area, time and collection"
    )
