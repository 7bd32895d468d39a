"""OdcReader: the right pixel for any box, against plain rasterio; no chunking moves a pixel; errors."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling as RioResampling
from rasterio.warp import reproject, transform_bounds

from engine.archive import source
from engine.archive.gdal import GDAL_OPTIONS, explain, gdal_environment
from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.reader import OdcReader, require_bands
from engine.values.bands import BANDS
from engine.values.errors import DataError, InputError, RetryableError
from engine.values.grid import Box, Grid
from tests.archive.samples import record

UTM33 = Grid.make("EPSG:32633", 10)
UTM20 = Grid.make("EPSG:32633", 20)
WHOLE = Box(-582204, 33000, -581436, 34536)  # the scene on the 10 m grid


@pytest.fixture(scope="module")
def scene(real_data: Path) -> ItemRecord:
    folder = real_data / "s2_l1c_33UUU"
    names = {b.name: f"T33UUU_20170216T102101_{b.msi}.jp2" for b in BANDS if b.kind == "reflectance"}
    assets = tuple(sorted(AssetRecord(band, str(folder / file)) for band, file in names.items()))
    return record("scene", assets=assets)


@pytest.fixture(scope="module")
def pixels(scene: ItemRecord) -> dict[str, np.ndarray]:
    """Return each band on the 10 m grid, by plain rasterio and numpy.repeat."""
    found = {}
    for asset in scene.assets:
        with rasterio.open(asset.href) as file:
            assert UTM33.box_of_bounds(tuple(file.bounds)) == WHOLE
            factor = int(file.res[0]) // 10
            found[asset.band] = file.read(1).repeat(factor, 0).repeat(factor, 1)
    return found


def cut(full: np.ndarray, outer: Box, box: Box) -> np.ndarray:
    """Cut a box out of an array, zero outside it."""
    out = np.zeros(box.shape_yx, full.dtype)
    inner = box & outer
    if inner:
        out[inner.slices_in(box)] = full[inner.slices_in(outer)]
    return out


def make_raster(
    path: Path, values: np.ndarray, transform: Affine, crs: str = "EPSG:32633", **more: Any
) -> str:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
        dtype=values.dtype, crs=crs, transform=transform, **more,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return str(path)


def item_of(**hrefs: str) -> ItemRecord:
    return record("made", tile="", assets=tuple(AssetRecord(b, h) for b, h in sorted(hrefs.items())))


boxes = st.builds(
    lambda y, x, h, w: Box(WHOLE.y0 + y, WHOLE.x0 + x, WHOLE.y0 + y + h, WHOLE.x0 + x + w),
    st.integers(-90, 800), st.integers(-90, 1600), st.integers(1, 300), st.integers(1, 300),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(boxes)
def test_any_box_is_exact(scene: ItemRecord, pixels: dict[str, np.ndarray], box: Box) -> None:
    bands = ["red", "B05", "coastal"]  # 10, 20 and 60 m; odd offsets, partly or wholly outside
    got = OdcReader().read(scene, bands, UTM33, box)
    assert got.dtype == np.uint16
    for plane, band in zip(got, ["red", "rededge1", "coastal"], strict=True):
        assert np.array_equal(plane, cut(pixels[band], WHOLE, box))


def test_all_bands_of_the_whole_scene(scene: ItemRecord, pixels: dict[str, np.ndarray]) -> None:
    got = OdcReader().read(scene, scene.bands, UTM33, WHOLE)
    assert all(np.array_equal(plane, pixels[band]) for plane, band in zip(got, scene.bands, strict=True))


def test_far_away_is_no_data_and_an_empty_box_is_empty(scene: ItemRecord) -> None:
    assert not OdcReader().read(scene, ["red"], UTM33, Box(0, 0, 5, 7)).any()
    assert not OdcReader().read(scene, ["red"], Grid.make("EPSG:3035", 10), Box(0, 0, 5, 7)).any()
    assert OdcReader().read(scene, ["red"], UTM33, Box(5, 5, 5, 9)).shape == (1, 0, 4)
    assert OdcReader().read(scene, [], UTM33, Box(0, 0, 5, 7)).shape == (0, 5, 7)


def test_a_20_m_grid_reads_20_m_bands_as_they_are(scene: ItemRecord) -> None:
    with rasterio.open(scene.asset("swir16").href) as file:
        truth = file.read(1)
        box = UTM20.box_of_bounds(tuple(file.bounds))
    for how in ("nearest", "bilinear", "cubic"):  # coinciding pixels are never warped
        assert np.array_equal(OdcReader().read(scene, ["swir16"], UTM20, box, how)[0], truth)


def test_a_coarser_grid_takes_the_pixel_right_below_the_centre(
    scene: ItemRecord, pixels: dict[str, np.ndarray]
) -> None:
    box = UTM20.box_of_bounds(UTM33.bounds_of_box(WHOLE))
    assert np.array_equal(OdcReader().read(scene, ["red"], UTM20, box)[0], pixels["red"][1::2, 1::2])


def test_a_grid_off_the_file_by_part_of_a_pixel(scene: ItemRecord, pixels: dict[str, np.ndarray]) -> None:
    shifted = Grid("EPSG:32633", (10.0, 10.0), (4.0, 0.0))  # centres 4 m east: still the same file pixel
    got = OdcReader().read(scene, ["red"], shifted, WHOLE)[0]
    assert np.array_equal(got, pixels["red"])
    shifted = Grid("EPSG:32633", (10.0, 10.0), (6.0, 0.0))
    got = OdcReader().read(scene, ["red"], shifted, WHOLE)[0]
    assert np.array_equal(got[:, :-1], pixels["red"][:, 1:])


@settings(max_examples=5, deadline=None)
@given(boxes, st.data())
@pytest.mark.parametrize("epsg", [3035, 32632])
@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic"])
def test_no_tiling_moves_a_pixel(
    scene: ItemRecord, epsg: int, how: Any, box: Box, data: st.DataObject
) -> None:
    grid = Grid.make(epsg, 10)
    bounds = transform_bounds("EPSG:32633", f"EPSG:{epsg}", *UTM33.bounds_of_box(box))
    target = grid.box_of_bounds(bounds)
    whole = OdcReader().read(scene, ["red", "swir16"], grid, target, how)
    row = data.draw(st.integers(target.y0, target.y1))
    col = data.draw(st.integers(target.x0, target.x1))
    for y0, y1 in ((target.y0, row), (row, target.y1)):
        for x0, x1 in ((target.x0, col), (col, target.x1)):
            part = Box(y0, x0, y1, x1)
            got = OdcReader().read(scene, ["red", "swir16"], grid, part, how)
            assert np.array_equal(got, whole[:, *part.slices_in(target)])


@pytest.mark.parametrize("how", ["bilinear", "cubic"])
def test_no_tiling_moves_a_pixel_in_the_same_crs(scene: ItemRecord, how: Any) -> None:
    whole = OdcReader().read(scene, ["swir16"], UTM33, WHOLE, how)
    for size in (512, 333):
        for part in WHOLE.blocks(size):
            got = OdcReader().read(scene, ["swir16"], UTM33, part, how)
            assert np.array_equal(got, whole[:, *part.slices_in(WHOLE)])


@pytest.mark.parametrize("epsg", [3035, 32632])
@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic"])
def test_a_warp_is_that_of_its_block(scene: ItemRecord, epsg: int, how: str) -> None:
    grid = Grid.make(epsg, 10)
    x0, y0 = transform_bounds("EPSG:32633", f"EPSG:{epsg}", 337000, 5818000, 337010, 5818010)[:2]
    block = grid.box_of_bounds((x0, y0, x0 + 10, y0 + 10)).snap_out(512)
    got = OdcReader().read(scene, ["red"], grid, block, how)[0]  # type: ignore[arg-type]
    expected = np.zeros((512, 512), np.uint16)
    with rasterio.open(scene.asset("red").href) as file:
        reproject(
            rasterio.band(file, 1), expected, src_nodata=0, dst_nodata=0, dst_crs=f"EPSG:{epsg}",
            dst_transform=Affine(*grid.transform_of(block)), resampling=RioResampling[how],
        )  # fmt: skip
    inside = (got > 0) & (expected > 0)
    assert inside.mean() > 0.5
    close = np.abs(got.astype(int) - expected)[inside]
    # the oracle warps the whole square, odc the part over the image: other bits, the same image
    assert np.quantile(close, 0.9) <= (0 if how == "nearest" else 10)


def test_a_nearest_pixel_of_another_crs_lies_where_it_should(
    scene: ItemRecord, pixels: dict[str, np.ndarray]
) -> None:
    from pyproj import Transformer

    grid = Grid.make("EPSG:3035", 10)
    bounds = transform_bounds("EPSG:32633", "EPSG:3035", 335000, 5815000, 338000, 5818000)
    box = grid.box_of_bounds(bounds)
    got = OdcReader().read(scene, ["red"], grid, box)[0]
    y, x = grid.centres(box)
    east, north = Transformer.from_crs(3035, 32633, always_xy=True).transform(*np.meshgrid(x, y))
    col, row = (east - 330000) / 10, (5822040 - north) / 10
    inside = (col >= 0) & (row >= 0) & (col < 1536) & (row < 768)
    truth = pixels["red"][np.clip(row, 0, 767).astype(int), np.clip(col, 0, 1535).astype(int)]
    edge = np.minimum(np.abs(col - np.round(col)), np.abs(row - np.round(row))) < 0.13  # GDAL's tolerance
    assert inside.mean() > 0.8
    assert np.array_equal(got[inside & ~edge], truth[inside & ~edge])


def test_classes_are_never_averaged(tmp_path: Path) -> None:
    classes = np.tile(np.array([[4, 8], [8, 4]], np.uint8), (20, 20))
    path = make_raster(tmp_path / "scl.tif", classes, Affine(20, 0, 300000, 0, -20, 5900040), nodata=0)
    got = OdcReader().read(
        item_of(scl=path), ["scl"], UTM33, Box(-590004, 30000, -589924, 30080), "bilinear"
    )[0]
    assert np.array_equal(got, classes.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("values", "nodata", "expected"),
    [
        (np.array([[0, 1, 65535]], np.uint16), None, [0, 1, 65535]),
        (np.array([[0, 1, 65535]], np.uint16), 65535, [1, 1, 0]),  # 0 is a value there: it stays valid
        (np.array([[-9999, -5, 700]], np.int16), -9999, [0, 1, 700]),
        (np.array([[0, 70000, 3]], np.uint32), 0, [0, 65535, 3]),
        (np.array([[0, 7, 255]], np.uint8), None, [0, 7, 255]),
    ],
)
def test_dtypes_and_no_data(
    tmp_path: Path, values: np.ndarray, nodata: float | None, expected: list[int]
) -> None:
    more = {} if nodata is None else {"nodata": nodata}
    path = make_raster(tmp_path / "b.tif", values, Affine(10, 0, 300000, 0, -10, 5900040), **more)
    box = Box(-590004, 30000, -590003, 30003)
    assert OdcReader().read(item_of(red=path), ["red"], UTM33, box)[0, 0].tolist() == expected
    outside = OdcReader().read(item_of(red=path), ["red"], UTM33, Box(-590005, 29999, -590002, 30004))[0]
    assert outside[1].tolist() == [0, *expected, 0]
    assert not outside[[0, 2]].any()


def test_no_data_of_the_catalogue_counts_when_the_file_has_none(tmp_path: Path) -> None:
    path = make_raster(
        tmp_path / "b.tif", np.array([[9, 5]], np.uint16), Affine(10, 0, 300000, 0, -10, 5900040)
    )
    item = record(assets=(AssetRecord("red", path, 9.0),))
    assert OdcReader().read(item, ["red"], UTM33, Box(-590004, 30000, -590003, 30002)).ravel().tolist() == [
        0,
        5,
    ]


def test_floats_are_refused(tmp_path: Path) -> None:
    path = make_raster(
        tmp_path / "b.tif", np.ones((2, 2), np.float32), Affine(10, 0, 300000, 0, -10, 5900040)
    )
    with pytest.raises(DataError, match="no integers"):
        OdcReader().read(item_of(red=path), ["red"], UTM33, Box(-590004, 30000, -590003, 30002))


def test_a_projection_without_a_code(real_data: Path, tmp_path: Path) -> None:
    source = sorted((real_data / "cbers4_bahia").glob("*NDVI.tif"))[0]
    with rasterio.open(source) as file:
        grid, box = Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)
        truth = file.read(1)
    part = Box(box.y0 - 3, box.x0 + 7, box.y0 + 100, box.x0 + 150)
    got = OdcReader().read(item_of(red=str(source)), ["red"], grid, part)[0]
    assert np.array_equal(got[3:], np.clip(truth[:100, 7:150], 1, 65535))
    assert not got[:3].any()


def test_overviews_are_never_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9000, (256, 256)).astype(np.uint16)
    path = make_raster(tmp_path / "b.tif", values, Affine(10, 0, 300000, 0, -10, 5900040), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], RioResampling.average)
    got = OdcReader().read(
        item_of(red=path),
        ["red"],
        Grid("EPSG:32633", (40.0, 40.0), (0.0, 0.0)),
        Box(-147501, 7500, -147437, 7564),
    )
    assert np.array_equal(got[0], values[2::4, 2::4])


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    where = Affine(10, 0, 300000, 0, -10, 5900040)
    box = Box(-590004, 30000, -590002, 30002)
    path = make_raster(tmp_path / "b.tif", np.full((2, 2), 5, np.uint16), where)
    assert (OdcReader().read(item_of(red=path), ["red"], UTM33, box) == 5).all()
    make_raster(tmp_path / "b.tif", np.full((1, 1), 7, np.uint16), Affine(20, 0, 300000, 0, -20, 5900040))
    assert (OdcReader().read(item_of(red=path), ["red"], UTM33, box) == 7).all()


def test_a_missing_band_is_an_input_error(scene: ItemRecord) -> None:
    with pytest.raises(InputError, match="item scene, band scl"):
        OdcReader().read(scene, ["red", "scl"], UTM33, WHOLE)
    with pytest.raises(InputError, match="expected scl"):
        require_bands(scene, ["B04", "SCL"])
    require_bands(scene, ["B04", "nir"])


def test_missing_truncated_and_foreign_files(scene: ItemRecord, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tif = Path(
        make_raster(
            tmp_path / "b.tif",
            rng.integers(1, 9, (512, 512), np.uint16),
            Affine(10, 0, 330000, 0, -10, 5822040),
            tiled=True,
        )
    )
    tif.write_bytes(tif.read_bytes()[: tif.stat().st_size // 2])
    jp2 = tmp_path / "b.jp2"
    shutil.copy(scene.asset("red").href, jp2)
    jp2.chmod(0o644)
    jp2.write_bytes(jp2.read_bytes()[: jp2.stat().st_size // 2])
    text = tmp_path / "t.tif"
    text.write_text("no image")
    for path in (tif, jp2, text, tmp_path / "absent.tif"):
        with pytest.raises(DataError, match=f"item made, band red, {path}") as caught:
            OdcReader().read(item_of(red=str(path)), ["red"], UTM33, WHOLE)
        assert pickle.loads(pickle.dumps(caught.value)).where == caught.value.where


def test_an_image_without_a_crs(tmp_path: Path) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = make_raster(tmp_path / "b.tif", np.ones((2, 2), np.uint16), Affine.identity(), crs="")
    with pytest.raises(DataError, match="no CRS"):
        OdcReader().read(item_of(red=path), ["red"], UTM33, WHOLE)


def test_the_environment_is_set_only_around_a_read(
    scene: ItemRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    real_open = rasterio.open

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.update(rasterio.env.getenv())
        return real_open(*args, **kwargs)

    monkeypatch.setattr(rasterio, "open", spy)
    OdcReader(options=(("GDAL_HTTP_MAX_RETRY", "2"),)).read(scene, ["red"], UTM33, WHOLE)
    assert seen["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    assert str(seen["GDAL_HTTP_MAX_RETRY"]) == "2"
    assert not rasterio.env.hasenv() or "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES" not in rasterio.env.getenv()
    assert os.environ["PROJ_NETWORK"] == "OFF"


def test_options_of_the_user_win() -> None:
    with rasterio.Env(GDAL_HTTP_TIMEOUT="7"), gdal_environment() as env:
        assert str(env["GDAL_HTTP_TIMEOUT"]) == "7"
        assert env["GDAL_HTTP_CONNECTTIMEOUT"] == GDAL_OPTIONS["GDAL_HTTP_CONNECTTIMEOUT"]


def test_threads_read_the_same(scene: ItemRecord, pixels: dict[str, np.ndarray]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    parts = list(WHOLE.blocks(256))
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda b: OdcReader().read(scene, ["red", "swir16"], UTM33, b), parts))
    for part, planes in zip(parts, got, strict=True):
        assert np.array_equal(planes[0], cut(pixels["red"], WHOLE, part))


def test_the_reader_pickles() -> None:
    reader = OdcReader(options=(("GDAL_HTTP_MAX_RETRY", "2"),))
    assert pickle.loads(pickle.dumps(reader)) == reader


# --- over HTTP, on the loopback address


class _Server(BaseHTTPRequestHandler):
    """Serves one file by ranges; answers with `status` while that is set."""

    body: ClassVar[bytes] = b""
    status: ClassVar[int] = 0

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        if self.status:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range", "")
        start, _, end = asked.removeprefix("bytes=").partition("-")
        first, last = int(start or 0), min(int(end or len(self.body)), len(self.body) - 1)
        part = self.body[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.body)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if with_body:
            self.wfile.write(part)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ItemRecord]]:
    values = np.arange(1, 513 * 512 - 511, dtype=np.uint32).astype(np.uint16).reshape(512, 512)
    path = make_raster(tmp_path / "b.tif", values, Affine(10, 0, 330000, 0, -10, 5822040), tiled=True)
    monkeypatch.setattr(_Server, "body", Path(path).read_bytes())
    monkeypatch.setattr(_Server, "status", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield lambda name: item_of(red=f"http://127.0.0.1:{server.server_port}/{name}")
    server.shutdown()
    server.server_close()


ONCE = OdcReader(options=(("GDAL_HTTP_MAX_RETRY", "0"),))


@pytest.mark.service
def test_a_file_over_http(remote: Callable[[str], ItemRecord]) -> None:
    got = ONCE.read(
        remote("good.tif"), ["red"], UTM33, Box(WHOLE.y0, WHOLE.x0, WHOLE.y0 + 512, WHOLE.x0 + 512)
    )
    assert got[0, 0, :5].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.service
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_retryable_and_heals(
    remote: Callable[[str], ItemRecord], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    item = remote(f"busy{status}.tif")
    box = Box(WHOLE.y0, WHOLE.x0, WHOLE.y0 + 5, WHOLE.x0 + 5)
    monkeypatch.setattr(_Server, "status", status)
    with pytest.raises(RetryableError, match="item made, band red"):
        ONCE.read(item, ["red"], UTM33, box)
    monkeypatch.setattr(_Server, "status", 0)
    assert ONCE.read(item, ["red"], UTM33, box).all()  # nothing remembers the failure


@pytest.mark.service
def test_a_jpeg_2000_that_breaks_off_is_an_error_and_not_zeros(
    remote: Callable[[str], ItemRecord], scene: ItemRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Server, "body", Path(scene.asset("red").href).read_bytes())
    item = remote("breaks.jp2")
    small, large = WHOLE & Box(WHOLE.y0, WHOLE.x0, WHOLE.y0 + 64, WHOLE.x0 + 64), WHOLE
    assert ONCE.read(item, ["red"], UTM33, small).all()
    monkeypatch.setattr(_Server, "status", 503)
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), pytest.raises(RetryableError):
        ONCE.read(item, ["red"], UTM33, large)
    monkeypatch.setattr(_Server, "status", 0)
    assert ONCE.read(item, ["red"], UTM33, large).all()


@pytest.mark.service
@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_remote_file_is_a_data_error(
    remote: Callable[[str], ItemRecord], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(_Server, "status", status)
    with pytest.raises(DataError, match=f"absent{status}"):
        ONCE.read(remote(f"absent{status}.tif"), ["red"], UTM33, WHOLE)


def test_missing_keys_are_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_NO_SIGN_REQUEST", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    error = Exception("AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST configuration options not defined")
    assert isinstance(explain(error, "s3://eodata/B04.jp2"), InputError)


def test_nobody_there_is_retryable() -> None:
    with pytest.raises(RetryableError):
        ONCE.read(item_of(red="http://127.0.0.1:9/b.tif"), ["red"], UTM33, WHOLE)


@pytest.mark.service
def test_no_signature_in_errors_or_logs(
    remote: Callable[[str], ItemRecord], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source, "sign", lambda href, provider: f"{href}?sv=1&sig=SECRET")
    item = remote("signed.tif")
    with caplog.at_level(logging.DEBUG):
        ONCE.read(item, ["red"], UTM33, Box(WHOLE.y0, WHOLE.x0, WHOLE.y0 + 5, WHOLE.x0 + 5))
        monkeypatch.setattr(_Server, "body", _Server.body[:2000])
        with pytest.raises(RetryableError) as caught:
            ONCE.read(item, ["red"], UTM33, WHOLE)
    assert "SECRET" not in f"{caught.value} {caught.value.__dict__}"
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("engine", "odc"))]
    assert not any("SECRET" in m for m in ours)
