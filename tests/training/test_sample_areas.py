"""Sample areas: clusters as scikit-learn finds them, boxes of whole patches that hold their fields."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Grid
from training.label_sources import PolygonSource, read_labels
from training.sample_areas import NOISE, dbscan, sample_areas


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), near=st.floats(0.02, 0.4), least=st.integers(1, 8))
def test_clusters_are_those_of_scikit_learn(seed: int, near: float, least: int) -> None:
    from sklearn.cluster import DBSCAN

    places = np.random.default_rng(seed).random((120, 2))
    ours = dbscan(places, near, least)
    theirs = DBSCAN(eps=near, min_samples=least).fit(places)
    core = np.zeros(120, bool)
    core[theirs.core_sample_indices_] = True
    # Cores are the same clusters in the same order; border points may be near to several.
    np.testing.assert_array_equal(ours[core], theirs.labels_[core])
    np.testing.assert_array_equal(ours == NOISE, theirs.labels_ == NOISE)
    back = np.random.default_rng(seed).permutation(120)
    again = dbscan(places[back], near, least)
    same = pd.Series(again).groupby(ours[back]).nunique()
    assert (same == 1).all()


def test_real_fields_of_central_asia_make_areas_that_hold_them(real_data: Path) -> None:
    path = real_data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz"
    raw = pd.read_csv(path)
    scheme = ClassScheme.from_names(sorted(raw.label_1.unique()))
    labels = read_labels(PolygonSource(path, "label_1", xy=("longitude", "latitude")), scheme)
    grid = Grid.make("EPSG:32642", 30)
    areas, alone = sample_areas(labels, grid, near_m=3000, least=5, patch_px=128, pad_px=16)
    assert sum(a.features for a in areas) + alone == 6063
    assert alone < 600
    assert len(areas) >= 3
    points = labels.frame.to_crs(grid.crs).geometry
    inside = np.zeros(len(points), bool)
    for area in areas:
        assert area.box == area.box.snap_out(128)
        assert sum(area.classes.values()) == area.features
        left, bottom, right, top = grid.bounds_of_box(area.box)
        inside |= (points.x > left) & (points.x < right) & (points.y > bottom) & (points.y < top)
    assert inside.sum() >= 6063 - alone
    # The areas hold the fields in a small part of the country.
    whole = grid.box_of_bounds(tuple(points.total_bounds)).area_px
    assert sum(a.box.area_px for a in areas) < 0.25 * whole


def test_no_field_no_area() -> None:
    empty = gpd.GeoDataFrame(
        {"value": np.zeros(0, np.uint8), "source": [], "weight": np.zeros(0), "start": [], "end": []},
        geometry=[], crs="EPSG:32642",
    )  # fmt: skip
    from training.label_values import Labels

    labels = Labels(empty, ClassScheme.from_names(["a"]))
    assert sample_areas(labels, Grid.make("EPSG:32642", 10), near_m=100) == ([], 0)
    with pytest.raises(InputError, match="positive"):
        sample_areas(labels, Grid.make("EPSG:32642", 10), near_m=0)
