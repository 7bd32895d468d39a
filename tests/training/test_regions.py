"""Regions: pixels and points agree, the first region counts; real outlines of Africa."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.regions import outlines, region_index, region_names, regions_at

GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_050, 40_000, -500_000, 40_060)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Three outlines, two of one region; they overlap."""
    rng = np.random.default_rng(3)
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    middle = rng.uniform((left, bottom), (right, top), (3, 2)) + 0.37
    shapes = [shapely.Point(m).buffer(180) for m in middle]
    gpd.GeoDataFrame({"unit": ["n", "s", "n"]}, geometry=shapes, crs=GRID.crs).to_file(tmp_path / "r.gpkg")
    return str(tmp_path / "r.gpkg")


def test_pixels_and_their_centres_have_one_region(path: str) -> None:
    index = region_index(path, "unit", GRID, BOX)
    names = np.array([*region_names(path, "unit"), ""], object)
    y, x = np.meshgrid(*GRID.centres(BOX), indexing="ij")
    found = regions_at(path, "unit", x.ravel(), y.ravel(), GRID.crs).reshape(BOX.shape_yx)
    assert (names[index] != found).mean() < 0.002
    assert set(np.unique(index)) == {-1, 0, 1}
    inner = Box(-500_040, 40_020, -500_010, 40_050)
    np.testing.assert_array_equal(region_index(path, "unit", GRID, inner), index[inner.slices_in(BOX)])
    assert set(outlines(path, "unit")[1]) == {"n", "s"}


def test_a_file_that_changed_is_read_again(path: str) -> None:
    assert region_names(path, "unit") == ["n", "s"]
    frame = gpd.read_file(path).assign(unit=["a", "b", "c"])
    Path(path).unlink()
    frame.to_file(path)
    assert region_names(path, "unit") == ["a", "b", "c"]


def test_what_names_no_region_is_told(path: str, tmp_path: Path) -> None:
    for wrong, column in ((path, "name"), (str(tmp_path / "gone.gpkg"), "unit")):
        with pytest.raises(InputError, match="regions"):
            region_names(wrong, column)


def test_real_samples_of_eastern_africa_lie_in_their_region(real_data: Path) -> None:
    home = real_data / "deafrica_cropmask"
    xy = pd.read_csv(home / "eastern_training_data_coordinates.txt.gz", sep=" ", header=None).to_numpy(float)
    assert len(xy) == 4444
    eastern, central = (str(home / f"{name}_region.geojson") for name in ("eastern", "central"))
    inside = regions_at(eastern, "COUNTRY", *xy.T, "EPSG:6933") != ""
    assert inside.mean() > 0.98
    assert (regions_at(central, "COUNTRY", *xy.T, "EPSG:6933") != "").mean() < 0.02
