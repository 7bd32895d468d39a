"""What every reader must do, as classes that each reader's tests inherit.

`ReaderConformance` holds for any reader, a fake one too; `FileReaderConformance` for those that read files.
Truth never comes from our own code: it is rasterio's windows, rasterio's warp of the same fixed block, or
numpy on coordinates that pyproj transformed.
"""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import Resampling as RioResampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject, transform_bounds

from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.reader import Reader
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling
from tests.archive.samples import record

HOWS: tuple[Resampling, ...] = ("nearest", "bilinear", "cubic")
UTM = "EPSG:32633"
LAEA = "EPSG:3035"
WEST, NORTH = 300000, 5900040  # the corner of tile 33UUU
OVERVIEWS = (2, 4, 8)


@dataclass(frozen=True)
class Shot:
    """A scene, three of its bands, and a box in the midst of its pixels."""

    item: ItemRecord
    bands: tuple[str, str, str]
    grid: Grid
    box: Box
    missing: str = "rededge3"


class ReaderConformance:
    """Holds for any reader. An heir gives the fixtures `reader` and `shot`."""

    def test_shape_dtype_and_no_data(self, reader: Reader, shot: Shot) -> None:
        dn = reader.read(shot.item, shot.bands, shot.grid, shot.box)
        numbers = reader.read_float(shot.item, shot.bands, shot.grid, shot.box)
        assert dn.shape == numbers.shape == (3, *shot.box.shape_yx)
        assert (dn.dtype, numbers.dtype) == (np.uint16, np.float32)
        assert dn.any()
        assert np.array_equal(numbers, np.where(dn == 0, np.nan, dn), equal_nan=True)

    @pytest.mark.parametrize("how", HOWS)
    def test_no_box_moves_a_pixel(self, reader: Reader, shot: Shot, how: Resampling) -> None:
        whole = reader.read(shot.item, shot.bands, shot.grid, shot.box, how)
        numbers = reader.read_float(shot.item, shot.bands, shot.grid, shot.box, how)
        for size, shift in ((512, 0), (128, 0), (100, 37)):
            moved = shot.box.pad(shift, 0)
            for part in moved.blocks(size):
                inner = part & shot.box
                cut = np.s_[:, *inner.slices_in(part)], np.s_[:, *inner.slices_in(shot.box)]
                got = reader.read(shot.item, shot.bands, shot.grid, part, how)
                assert np.array_equal(got[cut[0]], whole[cut[1]])
            got = reader.read_float(shot.item, shot.bands, shot.grid, moved, how)
            inner_yx = shot.box.slices_in(moved)
            assert np.array_equal(got[:, *inner_yx], numbers, equal_nan=True)

    def test_bands_come_in_the_order_asked_for(self, reader: Reader, shot: Shot) -> None:
        single = {b: reader.read(shot.item, [b], shot.grid, shot.box)[0] for b in shot.bands}
        for order in itertools.permutations(shot.bands):
            got = reader.read(shot.item, order, shot.grid, shot.box)
            assert all(np.array_equal(plane, single[b]) for plane, b in zip(got, order, strict=True))

    def test_an_empty_box_and_no_bands(self, reader: Reader, shot: Shot) -> None:
        y0, x0, _, x1 = shot.box.y0, shot.box.x0, shot.box.y1, shot.box.x1
        assert reader.read(shot.item, shot.bands, shot.grid, Box(y0, x0, y0, x1)).shape == (3, 0, x1 - x0)
        assert reader.read(shot.item, [], shot.grid, shot.box).shape == (0, *shot.box.shape_yx)

    def test_a_missing_band_is_an_input_error(self, reader: Reader, shot: Shot) -> None:
        for read in (reader.read, reader.read_float):
            with pytest.raises(InputError, match=f"item {shot.item.id}.*{shot.missing}"):
                read(shot.item, [shot.bands[0], shot.missing], shot.grid, shot.box)

    def test_it_pickles_and_threads_read_the_same(self, reader: Reader, shot: Shot) -> None:
        copy = pickle.loads(pickle.dumps(reader))
        assert copy == reader
        whole = reader.read(shot.item, shot.bands, shot.grid, shot.box)
        with ThreadPoolExecutor(4) as pool:
            reads = pool.map(lambda _: copy.read(shot.item, shot.bands, shot.grid, shot.box), range(8))
            assert all(np.array_equal(got, whole) for got in reads)


def ground(shape_yx: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Make uint16 ground: fields with edges, noise within, and a corner without data."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(300, 6000, (shape_yx[0] // 13 + 1, shape_yx[1] // 13 + 1))
    values = np.kron(fields, np.ones((13, 13), int))[: shape_yx[0], : shape_yx[1]]
    values = (values + rng.integers(0, 300, shape_yx)).astype(np.uint16)
    values[np.add.outer(np.arange(shape_yx[0]), np.arange(shape_yx[1])) < 40] = 0
    return values


@dataclass(frozen=True)
class Place:
    """Where the pixels of a made file lie."""

    pixel_m: float = 10.0
    west: float = WEST
    north: float = NORTH
    crs: str = UTM

    @property
    def transform(self) -> Affine:
        return Affine(self.pixel_m, 0, self.west, 0, -self.pixel_m, self.north)


def make_cog(path: Path, values: np.ndarray, place: Place = Place(), nodata: float | None = 0) -> str:
    """Write a COG whose overviews hold another image: whoever reads them is found out."""
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(
        plain, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, tiled=True,
        blockxsize=128, blockysize=128, dtype=values.dtype, crs=place.crs, transform=place.transform,
        nodata=nodata,
    ) as file:  # fmt: skip
        file.write(np.full_like(values, 7), 1)
        file.build_overviews(OVERVIEWS, RioResampling.nearest)
        file.write(values, 1)
    rasterio.shutil.copy(
        plain, path, driver="COG", compress="DEFLATE", blocksize=128, overviews="FORCE_USE_EXISTING"
    )
    plain.unlink()
    with rasterio.open(path) as file:
        assert file.overviews(1) == list(OVERVIEWS)
        assert np.array_equal(file.read(1), values)
        assert (file.read(1, out_shape=(file.height // 2, file.width // 2)) == 7).all()
    return str(path)


def made_item(**hrefs: str) -> ItemRecord:
    """Return an item of one file a band."""
    return record("made", assets=tuple(AssetRecord(b, h) for b, h in sorted(hrefs.items())))


def block_over(path: str, grid: Grid) -> Box:
    """Return the fixed block that holds the middle of a file."""
    with rasterio.open(path) as file:
        left, bottom, right, top = transform_bounds(file.crs, grid.crs, *file.bounds)
    x, y = (left + right) / 2, (bottom + top) / 2
    return grid.box_of_bounds((x, y, x, y)).pad(1).snap_out(512) & _first_block(grid, x, y)


def _first_block(grid: Grid, x: float, y: float) -> Box:
    y0, x0 = (
        edge // 512 * 512
        for edge in (grid.box_of_bounds((x, y, x, y)).y0, grid.box_of_bounds((x, y, x, y)).x0)
    )
    return Box(y0, x0, y0 + 512, x0 + 512)


def warp_of(path: str, grid: Grid, block: Box, how: str, nodata: float = 0) -> np.ndarray:
    """Warp a file onto a block by plain rasterio."""
    with rasterio.open(path) as file:
        out = np.full(block.shape_yx, nodata, file.dtypes[0])
        reproject(
            rasterio.band(file, 1), out, src_nodata=nodata, dst_nodata=nodata, dst_crs=grid.crs,
            dst_transform=Affine(*grid.transform_of(block)), resampling=RioResampling[how],
        )  # fmt: skip
    return out


def vrt_of(path: str, grid: Grid, block: Box, how: str) -> np.ndarray:
    """Warp a file onto a block by rasterio's WarpedVRT."""
    options = {
        "crs": grid.crs, "transform": Affine(*grid.transform_of(block)), "height": 512, "width": 512,
        "resampling": RioResampling[how], "src_nodata": 0, "nodata": 0,
    }  # fmt: skip
    with rasterio.open(path) as file, WarpedVRT(file, **options) as vrt:
        return np.asarray(vrt.read(1))
