"""Splits by region, year and group: the same for pixels and samples, stratified, on file, leaks refused."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_values import LabelRaster
from training.leakage import count_twice, measure_pixels, measure_samples, refuse_leaks
from training.split_file import read_split, write_split
from training.splits import LEFT_OUT, TEST, TRAIN, VAL, Samples, Split
from training.stratify import count_pixels, count_samples, shares_of, stratified

GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_060, 40_000, -499_980, 40_100)
SCHEME = ClassScheme.from_names(["a", "b", "c"])


def _samples(rows: np.ndarray, cols: np.ndarray, **more: np.ndarray) -> Samples:
    n = len(rows)
    return Samples(
        x=(cols + 0.5) * 10.0,
        y=-(rows + 0.5) * 10.0,
        crs=GRID.crs,
        value=more.get("value", np.ones(n, np.uint8)),
        year=more.get("year", np.zeros(n, np.int64)),
        group=more.get("group", np.full(n, "", object)),
    )


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    """Two regions that share a border at column 40 050; the lower part of the box is in none."""
    left, _, right, top = GRID.bounds_of_box(BOX)
    west, east = shapely.box(left, top - 500, left + 500, top), shapely.box(left + 500, top - 500, right, top)
    path = tmp_path / "regions.gpkg"
    gpd.GeoDataFrame({"name": ["west", "east"]}, geometry=[west, east], crs=GRID.crs).to_crs(4326).to_file(
        path
    )
    return path


@settings(max_examples=25, deadline=None)
@given(
    split=st.builds(
        Split, block_px=st.integers(3, 20), buffer_px=st.integers(0, 25), val=st.just(0.3),
        test=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 50),
    )
)  # fmt: skip
def test_a_sample_has_the_part_of_its_pixel(split: Split) -> None:
    rows, cols = (i.ravel() for i in np.mgrid[BOX.y0 : BOX.y1 : 7, BOX.x0 : BOX.x1 : 7])
    found = split.on(GRID).parts_of(_samples(rows, cols))
    expected = split.parts(BOX)[rows - BOX.y0, cols - BOX.x0]
    np.testing.assert_array_equal(found, expected)


def test_regions_go_to_one_part_whole_with_a_strip_between(regions: Path) -> None:
    split = Split(by="regions", regions=str(regions), assigned={"east": "test"}, buffer_px=4).on(GRID)
    parts = split.parts(BOX)
    assert (parts[:50, :46] == TRAIN).all()
    assert (parts[:50, 46:50] == LEFT_OUT).all()
    assert (parts[:50, 50:] == TEST).all()
    assert (parts[51:] == LEFT_OUT).all()
    rows, cols = (i.ravel() for i in np.mgrid[BOX.y0 : BOX.y1 : 5, BOX.x0 : BOX.x1 : 5])
    found = split.parts_of(_samples(rows, cols)).reshape(16, 20)
    assert (found[:10, :9] == TRAIN).all()
    assert (found[:10, 10:] == TEST).all()
    assert (found[10:] == LEFT_OUT).all()
    with pytest.raises(InputError, match="needs a grid"):
        Split(by="regions", regions=str(regions)).parts(BOX)


def test_a_split_by_year_is_of_samples_alone() -> None:
    years = np.array([2019, 2020, 2021, 0])
    split = Split(by="years", assigned={"2019": "test", "2021": "val"})
    samples = _samples(np.zeros(4, int), np.zeros(4, int), year=years)
    assert split.parts_of(samples).tolist() == [TEST, TRAIN, VAL, LEFT_OUT]
    with pytest.raises(InputError, match="by: blocks"):
        split.parts(BOX)


def test_groups_keep_their_distance() -> None:
    cols = np.arange(40)
    group = np.where(cols < 20, "one", "other").astype(object)
    samples = _samples(np.zeros(40, int), cols, group=group)
    split = Split(by="groups", assigned={"other": "val"}, buffer_px=3).on(GRID)
    assert np.flatnonzero(split.parts_of(samples) == LEFT_OUT).tolist() == [17, 18, 19]
    refuse_leaks(measure_samples(split.parts_of(samples), samples, GRID.crs), split)


def test_what_makes_no_split_is_refused() -> None:
    for wrong in ({"by": "regions"}, {"regions": "r.gpkg"}, {"assigned": {"r0_c0": 9}}):
        with pytest.raises(ValidationError):
            Split.model_validate(wrong)
    with pytest.raises(InputError, match="another grid"):
        Split().on(GRID).on(Grid("EPSG:32633", (20.0, 20.0)))
    with pytest.raises(InputError, match="no block"):
        Split(assigned={"north": "val"}).parts(BOX)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_strata_get_their_shares_and_units_stay_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3) * 0.6, 60)
    counts = {f"r{i}_c0": np.r_[0, rng.multinomial(200, p), np.zeros(252, int)] for i, p in enumerate(shares)}
    split = stratified(Split(val=0.2, test=0.2, seed=seed), counts)
    assert set(dict(split.assigned)) == set(counts)
    found = shares_of(split, counts)
    for part, wanted in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert np.abs(found[part][1:4] - wanted).max() < 0.05


def test_strata_are_nearer_to_their_shares_than_a_draw() -> None:
    """A rare class in few blocks: the draw often gives validation none or all of it."""
    rng = np.random.default_rng(1)
    values = np.ones((80 * 4, 100 * 4), np.uint8)
    for y, x in rng.integers(0, 300, (12, 2)):
        values[y : y + 12, x : x + 12] = 3
    labels = LabelRaster(values, Box(0, 0, 320, 400), SCHEME)
    away = []
    for seed in range(8):
        split = Split(block_px=40, val=0.25, seed=seed)
        counts = count_pixels(split, labels)
        drawn = split.model_copy(
            update={"assigned": tuple((n, split.part_of_block(*map(int, n[1:].split("_c")))) for n in counts)}
        )
        ours = stratified(split, counts)
        away.append([abs(shares_of(s, counts)["val"][3] - 0.25) for s in (drawn, ours)])
    drawn_away, ours_away = np.mean(away, axis=0)
    assert ours_away < 0.03
    assert drawn_away > 3 * ours_away
    with pytest.raises(InputError, match="fewer units"):
        stratified(Split(block_px=1000), count_pixels(Split(block_px=1000), labels))


def test_every_part_gets_a_unit_even_of_few_large_ones() -> None:
    counts = {name: np.r_[0, n, np.zeros(254, int)] for name, n in (("x", 900), ("y", 50), ("z", 40))}
    split = stratified(Split(by="groups", val=0.2, test=0.2), counts)
    assert {part for _, part in split.assigned} == {TRAIN, VAL, TEST}
    assert dict(split.assigned)["x"] == TRAIN


def test_a_split_on_file_decides_the_same(tmp_path: Path, regions: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4, BOX.shape_yx).astype(np.uint8)
    labels = LabelRaster(values, BOX, SCHEME)
    kinds = [
        Split(block_px=20, buffer_px=2, val=0.3, seed=3),
        Split(block_px=20, buffer_px=2, val=0.3, stratify=True),
        Split(by="regions", regions=str(regions), assigned={"east": "val"}, buffer_px=3),
    ]
    for split, name in zip(kinds, ("a.json", "b.parquet", "c.parquet"), strict=True):
        split = split.on(GRID)
        counts = count_pixels(split, labels)
        split = stratified(split, counts) if split.stratify else split
        leakage = measure_pixels(split.parts(BOX), values != 0)
        write_split(tmp_path / name, split, counts, SCHEME, leakage)
        again = read_split(tmp_path / name)
        np.testing.assert_array_equal(again.parts(BOX), split.parts(BOX))
        assert Split.model_validate(str(tmp_path / name)).digest() == split.digest()
        assert again.on(GRID) == again
    units = gpd.read_parquet(tmp_path / "b.parquet")
    assert units.crs == GRID.crs
    assert units["labels"].sum() == (values != 0).sum()
    assert set(gpd.read_parquet(tmp_path / "c.parquet")["unit"]) == {"east", "west"}
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["format"], told["version"], told["leakage"]["unit"]) == ("landweave split", 1, "px")


def test_a_split_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split(path, Split(seed=1), {}, SCHEME)
    told = json.loads(path.read_text())
    told["split"]["seed"] = 2
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match="changed after"):
        read_split(path)
    path.write_text(json.dumps(told | {"version": 99}))
    with pytest.raises(InputError, match="newer version"):
        read_split(path)
    with pytest.raises(InputError, match="cannot read"):
        read_split(tmp_path / "gone.json")
    with pytest.raises(InputError, match="JSON or GeoParquet"):
        write_split(tmp_path / "split.txt", Split(), {}, SCHEME)


def test_pixels_that_touch_are_a_leak_and_a_buffer_mends_it() -> None:
    known = np.random.default_rng(0).random(BOX.shape_yx) < 0.7
    for buffer_px, apart in ((0, 1), (5, 6)):
        split = Split(block_px=20, buffer_px=buffer_px, val=0.3)
        leakage = measure_pixels(split.parts(BOX), known)
        assert apart <= leakage.distance["train-val"] <= apart + 1
        if buffer_px:
            refuse_leaks(leakage, split)
        else:
            with pytest.raises(InputError, match="too close"):
                refuse_leaks(leakage, split)


def test_distances_are_right_across_strips() -> None:
    parts = np.zeros((2200, 40), np.uint8)
    parts[1000, 5], parts[1100, 30] = TRAIN, VAL  # a strip ends at 1024
    assert measure_pixels(parts, parts != 0).distance == {"train-val": 100.0}
    parts[1100, 30] = 0
    parts[1900, 30] = VAL
    leakage = measure_pixels(parts, parts != 0)
    assert leakage.distance == {"train-val": np.inf}
    assert leakage.as_dict()["distance"] == {"train-val": None}


def test_copied_pixels_are_found() -> None:
    rng = np.random.default_rng(0)
    cube = rng.integers(1, 9000, (4, 3, *BOX.shape_yx)).astype(np.uint16)
    split = Split(block_px=20, buffer_px=2, val=0.3)
    parts = split.parts(BOX)
    clean = measure_pixels(parts, np.ones(BOX.shape_yx, bool), cube)
    assert clean.duplicates == {"train-val": 0}
    refuse_leaks(clean, split)
    train, val = (np.argwhere(parts == p)[:50] for p in (TRAIN, VAL))
    cube[..., val[:, 0], val[:, 1]] = cube[..., train[:, 0], train[:, 1]]
    leak = measure_pixels(parts, np.ones(BOX.shape_yx, bool), cube)
    assert leak.duplicates == {"train-val": 50}
    with pytest.raises(InputError, match="same series"):
        refuse_leaks(leak, split)


def test_empty_and_constant_series_are_no_copies() -> None:
    rows = np.array([[0] * 8, [1] * 8, [0, 0, 0, 0, 0, 1, 2, 3], [1, 2, 3, 4, 5, 6, 0, 0]], np.uint16)
    assert count_twice(rows, rows) == (1, 1)


def test_samples_of_one_place_or_group_are_a_leak() -> None:
    group = np.array(["f", "f", "g", "h"], object)
    samples = _samples(np.array([0, 900, 0, 400]), np.array([0, 0, 900, 400]), group=group)
    split = Split(by="groups", buffer_px=0).on(GRID)
    leak = measure_samples(np.array([TRAIN, VAL, VAL, TRAIN], np.uint8), samples, GRID.crs)
    assert leak.groups == {"train-val": 1}
    with pytest.raises(InputError, match="share groups"):
        refuse_leaks(leak, split)
    near = measure_samples(
        np.array([TRAIN, TRAIN, VAL, VAL], np.uint8),
        _samples(np.zeros(4, int), np.array([0, 1, 1, 9])),
        GRID.crs,
    )
    with pytest.raises(InputError, match="too close"):
        refuse_leaks(near, Split(block_px=1, buffer_px=0).on(GRID))


def test_counts_of_samples_and_pixels_agree() -> None:
    values = np.random.default_rng(5).integers(1, 4, BOX.shape_yx).astype(np.uint8)
    rows, cols = (i.ravel() for i in np.mgrid[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1])
    split = Split(block_px=30).on(GRID)
    by_sample = count_samples(split, _samples(rows, cols, value=values.ravel()))
    by_pixel = count_pixels(split, LabelRaster(values, BOX, SCHEME))
    assert by_sample.keys() == by_pixel.keys()
    assert all((by_sample[k] == by_pixel[k]).all() for k in by_pixel)
