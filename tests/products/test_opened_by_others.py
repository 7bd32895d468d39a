"""What is published is opened by the programs of others: GDAL's command line, xarray, rioxarray, rio-tiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (the accessor)
import xarray as xr
import zarr
from pyproj import Transformer
from rio_tiler.io import Reader

from engine.products.gdal_zarr import write_gdal_zarr
from engine.products.mosaic import MosaicOptions, write_mosaic
from engine.products.overviews import build_overviews
from engine.values.classes import ClassScheme
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box
from tests.products.mapstore import GRID, write_map
from tests.products.test_reducers import mode_oracle
from tests.services.require import require_service

SCHEME = ClassScheme.from_names(["winter wheat", "maize", "forest"])
SHAPE = (1100, 1400)


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    label = np.kron(rng.integers(0, 4, (44, 56), np.uint8), np.ones((25, 25), np.uint8))
    probability = np.where(label > 0, rng.integers(0, 251, (3, *SHAPE)), 255).astype(np.uint8)
    height = np.where(label > 0, rng.integers(-3000, 3000, SHAPE), -32768).astype(np.int16)
    return {"label": label, "probability": probability, "height": height}


@pytest.fixture(scope="module")
def home(layers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with overviews, a mosaic, a single COG and an unsharded Zarr of it."""
    home = tmp_path_factory.mktemp("published")
    write_map(home / "map.zarr", layers, SCHEME)
    build_overviews(str(home / "map.zarr"))
    write_mosaic(str(home / "map.zarr"), home / "cells", options=MosaicOptions(1024))
    write_mosaic(str(home / "map.zarr"), home / "single")
    write_gdal_zarr(str(home / "map.zarr"), home / "gdal.zarr", chunk_px=512)
    return home


def _gdal(command: str, *arguments: str | Path) -> str:
    """Run one of GDAL's programs."""
    if shutil.which(command) is None:
        require_service(command, "install GDAL's programs (Debian: gdal-bin)")
    done = subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _info(path: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_gdal("gdalinfo", "-json", path))
    return found


def _corner(info: dict[str, Any]) -> list[float]:
    """Return longitude and latitude of the upper-left corner as GDAL has them."""
    return list(info["wgs84Extent"]["coordinates"][0][0])


@pytest.mark.parametrize(
    "path", ["cells/label.vrt", "single/label.tif", "gdal-label.vrt", "cells/label/overview.tif"]
)
def test_gdalinfo_tells_crs_no_data_colours_names_and_overviews(home: Path, path: str) -> None:
    info = _info(home / path)
    (band,) = info["bands"]
    assert (band["type"], band["noDataValue"], band["colorInterpretation"]) == ("Byte", 0, "Palette")
    assert band["colorTable"]["entries"][1][:3] == list(SCHEME.classes[0].rgb)
    assert 'ID["EPSG",32633]' in info["coordinateSystem"]["wkt"]
    assert _corner(info) == pytest.approx([15.0, 45.1535], abs=1e-3)
    text = _gdal("gdalinfo", home / path)
    for value, name in enumerate(("no data", *SCHEME.names)):
        assert f"      {value}: {name}" in text
    assert "<GDALRasterAttributeTable" in text
    if path.startswith(("cells/label.vrt", "single")):
        # ceil(n / 2) pixels; the mosaic's own size is a multiple of its coarsest overview
        assert [o["size"] for o in band["overviews"]] == [[700, 550], [350, 275]]


def test_gdals_programs_read_the_same_pixels(
    home: Path, layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for path in ("cells/label.vrt", "single/label.tif", "gdal-label.vrt", f'ZARR:"{home}/gdal.zarr":/label'):
        source = path if path.startswith("ZARR") else home / path
        _gdal("gdal_translate", "-q", "-of", "GTiff", source, tmp_path / "copy.tif")
        with rasterio.open(tmp_path / "copy.tif") as copy:
            np.testing.assert_array_equal(copy.read(1)[: SHAPE[0], : SHAPE[1]], layers["label"])
            assert (copy.crs, copy.nodata, copy.transform[2], copy.transform[5]) == (
                "EPSG:32633",
                0,
                5e5,
                5e6,
            )
    _gdal("gdal_translate", "-q", "-outsize", "25%", "25%", home / "cells/label.vrt", tmp_path / "small.tif")
    with rasterio.open(
        tmp_path / "small.tif"
    ) as small:  # GDAL takes the overview, which is the exact majority
        np.testing.assert_array_equal(small.read(1), mode_oracle(layers["label"], 4))


def test_gdalwarp_puts_mosaic_and_zarr_in_the_same_place(home: Path, tmp_path: Path) -> None:
    for name, path in (("a", "single/label.tif"), ("b", "cells/label.vrt"), ("c", "gdal-label.vrt")):
        _gdal(
            "gdalwarp", "-q", "-t_srs", "EPSG:3035", "-tr", "20", "20", home / path, tmp_path / f"{name}.tif"
        )
    corners = [_corner(_info(tmp_path / f"{name}.tif")) for name in "abc"]
    assert corners[0] == pytest.approx([15.0, 45.15], abs=0.02)
    assert corners == [corners[0]] * 3


def test_the_unsharded_zarr_opens_in_gdal_of_rasterio_and_debian(
    home: Path, layers: dict[str, np.ndarray]
) -> None:
    group = _info(home / "gdal.zarr")
    named = [v for k, v in group["metadata"]["SUBDATASETS"].items() if k.endswith("_NAME")]
    assert any(name.endswith(":/label") for name in named)
    for name, no_data in (("label", 0), ("height", -32768)):
        source = f'ZARR:"{home}/gdal.zarr":/{name}'
        with rasterio.open(source) as file:
            np.testing.assert_array_equal(file.read(1), layers[name])
            assert (file.nodata, file.dtypes) == (no_data, (str(layers[name].dtype),))
            assert file.crs.to_epsg() == 32633
            assert file.transform[:6] == (10, 0, 5e5, 0, -10, 5e6)
        assert _info(source)["bands"][0]["noDataValue"] == no_data
    for plane in range(3):
        with rasterio.open(f'ZARR:"{home}/gdal.zarr":/probability:{plane}') as file:
            np.testing.assert_array_equal(file.read(1), layers["probability"][plane])
            assert (file.nodata, file.crs.to_epsg()) == (255, 32633)
    found = xr.open_zarr(home / "gdal.zarr", mask_and_scale=False, decode_coords="all")
    assert (found.label.dtype, found.rio.crs) == (np.uint8, "EPSG:32633")
    np.testing.assert_array_equal(found.label, layers["label"])


def test_part_of_the_layers_and_nothing_half(
    home: Path, layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    url, path = str(home / "map.zarr"), tmp_path / "part.zarr"
    told: list[tuple[int, int, str]] = []
    box = Box(-500_000 + 10, 50_000 + 20, -500_000 + 700, 50_000 + 900)
    for _ in range(2):  # the second replaces the first
        write_gdal_zarr(
            url, path, variables=["label"], box=box, chunk_px=256, listener=lambda *s: told.append(s)
        )
    assert told[-1] == (12, 12, "label")
    with rasterio.open(f'ZARR:"{path}":/label') as file:
        np.testing.assert_array_equal(file.read(1), layers["label"][10:700, 20:900])
        assert file.transform[2] == 500_200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part-label.vrt", "part.zarr"]
    with pytest.raises(InputError, match="no such variable"):
        write_gdal_zarr(url, tmp_path / "other.zarr", variables=["depth"])
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConflictError, match="in the way"):
        write_gdal_zarr(url, tmp_path / "mine")
    assert not (tmp_path / "other.zarr").exists()


def test_empty_chunks_of_the_unsharded_zarr_are_no_files(tmp_path: Path) -> None:
    label = np.zeros((512, 512), np.uint8)
    label[300:, 300:] = 2
    write_map(tmp_path / "map.zarr", {"label": label}, SCHEME)
    write_gdal_zarr(str(tmp_path / "map.zarr"), tmp_path / "g.zarr", chunk_px=256)
    assert [p.name for p in (tmp_path / "g.zarr/label").iterdir() if p.name[0] != "."] == ["1.1"]
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "g.zarr", mode="r")["label"][:], label)


def test_xarray_and_rioxarray_see_type_and_crs_with_no_help(
    home: Path, layers: dict[str, np.ndarray]
) -> None:
    for factor, group in ((1, None), (2, "overviews/2"), (4, "overviews/4")):
        found = xr.open_zarr(home / "map.zarr", group=group, decode_coords="all")
        expected = layers["label"] if factor == 1 else mode_oracle(layers["label"], factor)
        assert (found.label.dtype, found.height.dtype) == (np.uint8, np.int16)
        assert found.rio.crs == "EPSG:32633"
        assert found.rio.resolution() == (10 * factor, -10 * factor)
        np.testing.assert_array_equal(found.label, expected)
    for path in ("cells/label.vrt", "single/label.tif"):
        with xr.open_dataarray(home / path, engine="rasterio", mask_and_scale=False) as found:
            assert (found.dtype, found.rio.crs, found.rio.nodata) == (np.uint8, "EPSG:32633", 0)


@pytest.mark.parametrize("path", ["cells/label.vrt", "single/label.tif"])
def test_rio_tiler_makes_tiles_points_and_previews(
    home: Path, layers: dict[str, np.ndarray], path: str
) -> None:
    to_degrees = Transformer.from_crs(GRID.crs, 4326, always_xy=True)
    with Reader(str(home / path)) as reader:
        colours = reader.colormap
        assert colours is not None
        for land in SCHEME.classes:
            assert tuple(colours[land.value]) == (*land.rgb, 255)
        rows, cols = np.array([40, 333, 1080]), np.array([35, 760, 1390])
        for row, col in zip(rows, cols, strict=True):
            lon, lat = to_degrees.transform(500_000 + col * 10 + 5, 5_000_000 - row * 10 - 5)
            point = reader.point(lon, lat)
            assert int(point.data[0]) == layers["label"][row, col]
        lon, lat = to_degrees.transform(507_000, 4_994_500)
        tile = reader.tms.tile(lon, lat, 12)
        image = reader.tile(tile.x, tile.y, tile.z)
        assert image.data.shape == (1, 256, 256)
        assert set(np.unique(image.data[0][image.mask > 0])) <= {1, 2, 3}
        assert image.render(colormap=colours)[:4] == b"\x89PNG"
        small = reader.preview(max_size=350)
        np.testing.assert_array_equal(small.data[0], mode_oracle(layers["label"], 4))
