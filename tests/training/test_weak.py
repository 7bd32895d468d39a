"""Weak labels: Otsu against a plain search, rules on real series, agreement, confident answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from training.label_values import LabelRaster
from training.weak import Confident, Rule, agreement, confident, label_by_rules, otsu

GRID = Grid("EPSG:32633", (10.0, 10.0))
SCHEME = ClassScheme.from_names(["crop", "forest", "water"])


def _cube(red: np.ndarray, nir: np.ndarray, times: list[str]) -> xr.Dataset:
    """Reflectance (time, y, x) 0..1 of two bands."""
    values = np.rint(np.stack([red, nir], axis=1) * 10_000).astype(np.uint16)
    box = Box(0, 0, *values.shape[2:])
    coords = {"time": np.array(times, "datetime64[ns]"), "band": ["red", "nir"], **georef_coords(GRID, box)}
    return xr.Dataset({"reflectance": (("time", "band", "y", "x"), values)}, coords=coords)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9), st.floats(0.3, 3))
def test_otsu_separates_as_well_as_the_best_of_all_thresholds(seed: int, share: float, apart: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(600) < share, rng.normal(0, 0.3, 600), rng.normal(apart, 0.2, 600))
    low, high = np.percentile(values, [0.1, 99.9])
    cut = np.clip(values, low, high)

    def between(threshold: float) -> float:
        a, b = cut[cut < threshold], cut[cut >= threshold]
        if not len(a) or not len(b):
            return 0.0
        return len(a) * len(b) / len(cut) ** 2 * (a.mean() - b.mean()) ** 2

    found = otsu("x", values)
    best = max(between(t) for t in np.sort(cut))
    assert between(found.value) >= 0.97 * best
    assert found.between == pytest.approx(best / cut.var(), abs=0.03)


def test_otsu_of_two_values_lies_between_them() -> None:
    assert 0.2 < otsu("x", np.array([0.1] * 50 + [0.9] * 50)).value < 0.8
    for nothing in ([0.5] * 9, [np.nan] * 9):
        with pytest.raises(InputError, match="no threshold"):
            otsu("x", np.array(nothing))


def test_rules_claim_what_they_describe_and_leave_the_rest() -> None:
    times = ["2021-01-15", "2021-04-15", "2021-07-15", "2021-10-15"]
    red, nir = np.full((4, 30, 40), 0.1), np.full((4, 30, 40), 0.15)
    nir[2, :, :20] = 0.7  # green in summer alone: crop
    nir[:, :, 20:30] = 0.6  # evergreen: forest
    red[:, 25:], nir[:, 25:] = 0.0, 0.0  # no data
    rules = [
        Rule(name="crop", when=("NDVI_range > otsu", "NDVI_min < 0.4")),
        Rule.model_validate({"class": "forest", "when": ["NDVI_min > 0.5"]}),
    ]
    found, thresholds = label_by_rules(_cube(red, nir, times), rules, SCHEME, weight=0.4, erode_px=0)
    assert (found.values[:25, :20] == 1).all()
    assert (found.values[:25, 20:30] == 2).all()
    assert not found.values[:, 30:].any()
    assert not found.values[25:].any()
    assert found.weights is not None
    assert set(found.weights[found.values != 0]) == {100}
    assert (found.sources, thresholds[0].what) == (("rules",), "NDVI_range")
    rimless, _ = label_by_rules(_cube(red, nir, times), rules, SCHEME, erode_px=1)
    assert not rimless.values[:, 19:21].any()


def test_contradicting_rules_annotate_nothing_and_days_count() -> None:
    times = ["2021-01-15", "2021-07-15"]
    red, nir = np.full((2, 8, 8), 0.1), np.full((2, 8, 8), 0.2)
    nir[0] = 0.8
    both = [Rule(name="crop", when=("NDVI_max > 0.5",)), Rule(name="forest", when=("NDVI_max > 0.6",))]
    assert not label_by_rules(_cube(red, nir, times), both, SCHEME, erode_px=0)[0].values.any()
    summer = Rule(name="crop", when=("NDVI_max > 0.5",), days=("05-01", "09-30"))
    winter = Rule(name="crop", when=("NDVI_max > 0.5",), days=("11-01", "02-28"))
    assert not label_by_rules(_cube(red, nir, times), [summer], SCHEME, erode_px=0)[0].values.any()
    assert label_by_rules(_cube(red, nir, times), [winter], SCHEME, erode_px=0)[0].values.all()


def test_rules_that_cannot_be_read_are_told() -> None:
    cube = _cube(np.full((1, 4, 4), 0.1), np.full((1, 4, 4), 0.5), ["2021-07-15"])
    for rule, match in (
        (Rule(name="crop", when=("NDVI high",)), "cannot read a condition"),
        (Rule(name="rye", when=("NDVI_max > 0.5",)), "names no class"),
        (Rule(name="crop", when=("NDVI_max > 0.5",), days=("01-01", "02-01")), "no date"),
        (Rule(name="crop", when=("NDWI_max > 0.5",)), "green"),
    ):
        with pytest.raises(InputError, match=match):
            label_by_rules(cube, [rule], SCHEME)


def test_ndvi_finds_the_real_forest_of_slovenia(real_data: Path) -> None:
    """Fields and meadows lie bare or under snow at some time, forest hardly; 79% of the patch is forest."""
    with np.load(real_data / "s2_slovenia_eopatch" / "eopatch_ndvi_clouds_lulc.npz") as patch:
        ndvi, clouds, lulc = patch["NDVI"][..., 0], patch["CLM"][..., 0], patch["LULC"][..., 0]
        times = [str(t)[:10] for t in patch["timestamps"]]
    # Two bands that give this NDVI, as reflectance; clouds are no data.
    nir = np.full(ndvi.shape, 0.4)
    red = np.clip(nir * (1 - ndvi) / (1 + ndvi), 0.0001, 1)
    hidden = (clouds == 1) | ~np.isfinite(ndvi)
    red[hidden], nir[hidden] = 0, 0
    order = np.argsort(times)
    cube = _cube(red[order], nir[order], [times[i] for i in order])
    found, (threshold,) = label_by_rules(cube, [Rule(name="forest", when=("NDVI_p10 > otsu",))], SCHEME)
    labelled = found.values == 2
    assert labelled.mean() > 0.25
    assert 0.1 < threshold.value < 0.4
    assert (lulc == 2).mean() < 0.8
    assert (lulc[labelled] == 2).mean() > 0.97


def test_maps_that_agree() -> None:
    box = Box(0, 0, 1, 6)
    rows = ([1, 1, 1, 2, 0, 3], [1, 1, 2, 2, 0, 3], [1, 2, 3, 0, 0, 3])
    maps = [
        LabelRaster(np.array([r], np.uint8), box, SCHEME, sources=(n,))
        for r, n in zip(rows, "abc", strict=True)
    ]
    all_three = agreement(maps, erode_px=0)
    assert all_three.values.tolist() == [[1, 0, 0, 0, 0, 3]]
    two = agreement(maps, at_least=2, erode_px=0, weight=1.0)
    assert two.values.tolist() == [[1, 1, 0, 2, 0, 3]]
    assert two.weights is not None
    assert two.weights.tolist() == [[250, 167, 0, 167, 0, 250]]
    assert two.sources == ("agreement of a, b, c",)
    for wrong in (maps[:1], maps):
        with pytest.raises(InputError, match="agree"):
            agreement(wrong, at_least=4)


def test_a_tie_is_no_agreement() -> None:
    box = Box(0, 0, 1, 1)
    maps = [LabelRaster(np.array([[v]], np.uint8), box, SCHEME) for v in (1, 1, 2, 2)]
    assert not agreement(maps, at_least=2, erode_px=0).values.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 1), st.floats(0, 1))
def test_confident_answers_keep_the_surest_share_of_each_class(seed: int, share: float, least: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (30, 30)).astype(np.uint8)
    confidence = rng.integers(0, 251, (30, 30)).astype(np.uint8)
    confidence[label == 0] = 255
    known = np.where(rng.random((30, 30)) < 0.1, label, 0).astype(np.uint8)
    like = LabelRaster(known, Box(0, 0, 30, 30), SCHEME)
    found = confident(label, confidence, like, Confident(least=least, share=share, erode_px=0, weight=0.6))
    taken = found.values != 0
    assert (found.values[taken] == label[taken]).all()
    assert (confidence[taken] >= least * 250).all()
    assert not (taken & (known != 0)).any()
    assert found.weights is not None
    np.testing.assert_array_equal(found.weights[taken], np.maximum(1, np.rint(confidence[taken] * 0.6)))
    for value in SCHEME.values:
        mine, left = taken & (label == value), ~taken & (label == value) & (known == 0)
        if mine.any() and left.any():
            assert confidence[mine].min() > confidence[left].max()
        of_class = (label == value).sum()
        surest = confidence[mine].max() if mine.any() else 0
        assert mine.sum() <= share * of_class or (confidence[mine] == surest).all()
