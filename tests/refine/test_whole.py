"""Maps in memory and lazy ones: one answer, for any blocks, with the whole array's."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from rasterio.features import sieve as gdal_sieve

import engine
from engine.refine.chain import RefineSpec
from engine.refine.whole import refine_map
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from tests.products.mapstore import patches

BOX = Box(-70, 30, 41, 127)
SCHEME = ClassScheme.from_names(["wheat", "maize", "forest", "water"])
STEPS = RefineSpec.model_validate(
    {
        "steps": [
            {"step": "majority", "within_px": 1},
            {"step": "mmu", "min_px": 7, "rounds": 2},
            {"step": "fill", "within_px": 2},
        ]
    }
)


@pytest.fixture(scope="module")
def mapped() -> xr.Dataset:
    """A map of patches with specks and holes."""
    rng = np.random.default_rng(5)
    label, noise = patches(5, BOX.shape_yx, 4), rng.random(BOX.shape_yx)
    label = np.where(noise < 0.1, rng.integers(1, 5, BOX.shape_yx), np.where(noise > 0.97, 0, label))
    confidence = np.where(label > 0, 200, 255)
    variables = {
        "label": (("y", "x"), label.astype(np.uint8), SCHEME.flag_attributes()),
        "confidence": (("y", "x"), confidence.astype(np.uint8), {"scale": 1 / 250}),
        "observations": (("y", "x"), np.full(BOX.shape_yx, 9, np.uint8)),
    }
    return xr.Dataset(variables, coords=georef_coords(Grid("EPSG:32633", (10.0, 10.0)), BOX))


@pytest.fixture(scope="module")
def whole(mapped: xr.Dataset) -> xr.Dataset:
    return engine.refine_map(mapped, STEPS, SCHEME)


@pytest.mark.parametrize(("chunk", "block"), [(50, 32), (17, 40), (111, 13), (30, 64), (64, 2048)])
def test_a_lazy_map_gives_the_same(chunk: int, block: int, mapped: xr.Dataset, whole: xr.Dataset) -> None:
    lazy = refine_map(mapped.chunk({"y": chunk, "x": chunk}), STEPS, SCHEME, block_px=block)
    assert dask.is_dask_collection(lazy.label.data)
    assert max(max(c) for c in lazy.label.data.chunks) <= block
    xr.testing.assert_identical(lazy.compute(scheduler="threads", num_workers=2), whole)
    xr.testing.assert_identical(refine_map(mapped, STEPS, SCHEME, block_px=block), whole)


def test_each_step_changed_something_and_the_rest_stays(mapped: xr.Dataset, whole: xr.Dataset) -> None:
    assert set(np.unique(whole.changed)) == {0, 1, 2, 3, 255}
    changed = (whole.label != mapped.label).values
    assert not (changed & np.isin(whole.changed, (0, 255))).any()
    np.testing.assert_array_equal(whole.changed == 3, (mapped.label == 0) & (whole.label > 0))
    np.testing.assert_array_equal(whole.changed == 255, whole.label == 0)
    np.testing.assert_array_equal(whole.confidence.values[~changed], mapped.confidence.values[~changed])
    assert whole.observations.identical(mapped.observations)
    assert whole.label.attrs == mapped.label.attrs


def test_a_part_computes_no_more_than_it_needs(mapped: xr.Dataset, whole: xr.Dataset) -> None:
    asked: list[tuple[int, int]] = []

    def noted(block: np.ndarray, block_info: dict[int, dict[str, tuple[int, int]]]) -> np.ndarray:
        asked.append(block_info[0]["chunk-location"])
        return block

    label = mapped.label.chunk({"y": 20, "x": 20})
    seen = label.copy(data=label.data.map_blocks(noted, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)))
    steps = RefineSpec.model_validate({"steps": [{"step": "majority", "within_px": 1}]})
    lazy = refine_map(mapped[["label"]].assign(label=seen), steps, SCHEME, block_px=20)
    lazy.label[10:30, 10:30].compute(scheduler="sync")
    assert set(asked) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_sieve_is_gdals(mapped: xr.Dataset) -> None:
    spec = RefineSpec.model_validate({"sieve": {"min_ha": 0.06}})
    label = mapped.label.values
    wanted = gdal_sieve(label, 6, mask=label > 0, connectivity=4)
    for given in (mapped, mapped.chunk({"y": 40})):
        found = refine_map(given, spec, SCHEME)
        np.testing.assert_array_equal(found.label, wanted)
        np.testing.assert_array_equal(found.changed, np.where(label == 0, 255, wanted != label))


def test_what_is_no_map_of_classes_is_refused(mapped: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"lacks a layer.*expected label"):
        refine_map(mapped.drop_vars("label"), STEPS, SCHEME)
    with pytest.raises(InputError, match=r"labels are uint8.*found int64"):
        refine_map(mapped.assign(label=mapped.label.astype("int64")), STEPS, SCHEME)
    with pytest.raises(InputError, match="no CRS"):
        refine_map(mapped.drop_vars("spatial_ref"), STEPS, SCHEME)
