"""Labels: the pixel-centre rule against shapely, class mapping, no-data."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.labels import LabelRaster, PolygonSource, rasterise

GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_010, 40_000, -499_960, 40_060)
CLASSES = ClassScheme(
    classes=(
        LandClass(value=3, name="wheat", colour="#aa0000", codes=(101, "W")),
        LandClass(value=7, name="maize", colour="#00aa00", codes=(102,)),
    )
)


def _write(folder: Path, polygons: list[shapely.Polygon], crops: list[object], crs: str = GRID.crs) -> Path:
    path = folder / "fields.gpkg"
    gpd.GeoDataFrame({"crop": crops}, geometry=polygons, crs=GRID.crs).to_crs(crs).to_file(path)
    return path


def _inside(polygon: shapely.Polygon) -> np.ndarray:
    y, x = GRID.centres(BOX)
    return shapely.contains_xy(polygon, *np.meshgrid(x, y))


def _at(row: float, col: float, size: float) -> shapely.Polygon:
    """A square of `size` pixels whose upper-left corner is (row, col) of the box."""
    left, _, _, top = GRID.bounds_of_box(BOX)
    return shapely.box(left + 10 * col, top - 10 * (row + size), left + 10 * (col + size), top - 10 * row)


@settings(max_examples=25, deadline=None)
@given(
    corners=st.lists(
        st.tuples(st.floats(-5, 65, width=32), st.floats(-5, 55, width=32)),
        min_size=3,
        max_size=8,
        unique=True,
    )
)
def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(
    tmp_path_factory: pytest.TempPathFactory, corners: list[tuple[float, float]]
) -> None:
    left, _, _, top = GRID.bounds_of_box(BOX)
    hull = shapely.MultiPoint([(left + 10 * x + 0.137, top - 10 * y - 0.211) for x, y in corners]).convex_hull
    if hull.geom_type != "Polygon" or _inside(hull).sum() == 0:
        return
    path = _write(tmp_path_factory.mktemp("p"), [hull], ["wheat"])
    found = rasterise(PolygonSource(path, "crop"), CLASSES, GRID, BOX)
    # A centre within a millimetre of an edge may fall either way.
    y, x = GRID.centres(BOX)
    near = shapely.distance(hull.exterior, shapely.points(*np.meshgrid(x, y))) < 1e-3
    np.testing.assert_array_equal((found.values == 3)[~near], _inside(hull)[~near])


def test_the_inner_buffer_keeps_away_from_edges(tmp_path: Path) -> None:
    square = _at(10, 10, 20)
    path = _write(tmp_path, [square], ["wheat"])
    found = rasterise(PolygonSource(path, "crop", inner_buffer_m=21.0), CLASSES, GRID, BOX)
    np.testing.assert_array_equal(found.values == 3, _inside(square.buffer(-21.0)))
    assert (found.values == 3).sum() == 16 * 16


@pytest.mark.parametrize("crop", ["maize", "102", 102, 102.0, 7])
def test_names_codes_and_values_find_their_class(tmp_path: Path, crop: object) -> None:
    path = _write(tmp_path, [_at(5, 5, 10)], [crop])
    assert set(np.unique(rasterise(PolygonSource(path, "crop"), CLASSES, GRID, BOX).values)) == {0, 7}


def test_polygons_in_another_crs_land_on_the_same_pixels(tmp_path: Path) -> None:
    triangle = shapely.Polygon(
        [(c.x + 3.3, c.y + 1.7) for c in map(shapely.Point, _at(5, 5, 30).exterior.coords[:3])]
    )
    here = rasterise(PolygonSource(_write(tmp_path, [triangle], ["W"]), "crop"), CLASSES, GRID, BOX)
    (tmp_path / "b").mkdir()
    path = _write(tmp_path / "b", [triangle], ["W"], "EPSG:4326")
    there = rasterise(PolygonSource(path, "crop"), CLASSES, GRID, BOX)
    assert (here.values != there.values).mean() < 1e-3
    assert (here.values == 3).sum() > 300


def test_pixels_of_two_classes_are_not_annotated(tmp_path: Path) -> None:
    a, b, again = _at(5, 5, 20), _at(15, 15, 20), _at(5, 5, 10)
    path = _write(tmp_path, [a, b, again], ["wheat", "maize", "wheat"])
    found = rasterise(PolygonSource(path, "crop"), CLASSES, GRID, BOX).values
    assert (found[_inside(a) & _inside(b)] == 0).all()
    assert (found[_inside(a) & ~_inside(b)] == 3).all()
    assert (found[_inside(b) & ~_inside(a)] == 7).all()


def test_unknown_classes_are_named_or_skipped_on_demand(tmp_path: Path) -> None:
    path = _write(tmp_path, [_at(5, 5, 10), _at(20, 20, 10)], ["wheat", "hops"])
    with pytest.raises(InputError, match="hops"):
        rasterise(PolygonSource(path, "crop"), CLASSES, GRID, BOX)
    found = rasterise(PolygonSource(path, "crop", skip_unknown=True), CLASSES, GRID, BOX)
    assert set(np.unique(found.values)) == {0, 3}


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    path = _write(tmp_path, [_at(5, 5, 10)], ["wheat"])
    for source, match in [
        (PolygonSource(tmp_path / "gone.gpkg", "crop"), "cannot read"),
        (PolygonSource(path, "kind"), "no such column"),
        (PolygonSource(path, "crop", inner_buffer_m=100), "no pixel"),
    ]:
        with pytest.raises(InputError, match=match):
            rasterise(source, CLASSES, GRID, BOX)


def test_a_real_reference_file_is_read(real_data: Path) -> None:
    classes = ClassScheme(
        classes=(
            LandClass(value=1, name="water", colour="#0000ff"),
            LandClass(value=2, name="forest", colour="#00ff00"),
        )
    )
    folder = real_data / "s2_l1c_33UUU"
    import rasterio

    with rasterio.open(folder / "T33UUU_20170216T102101_B02.jp2") as src:
        grid, box = Grid.of_transform(src.crs, src.transform, src.shape)
    found = rasterise(PolygonSource(folder / "s2l1c_ref.gpkg", "cid"), classes, grid, box)
    assert set(np.unique(found.values)) == {0, 1, 2}


def test_labels_must_fit_their_box_and_classes() -> None:
    with pytest.raises(InputError, match="cover"):
        LabelRaster(np.zeros((3, 3), np.uint8), BOX, CLASSES)
    with pytest.raises(InputError, match="no class"):
        LabelRaster(np.full(BOX.shape_yx, 4, np.uint8), BOX, CLASSES)


def test_real_polygons_take_the_pixels_whose_centres_they_hold(real_data: Path) -> None:
    """33UUU: against shapely; two of the 30 polygons are partly or wholly outside the scene."""
    import rasterio

    folder = real_data / "s2_l1c_33UUU"
    with rasterio.open(folder / "T33UUU_20170216T102101_B02.jp2") as src:
        grid, box = Grid.of_transform(src.crs, src.transform, src.shape)
    classes = ClassScheme.from_names(["water", "forest"])
    found = rasterise(PolygonSource(folder / "s2l1c_ref.gpkg", "cid"), classes, grid, box).values
    frame = gpd.read_file(folder / "s2l1c_ref.gpkg")
    y, x = np.meshgrid(*grid.centres(box), indexing="ij")
    expected = np.zeros(box.shape_yx, int)
    for cid, shape in zip(frame.cid, frame.geometry, strict=True):
        expected[shapely.contains_xy(shape, x, y)] = cid
    np.testing.assert_array_equal(found, expected)
    scene = shapely.box(*grid.bounds_of_box(box))
    assert (~frame.geometry.within(scene)).sum() == 2
    assert {int((found == 1).sum()), int((found == 2).sum())} == {1874, 1626}


def test_real_points_land_on_pixels_that_are_not_square(real_data: Path) -> None:
    """Portugal: 20 x 19.985 m; the NDVI of summer at water points is the lowest of all classes."""
    import rasterio

    folder = real_data / "s2_ndvi_portugal"
    with rasterio.open(folder / "IM_20170714_NDVI_20m_clip2.tif") as src:
        grid, box = Grid.of_transform(src.crs, src.transform, src.shape)
        ndvi = src.read(1)
    frame = gpd.read_file(folder / "samples_cos2015.gpkg")
    names = sorted(frame.CLASS_NAME.unique())
    classes = ClassScheme.from_names(names)
    found = rasterise(PolygonSource(folder / "samples_cos2015.gpkg", "CLASS_NAME"), classes, grid, box)
    left, bottom, right, top = grid.bounds_of_box(box)
    there = frame.cx[left:right, bottom:top].to_crs(grid.crs)
    rows = ((top - there.geometry.y) / grid.resolution_yx[0]).astype(int)
    cols = ((there.geometry.x - left) / grid.resolution_yx[1]).astype(int)
    value = there.CLASS_NAME.map(dict(zip(names, classes.values, strict=True)))
    for row, col, v in zip(rows, cols, value, strict=True):
        alone = set(value[(rows == row) & (cols == col)])
        assert found.values[row, col] == (v if len(alone) == 1 else 0)
    assert np.count_nonzero(found.values) == len(set(zip(rows, cols, strict=True))) - found.contested
    mean = {
        n: np.nanmean(ndvi[found.values == c])
        for n, c in zip(names, classes.values, strict=True)
        if (found.values == c).any()
    }
    assert min(mean, key=lambda n: mean[n]).lower().startswith(("water", "agua", "wat"))
