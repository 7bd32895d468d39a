"""What a cube is made of, decided once: time steps, the scenes of each, and which scene may touch a pixel.

Nothing here depends on how the cube is cut. Whether a scene takes part is decided per fixed block of
`BLOCK_PX` pixels of the grid, by its footprint, never per chunk: a footprint that does not quite hold
its pixels moves nothing when the chunks change.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import BLANK_WKB, ItemRecord, ItemTable
from engine.cube.maskers import ready_masks
from engine.cube.sharpen import require_sharpenable
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.periods import Calendar, Span
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.archive.reader import Reader

BLOCK_PX = 512
"""Side of the fixed grid blocks on which footprints are decided."""

_FOOTPRINT_SLACK_M = 1000.0  # footprints are drawn with few corners; straight in degrees is not in metres


@dataclass(frozen=True)
class Step:
    """One time step.

    Attributes:
        start: First day.
        end: Day after the last.
        groups: One group per datatake, in order of time; a group's scenes overlap and are one observation,
            the first scene (by id) with a clear pixel gives it.
    """

    start: dt.date
    end: dt.date
    groups: tuple[tuple[ItemRecord, ...], ...]


@dataclass(frozen=True)
class Region:
    """One region of a crop calendar, with time steps of its own.

    Attributes:
        name: Its name.
        outline_wkb: Outline in the grid's CRS.
        steps: As many steps as the cube has.
    """

    name: str
    outline_wkb: bytes
    steps: tuple[Step, ...]

    @property
    def outline(self) -> Any:
        """The outline as a prepared shapely geometry."""
        return _prepared(self.outline_wkb)


@dataclass(frozen=True)
class CubePlan:
    """All that a block of the cube needs: where, what, from which scenes, through which reader.

    Attributes:
        grid: Where pixels lie.
        spec: What a pixel is.
        steps: The time steps; with regions, their spans over all regions, without scenes.
        reader: How pixels are read.
        regions: The regions of a crop calendar, None without one.
    """

    grid: Grid
    spec: CubeSpec
    steps: tuple[Step, ...]
    reader: Reader
    regions: tuple[Region, ...] | None = None

    def digest(self) -> str:
        """Return the sha256 of everything that decides a pixel."""
        parts = [repr(self.grid), self.spec.digest(), type(self.reader).__qualname__]
        if getattr(self.reader, "overviews", False):
            parts.append("overviews")
        regions = self.regions or ()
        parts.extend(f"{r.name} {hashlib.sha256(r.outline_wkb).hexdigest()}" for r in regions)
        for step in itertools.chain(self.steps, *(r.steps for r in regions)):
            parts.append(f"{step.start}/{step.end}")
            parts.extend(item.digest() for group in step.groups for item in group)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("landweave.CubePlan", self.digest())


def plan_cube(items: ItemTable, spec: CubeSpec, grid: Grid, reader: Reader | None = None) -> CubePlan:
    """Decide the time steps of a cube.

    Args:
        items: The scenes; ``items.time_range`` is the cube's season.
        spec: Bands, period, reducer, mask. A missing season is filled in from the time range.
        grid: Where pixels lie.
        reader: How pixels are read; default odc-stac.

    Raises:
        InputError: If no scene is left, or scenes lack what a mask reads.
    """
    if not len(items):
        raise InputError("no scenes", where="items", mend="widen the area, the dates or the cloud limit")
    require_sharpenable(spec, grid, items.items)
    first, last = items.time_range
    season = f"{first:%m-%d}/{last:%m-%d}"
    masks = ready_masks(spec.mask, items, grid.crs)
    spec = spec.model_copy(update={"season": season, "mask": masks})
    if reader is None:
        from engine.archive.reader import OdcReader

        reader = OdcReader()
    groups = _by_datatake(items)
    if spec.period is None:
        days = [(g[0].datetime.date(), g) for g in groups]
        return CubePlan(grid, spec, tuple(Step(d, d + dt.timedelta(1), (g,)) for d, g in days), reader)
    spans = spec.period_bounds(first, last)
    if not isinstance(spec.period, Calendar):
        return CubePlan(grid, spec, _steps(spans, groups), reader)
    outlines = region_outlines(spec.period, grid.crs)
    sha256 = hashlib.sha256(b"".join(n.encode() + o for n, o in outlines.items())).hexdigest()
    period = spec.period.model_copy(update={"sha256": sha256})
    own = spec.period.spans_by_region(first, last)
    regions = tuple(Region(name, outlines[name], _steps(own[name], groups)) for name in own)
    spec = spec.model_copy(update={"period": period})
    return CubePlan(grid, spec, _steps(spans, []), reader, regions)


def _steps(spans: list[Span], groups: list[tuple[ItemRecord, ...]]) -> tuple[Step, ...]:
    """Give each time step the overpasses of its days."""
    return tuple(Step(a, b, tuple(g for g in groups if a <= g[0].datetime.date() < b)) for a, b in spans)


def region_outlines(calendar: Calendar, crs: str) -> dict[str, bytes]:
    """Read the outlines of a calendar's regions, as normalised WKB in a CRS.

    Raises:
        InputError: If the file cannot be read, lacks the column or one of the regions.
    """
    import geopandas
    import shapely

    try:
        table = geopandas.read_file(calendar.file).to_crs(crs)
    except Exception as error:  # pyogrio's errors have no common root that is public
        raise InputError(
            "cannot read the calendar's regions", where=calendar.file, found=str(error)
        ) from error
    if calendar.column not in table:
        columns = ", ".join(c for c in table.columns if c != "geometry")
        raise InputError(
            "no such column",
            where=calendar.file,
            found=columns,
            limit=calendar.column,
            mend="cube.period.column",
        )
    outlines = {}
    for name, _ in calendar.regions:
        shapes = table.geometry[table[calendar.column].astype(str) == name]
        if not len(shapes):
            known = ", ".join(sorted(table[calendar.column].astype(str))[:20])
            raise InputError(
                "no such region in the calendar's file", where=calendar.file, found=known, limit=name
            )
        outlines[name] = bytes(shapely.to_wkb(shapely.normalize(shapes.union_all())))
    return outlines


@lru_cache(maxsize=256)
def _prepared(outline_wkb: bytes) -> Any:
    from shapely import prepare, wkb

    outline = wkb.loads(outline_wkb)
    prepare(outline)
    return outline


def _by_datatake(items: ItemTable) -> list[tuple[ItemRecord, ...]]:
    """Group scenes that one overpass took; groups by time, scenes of a group by id."""
    ordered = sorted(items, key=lambda i: (_overpass(i), i.id))
    groups = [tuple(g) for _, g in itertools.groupby(ordered, key=_overpass)]
    return sorted(groups, key=lambda g: (min(i.datetime for i in g), _overpass(g[0])))


def _overpass(item: ItemRecord) -> str:
    return item.datatake or f"{item.platform} {item.datetime:%Y-%m-%d} {item.relative_orbit}"


def frame_of(area: Area | None, items: ItemTable, spec: CubeSpec, grid: Grid | None) -> tuple[Grid, Box]:
    """Choose the grid (the area's default CRS, whole multiples of the resolution) and the area's box."""
    from shapely import union_all

    if area is None:
        if grid is None:
            codes = sorted(i.crs for i in items)
            grid = Grid.make(max(codes, key=codes.count), spec.resolution_m)
        area = Area("scenes", union_all([i.geometry for i in items]))
    if grid is None:
        grid = Grid.make(area.default_crs(), spec.resolution_m)
    return grid, grid.box_of_bounds(area.to_crs(grid.crs).bounds)


def touches(item: ItemRecord, grid: Grid, box: Box) -> NDArray[np.bool_] | bool:
    """Tell which pixels of a box a scene may reach.

    Returns:
        True (all), False (none), or a (y, x) bool mask made of whole fixed blocks.
    """
    if item.geometry_wkb == BLANK_WKB:
        return False
    footprint = _footprint(item.geometry_wkb, grid.crs)
    blocks = list(box.blocks(BLOCK_PX))
    inside = [_meets(footprint, grid, b.snap_out(BLOCK_PX)) for b in blocks]
    if all(inside):
        return True
    if not any(inside):
        return False
    mask = np.zeros(box.shape_yx, np.bool_)
    for block, yes in zip(blocks, inside, strict=True):
        mask[block.slices_in(box)] = yes
    return mask


def _meets(footprint: Any, grid: Grid, block: Box) -> bool:
    from shapely import box as rectangle

    return bool(footprint.intersects(rectangle(*grid.bounds_of_box(block))))


@lru_cache(maxsize=20_000)
def _footprint(geometry_wkb: bytes, crs: str) -> Any:
    """Project a footprint, generously: densified and widened by a kilometre."""
    from shapely import prepare, segmentize, transform, wkb

    points = _transformer(crs)
    outline = segmentize(wkb.loads(geometry_wkb), 0.05)
    projected = transform(outline, lambda lonlat: np.column_stack(points.transform(*lonlat.T)))
    widened = projected.buffer(_FOOTPRINT_SLACK_M)
    prepare(widened)
    return widened


@lru_cache(maxsize=16)
def _transformer(crs: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)
