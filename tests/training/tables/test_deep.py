"""Months of series, and Presto's features of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.values.errors import InputError
from tests.training.tables.made import made_table
from training.series import SeriesTable
from training.tables.deep import monthly, presto_bands, presto_features, presto_network


def _optical(n: int = 6) -> SeriesTable:
    rng = np.random.default_rng(0)
    table = made_table(n, dates=12)
    stamps = np.datetime64("2023-11-03") + 10 * np.arange(12)
    return replace(
        table,
        values=rng.uniform(0.02, 0.5, (n, 12, 4)).astype(np.float32),
        bands=("B02", "B03", "B04", "B08"),
        dates=np.tile(stamps, (n, 1)).astype("datetime64[D]"),
    )


def test_months_are_means_of_their_dates() -> None:
    table = _optical()
    table.values[0, 1, 2] = np.nan
    table.values[1, 3:6] = np.nan  # the whole of December
    values, months = monthly(table)
    of_month = table.dates[0].astype("datetime64[M]")
    assert months[0].astype(str).tolist() == ["2023-11", "2023-12", "2024-01", "2024-02"]
    assert np.isnan(values[1, 1]).all()
    for i, month in enumerate(months[0]):
        held = table.values[0][of_month == month]
        assert values[0, i] == pytest.approx(np.nanmean(held, axis=0), abs=1e-6)


def test_months_begin_with_each_sample() -> None:
    table = _optical(2)
    later = table.dates.copy()
    later[1] += np.timedelta64(365, "D")
    values, months = monthly(replace(table, dates=later))
    assert months[:, 0].astype(str).tolist() == ["2023-11", "2024-11"]
    assert values.shape[1] == 4
    none = np.full(table.dates.shape, np.datetime64("NaT"), "datetime64[D]")
    with pytest.raises(InputError, match="no dates"):
        monthly(replace(table, dates=none))


def test_bands_of_whole_groups_are_used() -> None:
    names = ["NDVI", "B08", "B04", "B03", "B11"]
    assert presto_bands(names) == {"nir": 1}
    assert list(presto_bands(["B02", "B03", "B04", "B08", "B11", "B12"])) == [
        "blue",
        "green",
        "red",
        "nir",
        "swir16",
        "swir22",
    ]


def test_features_are_those_of_each_series_by_itself(real_data: Path) -> None:
    weights = real_data / "weights" / "presto_default_model.pt"
    table = _optical()
    dates = table.dates.copy()
    dates[3:] += np.timedelta64(90, "D")  # other months than the rest
    table = replace(table, dates=dates)
    found = presto_features(table, weights)
    assert found.shape == (6, 128)
    assert np.isfinite(found).all()
    alone = presto_features(table[np.array([4])], weights)
    assert alone[0] == pytest.approx(found[4], abs=1e-5)
    network = presto_network(("blue", "green", "red", "nir"), weights)
    values, months = monthly(table)
    days = (months[4].astype("datetime64[D]") - months[4].astype("datetime64[Y]")).astype(int) + 1.0
    days = np.where(
        months[4].astype("datetime64[Y]") > months[4, 0].astype("datetime64[Y]"), days + 366, days
    )
    x_BTCHW = torch.from_numpy(values[4])[None, :, :, None, None]
    with torch.inference_mode():
        plain = network(
            x_BTCHW, torch.ones(1, x_BTCHW.shape[1], 1, 1), torch.tensor(days, dtype=torch.float32)
        )
    assert plain[0, :, 0, 0].numpy() == pytest.approx(found[4], abs=1e-5)


def test_what_presto_cannot_use_is_refused(real_data: Path) -> None:
    weights = real_data / "weights" / "presto_default_model.pt"
    with pytest.raises(InputError, match="no group of Presto"):
        presto_features(_optical().rename({"B08": "own", "B02": "other"}), weights)
    table = _optical()
    late = table.dates.copy()
    late[:, -1] += np.timedelta64(900, "D")
    with pytest.raises(InputError, match="too long"):
        presto_features(replace(table, dates=late), weights)
