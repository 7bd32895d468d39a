"""Masks of a cube: layers and models, for any chunking, against whole images; what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import sys
import threading
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import shapely
from onnx import TensorProto, helper
from pyproj import Transformer
from scipy.ndimage import binary_dilation

from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.archive.reader import OdcReader
from engine.cube import hiding, maskers
from engine.cube.cube import open_cube
from engine.cube.hiding import hidden
from engine.cube.maskers import MASK_BLOCK_PX, S2CLOUDLESS_BANDS, open_masker, with_checksum
from engine.cube.plan import CubePlan, plan_cube
from engine.values.bands import BANDS as ALL_BANDS
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from engine.values.masking import CloudProbabilityMask, Mask, ModelMask, SclMask
from engine.values.spec import CubeSpec
from tests.cube.fakes import BANDS, GRID, FakeReader, scene, season

BOX = Box(-529_700, 50_100, -528_900, 50_903)
ASKED: Counter[str] = Counter()


@dataclasses.dataclass(frozen=True)
class LayeredReader(FakeReader):
    """FakeReader with a cloud probability of 20 m blobs, 0..100, 0 also where there is no data."""

    def _band(self, seed: int, band: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        if band not in ("cloud", "snow"):
            return super()._band(seed, band, y, x)
        row, col = np.floor(y / 20).astype(np.int64)[:, None], np.floor(x / 20).astype(np.int64)[None]
        return ((row // 5 * 37 + col // 3 * 11 + seed) % 101).astype(np.uint16)


def _with_layers(*bands: str) -> ItemTable:
    items = season()
    extra = tuple(AssetRecord(b, f"fake://{b}") for b in bands)
    changed = tuple(dataclasses.replace(i, assets=(*i.assets, *extra)) for i in items)
    return dataclasses.replace(items, items=changed)


def _plan(*masks: Mask, items: ItemTable | None = None, grid: Grid = GRID) -> CubePlan:
    items = _with_layers("cloud", "snow") if items is None else items
    return plan_cube(items, CubeSpec(bands=BANDS, mask=masks), grid, LayeredReader())


def _first(plan: CubePlan) -> ItemRecord:
    return plan.steps[0].groups[0][0]


@pytest.mark.parametrize("size", [10, 20, 40])
def test_cloud_probability_equals_plain_numpy(size: int) -> None:
    grid = Grid.make("EPSG:32633", size)
    plan = _plan(CloudProbabilityMask(threshold=90, dilate_m=60), grid=grid)
    item, box = (
        _first(plan),
        Box(-5280_000 // size - 300, 501_000 // size, -5280_000 // size - 100, 501_000 // size + 150),
    )
    fine = 20 if size <= 20 else size
    radius = -(-60 // fine)
    cells = Grid.make("EPSG:32633", fine)
    around = cells.box_of_bounds(grid.bounds_of_box(box)).pad(radius)
    percent = plan.reader.read(item, ("cloud",), cells, around, "nearest")[0]
    grown = binary_dilation(percent >= 90, np.ones((2 * radius + 1,) * 2))[radius:-radius, radius:-radius]
    expected = grown.repeat(max(1, fine // size), 0).repeat(max(1, fine // size), 1)
    found = hidden(plan, item, box, plan.spec.mask[0])
    assert 0.1 < found.mean() < 0.95
    np.testing.assert_array_equal(found, expected)


MASKS: tuple[tuple[Mask, ...], ...] = (
    (SclMask(dilate_class_m={9: 140.0, 3: 20.0}),),
    (CloudProbabilityMask(threshold=80, dilate_m=40),),
    (ModelMask(model="maskfunctions:bright", bands=("nir",), threshold=9300.0, resolution_m=60, dilate_m=120),),
    (ModelMask(model="maskfunctions:neighbours", bands=BANDS, resolution_m=20, margin_px=8),),
)  # fmt: skip

FUNCTIONS = '''
import numpy as np
from tests.cube.test_hiding import ASKED


def bright(values):
    """Hide where the band is bright."""
    ASKED[f"{values.shape} {values.sum()}"] += 1
    assert values.dtype == np.uint16
    return values[0]


def neighbours(values):
    """Hide where a pixel is brighter than its window's mean, which depends on the whole input."""
    return (values[0] > values[0].mean() * 1.7) & (values[1] > 2000)


def everywhere(values):
    return np.ones(values.shape[1:], bool)


def wrong(values):
    return np.ones(7)
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "maskfunctions.py"
    path.write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "maskfunctions", raising=False)
    monkeypatch.setattr(hiding, "_KEPT", hiding._Keeper(64))
    open_masker.cache_clear()
    maskers._file_checksum.cache_clear()
    return path


@pytest.mark.parametrize("masks", MASKS, ids=lambda m: f"{m[0].kind}-{getattr(m[0], 'model', '')}")
def test_any_chunking_gives_the_same_bits(masks: tuple[Mask, ...], functions: Path) -> None:
    spec = CubeSpec(bands=BANDS, mask=masks)
    items = _with_layers("cloud", "snow")

    def cube(chunk: int) -> np.ndarray:
        found = open_cube(items, spec, grid=GRID, box=BOX, chunks_yx=(chunk, chunk), reader=LayeredReader())
        return found.reflectance.data.compute(scheduler="threads")

    expected = cube(5000)
    unmasked = open_cube(
        items, CubeSpec(bands=BANDS, mask="none"), grid=GRID, box=BOX, reader=LayeredReader()
    ).reflectance.values
    assert 0.02 < (expected != unmasked).mean() < 0.98
    for chunk in (97, 400):
        np.testing.assert_array_equal(cube(chunk), expected)


def test_several_masks_hide_what_any_hides() -> None:
    masks: tuple[Mask, ...] = (
        SclMask(dilate_m=20),
        CloudProbabilityMask(threshold=90),
        CloudProbabilityMask(threshold=95, band="snow"),
    )
    items = _with_layers("cloud", "snow")
    items = dataclasses.replace(items, items=items.items[:1])

    def cube(*some: Mask) -> np.ndarray:
        spec = CubeSpec(bands=BANDS, mask=some, period=None)
        return open_cube(items, spec, grid=GRID, box=BOX, reader=LayeredReader()).reflectance.values

    alone = [cube(m) for m in masks]
    np.testing.assert_array_equal(cube(*masks), np.min(alone, axis=0))
    assert all((cube(*masks) != one).any() for one in alone)


def test_a_function_sees_fixed_blocks_and_each_once(functions: Path) -> None:
    mask = ModelMask(
        model="maskfunctions:bright", bands=("nir",), threshold=9300.0, resolution_m=20, margin_px=5
    )
    items = dataclasses.replace(_with_layers(), items=season().items[:1])
    spec = CubeSpec(bands=BANDS, mask=(mask,), period=None)
    ASKED.clear()
    cube = open_cube(items, spec, grid=GRID, box=BOX, chunks_yx=(50, 50), reader=FakeReader())
    found = cube.reflectance.data.compute(scheduler="threads")[0]
    side = MASK_BLOCK_PX + 2 * 5
    assert all(key.startswith(f"(1, {side}, {side})") for key in ASKED)
    assert set(ASKED.values()) == {1}
    blocks = [*Box(BOX.y0 // 2, BOX.x0 // 2, BOX.y1 // 2, BOX.x1 // 2).blocks(MASK_BLOCK_PX)]
    assert len(ASKED) == len(blocks)
    half = Box(BOX.y0 // 2, BOX.x0 // 2, BOX.y1 // 2, -(-BOX.x1 // 2))
    coarse = FakeReader().read(items.items[0], ("nir",), Grid.make("EPSG:32633", 20), half, "nearest")[0]
    hides = (coarse > 9300).repeat(2, 0).repeat(2, 1)[:, : BOX.shape_yx[1]]
    values = FakeReader().read(items.items[0], BANDS, GRID, BOX, "nearest")
    np.testing.assert_array_equal(found, values * (~hides & values.all(axis=0)))


def test_a_mask_of_another_resolution_takes_the_pixel_under_the_centre(functions: Path) -> None:
    mask = ModelMask(model="maskfunctions:bright", bands=("nir",), threshold=5000.0, resolution_m=35)
    plan = _plan(mask, items=season())
    item = _first(plan)
    found = hidden(plan, item, BOX, plan.spec.mask[0])
    y, x = GRID.centres(BOX)
    coarse = Grid.make("EPSG:32633", 35)
    for i, j in ((0, 0), (17, 400), (799, 802), (333, 3)):
        cell = Box(int(np.floor(-y[i] / 35)), int(np.floor(x[j] / 35)), 0, 0)
        cell = Box(cell.y0, cell.x0, cell.y0 + 1, cell.x0 + 1)
        value = plan.reader.read(item, ("nir",), coarse, cell, "nearest")[0, 0, 0]
        assert found[i, j] == (value > 5000)


def test_what_grows_out_of_a_block_reaches_into_the_next(functions: Path) -> None:
    mask = ModelMask(
        model="maskfunctions:bright", bands=("nir",), threshold=9990.0, resolution_m=20, dilate_m=200
    )
    plan = _plan(mask, items=season())
    item, grid = _first(plan), Grid.make("EPSG:32633", 20)
    box = Box(-264_900, 25_000, -264_200, 25_700)
    bright = plan.reader.read(item, ("nir",), grid, box.pad(10), "nearest")[0] > 9990
    expected = binary_dilation(bright, np.ones((21, 21)))[10:-10, 10:-10]
    planned = dataclasses.replace(plan, grid=grid)
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(hidden(planned, item, box, plan.spec.mask[0]), expected)


def test_no_data_hides_nothing_and_does_not_grow(functions: Path) -> None:
    mask = ModelMask(model="maskfunctions:everywhere", bands=("nir",), resolution_m=10, margin_px=4)
    plan = _plan(mask, items=season())
    item = _first(plan)
    found = hidden(plan, item, BOX, plan.spec.mask[0])
    values = plan.reader.read(item, ("nir",), GRID, BOX, "nearest")[0]
    np.testing.assert_array_equal(found, values > 0)


def test_an_answer_of_another_shape_is_refused(functions: Path) -> None:
    plan = _plan(ModelMask(model="maskfunctions:wrong", bands=("nir",)), items=season())
    with pytest.raises(DataError, match="does not fit"):
        hidden(plan, _first(plan), BOX, plan.spec.mask[0])
    assert not hiding._KEPT._kept  # a failure is not kept


def test_another_source_file_gives_another_key_and_is_refused_by_an_older_spec(functions: Path) -> None:
    mask = ModelMask(model="maskfunctions:bright", bands=("nir",))
    before = _plan(mask, items=season())
    functions.write_text(FUNCTIONS + "\n# changed\n")
    after = _plan(mask, items=season())
    assert before.digest() != after.digest()
    with pytest.raises(InputError, match="not the one that the spec names"):
        _plan(*before.spec.mask, items=season())


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (CloudProbabilityMask(), "item s0, mask cloud_probability.*expected cloud.*choose another mask"),
        (CloudProbabilityMask(band="snow"), "expected snow"),
        (ModelMask(model="s2cloudless"), "no cirrus band"),
        (ModelMask(model="maskfunctions:bright"), "needs reflectance bands"),
        (ModelMask(model="maskfunctions:bright", bands=("scl",)), "needs reflectance bands"),
        (
            ModelMask(model="maskfunctions:bright", bands=("nir",), dilate_m=660, margin_px=32),
            "33 px or more",
        ),
        (ModelMask(model="s2cloudless", margin_px=1), "2 px or more"),
        (ModelMask(model="s2cloudless", bands=("red",)), "knows its bands"),
        (ModelMask(model="nothere_at_all:f", bands=("nir",)), "not installed"),
        (ModelMask(model="/nothere/m.onnx", bands=("nir",)), "cannot read the mask's model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(mask: Mask, text: str, functions: Path) -> None:
    with pytest.raises(InputError, match=text):
        _plan(mask, items=season())


def test_a_cube_in_degrees_has_no_distance_in_metres() -> None:
    with pytest.raises(InputError, match="measure in metres"):
        _plan(SclMask(), grid=Grid.make("EPSG:4326", 0.0001))


@pytest.mark.parametrize("model", ["no such thing", "os", "a-b:c", ":f", "m:"])
def test_a_model_is_one_of_four_forms(model: str) -> None:
    with pytest.raises(ValueError, match=r"package\.module:function"):
        ModelMask(model=model)


def _network(path: Path, kind: str) -> bytes:
    """An ONNX network of (1, 2, y, x): ``mean`` of the bands, or ``scores`` of two classes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "h", "w"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, None, None, None])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    if kind == "mean":
        nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["out"], keepdims=1)]
    else:
        nodes = [helper.make_node("Identity", ["x"], ["out"])]
    graph = helper.make_graph(nodes, "mask", [x], [out], [axes] if kind == "mean" else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path.read_bytes()


def test_an_onnx_network_gives_a_probability_or_classes(tmp_path: Path) -> None:
    values = FakeReader().read(_first(_plan(SclMask())), BANDS, GRID, BOX, "nearest")
    for kind, threshold in (("mean", 0.6), ("scores", None)):
        path = tmp_path / f"{kind}.onnx"
        content = _network(path, kind)
        mask = ModelMask(model=str(path), bands=BANDS, threshold=threshold, resolution_m=10, margin_px=3)
        plan = _plan(mask, items=season())
        planned = plan.spec.mask[0]
        assert isinstance(planned, ModelMask)
        assert planned.sha256 == hashlib.sha256(content).hexdigest()
        shares = values.astype(np.float32) / np.float32(10_000)
        expected = shares.mean(axis=0) > 0.6 if kind == "mean" else shares[1] > shares[0]
        found = hidden(plan, _first(plan), BOX, planned)
        assert 0.05 < found.mean() < 0.95
        assert (found != expected).mean() < 1e-5
    strict = ModelMask(model=str(tmp_path / "scores.onnx"), bands=BANDS, threshold=0.5)
    plan = _plan(strict, items=season())
    with pytest.raises(InputError, match="no threshold applies"):
        hidden(plan, _first(plan), BOX, plan.spec.mask[0])


def test_a_changed_or_broken_network_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    _network(path, "mean")
    planned = with_checksum(ModelMask(model=str(path), bands=BANDS))
    path.write_bytes(b"not a network")
    with pytest.raises(InputError, match="not the one that the spec names"):
        open_masker(planned)
    with pytest.raises(DataError, match="cannot open the mask's network"):
        open_masker(ModelMask(model=str(path), bands=BANDS))


def test_a_network_of_other_bands_says_so(tmp_path: Path) -> None:
    _network(tmp_path / "m.onnx", "mean")
    masker = open_masker(ModelMask(model=str(tmp_path / "m.onnx"), bands=("red", "green", "nir")))
    with pytest.raises(DataError, match="refused its input"):
        masker.hide(np.ones((3, 8, 8), np.uint16))


def test_omnicloudmask_is_called_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with the published signature: the package itself is not run here."""
    calls: list[dict[str, Any]] = []

    def predict_from_array(input_array: np.ndarray, **options: Any) -> np.ndarray:
        calls.append({"input": input_array, **options})
        classes = np.zeros((1, *input_array.shape[1:]), np.uint8)
        classes[0, 5, 5:9] = 0, 1, 2, 3
        return classes

    stand_in = types.ModuleType("omnicloudmask")
    stand_in.predict_from_array = predict_from_array  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omnicloudmask", stand_in)
    monkeypatch.setattr(maskers.importlib.metadata, "version", lambda name: "1.7.0")
    open_masker.cache_clear()
    masker = open_masker(ModelMask(model="omnicloudmask"))
    values = np.full((3, 576, 576), 2500, np.uint16)
    found = masker.hide(values)
    assert masker.bands == ("red", "green", "nir")
    assert np.argwhere(found).tolist() == [[5, 6], [5, 7], [5, 8]]
    (call,) = calls
    assert call["input"].dtype == np.float32
    assert float(call["input"].max()) == pytest.approx(0.25)
    assert (call["patch_size"], call["patch_overlap"], call["no_data_value"]) == (576, 288, 0)
    open_masker.cache_clear()


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "omnicloudmask", None)
    with pytest.raises(InputError, match=r"pip install 'landweave\[cloudmasks\]'"):
        _plan(ModelMask(model="omnicloudmask"))


def test_answers_of_a_reader_without_a_hash_are_not_kept(functions: Path) -> None:
    class Plain(FakeReader):
        __hash__ = None  # type: ignore[assignment]

    mask = ModelMask(model="maskfunctions:bright", bands=("nir",), threshold=5000.0, resolution_m=10)
    plan = _plan(mask, items=season())
    plain = dataclasses.replace(plan, reader=Plain())
    expected = hidden(plan, _first(plan), BOX, plan.spec.mask[0])
    kept = len(hiding._KEPT._kept)
    np.testing.assert_array_equal(hidden(plain, _first(plan), BOX, plan.spec.mask[0]), expected)
    assert len(hiding._KEPT._kept) == kept > 0


def test_one_thread_works_on_a_block_while_the_others_wait() -> None:
    keeper, calls, gate = hiding._Keeper(2), Counter(), threading.Event()

    def make() -> np.ndarray:
        calls["made"] += 1
        gate.wait(5)
        return np.zeros(1, np.uint8)

    threads = [threading.Thread(target=keeper.get, args=("a", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert calls["made"] == 1
    keeper.get("b", make), keeper.get("c", make), keeper.get("a", make)
    assert calls["made"] == 4  # the oldest was dropped


def _l1c(real_data: Path) -> ItemRecord:
    folder = real_data / "s2_l1c_33UUU"
    west, south, east, north = 330_000, 5_814_360, 345_360, 5_822_040
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    outline = shapely.transform(
        shapely.box(west, south, east, north), lambda p: np.column_stack(to_degrees.transform(*p.T))
    )
    assets = tuple(
        AssetRecord(b.name, str(folder / f"T33UUU_20170216T102101_{b.msi}.jp2"))
        for b in ALL_BANDS
        if b.wavelength_um
    )
    template = scene("l1c", dt.date(2017, 2, 16), "take", baseline="02.04")
    return dataclasses.replace(template, assets=assets, geometry_wkb=shapely.to_wkb(outline), tile="33UUU")


def test_s2cloudless_by_blocks_is_the_packages_own_answer_to_the_whole_image(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real L1C, 13 bands of 33UUU: equal to the bit but for the outermost 2 px, where it mirrors the image."""
    from s2cloudless import S2PixelCloudDetector

    item = _l1c(real_data)
    table = ItemTable((item,), (dt.date(2017, 2, 1), dt.date(2017, 2, 28)))
    mask = ModelMask(model="s2cloudless", threshold=0.4, resolution_m=60, margin_px=4)
    cells = Grid.make("EPSG:32633", 60)
    image = Box(-97_034, 5_500, -96_906, 5_756)
    dn = OdcReader().read(item, S2CLOUDLESS_BANDS, cells, image, "nearest")
    detector = S2PixelCloudDetector(threshold=0.4, average_over=1, dilation_size=1)
    whole = np.moveaxis(dn, 0, -1)[None].astype(np.float32) / np.float32(10_000)
    expected = detector.get_cloud_masks(whole)[0] > 0
    plan = plan_cube(table, CubeSpec(bands=("red",), mask=(mask,)), cells, OdcReader())
    inner = np.s_[2:-2, 2:-2]
    for side in (MASK_BLOCK_PX, 64):
        monkeypatch.setattr(hiding, "MASK_BLOCK_PX", side)
        monkeypatch.setattr(hiding, "_KEPT", hiding._Keeper(64))
        found = hidden(plan, item, image, plan.spec.mask[0])
        np.testing.assert_array_equal(found[inner], expected[inner])
    assert 0.2 < expected.mean() < 0.4
    planned = plan.spec.mask[0]
    assert isinstance(planned, ModelMask)
    assert planned.sha256
    fine = dataclasses.replace(plan, grid=Grid.make("EPSG:32633", 10))
    part = Box(-582_100, 33_100, -581_800, 33_500)
    coarse = found.repeat(6, 0).repeat(6, 1)
    np.testing.assert_array_equal(
        hidden(fine, item, part, planned), coarse[part.slices_in(Box(-582_204, 33_000, -581_436, 34_536))]
    )
