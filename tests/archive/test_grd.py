"""GRD scenes: known power at known coordinates, from a file whose geometry the test has drawn itself."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from scipy.interpolate import RegularGridInterpolator

from engine.archive.grd import (
    SigmaTable,
    calibration_href,
    is_grd,
    parse_calibration,
    read_sigma_nought,
    sigma_nought,
    sigma_table_at,
)
from engine.archive.items import AssetRecord, ItemRecord
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from tests.cube.fakes import GRID, scene

HEIGHT, WIDTH = 900, 1100
BOX = Box(-529_700, 50_420, -529_000, 51_000)
TURN = np.radians(11.0)
CORNER = np.array([503_600.0, 5_299_800.0])


def ground(row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a position of the file lies in UTM 33: 10 m pixels, turned as the flight is, a little curved."""
    down, right = 10.0 * row, 10.0 * col + 2e-6 * (10.0 * row) ** 2
    x = CORNER[0] + right * np.cos(TURN) - down * np.sin(TURN)
    return x, CORNER[1] - right * np.sin(TURN) - down * np.cos(TURN)


def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `ground`."""
    dx, dy = x - CORNER[0], CORNER[1] - y
    down = dy * np.cos(TURN) - dx * np.sin(TURN)
    right = dx * np.cos(TURN) + dy * np.sin(TURN)
    return down / 10, (right - 2e-6 * down**2) / 10


def truth(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Sigma nought at a position of the file: fields of 60 pixels, smooth."""
    return 0.06 + 0.04 * np.sin(2 * np.pi * row / 60) * np.cos(2 * np.pi * col / 60)


def a_table(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """A of DN^2 / A^2, straight along rows and columns, so that bilinear interpolation is exact."""
    return 500.0 - 0.08 * col + 0.01 * row


LINES, PIXELS = np.array([-40, 300, 640, 980]), np.arange(0, 1161, 40)


def calibration(values: np.ndarray | None = None) -> bytes:
    """An annotation in the form of the product specification."""
    vectors = []
    for i, line in enumerate(LINES):
        sigma = a_table(line, PIXELS) if values is None else values[i]
        vectors.append(
            f"<calibrationVector><azimuthTime>2023-03-08T17:05:12</azimuthTime><line>{line}</line>"
            f'<pixel count="{len(PIXELS)}">{" ".join(map(str, PIXELS))}</pixel>'
            f'<sigmaNought count="{len(PIXELS)}">{" ".join(f"{v:.6e}" for v in sigma)}</sigmaNought>'
            f'<gamma count="1">1</gamma></calibrationVector>'
        )
    body = f'<calibrationVectorList count="4">{"".join(vectors)}</calibrationVectorList>'
    return f'<?xml version="1.0" encoding="UTF-8"?><calibration><adsHeader/>{body}</calibration>'.encode()


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> ItemRecord:
    """A GRD scene in a SAFE folder; a slanted corner has no data, one pixel is very bright."""
    folder = tmp_path_factory.mktemp("grd") / "S1A_IW_GRDH_1SDV_TEST.SAFE"
    (folder / "measurement").mkdir(parents=True)
    (folder / "annotation" / "calibration").mkdir(parents=True)
    (folder / "annotation" / "calibration" / "calibration-iw-vv.xml").write_bytes(calibration())
    row, col = np.mgrid[0:HEIGHT, 0:WIDTH]
    dn = np.rint(np.sqrt(truth(row + 0.5, col + 0.5)) * a_table(row, col))
    dn[row + col < 150] = 0
    dn[400, 500] = 40_000
    path = folder / "measurement" / "iw-vv.tiff"
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint16"}
    with rasterio.open(path, "w", gcps=gcps(), crs="EPSG:4326", **profile) as file:
        file.write(dn.astype(np.uint16), 1)
    record = scene("S1A_IW_GRDH_TEST", dt.date(2023, 3, 8), "t")
    asset = AssetRecord("vv", str(path), 0)
    return dataclasses.replace(record, collection="sentinel-1-grd", crs="", assets=(asset,))


def gcps() -> list[GroundControlPoint]:
    """A net of 7 x 11 points with heights, as the product's geolocation grid."""
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    points = []
    for row, col in itertools.product(np.linspace(0, HEIGHT, 7), np.linspace(0, WIDTH, 11)):
        lon, lat = to_degrees.transform(*ground(row, col))
        points.append(GroundControlPoint(row, col, lon, lat, 0.0))
    return points


def _expected(box: Box, grid: Grid = GRID) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = grid.centres(box)
    row, col = place(*np.meshgrid(x, y))
    return truth(row, col), row, col


@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic"])
def test_the_power_at_each_coordinate_is_the_one_drawn_there(how: str, safe: ItemRecord) -> None:
    (found,) = read_sigma_nought(safe, ["vv"], GRID, BOX, how)  # type: ignore[arg-type]
    expected, row, col = _expected(BOX)
    inside = (row > 2) & (row < HEIGHT - 2) & (col > 2) & (col < WIDTH - 2) & (row + col > 156)
    inside &= np.hypot(row - 400, col - 500) > 4
    assert inside.mean() > 0.5
    error = np.abs(found - expected)[inside]
    # DN are whole numbers: half of one of about 110 is 0.9 % of the power; nearest is up to 0.7 pixels off.
    assert np.median(error) < {"nearest": 2e-3, "bilinear": 3e-4, "cubic": 3e-4}[how]
    assert error.max() < {"nearest": 6e-3, "bilinear": 1.2e-3, "cubic": 1.6e-3}[how]
    outside = (row < -1) | (col < -1) | (row > HEIGHT + 1) | (col > WIDTH + 1) | (row + col < 146)
    assert outside.any()
    assert np.isnan(found[outside]).all()
    assert np.isfinite(found[inside]).all()


def test_a_bright_target_lies_where_the_points_say(safe: ItemRecord) -> None:
    x, y = ground(np.array(400.5), np.array(500.5))
    box = GRID.box_of_bounds((x - 200, y - 200, x + 200, y + 200))
    (found,) = read_sigma_nought(safe, ["vv"], GRID, box, "bilinear")
    rows, cols = np.mgrid[0 : box.shape_yx[0], 0 : box.shape_yx[1]] + 0.5
    weight = np.where(found > 1, found, 0)
    left, _, _, top = GRID.bounds_of_box(box)
    centre = left + 10 * (weight * cols).sum() / weight.sum(), top - 10 * (weight * rows).sum() / weight.sum()
    assert centre == pytest.approx((float(x), float(y)), abs=2.0)


@pytest.mark.parametrize("cut", [1, 97, 300])
def test_any_box_gives_the_same_bits(cut: int, safe: ItemRecord) -> None:
    (whole,) = read_sigma_nought(safe, ["vv"], GRID, BOX, "bilinear")
    part = Box(BOX.y0 + cut, BOX.x0 + 2 * cut // 3, BOX.y1 - cut, BOX.x1 - 5)
    (found,) = read_sigma_nought(safe, ["vv"], GRID, part, "bilinear")
    np.testing.assert_array_equal(found, whole[part.slices_in(BOX)])


def test_coarser_pixels_are_means_of_power(safe: ItemRecord) -> None:
    coarse, box = Grid.make(32633, 40), Box(BOX.y0 // 4 + 1, BOX.x0 // 4 + 1, BOX.y1 // 4, BOX.x1 // 4)
    (found,) = read_sigma_nought(safe, ["vv"], coarse, box, "bilinear")
    _, row, col = _expected(box, coarse)
    inside = (row > 60) & (row < HEIGHT - 9) & (col > 160) & (col < WIDTH - 9)
    inside &= np.hypot(row - 400, col - 500) > 20
    assert np.nanmean(found[inside]) == pytest.approx(truth(row, col)[inside].mean(), rel=0.01)


def test_the_table_is_bilinear() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(300, 600, (len(LINES), len(PIXELS)))
    table = parse_calibration(calibration(values))
    window = Box(10, 25, 850, 1100)
    oracle = RegularGridInterpolator((LINES, PIXELS), values)
    points = np.stack(np.meshgrid(np.arange(10, 850), np.arange(25, 1100), indexing="ij"), axis=-1)
    np.testing.assert_allclose(sigma_table_at(table, window), oracle(points), rtol=1e-6)


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 40))
def test_the_table_is_the_same_for_any_window(row: int, col: int, size: int) -> None:
    table = parse_calibration(calibration())
    whole = sigma_table_at(table, Box(row, col, row + 2 * size, col + 2 * size))
    part = sigma_table_at(table, Box(row + size, col + 1, row + 2 * size, col + 2 * size))
    np.testing.assert_array_equal(part, whole[size:, 1:])


def test_zero_is_no_data_and_nothing_else_is() -> None:
    table = SigmaTable(np.array([0.0, 9.0]), (np.array([0.0, 9.0]),) * 2, (np.full(2, 200.0),) * 2)
    found = sigma_nought(np.array([[0, 1, 200, 65535]], np.uint16), table, Box(0, 0, 1, 4))
    assert np.isnan(found[0, 0])
    assert found[0, 1:] == pytest.approx([2.5e-5, 1.0, (65535 / 200) ** 2])


BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]><calibration>&b;</calibration>'


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (BOMB, "entities"),
        (b"<!ENTITY x SYSTEM 'file:///etc/passwd'>", "entities"),
        (calibration().decode().encode("utf-16"), "entities"),
        (b" " * (33 << 20), "too large"),
        (b"<calibration>", "cannot read the calibration"),
        (b"<calibration/>", "holds no table"),
        (calibration(-np.ones((4, len(PIXELS)))), "holds no table"),
        (calibration().replace(b"<line>300", b"<line>640"), "do not rise"),
        (calibration().replace(b" 80 120 ", b" 80 "), "holds no table"),
        (calibration().replace(b"e+02", b"e+0x"), "cannot read the calibration"),
    ],
)
def test_a_bad_annotation_is_refused(xml: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_calibration(xml, "calibration.xml")


def test_what_is_missing_is_named(safe: ItemRecord, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="band vh"):
        read_sigma_nought(safe, ["vh"], GRID, BOX, "bilinear")
    with pytest.raises(DataError, match=r"SAFE folder.*sentinel-1-rtc"):
        calibration_href("/data/iw-vv.tiff")
    lost = tmp_path / "A.SAFE" / "measurement" / "iw-vv.tiff"
    lost.parent.mkdir(parents=True)
    other = dataclasses.replace(safe, assets=(AssetRecord("vv", str(lost), 0),))
    with pytest.raises(DataError, match=r"no calibration.*A.SAFE/annotation/calibration"):
        read_sigma_nought(other, ["vv"], GRID, BOX, "bilinear")
    notes = tmp_path / "A.SAFE" / "annotation" / "calibration"
    notes.mkdir(parents=True)
    (notes / "calibration-iw-vv.xml").write_bytes(calibration())
    with pytest.raises(DataError, match="cannot read the file"):
        read_sigma_nought(other, ["vv"], GRID, BOX, "bilinear")
    profile = {"driver": "GTiff", "height": 9, "width": 9, "count": 1, "dtype": "uint16", "crs": GRID.crs}
    with rasterio.open(lost, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile) as file:
        file.write(np.ones((1, 9, 9), np.uint16))
    with pytest.raises(DataError, match="no ground control points"):
        read_sigma_nought(other, ["vv"], GRID, BOX, "bilinear")


@pytest.mark.parametrize(
    ("name", "grd"),
    [("sentinel-1-grd", True), ("SENTINEL-1-GRD", True), ("sentinel-1-rtc", False), ("", False)],
)
def test_grd_is_told_by_its_collection(name: str, grd: bool, safe: ItemRecord) -> None:
    assert is_grd(dataclasses.replace(safe, collection=name)) is grd
