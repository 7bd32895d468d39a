from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.sample.sky import make_sky, schedule, seen
from pipelines.sample.truth import MERIDIAN_DEG, Landscape
from pipelines.sample.zones import HOME, Place, Sheet, make_sheets, place_of, tile_boxes


@pytest.fixture(scope="module")
def sheets(small_land: Landscape) -> tuple[Sheet, Sheet]:
    west, east = make_sheets(small_land)
    return west, east


@given(st.integers(20, 4000), st.integers(20, 2000))
def test_two_tiles_cover_a_sheet_on_60_m_edges_and_overlap(rows: int, cols: int) -> None:
    sheet = Box(-6, 12, -6 + 6 * rows, 12 + 6 * cols)
    north, south = tile_boxes(32, sheet).values()
    assert north.shape_yx == south.shape_yx
    assert (north.y0, south.y1) == (sheet.y0, sheet.y1)
    assert all((b.y0 + 6) % 6 == 0 and (b.x0, b.x1) == (sheet.x0, sheet.x1) for b in (north, south))
    assert 0 < north.y1 - south.y0 <= 0.2 * (north.y1 - north.y0)


def test_the_boundary_runs_through_the_canvas_and_the_middle_lies_in_the_home_zone(
    small_land: Landscape, wide_land: Landscape
) -> None:
    for land in (small_land, wide_land):
        left, bottom, right, top = land.bounds
        to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
        lon = to_degrees.transform([left, (left + right) / 2, right], [(bottom + top) / 2] * 3)[0]
        assert lon[0] < MERIDIAN_DEG < lon[1] < lon[2]


def test_the_sheets_cover_the_canvas_together(small_land: Landscape, sheets: tuple[Sheet, Sheet]) -> None:
    west, east = sheets
    reached = np.zeros(small_land.truth.shape, bool)
    reached[east.land.box.slices_in(small_land.box)] = True
    place = west.place
    assert place is not None
    on = place.inside(small_land.truth.shape)
    rows, cols = (np.floor(p[on]).astype(int) for p in (place.rows, place.cols))
    western = np.zeros_like(reached)
    western[rows, cols] = True
    both = (
        (scipy.ndimage.binary_closing(np.pad(western, 3, mode="edge"), np.ones((3, 3)))[3:-3, 3:-3]) | reached
    )
    assert both.all()
    assert (western & reached).sum() > 0.02 * reached.size


def test_a_place_is_where_proj_says(small_land: Landscape, sheets: tuple[Sheet, Sheet]) -> None:
    west = sheets[0]
    assert west.place is not None
    y, x = west.land.grid.centres(west.land.box)
    east, north = Transformer.from_crs(32632, 32633, always_xy=True).transform(x[7], y[100])
    left, _, _, top = small_land.bounds
    assert west.place.cols[100, 7] == pytest.approx((east - left) / 10, abs=1e-3)
    assert west.place.rows[100, 7] == pytest.approx((top - north) / 10, abs=1e-3)
    own = place_of(small_land, small_land.grid, small_land.box)
    np.testing.assert_allclose(own.rows[:, 0], np.arange(258) + 0.5, atol=1e-4)
    np.testing.assert_allclose(own.cols[0], np.arange(258) + 0.5, atol=1e-4)


def test_interpolation_equals_scipy(sheets: tuple[Sheet, Sheet], small_land: Landscape) -> None:
    place = sheets[0].place
    assert place is not None
    at = np.clip([place.rows - 0.5, place.cols - 0.5], 0, 257)
    expected = scipy.ndimage.map_coordinates(small_land.soil.astype(float), at, order=1, mode="nearest")
    np.testing.assert_allclose(place.bilinear(small_land.soil), expected, atol=1e-4)
    corner = Place(*(np.array([[v]], np.float32) for v in (-9.0, 999.0)))
    assert corner.bilinear(small_land.soil)[0, 0] == small_land.soil[0, -1]
    assert corner.nearest(small_land.unit)[0, 0] == small_land.unit[0, -1]
    assert not corner.inside((258, 258)).any()


def test_land_and_sky_are_those_of_the_canvas(small_land: Landscape, sheets: tuple[Sheet, Sheet]) -> None:
    scene = schedule(15)[7]
    sky, whole = make_sky(small_land, scene), seen(small_land, scene)
    west, east = sheets
    at = east.land.box.slices_in(small_land.box)
    assert np.array_equal(east.land.truth, small_land.truth[at])
    assert np.array_equal(east.sky(sky).cloud, sky.cloud[at])
    assert np.array_equal(east.seen(scene), whole[at])
    place = west.place
    assert place is not None
    on = place.inside(small_land.truth.shape)
    rows, cols = (np.floor(p[on]).astype(int) for p in (place.rows, place.cols))
    assert np.array_equal(west.land.unit[on], small_land.unit[rows, cols])
    assert np.array_equal(west.land.truth[on], small_land.truth[rows, cols])
    assert np.abs(west.sky(sky).cloud[on] - sky.cloud[rows, cols]).mean() < 0.02
    found = west.seen(scene)
    assert not found[~on].any()
    assert (found[on] == whole[rows, cols]).mean() > 0.99


def test_one_zone_has_it_all(small_land: Landscape) -> None:
    (only,) = make_sheets(small_land, (HOME,))
    assert only.land.box == small_land.box
    assert only.land.truth is small_land.truth or np.array_equal(only.land.truth, small_land.truth)
    assert list(only.tiles) == ["33XAA", "33XAB"]
    assert (only.epsg, only.land.grid) == (32633, Grid.make(32633, 10))


@pytest.mark.parametrize("zones", [(32,), (33, 34), ()])
def test_other_zones_are_refused(small_land: Landscape, zones: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"cannot make these zones \[zones\]"):
        make_sheets(small_land, zones)
