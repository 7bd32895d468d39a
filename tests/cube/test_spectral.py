"""Formulas come from the catalogue alone, equal spyndex's own results, and say what they lack."""

from __future__ import annotations

import numpy as np
import pytest
import spyndex

from engine.cube.spectral import (
    CONSTANTS,
    LETTERS,
    OWN,
    _parse,
    catalogue,
    evaluate,
    find_index,
    find_measure,
    list_indices,
    require_bands,
)
from engine.values.bands import band
from engine.values.errors import InputError

rng = np.random.default_rng(5)
SPECTRA = {letter: rng.uniform(0.02, 0.6, 500) for letter in LETTERS}
"""Reflectance of 500 pixels, float64, by the catalogue's letters."""


def _ours(name: str) -> np.ndarray:
    values = {LETTERS[letter]: v.astype(np.float32) for letter, v in SPECTRA.items()}
    return evaluate(find_index(name).tree, values)


@pytest.mark.parametrize("name", [n for n in catalogue() if n not in {own[0] for own in OWN}])
def test_every_index_equals_spyndex_in_float64(name: str) -> None:
    """Where a formula is ill-conditioned (close to a division by zero) float32 may lie farther away."""
    index = find_index(name)
    parameters = {**SPECTRA, **dict(index.constants)}
    with np.errstate(all="ignore"):
        expected = spyndex.computeIndex(name, parameters)
    found = _ours(name)
    assert found.dtype == np.float32
    assert (np.isnan(found) == ~np.isfinite(expected)).all()
    close = np.isclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert close.mean() > 0.98
    assert np.isfinite(found).mean() > 0.2


def test_the_catalogue_holds_what_is_asked_for_and_computable_from_sentinel_2() -> None:
    usual = "NDVI EVI EVI2 SAVI OSAVI MSAVI GNDVI NDWI MNDWI NDMI NBR IRECI S2REP MCARI TCARI TCARIOSAVI MTCI"
    assert set(usual.split()) | {"PSRI", "NDVI45", "NDRE", "LAI", "BSI", "kNDVI"} <= set(catalogue())
    for index in list_indices():
        assert set(index.bands) <= set(LETTERS.values())
        assert index.reference
        assert index.bands
        index.tree  # parses


def test_another_sensors_indices_and_one_that_depends_on_the_cut_are_left_out() -> None:
    for name in ("NDVIT", "DpRVIVV", "NIRvP", "RWI"):
        with pytest.raises(InputError, match="unknown spectral index"):
            find_index(name)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("NDVI45", lambda b: (b["RE1"] - b["R"]) / (b["RE1"] + b["R"])),
        ("kNDVI", lambda b: np.tanh(((b["N"] - b["R"]) / (b["N"] + b["R"])) ** 2)),
        ("NDRE", lambda b: (b["N"] - b["RE1"]) / (b["N"] + b["RE1"])),
        ("PSSRa", lambda b: b["RE3"] / b["R"]),
        ("GCVI", lambda b: b["N"] / b["G"] - 1),
        ("BSI", lambda b: (b["S1"] + b["R"] - b["N"] - b["B"]) / (b["S1"] + b["R"] + b["N"] + b["B"])),
        ("SAVI", lambda b: 1.5 * (b["N"] - b["R"]) / (b["N"] + b["R"] + 0.5)),
        ("EVI", lambda b: 2.5 * (b["N"] - b["R"]) / (b["N"] + 6 * b["R"] - 7.5 * b["B"] + 1)),
        ("S2REP", lambda b: 705 + 35 * ((b["RE3"] + b["R"]) / 2 - b["RE1"]) / (b["RE2"] - b["RE1"])),
        ("FAI", lambda b: b["N"] - b["R"] - (b["S1"] - b["R"]) * (833 - 665) / (1610 - 665)),
    ],
)
def test_formulas_equal_what_their_papers_say(name: str, plain: object) -> None:
    expected = plain(SPECTRA)  # type: ignore[operator]
    steep = np.isclose(_ours(name), expected, rtol=2e-3, atol=1e-5)
    assert steep.mean() > 0.99
    np.testing.assert_allclose(np.median(_ours(name)), np.median(expected), rtol=1e-4)


def test_constants_that_differ_from_the_catalogues_default_are_used() -> None:
    for (name, letter), value in CONSTANTS.items():
        assert dict(find_index(name).constants)[letter] == value


def test_a_division_by_zero_is_no_data_also_inside_a_formula() -> None:
    values = {k: np.float32([0.2, 0.3, np.nan]) for k in LETTERS.values()}
    assert np.isnan(evaluate(find_index("S2REP").tree, values)).all()
    inner = _parse("R / (G / (N - B))", ())
    values = {"red": 1.0, "green": 1.0, "nir": 2.0, "blue": 1.0}
    one = {k: np.full(2, v, np.float32) for k, v in values.items()}
    one["blue"][1] = 2.0
    np.testing.assert_array_equal(evaluate(inner, one), np.float32([1.0, np.nan]))
    squares = evaluate(_parse("(R - 2 * G) ** 0.5", ()), one)
    assert np.isnan(squares).all()


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true')", "R.real", "R if G else B", "[R]", "R ** G", "exp(R)", "lambda: 1"],
)
def test_a_formula_is_arithmetic_and_nothing_else(text: str) -> None:
    with pytest.raises(InputError):
        _parse(text, ())


def test_the_users_text_is_never_a_formula() -> None:
    for name in ("(N-R)/(N+R)", "__import__('os')", "NDVI ", ""):
        with pytest.raises(InputError):
            find_index(name)


def test_an_unknown_name_is_met_with_close_ones_and_a_lacking_band_is_named() -> None:
    with pytest.raises(InputError, match="NDVI"):
        find_index("ndvi")
    with pytest.raises(InputError, match="unknown spectral index or band"):
        find_measure("SCL")
    with pytest.raises(InputError, match=r"EVI needs a band.*found red, nir.*add blue to cube\.bands"):
        require_bands([find_index("NDVI"), find_index("EVI")], ("red", "nir"))


def test_a_band_is_a_measure_of_its_own() -> None:
    for name in ("B8A", "nir08", "rededge4"):
        assert find_measure(name).bands == ("nir08",)
    assert find_measure("NDVI") == find_index("NDVI")
    assert not [n for n in catalogue() if n in {band(b).name for b in LETTERS.values()}]
