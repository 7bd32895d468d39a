"""Do the files of a Sentinel-2 tile agree with its item and with one another?

All bands of a tile show one square of the ground in one CRS. A file that says otherwise was cut off, mixed up
or described wrongly, and nobody can tell which; its scene is left out rather than laid to the wrong place.
Items of other sources may hold files of any extent, and are not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from engine.archive.items import ItemRecord
from engine.archive.warp import Raster, same_crs
from engine.values.errors import DataError

Bounds = tuple[float, float, float, float]


def require_consistent(item: ItemRecord, rasters: Mapping[str, Raster]) -> None:
    """Check the headers of some bands of an item.

    Args:
        item: The scene; only one with an MGRS tile is judged.
        rasters: Band to what its file's header says.

    Raises:
        DataError: Naming the band whose file lies in another CRS than the item says, or shows another square
            than the other bands, by more than a pixel.
    """
    if not item.tile:
        return
    for band, raster in rasters.items():
        if item.crs and not same_crs(raster.crs, item.crs):
            raise _odd(item, band, "lies in another CRS than its item says", raster.crs[:60], item.crs)
    squares = {band: bounds_of(r) for band, r in rasters.items() if r.north_up}
    usual = Counter(squares.values()).most_common(1)[0][0] if squares else None
    for band, square in squares.items():
        pixel = max(max(r.transform[0], -r.transform[4]) for r in rasters.values())
        if usual is not None and max(abs(a - b) for a, b in zip(square, usual, strict=True)) > pixel:
            raise _odd(item, band, "shows another square than the other bands", square, usual)


def bounds_of(raster: Raster) -> Bounds:
    """Return left, bottom, right, top of a north-up file in its CRS.

    >>> bounds_of(Raster("EPSG:32633", (10.0, 0.0, 300000.0, 0.0, -10.0, 5900040.0), (4, 2), "uint16", 0))
    (300000.0, 5900000.0, 300020.0, 5900040.0)
    """
    a, _, left, _, e, top = raster.transform
    height, width = raster.shape_yx
    return left, top + e * height, left + a * width, top


def _odd(item: ItemRecord, band: str, what: str, found: object, limit: object) -> DataError:
    error = DataError(
        f"a file {what}",
        where=f"item {item.id}, band {band}, {item.asset(band).href}",
        found=found,
        limit=limit,
        mend="get the scene again, or mend its catalogue entry; without it the map has one date less",
    )
    return error.about(item.id, band)
