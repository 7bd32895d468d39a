"""Looking at a cube: what is shown is right, and what is read for it stays small."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.shutil import copy as copy_raster

import engine.archive.reader as reading
from engine.archive.items import ItemTable
from engine.archive.search import search
from engine.archive.staging import stage
from engine.cube.coarse import MOST_PX, coarse_of
from engine.cube.cube import open_cube
from engine.cube.explore import MapLayers, folium_map
from engine.cube.origins import origin_of
from engine.cube.picture import stretched
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec
from tests.cube.fakes import GRID, FakeReader, scene, season

mpl.use("Agg")

WORLD = Area.from_bbox((-180, -85, 180, 85))
BOX = Box(-530_000, 50_000, -528_000, 52_000)  # what the fake scenes cover
SPEC = CubeSpec(bands=["red", "nir"], mask="scl")
THREE = ("red", "nir", "red")
READ_PX: list[int] = []


@dataclass(frozen=True)
class CountingReader(FakeReader):
    """Counts the pixels that it gives."""

    def read(self, item: Any, bands: Any, grid: Grid, box: Box, resampling: str = "nearest") -> Any:
        READ_PX.append(len(bands) * box.area_px)
        return super().read(item, bands, grid, box, resampling)


def live(spec: CubeSpec = SPEC, box: Box = BOX, items: ItemTable | None = None) -> xr.Dataset:
    return open_cube(items or season(), spec, grid=GRID, box=box, reader=CountingReader())


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    READ_PX.clear()
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def wide_season() -> ItemTable:
    """Scenes of 200 km, three in one month."""
    square = shapely.box(500_000, 5_100_000, 700_000, 5_300_000)
    move = Transformer.from_crs(32633, 4326, always_xy=True)
    outline = shapely.transform(square, lambda p: np.column_stack(move.transform(*p.T)))
    scenes = [scene(f"w{d}", dt.date(2023, 3, d), f"take{d}") for d in (3, 8, 20)]
    wide = [dataclasses.replace(s, geometry_wkb=shapely.to_wkb(outline)) for s in scenes]
    return ItemTable(tuple(wide), (dt.date(2023, 3, 1), dt.date(2023, 3, 31)))


def test_a_picture_of_a_huge_live_cube_reads_few_pixels() -> None:
    cube = live(box=Box(-530_000, 50_000, -510_000, 70_000), items=wide_season())
    picture = cube.landweave.rgb(bands=THREE)
    assert picture.array.dims == ("y", "x", "rgb")
    assert picture.array.shape == (800, 800, 3)
    assert picture.array.dtype == np.uint8
    # three scenes: two bands and the classes, with a margin of classes for each strip of blocks
    assert sum(READ_PX) <= 3 * 3 * 800 * 800 * 1.05
    assert cube.nbytes > 1.5e9


def test_a_small_cube_is_shown_pixel_for_pixel() -> None:
    cube = live(box=Box(-529_900, 50_100, -529_600, 50_500))
    values = cube["reflectance"].isel(time=0, band=[0, 1, 0]).compute(scheduler="synchronous").values
    picture = cube.landweave.rgb(time="2023-03", bands=THREE, stretch=(0, 100))
    valid = values.all(axis=0)
    assert np.array_equal(picture.valid, valid)
    for layer in range(3):
        low, high = values[layer][valid].min(), values[layer][valid].max()
        exact = np.rint((values[layer].astype(float) - low) / (high - low) * 255)
        assert np.array_equal(picture.array.values[..., layer][valid], exact[valid])
    assert np.array_equal(picture.array["x"], cube["x"])
    assert picture.title == "red, nir, red 2023-03-01"


def test_a_coarse_picture_lies_where_the_cube_lies() -> None:
    cube = live()
    picture = cube.landweave.rgb(time=0, bands=THREE, max_px=250)
    assert picture.valid.shape == (250, 250)
    assert float(picture.array["x"][0]) == 500_000 + 40
    assert float(picture.array["y"][0]) == 5_300_000 - 40
    small = cube.sel(x=slice(505_000, 510_000), y=slice(5_290_000, 5_285_000)).isel(time=[2])
    READ_PX.clear()
    cut = small.landweave.rgb(bands=THREE, max_px=100)
    assert 505_000 - 50 <= float(cut.array["x"][0]) <= 505_050
    assert cut.title.endswith("2023-05-01")
    assert 0 < sum(READ_PX) <= 2 * 3 * 110 * 110  # two scenes in May


def test_slices_stay_live_and_changed_cubes_do_not() -> None:
    cube = live()
    for same in (
        cube,
        cube.isel(time=1),
        cube.sel(time="2023-03"),
        cube.sel(band=["nir", "red"]),
        cube.isel(x=slice(3, 900)).isel(y=slice(10, 200)),
        cube.chunk({"y": 100}),
        cube.transpose("time", "y", "x", "band", ...),
        cube.drop_vars("observations"),
    ):
        assert origin_of(same) is not None
    for other in (cube * 2, cube.mean("time"), cube.fillna(3), cube.isel(x=slice(0, 9)).load()):
        assert origin_of(other) is None
    json.dumps(cube.attrs)


def test_a_changed_cube_is_shown_as_it_is() -> None:
    cube = live(box=Box(-529_900, 50_100, -529_500, 50_500))
    dark = cube.copy()
    dark["reflectance"] = (cube["reflectance"] // 2).astype(np.uint16)
    values = dark["reflectance"].isel(time=0, y=slice(2, None, 4), x=slice(2, None, 4))
    plane = values.isel(band=[0, 1, 0]).compute(scheduler="synchronous").values
    picture = dark.landweave.rgb(time=0, bands=THREE, max_px=100)
    assert np.array_equal(picture.array.values, stretched(plane, plane.all(axis=0), (2, 98)))


def test_a_large_stored_cube_is_read_in_the_middle_only() -> None:
    grid, box, chunk = GRID, Box(-530_000, 50_000, -510_000, 70_000), 1000
    seen: list[tuple[int, ...]] = []

    def make(block_id: tuple[int, ...] = (0, 0, 0, 0)) -> NDArray[np.uint16]:
        seen.append(block_id)
        return np.full((1, 3, chunk, chunk), 100 + block_id[2] + 30 * block_id[3], np.uint16)

    blocks = (20, 20)
    chunks = ((1, 1), (3,), (chunk,) * blocks[0], (chunk,) * blocks[1])
    data = da.map_blocks(make, chunks=chunks, dtype=np.uint16, meta=np.empty((0,) * 4, np.uint16))
    cube = xr.Dataset(
        {"reflectance": (("time", "band", "y", "x"), data)},
        coords={
            "time": np.array(["2023-03-01", "2023-04-01"], "datetime64[ns]"),
            "band": ["red", "green", "blue"],
            **georef_coords(grid, box),
        },
    )
    picture = cube.landweave.rgb()
    assert len(set(seen)) == 16 <= MOST_PX // chunk**2
    assert {s[0] for s in seen} == {1}
    assert {s[2] for s in seen} == {8, 9, 10, 11}
    assert "the middle 4,000 x 4,000 of 20,000 x 20,000 pixels" in picture.title
    assert picture.array.shape == (800, 800, 3)
    assert abs(float(picture.array["x"].mean()) - 600_000) < 20


def test_a_cube_from_a_zarr_store(tmp_path: Path) -> None:
    cube = live(box=Box(-529_900, 50_100, -529_500, 50_500))
    cube.drop_vars("time_bnds").chunk({"y": 200, "x": 200}).to_zarr(tmp_path / "c.zarr", zarr_format=2)
    stored = xr.open_zarr(tmp_path / "c.zarr")
    assert origin_of(stored) is None
    picture = stored.landweave.rgb("2023-05", bands=THREE, max_px=200)
    plane = (
        cube["reflectance"]
        .isel(time=2, band=[0, 1, 0])
        .compute(scheduler="synchronous")
        .values[:, 1::2, 1::2]
    )
    assert np.array_equal(picture.array.values, stretched(plane, plane.all(axis=0), (2, 98)))
    assert stored.landweave.dates()["scenes"].isna().all()
    assert "not known here" in repr(stored.landweave)
    stored.landweave.plot_dates()


def cog(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    values = np.kron(rng.integers(500, 4000, (32, 32)), np.ones((64, 64))).astype(np.uint16)
    values += rng.integers(0, 50, values.shape).astype(np.uint16)
    plain = path.with_suffix(".plain")
    with rasterio.open(
        plain, "w", driver="GTiff", width=2048, height=2048, count=1, dtype="uint16", crs="EPSG:32633", nodata=0,
        transform=Affine(10, 0, 307200, 0, -10, 5816320),
    ) as file:  # fmt: skip
        file.write(values, 1)
    copy_raster(str(plain), str(path), driver="COG", compress="DEFLATE", overview_resampling="NEAREST")
    plain.unlink()
    return path


def test_files_are_read_from_their_overviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, band in enumerate(("red", "green", "blue")):
        cog(tmp_path / f"north_2023-05-01_{band}.tif", seed)
    items = search(WORLD, "2023", stage(tmp_path))
    pixels: list[int] = []
    fetch = reading.fetch_by_odc

    def counting(source: Any, window: Box) -> Any:
        pixels.append(window.area_px)
        return fetch(source, window)

    monkeypatch.setattr(reading, "fetch_by_odc", counting)
    grid = Grid.make("EPSG:32633", 10)
    cube = open_cube(
        items, CubeSpec(bands=["red", "green", "blue"], period=None, mask="none"), grid=grid,
        box=grid.box_of_bounds((307200, 5816320 - 20480, 307200 + 20480, 5816320)),
    )  # fmt: skip
    picture = cube.landweave.rgb(max_px=512)
    assert sum(pixels) <= 3 * 512 * 512
    planes = []
    for band in ("red", "green", "blue"):
        with rasterio.open(tmp_path / f"north_2023-05-01_{band}.tif", overview_level=1) as file:
            planes.append(file.read(1))
    expected = stretched(np.stack(planes), np.ones((512, 512), bool), (2, 98))
    assert np.array_equal(picture.array.values, expected)


def test_how_often_the_ground_was_seen() -> None:
    cube = live(box=Box(-529_900, 50_100, -529_800, 50_200))
    seen = cube["observations"].compute(scheduler="synchronous").values
    table = cube.landweave.dates()
    assert np.allclose(table["observations"], seen.mean(axis=(1, 2)), atol=0.05)
    assert np.allclose(table["coverage"], 100 * (seen > 0).mean(axis=(1, 2)), atol=3)
    assert table["scenes"].tolist() == [5, 0, 2]
    READ_PX.clear()
    big = live(box=Box(-530_000, 50_000, -510_000, 70_000), items=wide_season()).landweave.dates()
    assert big["scenes"].tolist() == [3]
    assert sum(READ_PX) <= 3 * 2 * 128 * 128 * 1.2
    table = cube.load().landweave.dates()
    assert np.allclose(table["observations"], seen.mean(axis=(1, 2)))
    assert table["scenes"].isna().all()


def test_the_chart_of_dates() -> None:
    cube = live(box=Box(-529_900, 50_100, -529_800, 50_200))
    axes = cube.landweave.plot_dates()
    table = cube.landweave.dates()
    assert [p.get_height() for p in axes.patches] == table["observations"].tolist()
    (dots,) = axes.figure.axes[1].lines
    assert len(dots.get_xdata()) == 7
    assert set(dots.get_ydata()) == {10.0}


def test_a_picture_as_png_and_on_axes(tmp_path: Path) -> None:
    from PIL import Image

    cube = live()
    picture = cube.landweave.rgb(bands=THREE, max_px=100)
    image = np.asarray(Image.open(picture.save(tmp_path / "a.png")))
    assert np.array_equal(image, picture.rgba)
    assert not picture.valid.all()
    assert (image[..., 3] > 0).tolist() == picture.valid.tolist()
    assert picture._repr_png_() == (tmp_path / "a.png").read_bytes()
    axes = picture.plot()
    assert axes.images[0].get_extent() == [500_000, 520_000, 5_280_000, 5_300_000]


def layers_of(cube: xr.Dataset) -> MapLayers:
    found: MapLayers = cube.landweave.map_layers("2023-03", THREE, 400)
    return found


def test_the_map_shows_each_pixel_at_its_place() -> None:
    cube = live()
    layers, picture = layers_of(cube), cube.landweave.rgb("2023-03", THREE, 400)
    (south, west), (north, east) = layers.bounds
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    mercator = Transformer.from_crs(4326, 3857, always_xy=True)
    (x0, y0), (x1, y1) = mercator.transform(west, south), mercator.transform(east, north)
    rng = np.random.default_rng(0)
    rows, cols = layers.image.shape[:2]
    same = 0
    for row, col in rng.integers(5, 395, (300, 2)):
        lon, lat = to_degrees.transform(float(picture.array["x"][col]), float(picture.array["y"][row]))
        x, y = mercator.transform(lon, lat)
        i, j = int((y1 - y) / (y1 - y0) * rows), int((x - x0) / (x1 - x0) * cols)
        near = layers.image[i - 1 : i + 2, j - 1 : j + 2].reshape(-1, 4)
        same += bool((near == picture.rgba[row, col]).all(axis=1).any())
    assert same == 300
    assert len(layers.scenes["features"]) == 5
    assert {f["properties"]["cloud"] for f in layers.scenes["features"]} == {"10.0 %"}
    ring = np.array(layers.outline["geometry"]["coordinates"][0])
    assert (ring.min(axis=0) >= (west - 1e-9, south - 1e-9)).all()
    assert layers.image_url.startswith("data:image/png;base64,")


def test_without_folium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "folium", None)
    with pytest.raises(InputError, match=r"needs folium .*landweave\[jupyter\]"):
        live().landweave.explore(bands=THREE, max_px=50)


def test_the_map_as_html() -> None:
    try:
        import folium  # noqa: F401
    except ImportError:
        message = "folium is not installed"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    layers = layers_of(live())
    text = folium_map(layers).get_root().render()
    assert layers.image_url in text
    for told in ("L.imageOverlay", "2023-03-03", '"scene": "s0"', "fitBounds"):
        assert told in text


def test_what_is_asked_wrongly_is_told() -> None:
    cube = live()
    with pytest.raises(InputError, match=r"three bands of the cube .*three of red, nir"):
        cube.landweave.rgb()
    with pytest.raises(InputError, match=r"no such time step .*2023-03-01, 2023-04-01"):
        cube.landweave.rgb("2022", bands=THREE)
    with pytest.raises(InputError, match="no such time step"):
        cube.landweave.rgb(9, bands=THREE)


def test_an_empty_step_gives_an_empty_picture() -> None:
    picture = live().landweave.rgb("2023-04", bands=THREE, max_px=50)
    assert not picture.valid.any()
    assert not picture.array.values.any()


def test_a_cube_prints_small() -> None:
    days = [dt.date(2023, 1, 1) + dt.timedelta(10 * i) for i in range(36)]
    items = ItemTable(tuple(scene(f"s{i}", d, f"t{i}") for i, d in enumerate(days)), (days[0], days[-1]))
    cube = live(SPEC.model_copy(update={"period": None}), items=items)
    assert cube.sizes["time"] == 36
    assert len(repr(cube)) < 3000
    assert len(cube._repr_html_()) < 60_000
    text, table = repr(cube.landweave), cube.landweave._repr_html_()
    assert len(text) < 1000
    assert len(table) < 2500
    for told in (
        "2,000 x 2,000 pixels",
        "EPSG:32633",
        "36: 2023-01-01 .. 2023-12-17",
        "red, nir",
        "mask scl",
        "720 MB",
    ):
        assert told in text
        assert told in table
    assert not READ_PX


def never(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    raise AssertionError("a look asked the model")


def test_a_look_never_asks_a_cloud_model() -> None:
    model = {"kind": "model", "model": "tests.cube.test_accessor:never", "bands": ["red"], "margin_px": 0}
    cube = coarse_of(live(CubeSpec(bands=["red", "nir"], mask=["scl", model])), 100, ("red",)).cube
    kept = CubeSpec.model_validate_json(cube.attrs["landweave_spec"])
    assert [m.kind for m in kept.mask] == ["scl"]
    assert kept.bands == ("red",)
    cube.isel(time=0).compute(scheduler="synchronous")
