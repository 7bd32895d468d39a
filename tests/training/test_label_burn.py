"""Burning: the same pixels whatever box or block asks, weights, contested pixels, background."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training import label_burn
from training.label_burn import burn, is_indexed
from training.label_sources import PolygonSource
from training.label_values import Labels
from training.labels import rasterise, write_raster

GRID = Grid("EPSG:32633", (10.0, 10.0))
SCHEME = ClassScheme.from_names(["wheat", "maize", "other"])
BOX = Box(-500_040, 40_000, -499_940, 40_120)


def labels(
    shapes: list[shapely.Geometry], values: list[int], weights: list[float] | None = None, crs: str = GRID.crs
) -> Labels:
    frame = gpd.GeoDataFrame({"value": np.array(values, np.uint8)}, geometry=shapes, crs=crs)
    frame["source"], frame["weight"] = "test", weights or [1.0] * len(shapes)
    frame["start"] = frame["end"] = pd.NaT
    return Labels(frame, SCHEME)


def at(row: float, col: float, height: float, width: float, box: Box = BOX) -> shapely.Polygon:
    left, _, _, top = GRID.bounds_of_box(box)
    return shapely.box(left + 10 * col, top - 10 * (row + height), left + 10 * (col + width), top - 10 * row)


_squares = st.lists(
    st.tuples(
        st.floats(-5, 100, width=16), st.floats(-5, 120, width=16), st.floats(0.5, 30, width=16),
        st.integers(1, 3), st.sampled_from([0.2, 0.5, 1.0]),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(squares=_squares)
def test_the_largest_weight_wins_and_equal_ones_that_differ_annotate_nothing(
    squares: list[tuple[float, float, float, int, float]],
) -> None:
    shapes = [shapely.affinity.rotate(at(r, c, s, s), 20) for r, c, s, _, _ in squares]
    made = labels(shapes, [v for *_, v, _ in squares], [w for *_, w in squares])
    try:
        found = rasterise(made, SCHEME, GRID, BOX)
    except InputError:
        return
    masks = [
        rasterize([s], BOX.shape_yx, transform=Affine(*GRID.transform_of(BOX))).astype(bool) for s in shapes
    ]
    for (i, j), value in np.ndenumerate(found.values):
        claims = {(w, v) for mask, (*_, v, w) in zip(masks, squares, strict=True) if mask[i, j]}
        best = {v for w, v in claims if w == max(claims)[0]}
        assert value == (best.pop() if len(best) == 1 else 0)
        if value and found.weights is not None:
            assert found.weights[i, j] == round(250 * max(claims)[0])


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_pixel_is_the_same_whatever_box_asks(data: st.DataObject) -> None:
    """Edges lie exactly on pixel centres, where a rounding error would show."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    # A place where blocks meet.
    centre_y, centre_x = 488 * -1024, 39 * 1024
    whole = Box(centre_y - 60, centre_x - 60, centre_y + 60, centre_x + 60)
    corners = rng.integers(0, 100, (6, 2)) + 0.5
    shapes = [at(r, c, 17, 23.5, whole) for r, c in corners]
    made = labels(shapes, rng.integers(1, 4, 6).tolist())
    outer = rasterise(made, SCHEME, GRID, whole).values
    y, x = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 100))
    part = Box(whole.y0 + y, whole.x0 + x, whole.y0 + y + 20, whole.x0 + x + 20)
    inner = np.zeros(part.shape_yx, np.uint8)
    for piece in burn(made, SCHEME, GRID, part):
        inner[piece.box.slices_in(part)] = piece.values
    np.testing.assert_array_equal(inner, outer[part.slices_in(whole)])


def test_an_indexed_file_read_block_by_block_gives_what_memory_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_burn, "BLOCK_PX", 32)
    rng = np.random.default_rng(3)
    shapes = [shapely.affinity.rotate(at(r, c, 9, 14), 30 * r) for r, c in rng.uniform(-5, 115, (60, 2))]
    crops = rng.choice(SCHEME.names, 60)
    frame = gpd.GeoDataFrame({"crop": crops}, geometry=shapes, crs=GRID.crs).to_crs(4326)
    paths = {ending: tmp_path / f"fields.{ending}" for ending in ("gpkg", "geojson", "parquet")}
    frame.to_file(paths["gpkg"])
    frame.to_file(paths["geojson"], COORDINATE_PRECISION=15)
    frame.to_parquet(paths["parquet"])
    assert [is_indexed(PolygonSource(p, "crop")) for p in paths.values()] == [True, False, False]
    found = {e: rasterise(PolygonSource(p, "crop"), SCHEME, GRID, BOX) for e, p in paths.items()}
    assert found["gpkg"].values.any()
    np.testing.assert_array_equal(found["gpkg"].values, found["parquet"].values)
    np.testing.assert_array_equal(found["gpkg"].values, found["geojson"].values)


def test_all_touched_takes_every_pixel_that_a_polygon_meets() -> None:
    made = labels([shapely.affinity.rotate(at(20.3, 30.3, 11, 13), 33)], [1])
    found = rasterise(made, SCHEME, GRID, BOX, how=PolygonSource("", "value", rule="all_touched")).values
    left, _, _, top = GRID.bounds_of_box(BOX)
    for (i, j), value in np.ndenumerate(found):
        pixel = shapely.box(left + 10 * j, top - 10 * i - 10, left + 10 * j + 10, top - 10 * i)
        assert (value == 1) == made.frame.geometry.iloc[0].intersects(pixel)


def test_neighbours_share_no_mixed_pixel_under_all_touched() -> None:
    made = labels([at(5, 5, 10, 10.5), at(5, 15.5, 10, 10)], [1, 2])
    how = PolygonSource("", "value", rule="all_touched")
    parts = list(burn(made, SCHEME, GRID, BOX, how))
    assert sum(part.contested for part in parts) >= 10
    assert (rasterise(made, SCHEME, GRID, BOX, how).values[6:14, 15] == 0).all()


def test_points_and_lines_take_the_pixels_they_lie_in() -> None:
    left, _, _, top = GRID.bounds_of_box(BOX)
    points = [shapely.Point(left + 10 * c + 3, top - 10 * r - 8) for r, c in [(0, 0), (7, 9), (99, 119)]]
    line = shapely.LineString([(left + 205, top - 305), (left + 405, top - 305)])
    found = rasterise(labels([*points, line], [1, 2, 3, 1]), SCHEME, GRID, BOX).values
    assert (found[0, 0], found[7, 9], found[99, 119]) == (1, 2, 3)
    assert (found[30, 20:40] == 1).all()
    assert np.count_nonzero(found) in (23, 24)


def test_two_points_of_two_classes_in_one_pixel_annotate_nothing() -> None:
    left, _, _, top = GRID.bounds_of_box(BOX)
    pair = [shapely.Point(left + 52, top - 52), shapely.Point(left + 58, top - 57)]
    assert next(burn(labels(pair, [1, 2]), SCHEME, GRID, BOX)).contested == 1
    assert rasterise(labels(pair, [1, 1]), SCHEME, GRID, BOX).values[5, 5] == 1


def test_background_is_a_class_only_where_everything_is_annotated(tmp_path: Path) -> None:
    complete = tmp_path / "complete.gpkg"
    gpd.GeoDataFrame(geometry=[at(0, 0, 50, 60)], crs=GRID.crs).to_file(complete)
    fields = tmp_path / "fields.gpkg"
    frame = gpd.GeoDataFrame(
        {"crop": ["wheat", "hops", "maize"]},
        geometry=[at(10.4, 10.4, 20, 20), at(10, 40, 8, 8), at(70, 70, 10, 10)],
        crs=GRID.crs,
    )
    frame.to_file(fields)
    source = PolygonSource(
        fields, "crop", inner_buffer_m=15, skip_unknown=True, background="other", complete=complete
    )
    found = rasterise(source, SCHEME, GRID, BOX).values
    wheat, hops = frame.geometry.iloc[0], frame.geometry.iloc[1]
    y, x = np.meshgrid(*GRID.centres(BOX), indexing="ij")
    inside = shapely.contains_xy(wheat.buffer(-15), x, y)
    np.testing.assert_array_equal(found == 1, inside)
    # The field's rim, the unknown field and everything outside the complete place are no background.
    assert (found[shapely.contains_xy(wheat, x, y) & ~inside] == 0).all()
    assert (found[shapely.contains_xy(hops, x, y)] == 0).all()
    assert (found[50:, :] != 3).all()
    assert (found[:, 60:] != 3).all()
    assert (found[0:9, 0:60] == 3).all()
    with pytest.raises(InputError, match="background needs"):
        rasterise(PolygonSource(fields, "crop", background="other", skip_unknown=True), SCHEME, GRID, BOX)


def test_a_buffer_in_metres_is_refused_on_a_grid_of_degrees() -> None:
    with pytest.raises(InputError, match="grid in metres"):
        list(burn(labels([at(0, 0, 5, 5)], [1]), SCHEME, Grid("EPSG:4326", (0.001, 0.001)), Box(0, 0, 9, 9),
                  PolygonSource("", "value", inner_buffer_m=5)))  # fmt: skip


def test_a_raster_written_block_by_block_reads_as_the_one_in_memory(tmp_path: Path) -> None:
    import rasterio

    made = labels([at(3, 4, 20, 30), at(40, 50, 30, 9)], [1, 3])
    n = write_raster(tmp_path / "labels.tif", made, SCHEME, GRID, BOX)
    with rasterio.open(tmp_path / "labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), rasterise(made, SCHEME, GRID, BOX).values)
        assert (file.nodata, file.colormap(1)[1][:3]) == (0, SCHEME.classes[0].rgb)
        assert Grid.of_transform(file.crs, file.transform, file.shape) == (GRID, BOX)
    assert n == 20 * 30 + 30 * 9


def test_labels_of_several_crs_and_unknown_values_are_refused() -> None:
    with pytest.raises(InputError, match="no class"):
        labels([at(0, 0, 1, 1)], [9])
    with pytest.raises(InputError, match=r"0\.\.1"):
        labels([at(0, 0, 1, 1)], [1], [1.5])
