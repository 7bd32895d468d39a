from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from engine.products.mosaic import MosaicOptions, cells_over, write_mosaic
from engine.products.mosaic_files import Mosaic
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from tests.products.mapstore import write_map
from tests.products.test_reducers import mean_oracle, mode_oracle

SCHEME = ClassScheme.from_names(["winter wheat", "maize", "forest"])
SHAPE = (1500, 2300)
HOLE = (slice(0, 600), slice(1200, 2300))  # without data: two cells of 1024 px hold nothing else


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    label = np.kron(rng.integers(1, 4, (60, 92), np.uint8), np.ones((25, 25), np.uint8))
    noisy = rng.random(SHAPE) < 0.2
    label[noisy] = rng.integers(0, 4, int(noisy.sum()))
    label[HOLE] = 0
    probability = np.where(label > 0, rng.integers(0, 251, (2, *SHAPE)), 255).astype(np.uint8)
    height = np.where(label > 0, rng.integers(-32767, 32768, SHAPE), -32768).astype(np.int16)
    return {"label": label, "probability": probability, "height": height}


@pytest.fixture(scope="module")
def store(layers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Box]:
    path = tmp_path_factory.mktemp("store") / "map.zarr"
    return str(path), write_map(path, layers, SCHEME, origin_yx=(-500_312, 50_000), shard_px=512)


def _expected(values: np.ndarray, box: Box, mosaic: Mosaic, no_data: int) -> np.ndarray:
    whole = np.full((*values.shape[:-2], *mosaic.box.shape_yx), no_data, values.dtype)
    whole[(..., *box.slices_in(mosaic.box))] = values
    return whole


def _levels(path: Path, band: int = 1) -> dict[int, np.ndarray]:
    with rasterio.open(path) as file:
        factors = file.overviews(band)
    levels = {}
    for level, factor in enumerate(factors):
        with rasterio.open(path, overview_level=level) as coarse:
            levels[factor] = coarse.read(band)
    return levels


@pytest.mark.parametrize(
    ("cell_px", "block_px", "joined"),
    [
        (1024, 64, True),
        (1024, 2048, True),
        (2048, 512, True),
        (4096, 256, True),
        (8192, 1024, True),
        (16384, 512, False),
        (16384, 2048, False),
    ],
)
def test_pixels_and_overviews_are_those_of_the_whole_array(
    store: tuple[str, Box],
    layers: dict[str, np.ndarray],
    tmp_path: Path,
    cell_px: int,
    block_px: int,
    joined: bool,
) -> None:
    whole, label = store[1], layers["label"][5:, : SHAPE[1] - 3]
    box = Box(whole.y0 + 5, whole.x0, whole.y1, whole.x1 - 3)
    options = MosaicOptions(cell_px, joined=joined, block_px=block_px)
    mosaic = write_mosaic(store[0], tmp_path, box=box, options=options)
    assert (mosaic.vrt is not None) == joined
    expected = _expected(label, box, mosaic, 0)
    with rasterio.open(mosaic.main) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.crs, file.nodata, file.dtypes) == ("EPSG:32633", 0, ("uint8",))
        assert file.transform[:6] == (10, 0, mosaic.box.x0 * 10, 0, -10, -mosaic.box.y0 * 10)
        assert file.colorinterp == (ColorInterp.palette,)
        assert [file.colormap(1)[c.value][:3] for c in SCHEME.classes] == [c.rgb for c in SCHEME.classes]
        assert file.tags(1)["class_2"] == "maize"
    levels = _levels(mosaic.main)
    assert list(levels) == [2, 4, 8]
    for factor, found in levels.items():
        np.testing.assert_array_equal(found, mode_oracle(expected, factor))


def test_each_cell_is_a_valid_cog_that_stands_alone(
    store: tuple[str, Box], layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    mosaic = write_mosaic(store[0], tmp_path, options=MosaicOptions(1024))
    expected = _expected(layers["label"], store[1], mosaic, 0)
    keys = [str(key) for key, _ in cells_over(mosaic.box, 1024)]
    assert [str(cell.key) for cell in mosaic.cells] == [
        k for k in keys if k not in ("r-489_c50", "r-489_c51")
    ]
    for cell in mosaic.cells:
        assert cog_validate(cell.path, quiet=True) == (True, [], [])
        part = expected[cell.box.slices_in(mosaic.box)]
        with rasterio.open(cell.path) as file:
            np.testing.assert_array_equal(file.read(1), part)
            assert file.colormap(1)[1] == (*SCHEME.classes[0].rgb, 255)
        for factor, found in _levels(cell.path).items():
            np.testing.assert_array_equal(found, mode_oracle(part, factor))
    assert mosaic.overview is not None
    assert cog_validate(mosaic.overview, quiet=True) == (True, [], [])
    for path in mosaic.files[1:]:
        assert "<Category>winter wheat</Category>" in Path(f"{path}.aux.xml").read_text()


def test_amounts_in_several_bands_keep_type_scale_and_names(
    store: tuple[str, Box], layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for variable, no_data in (("probability", 255), ("height", -32768)):
        mosaic = write_mosaic(store[0], tmp_path, variable, options=MosaicOptions(1024))
        values = layers[variable] if variable == "probability" else layers[variable][None]
        expected = _expected(values, store[1], mosaic, no_data)
        with rasterio.open(mosaic.main) as file:
            np.testing.assert_array_equal(file.read(), expected)
            assert file.nodata == no_data
            assert file.dtypes == (str(values.dtype),) * len(values)
            assert file.scales == ((1 / 250,) * 2 if variable == "probability" else (1.0,))
            assert file.descriptions[0] == ("probability 1" if variable == "probability" else "height")
        for band, plane in enumerate(expected, start=1):
            for factor, found in _levels(mosaic.main, band).items():
                np.testing.assert_array_equal(found, mean_oracle(plane, factor, no_data))


def test_nearest_overviews_take_the_middle_pixel(store: tuple[str, Box], tmp_path: Path) -> None:
    mosaic = write_mosaic(store[0], tmp_path, options=MosaicOptions(1024, overviews="nearest"))
    with rasterio.open(mosaic.main) as file:
        whole = file.read(1)
    for factor, found in _levels(mosaic.main).items():
        np.testing.assert_array_equal(found, whole[factor // 2 :: factor, factor // 2 :: factor])


def _identities(mosaic: Mosaic) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in mosaic.files}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.fixture
def own_store(layers: dict[str, np.ndarray], tmp_path: Path) -> str:
    write_map(tmp_path / "map.zarr", {"label": layers["label"]}, SCHEME, origin_yx=(-500_312, 50_000))
    return str(tmp_path / "map.zarr")


def test_only_cells_with_other_pixels_are_written_again(own_store: str, tmp_path: Path) -> None:
    first = write_mosaic(own_store, tmp_path / "cog", options=MosaicOptions(1024))
    before = _identities(first)
    again = write_mosaic(own_store, tmp_path / "cog", options=MosaicOptions(1024))
    assert again == first
    unchanged = _identities(again)
    assert {n for n in before if unchanged[n] != before[n]} == {"label.vrt"}  # the same text, written last
    array = zarr.open_group(own_store, mode="r+")["label"]
    array[1400, 5] = 3 if array[1400, 5] != 3 else 1
    changed = _identities(write_mosaic(own_store, tmp_path / "cog", options=MosaicOptions(1024)))
    assert {n for n in before if changed[n] != before[n]} == {"label.vrt", "r-488_c48.tif", "overview.tif"}
    (tmp_path / "cog/label/r-488_c49.tif").write_bytes(b"II*\0damaged")
    mended = write_mosaic(own_store, tmp_path / "cog", options=MosaicOptions(1024))
    assert cog_validate(tmp_path / "cog/label/r-488_c49.tif", quiet=True)[0]
    renamed = ClassScheme.from_names(["wheat", "maize", "forest"])
    other = write_mosaic(own_store, tmp_path / "cog", scheme=renamed, options=MosaicOptions(1024))
    assert not {c.digest for c in other.cells} & {c.digest for c in mended.cells}
    with rasterio.open(other.cells[0].path) as file:
        assert file.tags(1)["class_1"] == "wheat"


def test_a_caller_who_knows_the_state_spares_the_reading(
    own_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.store.view import MapView

    states = {True: "first"}
    options = MosaicOptions(1024, state=lambda box: states.get(box.y0 < -499_712, "other"))
    first = write_mosaic(own_store, tmp_path / "cog", options=options)
    reads: list[Box] = []
    read = MapView.read

    def counted(view: MapView, variable: str, box: Box, plane: int | None = None) -> np.ndarray:
        reads.append(box)
        return read(view, variable, box, plane)

    monkeypatch.setattr(MapView, "read", counted)
    assert write_mosaic(own_store, tmp_path / "cog", options=options) == first
    # Cells that have no file are looked at, to see that they are still empty.
    assert {(box.y0 // 1024, box.x0 // 1024) for box in reads} == {(-489, 50), (-489, 51)}
    states[True] = "second"
    second = write_mosaic(own_store, tmp_path / "cog", options=options)
    differs = [a.key.row for a, b in zip(first.cells, second.cells, strict=True) if a.digest != b.digest]
    assert differs == [-489, -489]


def test_what_is_no_longer_a_part_is_removed(own_store: str, tmp_path: Path) -> None:
    cog = tmp_path / "cog"
    write_mosaic(own_store, cog, options=MosaicOptions(1024))
    left = cog / "label" / ".r-488_c48.999999999.parts"
    left.mkdir()
    zarr.open_group(own_store, mode="r+")["label"][:] = 0
    empty = write_mosaic(own_store, cog, options=MosaicOptions(1024))
    assert (empty.cells, empty.overview) == ((), None)
    with rasterio.open(empty.main) as file:
        assert not file.read(1).any()
    zarr.open_group(own_store, mode="r+")["label"][700:, 100:] = 2
    write_mosaic(own_store, cog, options=MosaicOptions(1024))
    assert not left.exists()
    single = write_mosaic(own_store, cog)
    assert sorted(p.name for p in cog.iterdir()) == ["label.tif", "label.tif.aux.xml"]
    assert single.files == (cog / "label.tif",)
    write_mosaic(own_store, cog, options=MosaicOptions(1024))
    assert sorted(p.name for p in cog.iterdir()) == ["label", "label.vrt"]


def test_a_mosaic_may_move(own_store: str, layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_mosaic(own_store, tmp_path / "cog", options=MosaicOptions(1024))
    shutil.move(tmp_path / "cog", tmp_path / "elsewhere")
    with rasterio.open(tmp_path / "elsewhere/label.vrt") as file:
        np.testing.assert_array_equal(file.read(1)[: SHAPE[0], : SHAPE[1]], layers["label"])
    assert _levels(tmp_path / "elsewhere/label.vrt")[8].any()


def test_progress_is_told_and_sizes_are_checked(own_store: str, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    write_mosaic(own_store, tmp_path, options=MosaicOptions(2048), listener=lambda *s: told.append(s))
    assert [(done, total) for done, total, _ in told] == [(i, 4) for i in (1, 2, 3, 4)]
    assert told[0][2] == "label/r-245_c24.tif"
    with pytest.raises(InputError, match="power of two"):
        MosaicOptions(3000)
