"""Periods: windows of the year, steps before harvest, crop calendars."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.values.errors import InputError
from engine.values.periods import BeforeHarvest, Calendar, Windows, spans_of
from engine.values.spec import BestPixel, CubeSpec, GapFill, Sharpen

YEAR = dt.date(2023, 1, 1), dt.date(2023, 12, 31)


def test_windows_of_two_years_come_in_order_and_only_whole() -> None:
    windows = Windows(windows=[("05-01", "05-31"), ("03-01", "03-20")])
    spans = windows.spans(dt.date(2022, 4, 1), dt.date(2023, 5, 30))
    assert spans == [
        (dt.date(2022, 5, 1), dt.date(2022, 6, 1)),
        (dt.date(2023, 3, 1), dt.date(2023, 3, 21)),
    ]
    with pytest.raises(InputError, match="no window lies within"):
        windows.spans(dt.date(2023, 6, 1), dt.date(2023, 12, 31))
    assert Windows(windows=[("02-10", "02-29")]).spans(*YEAR)[0][1] == dt.date(2023, 3, 1)


@given(
    st.dates(dt.date(2017, 7, 1), dt.date(2024, 12, 31)),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(0, 90),
)
def test_steps_before_harvest_touch_and_end_at_the_cut_off(
    harvest: dt.date, count: int, step: int, before: int
) -> None:
    periods = BeforeHarvest(harvest=f"{harvest:%m-%d}", count=count, step_days=step, days_before=before)
    start = harvest - dt.timedelta(before + count * step)
    spans = periods.spans(start, harvest - dt.timedelta(before + 1))
    assert len(spans) == count
    assert spans[0][0] == start
    assert spans[-1][1] == harvest - dt.timedelta(before)
    assert all(a[1] == b[0] and (b[1] - b[0]).days == step for a, b in itertools.pairwise(spans))
    with pytest.raises(InputError, match="do not lie within"):
        periods.spans(start + dt.timedelta(1), harvest - dt.timedelta(before + 1))


def test_a_calendar_needs_as_many_steps_everywhere() -> None:
    north, south = Windows(windows=[("05-01", "05-20")]), Windows(windows=[("04-01", "04-20")])
    calendar = Calendar(file="regions.gpkg", regions={"north": north, "south": south})
    assert spans_of(calendar, *YEAR) == [(dt.date(2023, 4, 1), dt.date(2023, 5, 21))]
    uneven = Calendar(
        file="r.gpkg",
        regions={"north": north, "south": Windows(windows=[*south.windows, ("06-01", "06-09")])},
    )
    with pytest.raises(InputError, match="different numbers"):
        spans_of(uneven, *YEAR)


def test_a_spec_takes_short_forms_and_comes_back_from_json() -> None:
    spec = CubeSpec(
        bands=["B02", "B03"],
        period={"kind": "before_harvest", "harvest": "07-20", "count": 6},
        reducer="best",
        mask=["scl", "cloud_probability", "s2cloudless"],
        sharpen="ratio",
        gap_fill="whittaker",
        features={"indices": "NDVI", "layers": [{"name": "dem", "file": "dem.tif"}]},
        sentinel1=True,
    )
    assert spec.reducer == BestPixel()
    assert spec.sharpen == Sharpen()
    assert spec.gap_fill == GapFill(method="whittaker")
    assert spec.features is not None
    assert spec.features.indices == ("NDVI",)
    assert [m.kind for m in spec.mask] == ["scl", "cloud_probability", "model"]
    assert CubeSpec.model_validate_json(spec.model_dump_json()) == spec
    assert CubeSpec(bands=["red"], reducer="p07").reducer == "p7"
    assert hash(spec) == hash(spec.model_copy())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reducer", "average"),
        ("reducer", "p101"),
        ("period", "every month"),
        ("period", {"kind": "windows", "windows": [("13-01", "13-20")]}),
        ("mask", "clouds"),
        ("mask", {"kind": "scl", "dilate_class_m": {3: 9000}}),
        ("gap_fill", "spline"),
        ("features", {"layers": [{"name": "a b", "file": "x.tif"}]}),
    ],
)
def test_a_wrong_setting_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        CubeSpec(bands=["red"], **{field: value})
