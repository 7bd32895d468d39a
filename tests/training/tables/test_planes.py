"""Tables as planes: which rule each band gets, and that the numbers come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.values.errors import InputError
from engine.values.planes import decode
from tests.training.tables.made import made_table
from training.tables.planes import planes_of_table, stored_series, with_bands, with_indices


def test_each_band_gets_the_plane_of_its_kind() -> None:
    table = with_indices(made_table(), ["NDVI"])
    planes = planes_of_table(table)
    assert [(p.name, p.kind) for p in planes] == [
        ("red", "reflectance"),
        ("nir", "reflectance"),
        ("rain", "layer"),
        ("NDVI", "index"),
    ]


def test_stored_values_come_back_within_a_step_and_gaps_as_gaps() -> None:
    table = made_table(gaps=0.2)
    planes = planes_of_table(table)
    stored = stored_series(table, planes)
    assert stored.dtype == np.uint16
    for i, plane in enumerate(planes):
        back, step = decode(stored[:, :, i], plane), 1 / plane.rule[0]
        known = np.isfinite(table.values[:, :, i])
        assert np.array_equal(np.isfinite(back), known)
        assert back[known] == pytest.approx(table.values[:, :, i][known], abs=step)


def test_indices_are_those_of_the_formula_and_replace_stored_ones() -> None:
    table = made_table(gaps=0.1)
    red, nir = table.band("red"), table.band("nir")
    found = with_indices(table, ["NDVI"])
    assert np.allclose(found.band("NDVI"), (nir - red) / (nir + red), atol=1e-5, equal_nan=True)
    wrong = replace(found, values=np.where(np.arange(4) == 3, np.float32(9), found.values))
    again = with_indices(wrong, ["NDVI"])
    assert again.bands == ("red", "nir", "rain", "NDVI")
    assert np.allclose(again.band("NDVI"), found.band("NDVI"), equal_nan=True)


def test_an_index_of_large_values_is_a_layer_and_holds_its_range() -> None:
    table = made_table()
    large = replace(table, bands=("red", "nir", "LAI"))
    plane = planes_of_table(large)[2]
    assert plane.kind == "layer"
    stored = stored_series(large, planes_of_table(large))[:, :, 2]
    assert stored.min() > 1
    assert stored.max() < 65535


def test_bands_are_chosen_by_any_of_their_names() -> None:
    table = made_table().rename({"red": "B04", "nir": "B08"})
    found = with_bands(table, ["nir", "red"])
    assert found.bands == ("nir", "red")
    assert np.array_equal(found.band("red"), table.band("B04"))
    with pytest.raises(InputError, match="lacks what the map"):
        with_bands(table, ["nir", "swir16"])


def test_what_cannot_be_is_refused() -> None:
    table = made_table()
    with pytest.raises(InputError, match="needs a band"):
        with_indices(table, ["EVI"])
    with pytest.raises(InputError, match="not the table's bands"):
        stored_series(table, planes_of_table(table)[:2])
