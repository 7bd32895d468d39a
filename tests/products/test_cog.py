from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from engine.products.cog import Overviews, write_cog
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from tests.products.mapstore import patches, write_map
from tests.products.test_reducers import mean_oracle, mode_oracle

SCHEME = ClassScheme.from_names(["winter wheat", "maize", "forest"])


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    label = patches(8, (1300, 1500), 3, sites=900)
    label[rng.random(label.shape) < 0.02] = 0
    confidence = np.where(label > 0, rng.integers(0, 251, label.shape), 255).astype(np.uint8)
    probability = np.stack([np.where(label > 0, confidence // d, 255) for d in (1, 2, 3)]).astype(np.uint8)
    return {"label": label, "confidence": confidence, "probability": probability}


@pytest.fixture(scope="module")
def store(layers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Box]:
    path = tmp_path_factory.mktemp("store") / "map.zarr"
    return str(path), write_map(path, layers, SCHEME)


@pytest.mark.parametrize("block_px", [300, 512, 2048])
def test_the_pixels_are_those_of_the_area(
    store: tuple[str, Box], layers: dict[str, np.ndarray], tmp_path: Path, block_px: int
) -> None:
    url, whole = store
    box = Box(whole.y0 + 7, whole.x0 + 101, whole.y0 + 1207, whole.x0 + 1433)
    path = write_cog(url, tmp_path / "cog/label.tif", box=box, block_px=block_px)
    valid, errors, warnings = cog_validate(path, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as cog:
        np.testing.assert_array_equal(cog.read(1), layers["label"][7:1207, 101:1433])
        assert (cog.crs, cog.nodata, cog.dtypes) == ("EPSG:32633", 0, ("uint8",))
        assert cog.transform[:6] == (10.0, 0.0, 500_000 + 1010.0, 0.0, -10.0, 5_000_000 - 70.0)
        assert cog.colorinterp == (ColorInterp.palette,)
        for land in SCHEME.classes:
            assert cog.colormap(1)[land.value] == (*land.rgb, 255)
            assert cog.tags(1)[f"class_{land.value}"] == land.name
        assert cog.overviews(1) == [2, 4]
    # nothing but the file and its names is left behind
    assert sorted(p.name for p in path.parent.iterdir()) == ["label.tif", "label.tif.aux.xml"]


@pytest.mark.parametrize(
    ("block_px", "overviews"), [(64, "mode"), (512, "mode"), (2048, "mode"), (512, "nearest")]
)
def test_overviews_are_made_of_full_resolution(
    store: tuple[str, Box], layers: dict[str, np.ndarray], tmp_path: Path, block_px: int, overviews: Overviews
) -> None:
    whole, label = store[1], layers["label"][3:1290, 10:1490]
    box = Box(whole.y0 + 3, whole.x0 + 10, whole.y0 + 1290, whole.x0 + 1490)
    path = write_cog(store[0], tmp_path / "label.tif", box=box, overviews=overviews, block_px=block_px)
    for level, factor in enumerate((2, 4)):
        middle = label[factor // 2 :: factor, factor // 2 :: factor]
        with rasterio.open(path, overview_level=level) as coarse:
            found = coarse.read(1)
        if overviews == "mode":
            np.testing.assert_array_equal(found, mode_oracle(label, factor))
        else:
            np.testing.assert_array_equal(found[: middle.shape[0], : middle.shape[1]], middle)


@pytest.mark.parametrize("variable", ["confidence", "probability"])
def test_amounts_have_scale_no_data_and_names(
    store: tuple[str, Box], layers: dict[str, np.ndarray], tmp_path: Path, variable: str
) -> None:
    path = write_cog(store[0], tmp_path / f"{variable}.tif", variable=variable)
    assert cog_validate(path, quiet=True)[0]
    assert not (tmp_path / f"{variable}.tif.aux.xml").exists()
    with rasterio.open(path) as cog:
        expected = layers[variable] if variable == "probability" else layers[variable][None]
        np.testing.assert_array_equal(cog.read(), expected)
        assert (cog.nodata, set(cog.scales)) == (255, {1 / 250})
        names = {
            "confidence": ("confidence",),
            "probability": tuple(f"probability {n}" for n in SCHEME.names),
        }
        assert cog.descriptions == names[variable]
        half = cog.read(1, out_shape=(650, 750), masked=True)
        expected_half = mean_oracle(expected[0], 2, 255)  # no data takes no part
        np.testing.assert_array_equal(half.filled(255), expected_half)


def test_gdal_reads_the_category_names(store: tuple[str, Box], tmp_path: Path) -> None:
    """rasterio has no call for category names, but a VRT that GDAL makes of the file carries them."""
    from rasterio.shutil import copy

    path = write_cog(store[0], tmp_path / "label.tif")
    copy(str(path), str(tmp_path / "label.vrt"), driver="VRT")
    text = (tmp_path / "label.vrt").read_text()
    for name in ("no data", *SCHEME.names):
        assert f"<Category>{name}</Category>" in text
    assert "<GDALRasterAttributeTable" in text


def test_a_crs_without_code_survives(tmp_path: Path) -> None:
    from pyproj import CRS

    laea = "+proj=laea +lat_0=46 +lon_0=14.5 +x_0=500000 +y_0=100000 +ellps=GRS80 +units=m +type=crs"
    grid = Grid.make(laea, 20)
    label = np.ones((300, 200), np.uint8)
    write_map(tmp_path / "map.zarr", {"label": label}, SCHEME, grid=grid, origin_yx=(-6000, 20_000))
    with rasterio.open(write_cog(str(tmp_path / "map.zarr"), tmp_path / "label.tif")) as cog:
        assert CRS(cog.crs.to_wkt()).equals(CRS(laea), ignore_axis_order=True)
        assert cog.bounds[:2] == (400_000.0, 114_000.0)


def test_a_failed_write_leaves_the_old_file_alone(store: tuple[str, Box], tmp_path: Path) -> None:
    path = tmp_path / "label.tif"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="not inside"):
        write_cog(store[0], path, box=store[1].pad(1))
    with pytest.raises(InputError, match="no such variable"):
        write_cog(store[0], path, variable="height")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["label.tif"]
    write_cog(store[0], path)
    assert cog_validate(path, quiet=True)[0]
