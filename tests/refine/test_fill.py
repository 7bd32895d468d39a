"""Gap fill against all distances, for any tiling."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy import ndimage

from engine.refine.fill import FillConfig, nearest
from tests.refine.tilings import AROUND, GRID, assert_untiled, layers_of, patchy, source_of


def gappy(seed, share=0.5):
    """Return labels with large gaps and a ragged edge."""
    rng = np.random.default_rng(seed)
    label = patchy(seed)
    blobs = ndimage.gaussian_filter(rng.random(label.shape), 2)
    label[blobs < np.quantile(blobs, share)] = 0
    return label


def by_all_distances(label, reach):
    """Return the lowest of the nearest classes of each gap: distances to every pixel with data."""
    out = label.copy()
    ys, xs = np.nonzero(label)
    for y, x in np.argwhere(label == 0):
        squares = (ys - y) ** 2 + (xs - x) ** 2
        if len(squares) and squares.min() <= reach**2:
            out[y, x] = label[ys, xs][squares == squares.min()].min()
    return out


def enclosed(label, reach, sides):
    """Tell which pixels have data within reach on both sides, along so many axes."""
    padded = np.pad(label != 0, reach)
    height, width = label.shape
    seen = {}
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        starts = [(reach + d * dy, reach + d * dx) for d in range(1, reach + 1)]
        seen[dy, dx] = np.any([padded[y : y + height, x : x + width] for y, x in starts], 0)
    axes = (seen[1, 0] & seen[-1, 0]).astype(int) + (seen[0, 1] & seen[0, -1])
    return axes >= sides


@pytest.mark.parametrize(("reach", "gaps"), [(1, "enclosed"), (4, "between"), (9, "enclosed")])
def test_gaps_take_the_nearest_class(reach, gaps) -> None:
    label = gappy(8)
    layers = layers_of(label)
    out = assert_untiled(FillConfig(within_px=reach, gaps=gaps).made(AROUND), layers)
    sides = {"enclosed": 2, "between": 1}[gaps]
    wanted = np.where(enclosed(label, reach, sides), by_all_distances(label, reach), label)
    np.testing.assert_array_equal(out["label"], wanted)
    filled = (label == 0) & (wanted != 0)
    assert filled.any()
    assert (wanted == 0).any()
    np.testing.assert_array_equal(out["confidence"], np.where(filled, 0, layers["confidence"]))


def test_the_distance_is_the_one_that_scipy_finds() -> None:
    label = gappy(9, share=0.9)
    out = nearest(np.pad(label, 12), 12)
    distance = ndimage.distance_transform_edt(label == 0)
    np.testing.assert_array_equal(out == 0, distance > 12)


def test_the_outer_edge_does_not_grow() -> None:
    label = np.zeros((30, 30), np.uint8)
    label[5:25, 5:25] = 3
    label[9:12, 10:15] = label[20, 5:25] = 0
    square = np.pad(np.ones((20, 20), bool), 5)
    out = assert_untiled(FillConfig(within_m=60, gaps="between").made(AROUND), {"label": label})["label"]
    np.testing.assert_array_equal(out != 0, square)
    out = assert_untiled(FillConfig(within_m=60).made(AROUND), {"label": label})["label"]
    slit = np.zeros_like(square)
    slit[20, 5:25] = (
        True  # longer than the reach, so not enclosed but near its ends: nothing is left or right
    )
    np.testing.assert_array_equal(out != 0, square & ~slit)


def test_inside_an_outline_gaps_are_filled_and_nowhere_else(tmp_path) -> None:
    label = gappy(10)
    _, box = source_of({"label": label})
    left, bottom, right, top = GRID.bounds_of_box(box)
    outline = shapely.Point((left + right) / 2, (top + bottom) / 2).buffer(170)
    file = tmp_path / "outline.gpkg"
    gpd.GeoDataFrame(geometry=[outline], crs=GRID.crs).to_crs(4326).to_file(file)
    config = FillConfig(within_px=6, inside=file)
    out = assert_untiled(config.made(AROUND), {"label": label})["label"]
    y, x = GRID.centres(box)
    inside = shapely.contains_xy(outline, *np.meshgrid(x, y))
    wanted = np.where(inside, by_all_distances(label, 6), label)
    # The outline went to degrees and back: a centre within a millimetre of it may be on either side.
    edge = shapely.distance(outline.boundary, shapely.points(*np.meshgrid(x, y))) < 1e-3
    np.testing.assert_array_equal(out[~edge], wanted[~edge])
    assert edge.sum() < 5
    assert (out != by_all_distances(label, 6)).any()


def test_the_fingerprint_is_that_of_what_the_file_holds(tmp_path) -> None:
    def written(name, side):
        path = tmp_path / name
        shape = shapely.box(14.0, 45.0, 14.0 + side, 45.1)
        gpd.GeoDataFrame(geometry=[shape], crs=4326).to_file(path)
        return FillConfig(inside=path).fingerprint()

    same, moved, other = written("a.gpkg", 0.1), written("b.geojson", 0.1), written("c.gpkg", 0.2)
    assert same == moved
    assert len({same, other, FillConfig().fingerprint(), FillConfig(within_px=6).fingerprint()}) == 4
