from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (the accessor)
import xarray as xr
import zarr

from engine.products.mosaic import MosaicOptions, write_mosaic
from engine.products.overviews import build_overviews, default_levels
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from tests.products.mapstore import patches, write_map
from tests.products.test_reducers import mean_oracle, mode_oracle

SCHEME = ClassScheme.from_names(["wheat", "maize", "grass land", "forest"])


def test_levels_stop_below_512_pixels() -> None:
    assert default_levels((100, 511)) == ()
    assert default_levels((100, 512)) == (2,)
    assert default_levels((10980, 10980)) == (2, 4, 8, 16, 32)


def _layers(seed: int = 1, shape: tuple[int, int] = (700, 1100)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = patches(seed, shape, 4, sites=600)
    label[rng.random(shape) < 0.1] = 0
    label[100:220, 200:340] = 0
    confidence = rng.integers(0, 251, shape, dtype=np.uint8)
    confidence[label == 0] = 255
    probability = rng.integers(0, 251, (4, *shape), dtype=np.uint8)
    probability[:, label == 0] = 255
    observations = rng.integers(0, 30, shape, dtype=np.uint8)
    height = np.where(label, rng.integers(-32767, 32768, shape), -32768).astype(np.int16)
    return {
        "label": label,
        "confidence": confidence,
        "probability": probability,
        "observations": observations,
        "height": height,
    }


@pytest.mark.parametrize(
    ("block_px", "workers"), [(64, 3), (128, 1), (256, 2), (512, 2), (1024, 3), (2048, 1)]
)
def test_any_block_size_gives_the_answer_of_the_whole_array(
    tmp_path: Path, block_px: int, workers: int
) -> None:
    layers = _layers(shape=(330, 450))
    write_map(tmp_path / "map.zarr", layers, SCHEME)
    told: list[tuple[int, int, str]] = []
    factors = build_overviews(
        str(tmp_path / "map.zarr"),
        (2, 8, 32),
        block_px=block_px,
        workers=workers,
        listener=lambda *step: told.append(step),
    )
    assert factors == (2, 8, 32)
    assert [done for done, _, _ in told] == list(range(1, told[0][1] + 1))
    assert {name for _, _, name in told} == set(layers)
    for factor in factors:
        level = zarr.open_group(str(tmp_path / "map.zarr"), mode="r")[f"overviews/{factor}"]
        np.testing.assert_array_equal(level["label"][:], mode_oracle(layers["label"], factor))
        np.testing.assert_array_equal(level["confidence"][:], mean_oracle(layers["confidence"], factor, 255))
        np.testing.assert_array_equal(
            level["observations"][:], mean_oracle(layers["observations"], factor, None)
        )
        assert level["height"].dtype == np.int16
        np.testing.assert_array_equal(level["height"][:], mean_oracle(layers["height"], factor, -32768))
        for k in range(4):
            expected = mean_oracle(layers["probability"][k], factor, 255)
            np.testing.assert_array_equal(level["probability"][k], expected)


def test_each_level_opens_with_coordinates_and_crs(tmp_path: Path) -> None:
    box = write_map(tmp_path / "map.zarr", _layers(), SCHEME)
    assert build_overviews(str(tmp_path / "map.zarr")) == (2, 4)
    base = xr.open_zarr(tmp_path / "map.zarr")
    for factor in (2, 4):
        level = xr.open_zarr(tmp_path / "map.zarr", group=f"overviews/{factor}", decode_coords="all")
        assert level.rio.crs == "EPSG:32633"
        assert level.label.dtype == np.uint8
        assert level.rio.resolution() == (10.0 * factor, -10.0 * factor)
        left, bottom, right, top = level.rio.bounds()
        whole = base.rio.write_crs(32633).rio.bounds()
        assert (left, top) == (whole[0], whole[3])
        assert right - whole[2] < 10 * factor
        assert whole[1] - bottom < 10 * factor
        assert level.label.attrs["flag_meanings"] == "no_data wheat maize grass_land forest"
        np.testing.assert_allclose(level.x.values[0], left + 5 * factor)
        np.testing.assert_array_equal(level["class"].values, [1, 2, 3, 4])
    assert box.shape_yx == (700, 1100)


def test_the_root_describes_its_levels_after_the_multiscales_convention(tmp_path: Path) -> None:
    write_map(tmp_path / "map.zarr", _layers(), SCHEME)
    for _ in range(2):  # a second build replaces the first
        build_overviews(str(tmp_path / "map.zarr"))
    root = zarr.open_consolidated(str(tmp_path / "map.zarr"))
    names = [c["name"] for c in root.attrs["zarr_conventions"]]
    assert names.count("multiscales") == 1
    layout = root.attrs["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == [".", "overviews/2", "overviews/4"]
    pattern = re.compile(r"^(?!/)(?!.*(\.\.))([^/]+(/[^/]+)*)$")  # of the convention's JSON schema, v1
    assert all(pattern.match(entry["asset"]) for entry in layout)
    assert "derived_from" not in layout[0]
    assert layout[1]["derived_from"] == "."
    assert layout[2]["transform"] == {"scale": [4.0, 4.0], "translation": [0.0, 0.0]}
    assert layout[2]["spatial:shape"] == [175, 275]
    assert layout[2]["spatial:transform"] == [40.0, 0.0, 500_000.0, 0.0, -40.0, 5_000_000.0]
    assert root["overviews/4/label"].shape == (175, 275)  # found through the consolidated metadata


def test_levels_that_are_no_powers_of_two_are_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "map.zarr", {"label": np.ones((8, 8), np.uint8)}, SCHEME)
    with pytest.raises(InputError, match="powers of two"):
        build_overviews(str(tmp_path / "map.zarr"), (3,))
    with pytest.raises(InputError, match="no map store"):
        build_overviews(str(tmp_path / "absent.zarr"))


def test_a_real_whole_tile_mask(real_data: Path, tmp_path: Path) -> None:
    with rasterio.open(real_data / "full_tile/cloudmask_T19GBQ_20170725.tif") as source:
        label = source.read(1)[4000:7000, 2000:6100] + 1  # the source's 0 is a class of its own
    scheme = ClassScheme.from_names(["clear", "thick cloud", "thin cloud", "shadow"])
    write_map(tmp_path / "map.zarr", {"label": label}, scheme, shard_px=1024)
    assert build_overviews(str(tmp_path / "map.zarr")) == (2, 4, 8, 16)
    root = zarr.open_group(str(tmp_path / "map.zarr"), mode="r")
    assert np.unique(label).size > 2
    for factor in (8, 16):
        np.testing.assert_array_equal(root[f"overviews/{factor}/label"][:], mode_oracle(label, factor))


def _majority(label: np.ndarray, factor: int) -> np.ndarray:
    """Count one class at a time in squares of a whole array."""
    shape = tuple(-(-n // factor) for n in label.shape)
    padded = np.zeros((shape[0] * factor, shape[1] * factor), np.uint8)
    padded[: label.shape[0], : label.shape[1]] = label
    squares = padded.reshape(shape[0], factor, shape[1], factor)
    best, winner = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    for value in range(1, int(label.max()) + 1):
        votes = (squares == value).sum(axis=(1, 3), dtype=np.int32)
        winner[votes > best] = value
        best = np.maximum(best, votes)
    return winner


@pytest.mark.long
def test_the_whole_real_mask_with_six_block_sizes_as_pyramid_and_mosaic(
    real_data: Path, tmp_path: Path
) -> None:
    with rasterio.open(real_data / "full_tile/cloudmask_T19GBQ_20170725.tif") as source:
        label = source.read(1) + 1
    scheme = ClassScheme.from_names(["clear", "thick cloud", "thin cloud", "shadow"])
    box = write_map(tmp_path / "map.zarr", {"label": label}, scheme, shard_px=2048)
    expected = {factor: _majority(label, factor) for factor in (2, 4, 8, 16, 32)}
    for block_px in (256, 512, 1024, 2048, 4096, 16384):
        assert build_overviews(str(tmp_path / "map.zarr"), block_px=block_px) == tuple(expected)
        root = zarr.open_group(str(tmp_path / "map.zarr"), mode="r")
        for factor, level in expected.items():
            np.testing.assert_array_equal(root[f"overviews/{factor}/label"][:], level)
    for cell_px in (1024, 2048, 4096, 8192, 16384):
        options = MosaicOptions(cell_px, joined=True)
        mosaic = write_mosaic(str(tmp_path / "map.zarr"), tmp_path / "cog", options=options)
        y, x = box.y0 - mosaic.box.y0, box.x0 - mosaic.box.x0
        whole = np.zeros(mosaic.box.shape_yx, np.uint8)
        whole[y : y + label.shape[0], x : x + label.shape[1]] = label
        for index, factor in enumerate(expected):
            with rasterio.open(mosaic.main, overview_level=index) as level:
                np.testing.assert_array_equal(level.read(1), _majority(whole, factor))
