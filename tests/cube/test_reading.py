"""Bytes that a cube reads of the archive, against plain geometry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import shapely

from engine.archive.items import AssetRecord, ItemRecord
from engine.cube.reading import COMPRESSED, FILE_BLOCK_PX, Archive, bands_read
from engine.values.grid import Box, Grid
from engine.values.recipe import BestPixel
from engine.values.spec import CubeSpec
from tests.archive.samples import record

GRID = Grid("EPSG:32633", (10.0, 10.0))
SPEC = CubeSpec(bands=["red"], mask="none")
SIDE_M = 100_000
INSIDE = Box(-577_000, 45_000, -576_000, 46_000)


def scene(size_bytes: int | None, href: str = "https://none/red.tif") -> ItemRecord:
    """A scene of 100 x 100 km around `INSIDE`, drawn in degrees."""
    from pyproj import Transformer

    turn = Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    square = shapely.segmentize(shapely.box(400_000, 5_715_000, 500_000, 5_815_000), 5000)
    degrees = shapely.transform(square, lambda xy: turn_of(turn, xy))
    wkb = bytes(shapely.to_wkb(shapely.normalize(degrees), byte_order=1))
    return record("one", geometry_wkb=wkb, assets=(AssetRecord("red", href, None, size_bytes),))


def turn_of(turn: object, xy: object) -> object:
    import numpy as np

    return np.column_stack(turn.transform(*xy.T))  # type: ignore[attr-defined]


def test_a_box_within_a_scene_takes_its_share_of_the_file_in_whole_blocks() -> None:
    one = scene(200_000_000)
    found = Archive([one], SPEC, GRID).bytes_in([one], INSIDE)
    side = 1000 + FILE_BLOCK_PX
    assert found == pytest.approx(200e6 * (side * 10 / SIDE_M) ** 2, rel=0.01)


def test_pieces_read_the_blocks_between_them_again() -> None:
    one = scene(200_000_000)
    archive = Archive([one], SPEC, GRID)
    whole, cut = archive.bytes_in([one], INSIDE), archive.bytes_in([one], INSIDE, pieces=4)
    assert cut / whole == pytest.approx(((1000 + 4 * 512) / (1000 + 512)) ** 2)


def test_what_lies_beside_a_scene_takes_nothing() -> None:
    one = scene(200_000_000)
    archive = Archive([one], SPEC, GRID)
    assert archive.bytes_in([one], Box(-500_000, 45_000, -499_000, 46_000)) == 0
    assert archive.bytes_in([], INSIDE) == 0


def test_sizes_come_from_the_catalogue_else_the_file_else_the_pixels(tmp_path: Path) -> None:
    local = tmp_path / "red.tif"
    local.write_bytes(bytes(5000))
    told, at_hand, guessed = scene(200_000_000), scene(None, str(local)), scene(None)
    assert str(Archive([told], SPEC, GRID).sizes) == "1 by their catalogue"
    assert str(Archive([at_hand], SPEC, GRID).sizes) == "1 by the files"
    assert str(Archive([guessed], SPEC, GRID).sizes) == "1 by pixels"
    small = Archive([at_hand], SPEC, GRID).bytes_in([at_hand], INSIDE)
    assert small == pytest.approx(5000 * (1512 * 10 / SIDE_M) ** 2, rel=0.01)
    pixels = (SIDE_M / 10) ** 2 * 2 * COMPRESSED["reflectance"]
    found = Archive([guessed], SPEC, GRID).bytes_in([guessed], INSIDE)
    assert found == pytest.approx(pixels * (1512 * 10 / SIDE_M) ** 2, rel=0.02)


def test_a_size_decides_no_pixel() -> None:
    assert scene(1).digest() == scene(None).digest()
    assert scene(1) == scene(None)


def test_masks_sharpening_and_cloud_distances_read_more() -> None:
    assert bands_read(SPEC) == {"red": 1}
    assert bands_read(CubeSpec(bands=["red"])) == {"red": 1, "scl": 1}
    sharp = bands_read(CubeSpec(bands=["swir16"], sharpen="ratio", mask="none"))
    assert sharp == {"swir16": 1, "blue": 1, "green": 1, "red": 1, "nir": 1}
    best = bands_read(CubeSpec(bands=["red", "nir"], reducer=BestPixel()))
    assert best == {"red": 2, "nir": 1, "scl": 2}
    by_date = BestPixel(cloud_weight=0)
    assert bands_read(CubeSpec(bands=["red"], reducer=by_date)) == {"red": 1, "scl": 1}


def test_tables_keep_sizes_and_older_ones_have_none(tmp_path: Path) -> None:
    import datetime as dt

    import pyarrow as pa
    import pyarrow.parquet as pq

    from engine.archive.items import ItemTable

    table = ItemTable((scene(123),), (dt.date(2023, 5, 1), dt.date(2023, 5, 31)))
    table.to_parquet(tmp_path / "new.parquet")
    assert ItemTable.from_parquet(tmp_path / "new.parquet").items[0].assets[0].size_bytes == 123
    arrow = pq.read_table(tmp_path / "new.parquet")
    rows = [
        [{k: a[k] for k in ("band", "href", "nodata")} for a in assets]
        for assets in arrow["assets"].to_pylist()
    ]
    kind = pa.list_(pa.struct([("band", pa.string()), ("href", pa.string()), ("nodata", pa.float64())]))
    old = arrow.set_column(arrow.schema.get_field_index("assets"), "assets", pa.array(rows, kind))
    pq.write_table(old.replace_schema_metadata(arrow.schema.metadata), tmp_path / "old.parquet")
    found = ItemTable.from_parquet(tmp_path / "old.parquet").items[0]
    assert found.assets[0].size_bytes is None
    assert found == dataclasses.replace(table.items[0])
