"""CubeSpec, class scheme, bands and errors."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.values import errors
from engine.values.bands import BANDS, band, find_band
from engine.values.classes import ClassScheme
from engine.values.errors import InputError, LandweaveError, SpecError
from engine.values.spec import CubeSpec, ModelMask, SclMask


def _kinds(root: type[LandweaveError]) -> list[type[LandweaveError]]:
    return [root, *itertools.chain.from_iterable(_kinds(k) for k in root.__subclasses__())]


@pytest.mark.parametrize("kind", _kinds(LandweaveError))
def test_errors_survive_pickling_with_their_fields(kind: type[LandweaveError]) -> None:
    error = kind("it failed", where="tile r1_c2", found="3 GiB", limit="2 GiB", mend="smaller tiles")
    assert pickle.loads(pickle.dumps(error)).__dict__ == error.__dict__
    error.about("S2A_1", "red")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.item, again.asset) == ("S2A_1", "red")
    assert str(again) == str(error)
    assert str(error) == "it failed [tile r1_c2]; found 3 GiB, expected 2 GiB; to mend: smaller tiles"
    assert again.__dict__ == error.__dict__
    assert kind.exit_code in (2, 3, 4)


def test_every_name_of_a_band_resolves_to_it() -> None:
    for one in BANDS:
        for name in (one.name, one.msi, one.msi.lower(), f"{one.msi}_{one.resolution_m}m", *one.aliases):
            assert band(name) is one
    assert find_band("visual") is None
    with pytest.raises(InputError, match="unknown band"):
        band("B99")


def test_band_names_of_a_spec_are_normal() -> None:
    assert CubeSpec(bands=["B02", "nir", "B8A"]).bands == ("blue", "nir", "nir08")
    with pytest.raises(ValidationError, match="once each"):
        CubeSpec(bands=["B02", "blue"])


@given(
    st.dates(dt.date(2016, 1, 1), dt.date(2026, 1, 1)),
    st.integers(0, 500),
    st.sampled_from(["1MS", "10D", "7D", "1QS", "2MS"]),
)
def test_periods_partition_the_range(start: dt.date, days: int, period: str) -> None:
    end = start + dt.timedelta(days)
    bounds = CubeSpec(bands=["red"], period=period).period_bounds(start, end)
    assert bounds[0][0] == start
    assert bounds[-1][1] == end + dt.timedelta(1)
    for (_, stop), (following, _) in itertools.pairwise(bounds):
        assert stop == following
    assert all(a < b for a, b in bounds)
    if period == "1MS":
        assert all(a.day == 1 for a, _ in bounds[1:])


def test_a_bundle_names_each_difference() -> None:
    mine = CubeSpec(bands=["red"], period="1MS", season="03-01/10-31")
    other = CubeSpec(bands=["red"], period="10D", season="04-01/10-31", mask=None)
    with pytest.raises(SpecError) as caught:
        mine.require(other, n_dates=8, other_n_dates=21)
    assert caught.value.where == "period, mask, season, dates"
    mine.require(mine, n_dates=8, other_n_dates=8)


def test_specs_are_strict_and_hashed() -> None:
    with pytest.raises(ValidationError):
        CubeSpec(bands=["red"], color="x")
    with pytest.raises(ValidationError, match="pandas offset"):
        CubeSpec(bands=["red"], period="fortnight")
    assert CubeSpec(bands=["red"], mask="scl") == CubeSpec(bands=["red"])
    assert CubeSpec(bands=["red"]).digest() != CubeSpec(bands=["red"], mask=SclMask(dilate_m=0)).digest()


def test_a_scheme_reads_what_it_wrote(tmp_path: Path) -> None:
    scheme = ClassScheme.from_names(["wheat", "maize", "water"])
    (tmp_path / "classes.yaml").write_text(scheme.to_yaml())
    assert ClassScheme.from_file(tmp_path / "classes.yaml") == scheme
    assert len({c.colour for c in scheme.classes}) == 3
    assert scheme.flag_attributes()["flag_values"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text", ["classes: []", "classes: [{value: 0, name: a, colour: '#000000'}]", "x: [", "classes: 3"]
)
def test_bad_schemes_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match="not a class scheme"):
        ClassScheme.from_file(tmp_path / "c.yaml")
    with pytest.raises(InputError, match="cannot read"):
        ClassScheme.from_file(tmp_path / "none.yaml")


def test_the_tree_of_errors_is_public() -> None:
    assert {k.__name__ for k in _kinds(LandweaveError)} <= set(dir(errors))


def test_a_bundle_that_names_no_checksum_accepts_the_models_that_it_names() -> None:
    def spec(sha256: str | None) -> CubeSpec:
        mask = ModelMask(model="clouds.onnx", bands=("red",), sha256=sha256)
        return CubeSpec(bands=("red",), mask=mask)

    spec(None).require(spec("a" * 64), n_dates=1, other_n_dates=1)
    spec("a" * 64).require(spec("a" * 64), n_dates=1, other_n_dates=1)
    with pytest.raises(SpecError, match="mask"):
        spec("a" * 64).require(spec("b" * 64), n_dates=1, other_n_dates=1)
