from __future__ import annotations

import json

import numpy as np
import pytest

from engine.assessment.types import Estimate, Sample, Stratum
from engine.values.errors import InputError

STRATA = [Stratum("forest", 90, 0.9), Stratum("field", 10, 0.1)]


def test_a_sample_survives_a_table() -> None:
    sample = Sample.of(
        STRATA,
        ["field", "forest", "forest"],
        [2, 1, 1],
        [2, 1, 0],
        region=["n", "s", "s"],
        confidence=[1, 0.5, 0.2],
    )
    frame = sample.to_frame().assign(notes="free text of an interpreter")
    again = Sample.from_frame(STRATA, frame)
    assert again.stratum.tolist() == [1, 0, 0]
    assert again.region.tolist() == ["n", "s", "s"]
    assert again.confidence.tolist() == [1, 0.5, 0.2]
    assert again.cluster is None
    assert again.points.tolist() == [2, 1]
    assert again.classes == (1, 2)


def test_points_without_an_answer_are_counted() -> None:
    answered, left_out = Sample.of(STRATA, [0, 0, 1], [1, 1, 2], [0, 2, 0]).answered()
    assert (len(answered), left_out) == (1, 2)
    assert answered.reference.tolist() == [2]


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"design does not know.*heath"):
        Sample.of(STRATA, ["heath"], [1], [1])
    with pytest.raises(InputError, match="differ in length"):
        Sample.of(STRATA, [0, 1], [1], [1])
    with pytest.raises(InputError, match="stratum that is not told"):
        Sample.of(STRATA, [2], [1], [1])
    with pytest.raises(InputError, match=r"lacks columns.*reference"):
        Sample.from_frame(STRATA, Sample.of(STRATA, [0], [1], [1]).to_frame().drop(columns="reference"))
    with pytest.raises(InputError, match="strata of one name"):
        Sample.of([STRATA[0], STRATA[0]], ["forest"], [1], [1])
    with pytest.raises(InputError, match="smaller than nothing"):
        Stratum("x", -1, 0)


def test_an_estimate_survives_json() -> None:
    estimate = Estimate(0.5, None, None, None, 1, "one point")
    assert Estimate.from_json(json.loads(json.dumps(estimate.as_json()))) == estimate
    assert estimate.scaled(10) == Estimate(5.0, None, None, None, 1, "one point")
    assert estimate.line() == "0.500"
    assert "note" not in Estimate(0.5, 0.1, 0.3, 0.7, 9).as_json()
    assert np.isclose(Estimate(0.5, 0.1, 0.3, 0.7, 9).scaled(200).high, 140)
