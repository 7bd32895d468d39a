"""Slope and aspect of planes are known, of any surface equal the plain sums, and of real hills the stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate

from engine.cube.terrain import require_metres, terrain
from engine.values.errors import InputError
from engine.values.grid import Grid


@given(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([(10.0, 10.0), (20.0, 10.0), (5.0, 30.0)]))
def test_a_plane_has_its_slope_and_aspect_everywhere(
    east: float, north: float, resolution_yx: tuple[float, float]
) -> None:
    rows, cols = np.mgrid[0:6, 0:7]
    height, width = resolution_yx
    plane = (500 + east * cols * width - north * rows * height).astype(np.float32)
    slope, eastness, northness = (
        terrain(plane, resolution_yx, w) for w in ("slope", "eastness", "northness")
    )
    steep = np.hypot(east, north)
    np.testing.assert_allclose(slope, np.degrees(np.arctan(steep)), atol=2e-3)
    if steep > 0.05:
        np.testing.assert_allclose(eastness, -east / steep, atol=2e-3)
        np.testing.assert_allclose(northness, -north / steep, atol=2e-3)


def test_any_surface_equals_horns_sums() -> None:
    surface = np.random.default_rng(4).normal(300, 20, (30, 40)).astype(np.float32)
    surface[11, 17] = np.nan
    kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 80
    wide = surface.astype(np.float64)
    to_east, to_north = correlate(wide, kernel)[1:-1, 1:-1], correlate(wide, -kernel.T)[1:-1, 1:-1]
    found = terrain(surface, (10, 10), "slope")
    hole = np.zeros((28, 38), bool)
    hole[9:12, 15:18] = True
    np.testing.assert_array_equal(np.isnan(found), hole)
    expected = np.degrees(np.arctan(np.hypot(to_east, to_north)))
    np.testing.assert_allclose(found[~hole], expected[~hole], rtol=1e-5)
    aspect = np.degrees(
        np.arctan2(terrain(surface, (10, 10), "eastness"), terrain(surface, (10, 10), "northness"))
    )
    np.testing.assert_allclose(aspect[~hole], np.degrees(np.arctan2(-to_east, -to_north))[~hole], atol=1e-3)


def test_flat_ground_faces_nowhere() -> None:
    flat = np.full((3, 3), 7, np.float32)
    assert [terrain(flat, (10, 10), w).item() for w in ("slope", "eastness", "northness")] == [0, 0, 0]


def test_real_hills_have_about_the_stored_slope(real_data: Path) -> None:
    with xr.open_dataset(
        real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc", mask_and_scale=False
    ) as file:
        elevation, slope = (
            file[n].values[0].view(np.uint16).astype(np.float32) for n in ("elevation", "slope")
        )
    # the stored slope was made at the elevation model's own 30 m, in whole degrees
    wide, stored = (v[:99, :99].reshape(33, 3, 33, 3).mean(axis=(1, 3)) for v in (elevation, slope))
    ours = terrain(wide.astype(np.float32), (30.0, 30.0), "slope")
    assert np.corrcoef(ours.ravel(), stored[1:-1, 1:-1].ravel())[0, 1] > 0.9
    assert np.median(np.abs(ours - stored[1:-1, 1:-1])) < 1.0


def test_degrees_and_feet_are_refused() -> None:
    require_metres(Grid.make("EPSG:32633", 10))
    for crs in ("EPSG:4326", "EPSG:2263"):
        with pytest.raises(InputError, match="metres"):
            require_metres(Grid.make(crs, 0.001))
