from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from pipelines.sample.archive import SampleArchive
from pipelines.sample.labels import sample_blocks, territory
from pipelines.sample.truth import BUILT_UP, FOREST, SCHEME, WATER, Landscape, burn, make_landscape


@pytest.fixture(scope="module")
def labels(sample: SampleArchive) -> gpd.GeoDataFrame:
    return gpd.read_file(sample.labels)


def test_labels_carry_the_classes_of_the_scheme(sample: SampleArchive, labels: gpd.GeoDataFrame) -> None:
    assert labels.crs.to_string() == sample.crs
    assert labels.geometry.is_valid.all()
    assert labels.label_id.is_unique
    names = dict(zip(SCHEME.values, SCHEME.names, strict=True))
    assert [names[v] for v in labels.class_value] == labels.class_name.tolist()
    assert {FOREST, WATER, BUILT_UP} <= set(labels.class_value)


def test_labels_lie_in_the_territory(small_land: Landscape, labels: gpd.GeoDataFrame) -> None:
    # Displaced polygons may reach over the border by as much as they were displaced.
    assert labels.within(territory(small_land).buffer(10)).all()


def test_labels_agree_with_the_truth(small_land: Landscape, labels: gpd.GeoDataFrame) -> None:
    shapes = list(zip(labels.geometry, labels.class_value, strict=True))
    burnt = burn(shapes, small_land.grid, small_land.box, 0)
    drawn = burnt > 0
    assert drawn.mean() > 0.1
    assert (burnt == small_land.truth)[drawn].mean() > 0.97


def test_a_part_of_the_fields_is_annotated_more_in_the_sample_blocks(tmp_path) -> None:
    from pipelines.sample.labels import write_labels

    land = make_landscape(7, 10_240)
    labels = gpd.read_file(write_labels(tmp_path / "labels.gpkg", land))
    fields = labels[labels.class_value <= 10]
    at_home = shapely.within(land.parcels.fields, territory(land)) & (land.share > 0.5)
    assert 0.25 < len(fields) / at_home.sum() < 0.5  # 0.34 at full size; few blocks make it coarse here
    inside = fields.within(shapely.union_all(sample_blocks(land)).buffer(300)).mean()
    assert 0.5 < inside < 0.9
    assert set(labels.class_value) == set(SCHEME.values)


def test_labels_are_smaller_than_their_fields(small_land: Landscape, labels: gpd.GeoDataFrame) -> None:
    fields = labels[labels.class_value <= 10].geometry.to_numpy()
    tree = shapely.STRtree(small_land.parcels.fields)
    of = tree.query(shapely.centroid(fields), predicate="within")[1]
    assert (shapely.area(fields) < shapely.area(small_land.parcels.fields[of])).all()


def test_the_outline_lies_inside_the_canvas_and_fills_most_of_it(
    small_land: Landscape, sample: SampleArchive
) -> None:
    outline = territory(small_land)
    canvas = shapely.box(*small_land.bounds)
    assert outline.is_valid
    assert canvas.contains(outline)
    assert 0.7 < outline.area / canvas.area < 0.97
    written = gpd.read_file(sample.territory)
    assert written.crs.to_epsg() == 4326
    back = written.to_crs(sample.crs).geometry[0]
    assert back.symmetric_difference(outline).area < 1e-4 * outline.area
    assert np.all(written.simulated)
