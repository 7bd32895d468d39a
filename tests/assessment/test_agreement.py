"""Agreement of two maps: pairs against numpy's own count, for any blocks; other grids against PROJ, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.assessment.agreement import (
    AGREE,
    DIFFER,
    ONLY_FIRST,
    ONLY_SECOND,
    Comparison,
    compare,
    draw_errors,
    error_scheme,
)
from engine.assessment.legends import Legend, LegendSpec
from engine.assessment.maps import ClassMap, Codes
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

GRID = Grid("EPSG:32633", (10.0, 10.0))
SCHEME = ClassScheme.from_names(["crop", "forest", "water"])


def a_map(
    values: NDArray[np.uint8],
    grid: Grid = GRID,
    corner: tuple[int, int] = (-500, 900),
    **more: NDArray[np.uint8],
) -> ClassMap:
    box = Box(corner[0], corner[1], corner[0] + values.shape[0], corner[1] + values.shape[1])
    layers = {"label": values, **more}
    return ClassMap("here", grid, box, SCHEME, lambda name, b: layers[name][b.slices_in(box)], tuple(layers))


def random_labels(seed: int, shape: tuple[int, int] = (97, 131)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def test_counts_are_those_of_numpy_for_any_blocks() -> None:
    first, second = random_labels(1), random_labels(2)
    confidence = np.random.default_rng(3).integers(0, 251, first.shape).astype(np.uint8)
    zone = np.random.default_rng(4).integers(0, 3, first.shape).astype(np.uint16)
    one, two = a_map(first, confidence=confidence), a_map(second)
    legend = Legend.of(SCHEME, SCHEME)
    expected = np.zeros((3, 4, 4), np.int64)
    np.add.at(expected, (zone, first, second), 1)
    expected[:, 0, 0] = 0
    right = np.stack(
        [
            np.bincount(confidence[(first > 0) & (second > 0) & m], minlength=256)
            for m in (first != second, first == second)
        ],
        axis=1,
    )
    for size in (256, 128, 64, 32, 17, 7):
        found = Comparison(one, two, legend, one.box, 2, lambda b: zone[b.slices_in(one.box)])
        tally = found.count(size)
        assert np.array_equal(tally.pairs, expected)
        assert np.array_equal(tally.layers["confidence"], right)
        assert tally.only_first == int(((first > 0) & (second == 0)).sum())
        assert tally.only_second == int(((first == 0) & (second > 0)).sum())


def test_the_map_of_errors_tells_each_pixel() -> None:
    first, second = random_labels(5), random_labels(6)
    _, state = compare(first, second, 3)
    expected = np.select(
        [(first == 0) & (second == 0), second == 0, first == 0, first == second],
        [0, ONLY_FIRST, ONLY_SECOND, AGREE],
        DIFFER,
    )
    assert np.array_equal(state, expected)
    assert np.array_equal(
        draw_errors("second", first, second, state), np.where(expected == DIFFER, second, 0)
    )
    assert np.array_equal(draw_errors("first", first, second, state), np.where(expected == DIFFER, first, 0))
    assert error_scheme("agreement", Legend.of(SCHEME, SCHEME)).values == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "other",
    [Grid("EPSG:32632", (20.0, 20.0)), Grid("EPSG:4326", (0.0001, 0.0002)), Grid("EPSG:32633", (25.0, 25.0))],
)
def test_a_pixel_on_another_grid_is_the_one_that_holds_its_centre(other: Grid) -> None:
    from pyproj import Transformer

    labels = random_labels(7, (120, 110))
    home = a_map(labels, corner=(-500000, 30000))
    box = home.box_on(other)
    found = home.labels_on(other, box)
    y, x = other.centres(box)
    east, north = Transformer.from_crs(other.crs, GRID.crs, always_xy=True).transform(*np.meshgrid(x, y))
    rows = (-north / 10.0) - home.box.y0
    cols = (east / 10.0) - home.box.x0
    i, j = np.floor(rows).astype(int), np.floor(cols).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < 120) & (j < 110)
    expected = np.zeros(found.shape, np.uint8)
    expected[inside] = labels[i[inside], j[inside]]
    clear = (np.abs(rows - np.round(rows)) > 2e-3) & (np.abs(cols - np.round(cols)) > 2e-3)
    assert clear.mean() > 0.6
    assert np.array_equal(found[clear], expected[clear])
    assert (found > 0).sum() > 300
    parts = [home.labels_on(other, part) for part in box.blocks(37)]
    whole = np.zeros_like(found)
    for part, values in zip(box.blocks(37), parts, strict=True):
        whole[part.slices_in(box)] = values
    assert np.array_equal(whole, found)


def test_maps_apart_are_refused() -> None:
    with pytest.raises(InputError, match="do not overlap"):
        Comparison.of(
            a_map(random_labels(1)), a_map(random_labels(1), corner=(9000, 9000)), Legend.of(SCHEME, SCHEME)
        )


def test_outside_a_map_there_is_no_data() -> None:
    labels = random_labels(8, (4, 5))
    home = a_map(labels, confidence=np.full((4, 5), 9, np.uint8))
    around = home.layer("confidence", home.box.pad(2))
    assert around.shape == (8, 9)
    assert (around == 255).sum() == 72 - 20
    assert np.array_equal(home.labels(home.box.pad(2))[2:-2, 2:-2], labels)
    with pytest.raises(InputError, match="no such layer"):
        home.layer("probability", home.box)


def test_classes_match_by_name_whatever_their_value() -> None:
    other = ClassScheme(
        classes=(
            LandClass(value=40, name="Water", colour="#0000ff"),
            LandClass(value=7, name="FOREST", colour="#00ff00"),
            LandClass(value=9, name="bare", colour="#aaaaaa"),
        )
    )
    legend = Legend.of(SCHEME, other)
    assert legend.names == ("crop", "forest", "water", "bare")
    assert [int(legend.second[v]) for v in (0, 40, 7, 9, 1)] == [0, 3, 2, 4, 255]
    assert [int(legend.first[v]) for v in (0, 1, 2, 3)] == [0, 1, 2, 3]


def test_a_legend_joins_and_leaves_out_classes() -> None:
    other = ClassScheme.from_names(["field", "trees"])
    spec = LegendSpec(
        first={"crop": "land", "forest": "land", "water": None}, second={"field": "land", "trees": "land"}
    )
    legend = Legend.of(SCHEME, other, spec)
    assert legend.names == ("land",)
    assert [int(legend.first[v]) for v in (1, 2, 3)] == [1, 1, 255]
    with pytest.raises(InputError, match="no class in common"):
        Legend.of(SCHEME, other)
    with pytest.raises(
        InputError, match=r"no such class \[legend.second\]; found tree, expected field, trees"
    ):
        Legend.of(SCHEME, other, LegendSpec(second={"tree": "crop"}))


def test_codes_of_a_file_may_be_any_numbers() -> None:
    scheme = ClassScheme(
        classes=(
            LandClass(value=1, name="clear", colour="#ffffff", codes=(0,)),
            LandClass(value=2, name="cloud", colour="#888888", codes=(1, 70000)),
        )
    )
    stored = np.array([[0, 1, 70000, -1]], np.int32)
    assert Codes.of(scheme, -1).translate(stored, "a.tif").tolist() == [[1, 2, 2, 0]]
    assert Codes.of(scheme, None).translate(np.array([[0, 1]], np.uint8), "a.tif").tolist() == [[1, 2]]
    floats = np.array([[0.0, 1.0, np.nan]], np.float32)
    assert Codes.of(scheme, None).translate(floats, "a.tif").tolist() == [[1, 2, 0]]
    with pytest.raises(InputError, match=r"mean no class \[a.tif\]; found 3, 9"):
        Codes.of(scheme, -1).translate(np.array([[9, 3, 1]], np.uint8), "a.tif")
    with pytest.raises(InputError, match="amounts, not classes"):
        Codes.of(scheme, None).translate(np.array([[0.5]], np.float32), "a.tif")
