from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sample.parcels import _area, _clip, make_parcels

BOUNDS = (0.0, 0.0, 6000.0, 6000.0)


def test_fields_cover_the_rectangle_without_overlap() -> None:
    fields = make_parcels(3, BOUNDS).fields
    assert shapely.is_valid(fields).all()
    total, union = shapely.area(fields).sum(), shapely.union_all(fields).area
    assert union == pytest.approx(36e6, rel=0.005)
    assert total == pytest.approx(union, rel=0.001)


def test_fields_have_the_sizes_of_fields_and_no_common_direction() -> None:
    parcels = make_parcels(3, BOUNDS)
    inner = shapely.within(parcels.fields, shapely.box(100, 100, 5900, 5900))
    area_ha = shapely.area(parcels.fields[inner]) / 1e4
    assert 2 < np.median(area_ha) < 8
    assert np.percentile(area_ha, 98) < 30
    angles = []
    for field in parcels.fields[inner]:
        corners = shapely.get_coordinates(shapely.oriented_envelope(field))
        run, rise = corners[1] - corners[0]
        angles.append(np.degrees(np.arctan2(rise, run)) % 90)
    assert np.histogram(angles, bins=6, range=(0, 90))[0].max() < 0.5 * len(angles)


def test_parcels_come_from_the_seed() -> None:
    first, again, other = (make_parcels(s, BOUNDS).fields for s in (3, 3, 4))
    assert shapely.to_wkb(first).tolist() == shapely.to_wkb(again).tolist()
    assert len(other) != len(first) or not shapely.equals_exact(first, other).all()


@given(st.floats(0, 6.28), st.floats(0.05, 0.95))
def test_the_two_parts_of_a_cut_have_the_area_of_the_whole(angle: float, part: float) -> None:
    ring = np.array([[0.0, 0.0], [90.0, 10.0], [120.0, 60.0], [50.0, 110.0], [-10.0, 70.0]])
    axis = np.array([np.cos(angle), np.sin(angle)])
    along = ring @ axis
    cut = along.min() + part * np.ptp(along)
    low, high = _clip(ring, axis, cut), _clip(ring, -axis, -cut)
    assert _area(low) + _area(high) == pytest.approx(_area(ring))
    assert (low @ axis).max() <= cut + 1e-6
