"""The majority filter against counting by scipy, for any tiling."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from pydantic import ValidationError
from scipy import ndimage

from engine.refine.filters import Majority, MajorityConfig, majority
from engine.refine.windows import Window
from engine.values.errors import InputError
from tests.refine.tilings import AROUND, assert_untiled, layers_of, patchy


def footprint(shape, radius, resolution_yx=(1, 1)):
    """Return which pixels lie within a distance, by their distances; an odd square of pixels."""
    reach = int(radius // min(resolution_yx)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * np.array(resolution_yx)[:, None, None]
    return np.maximum(abs(y), abs(x)) <= radius if shape == "square" else y**2 + x**2 <= radius**2


def votes_of(label, kernel):
    """Count the votes of each class around each pixel, (class, y, x)."""
    ones = [
        ndimage.correlate((label == k).astype(int), kernel.astype(int), mode="constant") for k in range(256)
    ]
    votes = np.array(ones)
    votes[0] = 0
    return votes


def expected(label, kernel, keep=(), never=(), share=0.0):
    votes = votes_of(label, kernel)
    own = np.take_along_axis(votes, label[None].astype(int), 0)[0]
    total = votes.sum(0)
    votes[list(never)] = -1
    winner, most = votes.argmax(0), votes.max(0)
    moves = (most > own) & (label != 0) & ~np.isin(label, keep) & (most >= share * total - 1e-9)
    return np.where(moves, winner, label).astype(np.uint8)


@pytest.mark.parametrize(
    "window",
    [("square", 1), ("disc", 3), ("disc", 55, (10, 20)), ("square", 45, (20, 10))],
    ids=["3x3", "disc", "oblong disc", "oblong square"],
)
def test_the_winner_is_the_class_that_scipy_counts_most(window) -> None:
    label = patchy(1)
    out = assert_untiled(Majority(Window.make(*window)), layers_of(label))
    np.testing.assert_array_equal(out["label"], expected(label, footprint(*window)))
    assert (out["label"] != label).sum() > 50
    np.testing.assert_array_equal(out["label"] == 0, label == 0)


def test_rules_of_the_winner_hold() -> None:
    label = patchy(2)
    config = MajorityConfig(within_m=20, shape="square", share=0.4, keep=("water",), never_into=("crop", 2))
    step = config.made(AROUND)
    out = assert_untiled(step, layers_of(label))
    kernel = np.ones((5, 5), bool)
    np.testing.assert_array_equal(out["label"], expected(label, kernel, (1,), (2, 4), 0.4))
    assert (out["label"] != expected(label, kernel)).any()


def test_a_tie_stays_or_goes_to_the_lowest_class() -> None:
    step = Majority(Window.make("square", 1))
    own_among_the_winners = np.array([[3, 3, 3], [0, 3, 2], [2, 2, 2]], np.uint8)
    assert majority(own_among_the_winners, step) == 3
    own_is_none = np.array([[4, 4, 4], [0, 3, 2], [2, 2, 0]], np.uint8)
    assert majority(own_is_none, step) == 2


def test_confidence_and_other_layers_are_passed_on() -> None:
    layers = layers_of(patchy(3))
    out = assert_untiled(MajorityConfig().made(AROUND), layers)
    np.testing.assert_array_equal(out["confidence"], layers["confidence"])
    np.testing.assert_array_equal(out["observations"], layers["observations"])


def test_a_real_mask_is_filtered_as_scipy_counts(real_data) -> None:
    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        codes = file.read(1, window=((6720, 6880), (160, 320)))
    label = np.zeros_like(codes)
    label[codes < 4] = codes[codes < 4] + 1
    window = Window.make("disc", 4)
    out = assert_untiled(Majority(window), {"label": label[:60, :64]})
    kernel = footprint("disc", 4)
    np.testing.assert_array_equal(out["label"], expected(label[:60, :64], kernel))
    inner = majority(label, Majority(window))
    np.testing.assert_array_equal(inner, expected(label, kernel)[4:-4, 4:-4])
    assert len(np.unique(label[:60, :64])) > 2
    assert (out["label"] != label[:60, :64]).any()


@pytest.mark.parametrize(
    "given",
    [{"within_px": 1, "within_m": 10}, {"within_px": 0}, {"shape": "disc"}, {"share": 1.5, "within_px": 1}],
)
def test_settings_that_say_nothing_are_refused(given) -> None:
    with pytest.raises(ValidationError):
        MajorityConfig(**given)


def test_a_window_below_a_pixel_and_an_unknown_class_are_refused() -> None:
    with pytest.raises(InputError, match=r"majority.within_m.*found 4.0 m.*10 to 10000 m"):
        MajorityConfig(within_m=4).made(AROUND)
    with pytest.raises(InputError, match="did you mean water"):
        MajorityConfig(keep=("watr",)).made(AROUND)
