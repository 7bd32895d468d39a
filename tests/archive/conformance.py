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
from pyproj import CRS, Transformer
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import UTMConversion
from rasterio.enums import Resampling as RioResampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject, transform_bounds

from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.reader import Reader
from engine.values.bands import BANDS
from engine.values.errors import DataError, InputError
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
        assert np.array_equal(file.read(1), values, equal_nan=values.dtype.kind == "f")
        assert (file.read(1, out_shape=(file.height // 2, file.width // 2)) == 7).all()
    return str(path)


def made_item(**hrefs: str) -> ItemRecord:
    """Return an item of one file a band."""
    return record("made", tile="", assets=tuple(AssetRecord(b, h) for b, h in sorted(hrefs.items())))


def block_over(path: str, grid: Grid) -> Box:
    """Return the fixed block that holds the middle of a file."""
    with rasterio.open(path) as file:
        left, bottom, right, top = transform_bounds(file.crs, grid.crs, *file.bounds)
    x, y = (left + right) / 2, (bottom + top) / 2
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    row, col = int((ay - y) // (512 * res_y)) * 512, int((x - ax) // (512 * res_x)) * 512
    return Box(row, col, row + 512, col + 512)


def warp_of(path: str, grid: Grid, block: Box, how: str, ratio: float = 1.0) -> np.ndarray:
    """Warp a file onto a block by plain rasterio; 0 = no data.

    GDAL guesses from the shape of windows how much coarser the grid is, another guess for each window; here
    it is told.
    """
    scale = {"XSCALE": 1 / max(1.0, ratio), "YSCALE": 1 / max(1.0, ratio)}
    with rasterio.open(path) as file:
        out = np.zeros(block.shape_yx, file.dtypes[0])
        reproject(
            rasterio.band(file, 1), out, src_nodata=0, dst_nodata=0, dst_crs=grid.crs,
            dst_transform=Affine(*grid.transform_of(block)), resampling=RioResampling[how], **scale,
        )  # fmt: skip
    return out


def vrt_of(path: str, grid: Grid, block: Box, how: str, ratio: float = 1.0) -> np.ndarray:
    """Warp a file onto a block by rasterio's WarpedVRT, as `warp_of`."""
    options = {
        "crs": grid.crs, "transform": Affine(*grid.transform_of(block)), "height": 512, "width": 512,
        "resampling": RioResampling[how], "src_nodata": 0, "nodata": 0, "tolerance": 0.001,
        "XSCALE": 1 / max(1.0, ratio), "YSCALE": 1 / max(1.0, ratio),
    }  # fmt: skip
    with rasterio.open(path) as file, WarpedVRT(file, **options) as vrt:
        return np.asarray(vrt.read(1))


def positions_in(path: str, grid: Grid, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Transform each pixel centre by pyproj: where it lies in a file, in rows and columns."""
    y, x = grid.centres(box)
    with rasterio.open(path) as file:
        to_file = Transformer.from_crs(grid.crs, file.crs, always_xy=True)
        col, row = ~file.transform * np.asarray(to_file.transform(*np.meshgrid(x, y)))
    return row, col


def at_positions(values: np.ndarray, row: np.ndarray, col: np.ndarray, order: int) -> np.ndarray:
    """Interpolate by scipy, at positions well within the image: 0 nearest, 1 linear."""
    from scipy.ndimage import map_coordinates

    if order == 0:
        return values[np.floor(row).astype(int), np.floor(col).astype(int)]
    return map_coordinates(values.astype(float), [row - 0.5, col - 0.5], order=1, mode="nearest")


def letter() -> np.ndarray:
    """Draw an L of 3000 on 1000, two pixels wide: rows 100..139 of columns 200, 201; its foot to column 219."""
    values = np.full((400, 400), 1000, np.uint16)
    values[100:140, 200:202] = 3000
    values[138:140, 200:220] = 3000
    return values


def scenes_of(folder: Path) -> ItemRecord:
    """Return the real scene 33UUU with its 13 bands."""
    names = {b.name: f"T33UUU_20170216T102101_{b.msi}.jp2" for b in BANDS if b.name != "scl"}
    return record("scene", assets=tuple(sorted(AssetRecord(b, str(folder / f)) for b, f in names.items())))


class FileReaderConformance(ReaderConformance):
    """Holds for any reader of files. An heir gives the fixture `reader`."""

    @pytest.fixture(scope="class")
    @classmethod
    def shot(cls, tmp_path_factory: pytest.TempPathFactory) -> Shot:
        folder = tmp_path_factory.mktemp("cogs")
        item = made_item(
            red=make_cog(folder / "red.tif", ground((700, 600), 1)),
            nir=make_cog(folder / "nir.tif", ground((700, 600), 2)),
            swir16=make_cog(folder / "swir16.tif", ground((350, 300), 3), Place(20.0)),
        )
        grid = Grid.make(LAEA, 10)
        corner = block_over(item.asset("red").href, grid)
        return Shot(
            item, ("red", "swir16", "nir"), grid, Box(corner.y0, corner.x0, corner.y1, corner.x1).pad(60)
        )

    def test_whole_pixels_in_the_same_crs(self, reader: Reader, tmp_path: Path) -> None:
        fine, coarse = ground((300, 260), 4), ground((150, 130), 5)
        item = made_item(
            red=make_cog(tmp_path / "a.tif", fine), swir16=make_cog(tmp_path / "b.tif", coarse, Place(20.0))
        )
        grid = Grid.make(UTM, 10)
        image = Box(-590004, 30000, -590004 + 300, 30000 + 260)
        truth = np.zeros((2, 340, 300), np.uint16)
        truth[:, 20:320, 20:280] = fine, coarse.repeat(2, 0).repeat(2, 1)
        around = image.pad(20)
        assert np.array_equal(reader.read(item, ["red", "swir16"], grid, around), truth)
        for part in (image.pad(-7), Box(image.y0 - 9, image.x0 + 3, image.y0 + 2, image.x0 + 50)):
            got = reader.read(item, ["red", "swir16"], grid, part)
            assert np.array_equal(got, truth[:, *part.slices_in(around)])
        far = Box(image.y0, image.x1 + 5000, image.y0 + 10, image.x1 + 5020)
        assert not reader.read(item, ["red", "swir16"], grid, far).any()
        assert np.isnan(reader.read_float(item, ["red", "swir16"], grid, far)).all()

    @pytest.mark.parametrize("pixel_m", [9.9, 10.0, 19.9, 20.0, 20.1, 39.9, 40.0, 40.1, 79.9, 80.0, 80.1])
    def test_no_overview_leaks_into_a_map(self, reader: Reader, tmp_path: Path, pixel_m: float) -> None:
        path = make_cog(tmp_path / "a.tif", ground((700, 900)))
        grid, ratio = Grid.make(UTM, pixel_m), max(1.0, pixel_m / 10)
        block = block_over(path, grid)
        row, col = positions_in(path, grid, block)
        within = np.minimum.reduce([row, col, 700 - row, 900 - col]) > 2 * ratio
        within &= row + col > 40 + 4 * ratio
        assert within.mean() > 0.02
        for how in HOWS:
            got = reader.read(made_item(red=path), ["red"], grid, block, how)[0]
            for truth in (warp_of(path, grid, block, how, ratio), vrt_of(path, grid, block, how, ratio)):
                assert np.array_equal(got == 0, truth == 0)
                worst = np.abs(got.astype(int) - truth)[within].max()
                assert worst <= (0 if how == "nearest" else 1)  # halves, in float32 or float64

    @pytest.mark.parametrize("crs", [LAEA, "EPSG:32632", "EPSG:4326"])
    def test_another_crs_is_exact_at_each_centre(self, reader: Reader, tmp_path: Path, crs: str) -> None:
        values = ground((640, 640))
        path = make_cog(tmp_path / "a.tif", values)
        grid = Grid.make(crs, 1.3e-4 if crs == "EPSG:4326" else 10)
        box = block_over(path, grid).pad(40)
        row, col = positions_in(path, grid, box)
        within = np.minimum.reduce([row, col, 640 - row, 640 - col]) > 1
        got = reader.read(made_item(red=path), ["red"], grid, box)[0]
        truth = at_positions(values, row[within], col[within], 0)
        edge = np.minimum(abs(row - np.round(row)), abs(col - np.round(col)))[within] < 2e-6
        assert within.mean() > 0.2
        assert np.array_equal(got[within][~edge], truth[~edge])
        assert not got[(row < 0) | (col < 0) | (row >= 640) | (col >= 640)].any()
        if crs == "EPSG:4326":
            return  # its pixels are not square on the ground: kernels widen
        got = reader.read(made_item(red=path), ["red"], grid, box, "bilinear")[0]
        inner = within & (row + col > 44)
        truth = at_positions(values, row[inner], col[inner], 1)
        assert np.abs(got[inner] - truth).max() <= 0.51

    @pytest.mark.parametrize("crs", [LAEA, "EPSG:32632"])
    @pytest.mark.parametrize("how", HOWS)
    @pytest.mark.parametrize("pixel_m", [10.0, 20.0])
    def test_another_crs_is_rasterios_warp_of_its_block(
        self, reader: Reader, tmp_path: Path, crs: str, how: Resampling, pixel_m: float
    ) -> None:
        path = make_cog(tmp_path / "a.tif", ground((640, 640)))
        grid = Grid.make(crs, pixel_m)
        block = block_over(path, grid)
        got = reader.read(made_item(red=path), ["red"], grid, block, how)[0]
        row, col = positions_in(path, grid, block)
        within = (np.minimum.reduce([row, col, 640 - row, 640 - col]) > 5) & (row + col > 60)
        for truth, tolerance_px in (
            (vrt_of(path, grid, block, how, pixel_m / 10), 0.002),
            (warp_of(path, grid, block, how, pixel_m / 10), 0.126),  # GDAL's default: an eighth of a pixel
        ):
            apart = np.abs(got.astype(int) - truth)[within]
            if how == "nearest":
                edge = np.minimum(abs(row - np.round(row)), abs(col - np.round(col)))[within] < tolerance_px
                assert not apart[~edge].any()
            else:
                assert apart.max() <= 1 + 2 * 6300 * tolerance_px
                assert np.median(apart) <= 1 + tolerance_px * 20

    @pytest.mark.parametrize("how", HOWS)
    def test_the_letter_lands_on_its_pixels(self, reader: Reader, tmp_path: Path, how: Resampling) -> None:
        item = made_item(red=make_cog(tmp_path / "l.tif", letter()))
        image = Box(-590004, 30000, -590004 + 400, 30000 + 400)
        got = reader.read(item, ["red"], Grid.make(UTM, 10), image, how)[0]
        assert np.array_equal(got, letter())  # coinciding pixels, whatever the resampling
        fine = Box(*(2 * edge for edge in (image.y0, image.x0, image.y1, image.x1)))
        got = reader.read(item, ["red"], Grid.make(UTM, 5), fine, how)[0]
        drawn = letter().repeat(2, 0).repeat(2, 1)
        sharp = np.where(got > 2000, 3000, 1000)
        assert np.array_equal(sharp, drawn)  # no half pixel to either side
        if how == "bilinear":  # a quarter of a pixel off the centres: exact quarters of the step
            assert got[220, 398:406].tolist() == [1000, 1500, 2500, 3000, 3000, 2500, 1500, 1000]
        shifted = Grid(UTM, (10.0, 10.0), (5.0, 0.0))  # half a pixel to the east
        got = reader.read(item, ["red"], shifted, image, how)[0]
        expected = {"nearest": [1000, 1000, 3000, 3000], "bilinear": [1000, 2000, 3000, 2000]}
        if how in expected:  # the middle of 199 and 200 lies on the edge: nearest takes the right one
            assert got[110, 198:202].tolist() == (
                [1000, 3000, 3000, 1000] if how == "nearest" else expected[how]
            )

    @pytest.mark.parametrize("how", HOWS)
    def test_the_letter_lands_in_another_crs(self, reader: Reader, tmp_path: Path, how: Resampling) -> None:
        path = make_cog(tmp_path / "l.tif", letter())
        grid = Grid.make(LAEA, 10)
        box = block_over(path, grid)
        row, col = positions_in(path, grid, box)
        within = np.minimum.reduce([row, col, 400 - row, 400 - col]) > 2
        got = reader.read(made_item(red=path), ["red"], grid, box, how)[0]
        truth = at_positions(letter(), row[within], col[within], 0)
        assert (truth == 3000).sum() > 80
        if how == "nearest":
            assert np.array_equal(got[within], truth)
            return
        if how == "bilinear":
            assert np.abs(got[within] - at_positions(letter(), row[within], col[within], 1)).max() <= 0.51
        drawn = letter().astype(float) - 1000
        mass = np.where(within, got.astype(float) - 1000, 0)
        middles = np.mgrid[:400, :400] + 0.5
        for axis, position in zip(middles, (row, col), strict=True):  # its centre of mass, to 1/20 of a pixel
            assert abs((mass * position).sum() / mass.sum() - (drawn * axis).sum() / drawn.sum()) < 0.05

    def test_a_valid_value_is_never_no_data(self, reader: Reader, tmp_path: Path) -> None:
        values = np.tile(np.array([[1, 9000], [9000, 1]], np.uint16), (40, 40)).repeat(3, 0).repeat(3, 1)
        lowest = values.copy()
        lowest[lowest == 1] = 0
        item = made_item(
            red=make_cog(tmp_path / "a.tif", values),
            nir=make_cog(tmp_path / "b.tif", lowest, nodata=65535),  # 0 is a value in that file
        )
        grid = Grid.make(UTM, 7)
        box = grid.box_of_bounds((WEST + 20, NORTH - 1900, WEST + 1900, NORTH - 20))
        for how in HOWS:
            assert reader.read(item, ["red", "nir"], grid, box, how).all()
        cubic = reader.read(item, ["red", "nir"], grid, box, "cubic")  # undershoots, and is held at 1
        assert cubic.min() == 1
        assert cubic.max() > 9000
        assert np.nanmin(reader.read_float(item, ["nir"], grid, box)) == 0

    def test_floats_keep_their_values(self, reader: Reader, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        values = rng.gamma(2, 0.05, (200, 200)).astype(np.float32)
        holes = rng.random((200, 200)) < 0.01
        for nodata, hole in ((-32768.0, -32768.0), (None, np.nan)):
            path = make_cog(
                tmp_path / f"{nodata}.tif", np.where(holes, hole, values).astype(np.float32), nodata=nodata
            )
            item = made_item(red=path)
            image = Box(-590004, 30000, -590004 + 200, 30000 + 200)
            got = reader.read_float(item, ["red"], Grid.make(UTM, 10), image.pad(3))[0]
            assert np.array_equal(got[3:-3, 3:-3], np.where(holes, np.nan, values), equal_nan=True)
            assert np.isnan(got[:3]).all()
            grid = Grid.make(LAEA, 10)
            box = block_over(path, grid)
            row, col = positions_in(path, grid, box)
            got = reader.read_float(item, ["red"], grid, box, "bilinear")[0]
            assert np.nanmin(got) >= 0
            assert np.nanmax(got) <= values.max()
            inside = (row > 0) & (col > 0) & (row < 200) & (col < 200)
            assert np.array_equal(np.isfinite(got), inside & ~at_positions(holes, row % 200, col % 200, 0))
            with pytest.raises(DataError, match="no integers"):
                reader.read(item, ["red"], grid, box)

    def test_real_jpeg_2000_bands(self, reader: Reader, real_data: Path) -> None:
        item = scenes_of(real_data / "s2_l1c_33UUU")
        grid = Grid.make(UTM, 10)
        part = Box(-582204 - 5, 33000 - 5, -582204 + 120, 33000 + 333)
        got = reader.read(item, ["coastal", "B05", "red"], grid, part)
        for plane, band in zip(got, ("coastal", "rededge1", "red"), strict=True):
            with rasterio.open(item.asset(band).href) as file:
                k = int(file.res[0]) // 10
                truth = file.read(1).repeat(k, 0).repeat(k, 1)[:120, :333]
            assert np.array_equal(plane[5:, 5:], truth)
            assert not plane[:5].any()
        laea = Grid.make(LAEA, 20)
        box = block_over(item.asset("rededge1").href, laea)
        row, col = positions_in(item.asset("rededge1").href, laea, box)
        with rasterio.open(item.asset("rededge1").href) as file:
            values = file.read(1)
        within = np.minimum.reduce([row, col, 384 - row, 768 - col]) > 1
        got = reader.read(item, ["rededge1"], laea, box)[0]
        assert np.array_equal(got[within], at_positions(values, row[within], col[within], 0))

    def test_a_real_projection_without_a_code(self, reader: Reader, real_data: Path) -> None:
        path = str(sorted((real_data / "cbers4_bahia").glob("*NDVI.tif"))[0])
        with rasterio.open(path) as file:
            own, image = Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)
            values = file.read(1)
        got = reader.read_float(made_item(red=path), ["red"], own, image.pad(2))[0]
        assert np.array_equal(got[2:-2, 2:-2], values)
        with pytest.raises(InputError, match="ballpark"):  # nobody says how its datum lies to WGS 84
            reader.read_float(made_item(red=path), ["red"], Grid.make("EPSG:32723", 64), image)
        same_datum = ProjectedCRS(UTMConversion(23, "S"), geodetic_crs=CRS(own.crs).geodetic_crs)
        grid = Grid.make(same_datum, 64)
        box = block_over(path, grid)
        row, col = positions_in(path, grid, box)
        within = np.minimum.reduce([row, col, values.shape[0] - row, values.shape[1] - col]) > 1
        got = reader.read_float(made_item(red=path), ["red"], grid, box)[0]
        edge = np.minimum(abs(row - np.round(row)), abs(col - np.round(col)))[within] < 2e-6
        assert within.mean() > 0.5
        assert np.array_equal(got[within][~edge], at_positions(values, row[within], col[within], 0)[~edge])

    def test_real_pixels_that_are_not_quite_square(self, reader: Reader, real_data: Path) -> None:
        path = str(sorted((real_data / "s2_ndvi_portugal").glob("*.tif"))[0])
        with rasterio.open(path) as file:
            values, crs = file.read(1), file.crs.to_string()
            assert file.res[0] != file.res[1]
        grid = Grid.make(crs, 20)
        box = block_over(path, grid).pad(50)
        row, col = positions_in(path, grid, box)
        within = np.minimum.reduce([row, col, values.shape[0] - row, values.shape[1] - col]) > 1
        for how, order in (("nearest", 0), ("bilinear", 1)):
            got = reader.read_float(made_item(red=path), ["red"], grid, box, how)[0]  # type: ignore[arg-type]
            truth = at_positions(values, row[within], col[within], order)
            known = np.isfinite(truth) & np.isfinite(got[within])
            assert known.mean() > 0.9
            assert np.abs(got[within][known] - truth[known]).max() <= (0 if order == 0 else 2e-5)
