"""A reader without files: every value follows from the scene's id and the global pixel."""

from __future__ import annotations

import datetime as dt
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.values.grid import Box, Grid

GRID = Grid.make("EPSG:32633", 10)
BANDS = ("red", "nir")
READS: Counter[str] = Counter()


@dataclass(frozen=True)
class FakeReader:
    """(band, y, x) uint16 from a hash; a slanted strip of each scene is no data; SCL has clouds in blobs."""

    name: str = "fake"
    log: dict[str, int] = field(default_factory=dict, compare=False)

    def read(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: str = "nearest"
    ) -> NDArray[np.uint16]:
        READS.update(f"{item.id} {band}" for band in bands[:1])
        for band in bands:
            item.asset(band)
        y, x = grid.centres(box)
        seed = zlib.crc32(item.id.encode())
        out = [self._scl(seed, y, x) if b == "scl" else self._band(seed, b, y, x) for b in bands]
        return np.array(out, np.uint16).reshape(len(bands), *box.shape_yx)

    def read_float(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: str = "nearest"
    ) -> NDArray[np.float32]:
        dn = self.read(item, bands, grid, box, resampling)
        return np.where(dn == 0, np.nan, dn).astype(np.float32)

    def _band(
        self, seed: int, band: str, y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> NDArray[np.uint16]:
        row, col = np.floor(y / 10).astype(np.int64)[:, None], np.floor(x / 10).astype(np.int64)[None]
        mixed = (row * 2654435761 ^ col * 40503 ^ seed * 97 ^ zlib.crc32(band.encode())) & 0xFFFFFFFF
        values = (mixed * 2246822519 >> 7) % 9000 + 1000
        gone = (row + col * 2 + seed) % 611 < 90
        return np.where(gone, 0, values).astype(np.uint16)

    def _scl(self, seed: int, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.uint16]:
        row, col = np.floor(y / 20).astype(np.int64)[:, None], np.floor(x / 20).astype(np.int64)[None]
        cloud = ((row // 7 * 31 + col // 5 * 17 + seed) % 13) < 3
        return np.where(cloud, 9, 4).astype(np.uint16)


def scene(
    name: str, day: dt.date, datatake: str, *, shrink_m: float = 0.0, baseline: str = "03.01"
) -> ItemRecord:
    """A scene over 500000..520000 E, 5280000..5300000 N, optionally with too small a footprint."""
    square = shapely.box(500_000, 5_280_000, 520_000, 5_300_000).buffer(-shrink_m)
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    outline = shapely.transform(square, lambda p: np.column_stack(to_degrees.transform(*p.T)))
    return ItemRecord(
        id=name,
        collection="test",
        provider="other",
        datetime=dt.datetime(day.year, day.month, day.day, 10, tzinfo=dt.UTC),
        geometry_wkb=shapely.to_wkb(outline),
        crs="EPSG:32633",
        tile="33XAA",
        datatake=datatake,
        platform="sentinel-2a",
        relative_orbit=22,
        baseline=baseline,
        cloud_cover=10.0,
        offset_applied=None,
        claimed_offset=None,
        assets=tuple(AssetRecord(b, f"fake://{name}/{b}", 0) for b in (*BANDS, "scl")),
    )


def season() -> ItemTable:
    """Two months: four overpasses in March (one of two scenes), none in April, two in May."""
    days = [(3, 3), (3, 8), (3, 8), (3, 20), (3, 29), (5, 2), (5, 30)]
    scenes = [
        scene(f"s{i}", dt.date(2023, *d), f"take-{d[0]}-{d[1]}", shrink_m=4000.0 if i == 4 else 0.0)
        for i, d in enumerate(days)
    ]
    return ItemTable(tuple(scenes), (dt.date(2023, 3, 1), dt.date(2023, 5, 31)))
