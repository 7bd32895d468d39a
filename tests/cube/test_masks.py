"""Growing and hiding against scipy, on random and real layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import binary_dilation, maximum_filter

from engine.cube.masks import grown, hidden_by_probability, hidden_by_scl, scl_margin_px
from engine.values.grid import Box
from engine.values.spec import CloudProbabilityMask, SclMask


def _square(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1,) * 2)


def _by_scipy(scl: np.ndarray, reach_px: dict[int, int]) -> np.ndarray:
    """Each class by itself, grown by its own square; nothing lies beyond the edges."""
    hidden = np.zeros(scl.shape, bool)
    for scl_class, radius in reach_px.items():
        hidden |= maximum_filter(scl == scl_class, 2 * radius + 1, mode="constant", cval=0)
    return hidden


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0.001, 0.2))
def test_growing_equals_binary_dilation(seed: int, radius: int, share: float) -> None:
    hidden = np.random.default_rng(seed).random((37, 53)) < share
    expected = maximum_filter(hidden, 2 * radius + 1, mode="constant", cval=0)
    np.testing.assert_array_equal(grown(hidden, radius), expected)


@given(
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.sampled_from([0, 1, 3, 8, 9, 10, 11]), st.integers(0, 200), max_size=7),
    st.sampled_from([0.0, 20.0, 60.0]),
)
def test_each_class_grows_by_its_own_distance(seed: int, own_m: dict[int, int], dilate_m: float) -> None:
    scl = np.random.default_rng(seed).choice(
        [4, 5, 0, 1, 3, 8, 9, 10, 11], (60, 50), p=[0.6, 0.33] + [0.01] * 7
    )
    mask = SclMask(classes=(0, 1, 3, 8, 9, 10, 11), dilate_m=dilate_m, dilate_class_m=own_m)
    reach = {c: -(-own_m.get(c, dilate_m if c in (3, 8, 9, 10) else 0) // 20) for c in mask.classes}
    margin = scl_margin_px(mask, 20)
    assert margin == max(reach.values())
    expected = _by_scipy(scl, {c: int(r) for c, r in reach.items()})
    found = hidden_by_scl(np.pad(scl, margin, constant_values=4).astype(np.uint16), mask, 20)
    np.testing.assert_array_equal(found, expected)


def test_a_class_that_hides_nothing_cannot_grow() -> None:
    with pytest.raises(ValidationError, match="only classes that hide"):
        SclMask(dilate_class_m={11: 20})
    with pytest.raises(ValidationError, match="once each"):
        SclMask(dilate_class_m=[(3, 20), (3, 40)])


@pytest.mark.parametrize("band", ["cloud", "snow"])
def test_probability_hides_from_the_threshold_on_and_zero_never(band: str) -> None:
    percent = np.random.default_rng(0).integers(0, 101, (70, 80)).astype(np.uint16)
    for threshold in (0, 1, 40, 100):
        mask = CloudProbabilityMask(threshold=threshold, dilate_m=60, band=band)  # type: ignore[arg-type]
        expected = binary_dilation((percent >= threshold) & (percent > 0), _square(3))[3:-3, 3:-3]
        np.testing.assert_array_equal(hidden_by_probability(percent, mask, 20), expected)


@pytest.mark.parametrize(
    ("name", "cirrus_px", "second_date"),
    [
        ("test_optical_cube.nc", 0, 1396),
        ("test_optical_cube.nc", 3, 1990),
        ("cdse_sentinel2_l2a.nc", 0, 52),
        ("cdse_sentinel2_l2a.nc", 3, 196),
        ("cdse_sentinel2_l2a.nc", 12, 1004),
    ],
)
def test_hidden_pixels_of_real_scene_classifications(
    real_data: Path, name: str, cirrus_px: int, second_date: int
) -> None:
    """Most dates are all cloud or all clear; the second is part cirrus, which grows by its own distance."""
    with xr.open_dataset(real_data / "s2_l2a_openeo" / name, mask_and_scale=False) as data:
        scl = next(data[v] for v in data if str(v).endswith("SCL")).to_numpy().astype(np.uint16)
    mask = SclMask(dilate_class_m={10: 20.0 * cirrus_px})
    margin = scl_margin_px(mask, 20)
    counts = []
    for plane in scl:
        found = hidden_by_scl(np.pad(plane, margin, constant_values=4), mask, 20)
        expected = _by_scipy(plane, {0: 0, 1: 0, 3: 3, 8: 3, 9: 3, 10: cirrus_px})
        np.testing.assert_array_equal(found, expected)
        counts.append(int(found.sum()))
    assert counts[1] == second_date
    assert (min(counts), max(counts)) == (0, scl[0].size)


@pytest.mark.long
def test_a_whole_tiles_mask_grown_by_blocks_is_the_whole_grown(real_data: Path) -> None:
    """10980 x 10980 px: clouds, thin clouds and shadows, grown in blocks of 2048 px with a margin."""
    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        classes = file.read(1)
    classes = np.array([4, 9, 8, 3], np.uint8)[classes]  # as the SCL names them
    mask = SclMask(dilate_m=20, dilate_class_m={3: 100.0, 8: 60.0})
    whole = Box(0, 0, *classes.shape)
    margin = scl_margin_px(mask, 10)
    padded = np.pad(classes, margin, constant_values=4)
    found = np.zeros(classes.shape, bool)
    for block in whole.blocks(2048):
        around = block.pad(margin).slices_in(whole.pad(margin))
        found[block.slices_in(whole)] = hidden_by_scl(padded[around], mask, 10)
    expected = np.zeros(classes.shape, np.uint8)
    for scl_class, radius in {9: 2, 8: 6, 3: 10}.items():
        grown_class = maximum_filter(
            (classes == scl_class).view(np.uint8), 2 * radius + 1, mode="constant", cval=0
        )
        expected |= grown_class
    assert 0.01 < expected.mean() < 0.99
    np.testing.assert_array_equal(found, expected.astype(bool))
