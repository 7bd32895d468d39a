"""The context filter against counting by scipy, for any tiling."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from engine.refine.context import ContextConfig
from tests.refine.tilings import AROUND, assert_untiled, layers_of, patchy


def counts(mask, kernel):
    return ndimage.correlate(mask.astype(int), kernel.astype(int), mode="constant")


def kernel_of(shape, r):
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    return x**2 + y**2 <= r**2 if shape == "disc" else np.ones((2 * r + 1, 2 * r + 1), bool)


@pytest.mark.parametrize("shape", ["disc", "square"])
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_class_stays_where_scipy_counts_enough(shape, share) -> None:
    label = patchy(4, gaps=0.3)
    given = {"step": "context", "class": "wetland", "needs": ["water", 5], "within_m": 40, "share": share}
    step = ContextConfig.model_validate(given | {"shape": shape, "else": "grassland"}).made(AROUND)
    out = assert_untiled(step, layers_of(label))
    kernel = kernel_of(shape, 4)
    near, total = counts(np.isin(label, (1, 5)), kernel), counts(label != 0, kernel)
    stays = (near > 0) & (near >= share * total)
    np.testing.assert_array_equal(out["label"], np.where((label == 2) & ~stays, 3, label))
    assert ((label == 2) & ~stays).any() or share == 0


@pytest.mark.parametrize("shape", ["disc", "square"])
def test_a_class_goes_where_what_it_avoids_is_near(shape) -> None:
    label = patchy(5)
    config = ContextConfig.model_validate(
        {"class": ["crop", "forest"], "avoids": "water", "within_px": 2, "shape": shape, "else": None}
    )
    layers = layers_of(label)
    out = assert_untiled(config.made(AROUND), layers)
    gone = np.isin(label, (4, 5)) & (counts(label == 1, kernel_of(shape, 2)) > 0)
    np.testing.assert_array_equal(out["label"], np.where(gone, 0, label))
    np.testing.assert_array_equal(out["confidence"], np.where(gone, 255, layers["confidence"]))
    assert gone.any()


def test_a_share_is_met_exactly_at_its_bound() -> None:
    label = np.full((1, 20), 3, np.uint8)
    label[0, 8], label[0, 12] = 1, 2  # 1 of the 20 pixels of the row is water: 5 %
    given = {"class": "wetland", "needs": "water", "within_px": 20, "else": 3}
    for share, stays in ((0.05, True), (0.050001, False)):
        out = assert_untiled(
            ContextConfig.model_validate(given | {"share": share}).made(AROUND), {"label": label}
        )
        assert (out["label"][0, 12] == 2) == stays


@pytest.mark.parametrize(
    "given",
    [
        {"class": "wetland", "within_px": 3, "else": None},
        {"class": "wetland", "needs": "water", "avoids": "crop", "within_px": 3, "else": None},
        {"class": (), "needs": "water", "within_px": 3, "else": None},
        {"class": "wetland", "needs": "water", "within_px": 3},
    ],
)
def test_a_question_that_is_not_one_is_refused(given) -> None:
    with pytest.raises(ValidationError):
        ContextConfig.model_validate(given)
