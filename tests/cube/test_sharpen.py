"""Sharpening: against plain numpy and scipy, against real truth, and however the image is cut."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform_bounds
from scipy.ndimage import map_coordinates

from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.archive.place import place
from engine.archive.reader import OdcReader
from engine.archive.warp import Raster
from engine.cube.bands import read_reflectance
from engine.cube.cube import open_cube
from engine.cube.plan import CubePlan, plan_cube
from engine.cube.sharpen import PAN, sharpen
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.recipe import Sharpen
from engine.values.spec import CubeSpec
from tests.archive.conformance import scenes_of
from tests.cube.fakes import GRID, FakeReader, scene

UTM = "EPSG:32633"
WAYS = (Sharpen(), Sharpen(method="high_pass"), Sharpen(method="high_pass", weight=1.5))


def oracle(coarse: np.ndarray, pan: np.ndarray, k: int, how: Sharpen) -> np.ndarray:
    """Sharpen a whole image without margin, unrounded: scipy interpolates between the coarse middles."""
    ok = (pan > 0).all(axis=0)
    mean = np.where(ok, pan.astype(float).mean(axis=0), 0)
    height, width = coarse.shape
    blocks = np.array(
        [[mean[k * i : k * i + k, k * j : k * j + k].sum() for j in range(width)] for i in range(height)]
    )
    counts = np.array(
        [[ok[k * i : k * i + k, k * j : k * j + k].sum() for j in range(width)] for i in range(height)]
    )
    known = (counts > 0) & (coarse > 0)
    low = np.where(known, blocks / np.maximum(counts, 1), 0)
    at = (np.mgrid[: height * k, : width * k] + 0.5) / k - 0.5

    def up(plane: np.ndarray) -> np.ndarray:
        return map_coordinates(np.pad(plane.astype(float), 1), at + 1, order=1)

    weights = up(known)
    with np.errstate(all="ignore"):
        band, smooth = up(np.where(known, coarse, 0)) / weights, up(low) / weights
        value = band * mean / smooth if how.method == "ratio" else band + how.weight * (mean - smooth)
    valid = ok & known.repeat(k, 0).repeat(k, 1)
    return np.where(valid, np.clip(value, 1, 65535), 0)


def padded(array: np.ndarray, by: int) -> np.ndarray:
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(by, by), (by, by)])


def image(seed: int, k: int, holes: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 9000, (11, 9)).astype(np.uint16)
    pan = rng.integers(1, 9000, (4, 11 * k, 9 * k)).astype(np.uint16)
    coarse[rng.random(coarse.shape) < holes] = 0
    pan[rng.random(pan.shape) < holes / 4] = 0
    return coarse, pan


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("k", [2, 6])
def test_it_is_the_formula(how: Sharpen, k: int) -> None:
    coarse, pan = image(0, k)
    got = sharpen(padded(coarse, 1), padded(pan, k), k, how)
    truth = oracle(coarse, pan, k, how)
    assert got.dtype == np.uint16
    assert np.array_equal(got == 0, truth == 0)
    assert 0 < (got == 0).mean() < 0.5
    assert np.abs(got - truth).max() <= 0.5001


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("k", [2, 6])
def test_each_part_alone_is_the_same(how: Sharpen, k: int) -> None:
    coarse, pan = padded(image(1, k)[0], 1), padded(image(1, k)[1], k)
    whole = sharpen(coarse, pan, k, how)
    for i in range(0, 11, 3):
        for j in range(0, 9, 4):
            part = sharpen(
                coarse[i : i + 5, j : j + 6], pan[:, i * k : (i + 5) * k, j * k : (j + 6) * k], k, how
            )
            there = whole[i * k : (i + 3) * k, j * k : (j + 4) * k]
            assert np.array_equal(part, there)


@given(st.integers(0, 30), st.sampled_from(WAYS), st.sampled_from([2, 6]), st.integers(1, 65535))
def test_a_constant_pan_adds_nothing(seed: int, how: Sharpen, k: int, level: int) -> None:
    coarse = padded(image(seed, k, 0)[0], 0)
    flat = np.full((4, 11 * k, 9 * k), level, np.uint16)
    got = sharpen(coarse, flat, k, how)
    at = (np.mgrid[: 9 * k, : 7 * k] + 0.5) / k + 0.5
    assert np.abs(got - map_coordinates(coarse.astype(float), at, order=1)).max() <= 0.5001
    even = sharpen(np.full((3, 3), 777, np.uint16), flat[:, : 3 * k, : 3 * k], k, how)
    assert (even == 777).all()


def test_valid_values_stay_valid() -> None:
    pan = np.ones((4, 6, 6), np.uint16)
    pan[:, 2, 2] = 65535
    bright = np.full((3, 3), 65535, np.uint16)
    for how in WAYS:
        got = sharpen(bright, pan, 2, how)
        assert got.min() >= 1
        assert got.max() == 65535


def real(folder: Path, *names: str) -> np.ndarray:
    bands = []
    for name in names:
        with rasterio.open(folder / f"T33UUU_20170216T102101_{name}.jp2") as file:
            bands.append(file.read(1))
    return np.stack(bands)


def halved(bands: np.ndarray) -> np.ndarray:
    n, height, width = bands.shape
    means = bands.reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return np.floor(means + 0.5).astype(np.uint16)


@pytest.mark.parametrize("name", ["B05", "B06", "B07", "B8A", "B11", "B12"])
@pytest.mark.parametrize("how", WAYS[:2])
def test_real_bands_come_back_better_than_by_interpolation(real_data: Path, name: str, how: Sharpen) -> None:
    """All bands at half their size (Wald et al. 1997, PERS 63:691): the 20 m band itself is the truth."""
    folder = real_data / "s2_l1c_33UUU"
    (truth,) = real(folder, name)
    (coarse,) = halved(truth[None])
    pan = halved(real(folder, "B02", "B03", "B04", "B08"))
    got = sharpen(coarse, pan, 2, how)
    at = (np.mgrid[: got.shape[0], : got.shape[1]] + 0.5) / 2 + 0.5
    plain = map_coordinates(coarse.astype(float), at, order=1)
    inner = truth[2:-2, 2:-2].astype(float)
    error, without = (np.sqrt(np.mean((a - inner) ** 2)) for a in (got, plain))
    assert error < without
    if how.method == "ratio":  # the mean over each coarse pixel is near its own value
        apart = np.abs(halved(got[None])[0].astype(float) - coarse[1:-1, 1:-1])
        assert apart.mean() < 0.025 * coarse.mean()


def plan_of(item: ItemRecord, grid: Grid, reader: object = None, **more: object) -> CubePlan:
    spec = {
        "bands": ["red", "rededge1", "coastal", "swir16"],
        "mask": "none",
        "sharpen": "ratio",
        "period": None,
    }
    items = ItemTable((item,), (dt.date(2017, 2, 1), dt.date(2017, 2, 28)))
    return plan_cube(items, CubeSpec(**(spec | more)), grid, reader)  # type: ignore[arg-type]


def test_a_real_scene_is_the_whole_image_sharpened(real_data: Path) -> None:
    folder = real_data / "s2_l1c_33UUU"
    item = dataclasses.replace(scenes_of(folder), baseline="02.04")
    grid = Grid.make(UTM, 10)
    image_box = Box(-582204, 33000, -581436, 34536)
    got = read_reflectance(plan_of(item, grid), item, image_box)
    pan = real(folder, "B02", "B03", "B04", "B08")
    for plane, (name, k) in zip(got[1:], (("B05", 2), ("B01", 6), ("B11", 2)), strict=True):
        truth = sharpen(padded(real(folder, name)[0], 1), padded(pan, k), k, Sharpen())
        assert np.array_equal(plane, truth)
    assert np.array_equal(got[0], pan[2])


@pytest.mark.parametrize(
    ("crs", "how"), [(UTM, "nearest"), ("EPSG:3035", "nearest"), ("EPSG:3035", "bilinear")]
)
def test_no_cutting_moves_a_sharpened_pixel(real_data: Path, crs: str, how: str) -> None:
    item = dataclasses.replace(scenes_of(real_data / "s2_l1c_33UUU"), baseline="02.04")
    grid = Grid.make(crs, 10)
    plan = plan_of(item, grid, resampling=how)
    box = grid.box_of_bounds(transform_bounds(UTM, crs, 333000, 5815000, 338000, 5818500))
    whole = read_reflectance(plan, item, box)
    assert whole.all(axis=0).mean() > 0.5
    for size in (512, 333):
        for part in box.blocks(size):
            assert np.array_equal(read_reflectance(plan, item, part), whole[:, *part.slices_in(box)])


def test_another_grid_takes_the_sharpened_image_as_it_is(real_data: Path) -> None:
    folder = real_data / "s2_l1c_33UUU"
    item = dataclasses.replace(scenes_of(folder), baseline="02.04")
    native = read_reflectance(plan_of(item, Grid.make(UTM, 10)), item, Box(-582204, 33000, -581436, 34536))
    grid = Grid.make("EPSG:3035", 10)
    box = grid.box_of_bounds(transform_bounds(UTM, grid.crs, 334000, 5816000, 336000, 5817500))
    got = read_reflectance(plan_of(item, grid, resampling="bilinear"), item, box)
    file = Raster(UTM, (10.0, 0.0, 330000.0, 0.0, -10.0, 5822040.0), (768, 1536), "uint16", 0)
    for plane, values in zip(got, native, strict=True):
        truth = np.zeros(box.shape_yx, np.uint16)
        place(file, lambda w, v=values: v[w.y0 : w.y1, w.x0 : w.x1], grid, box, "bilinear", truth)  # type: ignore[misc]
        assert truth.all()
        assert np.abs(plane.astype(int) - truth).max() <= 1  # positions counted from elsewhere: the last bit


def fake_scene(*bands: str) -> ItemRecord:
    made = scene("s0", dt.date(2017, 2, 16), "take")
    return dataclasses.replace(made, assets=tuple(AssetRecord(b, f"fake://s0/{b}", 0) for b in sorted(bands)))


@settings(max_examples=15)
@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["ratio", "high_pass"]),
)
def test_any_box_of_a_cube_is_the_same(y: int, x: int, height: int, width: int, method: str) -> None:
    item = fake_scene(*PAN, "rededge1", "coastal", "swir16", "scl")
    plan = plan_of(item, GRID, FakeReader(), sharpen=method)
    whole = Box(-529900, 50100, -529750, 50250)
    box = Box(whole.y0 + y, whole.x0 + x, whole.y0 + y + height, whole.x0 + x + width)
    full = read_reflectance(plan, item, whole)
    assert np.array_equal(read_reflectance(plan, item, box), full[:, *box.slices_in(whole)])


def test_a_cube_is_sharpened_however_it_is_chunked() -> None:
    item = fake_scene(*PAN, "rededge1", "scl")
    items = ItemTable((item,), (dt.date(2017, 2, 1), dt.date(2017, 2, 28)))
    spec = CubeSpec(bands=["rededge1", "nir"], sharpen="ratio", mask="scl")
    box = Box(-529901, 50101, -529701, 50350)
    cubes = [
        open_cube(items, spec, grid=GRID, box=box, chunks_yx=size, reader=FakeReader()).reflectance.values
        for size in ((1024, 1024), (64, 100), (37, 51))
    ]
    assert cubes[0].any()
    assert all(np.array_equal(cube, cubes[0]) for cube in cubes)


def test_what_cannot_be_sharpened_is_refused_before_anything_is_read() -> None:
    item = fake_scene(*PAN, "rededge1")
    with pytest.raises(InputError, match=r"20 m.*at most 10 m"):
        plan_of(item, Grid.make(UTM, 20), FakeReader(), resolution_m=20, bands=["rededge1"])
    with pytest.raises(InputError, match=r"item s0.*expected blue"):
        plan_of(fake_scene("green", "red", "nir", "rededge1"), GRID, FakeReader(), bands=["rededge1"])
    with pytest.raises(InputError, match="no CRS"):
        plan_of(dataclasses.replace(item, crs=""), GRID, FakeReader(), bands=["rededge1"])
    plan_of(
        fake_scene("red"), Grid.make(UTM, 20), FakeReader(), bands=["red"], resolution_m=20
    )  # nothing to do


def test_bands_that_need_no_sharpening_are_read_as_ever(real_data: Path) -> None:
    item = dataclasses.replace(scenes_of(real_data / "s2_l1c_33UUU"), baseline="02.04")
    grid, box = Grid.make(UTM, 10), Box(-582000, 33100, -581900, 33200)
    sharp = read_reflectance(plan_of(item, grid, bands=["nir", "green"]), item, box)
    assert np.array_equal(sharp, OdcReader().read(item, ["nir", "green"], grid, box))
