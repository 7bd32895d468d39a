from __future__ import annotations

import numpy as np
import pytest
import shapely

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.sample.truth import (
    BUILT_UP,
    CROPS,
    FOREST,
    SCHEME,
    WATER,
    Landscape,
    burn,
    canvas,
    make_landscape,
)


def test_edges_lie_on_whole_60_m_pixels() -> None:
    for size_m in (1200, 2560, 20_480):
        grid, box = canvas(size_m)
        bounds = grid.bounds_of_box(box)
        assert all(b % 60 == 0 for b in bounds)
        assert size_m <= bounds[2] - bounds[0] < size_m + 60


def test_a_canvas_too_small_for_two_tiles_is_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        canvas(600)


def test_every_pixel_has_a_class_and_every_class_a_pixel(small_land: Landscape) -> None:
    assert small_land.truth.min() >= 1
    assert set(np.unique(small_land.truth)) == set(SCHEME.values)


def test_fractions_of_the_classes_are_sensible() -> None:
    land = make_landscape(7, 10_240)
    share = np.bincount(land.truth.ravel(), minlength=14) / land.truth.size
    assert 0.15 < share[FOREST] < 0.26
    assert 0.003 < share[WATER] < 0.06
    assert 0.015 < share[BUILT_UP] < 0.1
    assert 0.004 < share[SCHEME.names.index("flax") + 1] < 0.025, "the rare class is there, and rare"
    assert all(0.02 < share[c] < 0.25 for c in CROPS if SCHEME.names[c - 1] != "flax")


def test_the_mixture_of_crops_changes_over_the_territory() -> None:
    land = make_landscape(7, 10_240)
    half = land.truth.shape[1] // 2
    halves = (land.truth[:, :half], land.truth[:, half:])
    west, east = (np.bincount(t.ravel(), minlength=14)[1:11] for t in halves)
    assert np.abs(west / west.sum() - east / east.sum()).sum() > 0.1


def test_a_field_has_one_class_and_its_polygon_is_where_its_pixels_are(small_land: Landscape) -> None:
    n = len(small_land.crop)
    on_field = small_land.unit < n
    assert np.array_equal(small_land.truth[on_field], small_land.crop[small_land.unit[on_field]])
    biggest = np.argmax(shapely.area(small_land.parcels.fields) * (small_land.share > 0.99))
    y, x = small_land.grid.centres(small_land.box)
    rows, cols = np.nonzero(small_land.unit == biggest)
    inside = shapely.contains_xy(small_land.parcels.fields[biggest].buffer(1), x[cols], y[rows])
    assert inside.all()


def test_the_landscape_comes_from_the_seed(small_land: Landscape) -> None:
    again, other = make_landscape(7, 2560), make_landscape(8, 2560)
    for name in ("truth", "unit", "margin", "vigour", "soil", "crop"):
        assert np.array_equal(getattr(small_land, name), getattr(again, name)), name
    assert (small_land.truth != other.truth).mean() > 0.3


def test_margins_lie_only_at_the_edges_of_fields(small_land: Landscape) -> None:
    n = len(small_land.crop)
    assert small_land.margin.max() <= 0.4
    assert not small_land.margin[small_land.unit >= n].any()
    unit = small_land.unit
    inner = unit[1:-1, 1:-1]
    same = (inner == unit[:-2, 1:-1]) & (inner == unit[2:, 1:-1]) & (inner == unit[1:-1, :-2])
    same &= inner == unit[1:-1, 2:]
    assert not small_land.margin[1:-1, 1:-1][same].any()


def test_burn_takes_pixel_centres() -> None:
    grid, box = Grid("EPSG:32633", (10.0, 10.0)), Box(0, 0, 3, 3)
    burnt = burn([(shapely.box(4, -16, 16, -4), 5)], grid, box)
    assert burnt.tolist() == [[5, 5, -1], [5, 5, -1], [-1, -1, -1]]
    assert (burn([], grid, box, fill=2) == 2).all()


def test_the_scheme_survives_its_file(tmp_path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(SCHEME.to_yaml())
    assert ClassScheme.from_file(path) == SCHEME
    assert len({c.colour for c in SCHEME.classes}) == len(SCHEME.classes)
