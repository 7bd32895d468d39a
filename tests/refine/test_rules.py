"""Rules for each class, against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from engine.refine.rules import RulesConfig
from engine.values.errors import InputError
from tests.refine.tilings import AROUND, assert_untiled, layers_of, patchy, source_of

RULES = {
    "keep": ["water"],
    "rules": [
        {"class": "wetland", "below": 0.6, "into": "grassland"},
        {"class": ["crop", "forest"], "below": 0.58, "into": "wetland"},
        {"class": "forest", "into": "crop"},
        {"below": 0.3, "into": None},
    ],
}


def one_pixel(label: int, confidence: int) -> int:
    sure = confidence / 250 if confidence <= 250 else None
    below = {b: sure is not None and sure < b - 1e-12 for b in (0.6, 0.58, 0.3)}
    if label in (0, 1):
        return label
    if label == 2 and below[0.6]:
        return 3
    if label in (4, 5) and below[0.58]:
        return 2
    if label == 5:
        return 4
    return 0 if below[0.3] else label


def test_the_first_rule_that_fits_decides_each_pixel() -> None:
    label = patchy(6)
    layers = layers_of(label)
    layers["confidence"][label == 4] = np.resize([144, 145, 255, 250], (label == 4).sum())
    out = assert_untiled(RulesConfig.model_validate(RULES).made(AROUND), layers)
    wanted = np.vectorize(one_pixel)(label, layers["confidence"])
    np.testing.assert_array_equal(out["label"], wanted)
    lost = (wanted == 0) & (label != 0)
    assert lost.any()
    np.testing.assert_array_equal(out["confidence"], np.where(lost, 255, layers["confidence"]))


def test_a_map_without_confidence_is_changed_by_rules_that_ask_for_none() -> None:
    label = patchy(7)
    out = assert_untiled(
        RulesConfig.model_validate({"rules": [{"class": 5, "into": 3}]}).made(AROUND), {"label": label}
    )
    np.testing.assert_array_equal(out["label"], np.where(label == 5, 3, label))
    source, box = source_of({"label": label})
    with pytest.raises(InputError, match=r"no such layer \[rules.below\]"):
        RulesConfig.model_validate(RULES).made(AROUND).apply(source, box)


def test_a_class_that_the_map_has_not_is_named_with_its_rule() -> None:
    with pytest.raises(InputError, match=r"rules.rules\[0\].into.*found ice"):
        RulesConfig.model_validate({"rules": [{"class": 5, "into": "ice"}]}).made(AROUND)
