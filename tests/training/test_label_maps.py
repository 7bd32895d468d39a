"""Labels from maps: legends, other grids, patches without their rims; and several sources together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_maps import MapSource, eroded, read_map
from training.label_values import LabelRaster, combine
from training.legends import LEGENDS, legend

GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_060, 40_000, -499_980, 40_100)
SCHEME = ClassScheme.from_names(["cropland", "forest", "water"])


def _map(path: Path, values: np.ndarray, size: float = 10.0) -> Path:
    left, _, _, top = GRID.bounds_of_box(BOX)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=GRID.crs, transform=Affine(size, 0, left, 0, -size, top),
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path


def test_worldcover_reaches_the_scheme_by_names_and_remap(tmp_path: Path) -> None:
    numbers = np.zeros(BOX.shape_yx, np.uint8)
    numbers[:20], numbers[20:40], numbers[40:60], numbers[60:70] = 40, 10, 80, 50
    source = MapSource(
        _map(tmp_path / "wc.tif", numbers),
        legend="worldcover",
        remap={"Tree cover": "forest", "80": "water", "Cropland": "cropland"},
        weight=0.4,
    )
    found = read_map(source, SCHEME, GRID, BOX)
    assert found.counts() == {"cropland": 2000, "forest": 2000, "water": 2000}
    assert (found.values[60:] == 0).all()
    assert found.weights is not None
    assert set(np.unique(found.weights)) == {0, 100}
    strict = MapSource(source.path, legend="worldcover", remap=source.remap, skip_unknown=False)
    with pytest.raises(InputError, match="50"):
        read_map(strict, SCHEME, GRID, BOX)
    with pytest.raises(InputError, match="no class of the scheme"):
        read_map(MapSource(source.path, legend="worldcover", remap={"10": "woods"}), SCHEME, GRID, BOX)


def test_a_coarse_map_gives_each_pixel_the_one_that_holds_its_centre(tmp_path: Path) -> None:
    """CORINE: 100 m pixels, numbers 1..44 in one map and three digits in another; broader classes too."""
    rng = np.random.default_rng(0)
    code = rng.choice([211, 231, 311, 512], (8, 10)).astype(np.int16)
    number = np.vectorize({211: 12, 231: 18, 311: 23, 512: 41}.get)(code).astype(np.uint8)
    remap = {"Agricultural areas": "cropland", "Broad-leaved forest": "forest", "512": "water"}
    maps = [
        read_map(
            MapSource(_map(tmp_path / name, values, 100), legend="corine", remap=remap), SCHEME, GRID, BOX
        )
        for name, values in (("a.tif", code), ("b.tif", number))
    ]
    expected = np.kron(np.select([code < 300, code == 311], [1, 2], 3), np.ones((10, 10), int))
    np.testing.assert_array_equal(maps[0].values, expected)
    # The number 41 has no remap of its own code: its class does.
    np.testing.assert_array_equal(maps[1].values != 0, (expected != 3) | (maps[1].values == 3))


def test_another_crs_is_read_by_nearest(tmp_path: Path) -> None:
    """The real Slovenian land cover, 10 m, put on a grid of 20 m of another zone."""
    values = np.full((60, 60), 2, np.uint8)
    path = _map(tmp_path / "m.tif", values)
    grid = Grid("EPSG:3035", (20.0, 20.0))
    from pyproj import Transformer

    left, bottom, right, top = GRID.bounds_of_box(BOX)
    bounds = Transformer.from_crs(GRID.crs, grid.crs, always_xy=True).transform_bounds(
        left, bottom, right, top
    )
    found = read_map(MapSource(path), SCHEME, grid, grid.box_of_bounds(bounds))
    assert set(np.unique(found.values)) == {0, 2}
    assert (found.values == 2).sum() == pytest.approx(900, rel=0.02)


def test_real_land_cover_of_slovenia(real_data: Path, tmp_path: Path) -> None:
    with np.load(real_data / "s2_slovenia_eopatch" / "eopatch_ndvi_clouds_lulc.npz") as patch:
        lulc = patch["LULC"][..., 0].astype(np.uint8)
    scheme = ClassScheme(
        classes=(
            LandClass(value=1, name="cultivated", colour="#aaaa00"),
            LandClass(value=2, name="forest", colour="#00aa00"),
            LandClass(value=5, name="artificial", colour="#aa0000", codes=(8,)),
        )
    )
    left, top = 465181.0522318204, 5080254.63349641
    path = tmp_path / "lulc.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=67, width=100, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(9.9947922, 0, left, 0, -9.9974487, top),
    ) as file:  # fmt: skip
        file.write(lulc, 1)
        grid, box = Grid.of_transform(file.crs, file.transform, lulc.shape)
    found = read_map(MapSource(path), scheme, grid, box)
    assert found.counts() == {
        "cultivated": int((lulc == 1).sum()),
        "forest": int((lulc == 2).sum()),
        "artificial": int((lulc == 8).sum()),
    }
    assert (lulc == 2).mean() == pytest.approx(0.79, abs=0.01)
    core = read_map(MapSource(path, erode_px=2), scheme, grid, box)
    assert 0 < sum(core.counts().values()) < sum(found.counts().values())


def test_erosion_keeps_only_pixels_whose_surroundings_agree() -> None:
    values = np.random.default_rng(2).choice([0, 1, 1, 1, 1, 2], (40, 40)).astype(np.uint8)
    found = eroded(values, 1)
    for i, j in np.ndindex(values.shape):
        around = values[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        assert found[i, j] == (values[i, j] if (around == values[i, j]).all() else 0)


@pytest.mark.parametrize("name", LEGENDS)
def test_legends_are_schemes_that_find_their_own_codes(name: str) -> None:
    scheme = legend(name)
    for c in scheme.classes:
        assert c.codes
        for code in c.codes:
            if name != "corine":
                assert scheme.lookup()[str(code)] == c.value
        assert scheme.codes_of(c.value) == c.codes
    assert ClassScheme.model_validate_json(scheme.model_dump_json()) == scheme


def test_corine_numbers_and_digits_mean_the_same() -> None:
    lookup = legend("corine").lookup()
    for number, digits in ((1, 111), (12, 211), (18, 231), (23, 311), (40, 511), (44, 523)):
        assert lookup[str(number)] == lookup[str(digits)]
    coarse, _ = legend("corine").broader()
    assert len(coarse.classes) == 5
    with pytest.raises(InputError, match="no such legend"):
        legend("modis")


def _raster(values: list[list[int]], weight: int | None, name: str) -> LabelRaster:
    array = np.array(values, np.uint8)
    weights = None if weight is None else np.where(array != 0, weight, 0).astype(np.uint8)
    return LabelRaster(array, Box(0, 0, *array.shape), SCHEME, weights, None, (name,))


def test_several_sources_the_larger_weight_wins_and_each_pixel_knows_its_source() -> None:
    fields = _raster([[1, 0, 0, 2, 3]], None, "fields")
    old_map = _raster([[2, 2, 0, 2, 1]], 100, "map")
    rules = _raster([[0, 3, 3, 0, 0]], 100, "rules")
    found = combine([old_map, fields, rules])
    assert found.values.tolist() == [[1, 0, 3, 2, 3]]
    assert found.weights is not None
    assert found.weights.tolist() == [[250, 0, 100, 250, 250]]
    assert found.source_counts() == {"map": 0, "fields": 3, "rules": 1}
    again = combine([combine([old_map, fields]), rules])
    np.testing.assert_array_equal(again.values, found.values)
    assert again.source_counts() == found.source_counts()


def test_sources_of_other_boxes_are_refused() -> None:
    with pytest.raises(InputError, match="one box"):
        combine([_raster([[1]], None, "a"), _raster([[1, 1]], None, "b")])
    with pytest.raises(InputError, match="one box"):
        combine([])
