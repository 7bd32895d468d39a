"""Rasters of classes that no run made: GeoTIFFs of others, a map's Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.features import sieve as gdal_sieve
from rasterio.transform import from_origin

from engine.refine.around import Around
from engine.refine.chain import RefineSpec
from engine.refine.files import TiffRaster, open_raster, refine_raster
from engine.refine.source import ArraySource, rows_of
from engine.store.view import open_view
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from tests.products.mapstore import patches, write_map

SHAPE = (97, 130)
SCHEME = ClassScheme.from_names(["wheat", "maize", "forest", "water"])
MAJORITY = {"steps": [{"step": "majority", "within_px": 1}]}


def specks(seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.random(SHAPE)
    label = np.where(noise < 0.1, rng.integers(1, 5, SHAPE), patches(seed, SHAPE, 4))
    return np.where(noise > 0.97, 0, label).astype(np.uint8)


def write_tiff(path: Path, label: np.ndarray, nodata: int | None = 0, **more: Any) -> Path:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "crs": "EPSG:32633",
        "transform": from_origin(499_990, 5e6, 10, 10),
    }
    with rasterio.open(
        path,
        "w",
        **{**profile, "dtype": label.dtype, "nodata": nodata, **more},
        height=SHAPE[0],
        width=SHAPE[1],
    ) as file:
        file.write(label, 1)
    return path


def refine(path: Path, out: Path, spec: dict[str, Any], scheme: ClassScheme = SCHEME) -> Any:
    asked = RefineSpec.model_validate(spec)
    told: list[tuple[int, int]] = []
    found = refine_raster(
        open_raster(str(path), asked), asked, scheme, out, lambda d, n, _: told.append((d, n))
    )
    assert told[-1][0] == told[-1][1]
    return found


def expected(label: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """Refine an array as a whole."""
    box = Box(0, 0, *label.shape)
    around = Around.of(SCHEME, Grid("EPSG:32633", (10.0, 10.0)), box)
    return (
        RefineSpec.model_validate(spec).made(around).apply(ArraySource({"label": label}, box), box)["label"]
    )


@pytest.mark.parametrize("block_px", [16, 32, 2048])
def test_a_tiff_is_refined_block_by_block(
    tmp_path: Path, block_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.refine.files.BLOCK_PX", block_px)
    label = specks()
    found = refine(write_tiff(tmp_path / "map.tif", label), tmp_path / "out.tif", MAJORITY)
    wanted = expected(label, MAJORITY)
    with rasterio.open(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.read(1), wanted)
        assert (file.nodata, file.crs.to_epsg(), file.transform.c) == (0, 32633, 499_990)
        assert file.colormap(1)[2][:3] == SCHEME.classes[1].rgb
        assert file.tags(1)["class_2"] == "maize"
    with rasterio.open(tmp_path / "out.changed.tif") as file:
        np.testing.assert_array_equal(file.read(1), np.where(label == 0, 255, wanted != label))
    assert found.changed == {"1_majority": int((wanted != label).sum())}
    assert found.pixels == int((wanted > 0).sum())
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "out.tif", "out.changed.tif"}


@pytest.mark.parametrize("connectivity", [4, 8])
def test_the_sieve_of_a_tiff_is_gdals(
    tmp_path: Path, connectivity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.refine.files.BLOCK_PX", 32)
    label = specks()
    spec = {"sieve": {"min_px": 5, "connectivity": connectivity}}
    refine(write_tiff(tmp_path / "map.tif", label), tmp_path / "out.tif", spec)
    with rasterio.open(tmp_path / "out.tif") as file:
        wanted = gdal_sieve(label, 5, mask=label > 0, connectivity=connectivity)
        np.testing.assert_array_equal(file.read(1), wanted)


def test_a_file_whose_zero_is_a_class_keeps_it(tmp_path: Path) -> None:
    label = specks()
    theirs = np.where(label == 0, 255, label - 1).astype(np.uint8)  # classes 0..3, 255 = no data
    path = write_tiff(tmp_path / "map.tif", theirs, nodata=255)
    scheme = TiffRaster(str(path)).scheme()
    assert scheme.lookup()["0"] == 255
    merged = {"steps": [{"step": "rules", "rules": [{"class": 0, "into": 2}]}]}
    refine(path, tmp_path / "out.tif", merged, scheme)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read(1), np.where(theirs == 0, 2, theirs))
    refine(path, tmp_path / "again.tif", MAJORITY, scheme)
    with rasterio.open(tmp_path / "again.tif") as file:
        again = file.read(1)
    wanted = expected(label, MAJORITY)
    ties = (again != wanted - 1) & (
        wanted > 0
    )  # class 0 is the highest one inside, so ties may fall elsewhere
    assert ties.mean() < 0.01
    np.testing.assert_array_equal(again == 255, label == 0)


def test_the_classes_that_our_files_tell_are_known_by_name(tmp_path: Path) -> None:
    refine(write_tiff(tmp_path / "map.tif", specks()), tmp_path / "out.tif", MAJORITY)
    told = TiffRaster(str(tmp_path / "out.tif")).scheme()
    assert {c.value: (c.name, c.rgb) for c in told.classes if c.value < 5} == {
        c.value: (c.name, c.rgb) for c in SCHEME.classes
    }


def test_a_maps_zarr_is_refined_with_its_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.refine.files.BLOCK_PX", 256)
    label = specks()
    layers = {"label": label, "confidence": np.where(label > 0, 99, 255).astype(np.uint8)}
    box = write_map(tmp_path / "map.zarr", layers, SCHEME)
    refine(tmp_path / "map.zarr", tmp_path / "out.zarr", {"steps": [{"step": "fill", "within_px": 3}]})
    view = open_view(str(tmp_path / "out.zarr"))
    filled = view.read("label", box)
    np.testing.assert_array_equal(filled, expected(label, {"steps": [{"step": "fill", "within_px": 3}]}))
    newly = (filled > 0) & (label == 0)
    assert newly.any()
    np.testing.assert_array_equal(view.read("confidence", box), np.where(newly, 0, layers["confidence"]))
    np.testing.assert_array_equal(view.read("changed", box), np.where(newly, 1, np.where(label > 0, 0, 255)))
    assert view.is_classes("label")


def test_a_failed_refinement_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "map.tif", specks())
    (tmp_path / "out.tif").write_bytes(b"before")

    def broken(done: int, total: int, what: str) -> None:
        raise RuntimeError("power cut")

    spec = RefineSpec.model_validate(MAJORITY)
    with pytest.raises(RuntimeError, match="power cut"):
        refine_raster(open_raster(str(path), spec), spec, SCHEME, tmp_path / "out.tif", broken)
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "out.tif"}
    assert (tmp_path / "out.tif").read_bytes() == b"before"


def test_rasters_that_cannot_be_refined_are_told(tmp_path: Path) -> None:
    spec = RefineSpec.model_validate(MAJORITY)
    with pytest.raises(InputError, match="cannot read the raster"):
        open_raster(str(tmp_path / "none.tif"), spec)
    wide = write_tiff(tmp_path / "wide.tif", specks().astype(np.uint16))
    with pytest.raises(InputError, match=r"classes are bytes.*found uint16.*gdal_translate"):
        open_raster(str(wide), spec)
    good = write_tiff(tmp_path / "good.tif", specks())
    with pytest.raises(InputError, match=r"--out.*found .*out\.png"):
        refine(good, tmp_path / "out.png", MAJORITY)
    with pytest.raises(InputError, match="no such class"):
        refine(good, tmp_path / "out.tif", {"steps": [{"step": "mmu", "min_px": 3, "keep": ["rice"]}]})
    assert not (tmp_path / "out.tif").exists()


def test_rows_are_read_by_bands_in_any_order() -> None:
    label, box = specks(), Box(0, 0, *SHAPE)
    read = rows_of(ArraySource({"label": label}, box), box, band_px=16)
    for y0, y1 in ((0, 5), (5, 40), (15, 17), (90, 97), (0, 97)):
        np.testing.assert_array_equal(read(y0, y1), label[y0:y1])


@pytest.mark.long
@pytest.mark.parametrize("block_px", [1024, 1536, 2048, 4096, 5000, 16384])
def test_a_whole_real_tile_knows_no_blocks(
    tmp_path: Path, real_data: Path, block_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.refine.files.BLOCK_PX", block_px)
    path = real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif"
    steps = {"steps": [{"step": "majority"}, {"step": "mmu", "min_px": 50}, {"step": "fill", "within_px": 2}]}
    with rasterio.open(path) as file:
        label = file.read(1)
    refine(path, tmp_path / "steps.tif", steps)
    refine(path, tmp_path / "sieve.tif", {"sieve": {"min_px": 50, "connectivity": 8}})
    with rasterio.open(tmp_path / "steps.tif") as by_steps, rasterio.open(tmp_path / "sieve.tif") as by_sieve:
        np.testing.assert_array_equal(by_steps.read(1), expected(label, steps))
        wanted = gdal_sieve(label, 50, mask=label > 0, connectivity=8)
        np.testing.assert_array_equal(by_sieve.read(1), wanted)
