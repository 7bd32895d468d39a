"""Composites of real Sentinel-2 series, masked by their own scene classification, against numpy by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import cdist

from engine.cube.composites import Evidence, composite
from engine.cube.geomedian import geometric_median
from engine.cube.masks import hidden_by_scl
from engine.cube.variability import variability
from engine.values.spec import SclMask

NO_DATA = 65535
SCL_CUBES = ["test_optical_cube.nc", "cdse_sentinel2_l2a.nc"]
PLAIN_CUBES = [f"s2_l2a_openeo/openEO_{i}.nc" for i in (1, 2, 3)]
HIDING = (0, 1, 3, 8, 9, 10)


def _bands(path: Path) -> dict[str, np.ndarray]:
    """Return (time, y, x) uint16 of each band by its short name; the files store it as signed."""
    with xr.open_dataset(path, decode_cf=False) as file:
        names = [n for n in file.data_vars if str(n).startswith("S2-L2A-")]
        return {str(n)[7:]: file[n].values.astype(np.int16).view(np.uint16) for n in names}


def _clear_scl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return observations (time, band, y, x), hidden ones zero, and what is clear, found band by band."""
    bands = _bands(path)
    scl = bands.pop("SCL")
    bands.pop("AOT", None)
    stack = np.stack(list(bands.values()), axis=1)
    clear = np.ones(scl.shape, bool)
    for band in bands.values():
        clear &= (band != NO_DATA) & (band != 0)
    for value in (*HIDING, NO_DATA):
        clear &= scl != value
    hidden = np.stack([hidden_by_scl(date, SclMask(dilate_m=0), 20.0) for date in scl]) | (scl == NO_DATA)
    observations = np.where(hidden[:, None] | (stack == NO_DATA), 0, stack)
    return observations, clear


def _plain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    stack = np.stack([b for name, b in _bands(path).items() if name != "SCL"], axis=1)
    return np.where(stack == NO_DATA, 0, stack), ((stack != NO_DATA) & (stack != 0)).all(axis=1)


def _nan(observations: np.ndarray, clear: np.ndarray) -> np.ndarray:
    return np.where(clear[:, None], observations.astype(float), np.nan)


def _check(observations: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Compare counts, median, mean, percentiles, first and medoid with numpy; return the counts."""
    counts = clear.sum(axis=0)
    seen = counts > 0
    values = _nan(observations, clear)[:, :, seen]
    for name, expected in (
        ("median", np.nanmedian(values, axis=0)),
        ("mean", np.nansum(values, axis=0) / counts[seen]),
        ("p0", np.nanmin(values, axis=0)),
        ("p25", np.nanpercentile(values, 25, axis=0)),
        ("p100", np.nanmax(values, axis=0)),
        ("first", np.take_along_axis(values, clear[:, seen].argmax(axis=0)[None, None], 0)[0]),
    ):
        found, number = composite(observations, name)
        np.testing.assert_array_equal(found[:, seen], np.floor(expected + 0.5), err_msg=name)
        np.testing.assert_array_equal(number, counts)
        assert not found[:, ~seen].any()
    medoids = composite(observations, "medoid")[0]
    for y, x in np.argwhere(seen)[::37]:
        points = observations[clear[:, y, x], :, y, x].astype(float)
        sums = cdist(points, points).sum(axis=1)
        assert cdist(points, [medoids[:, y, x]]).sum() == pytest.approx(sums.min(), abs=1e-3)
    return counts


@pytest.mark.parametrize("name", SCL_CUBES)
def test_cloudy_series_with_their_scene_classification(real_data: Path, name: str) -> None:
    observations, clear = _clear_scl(real_data / "s2_l2a_openeo" / name)
    counts = _check(observations, clear)
    assert counts.min() < counts.max()


@pytest.mark.parametrize("name", PLAIN_CUBES)
def test_series_cut_to_fields(real_data: Path, name: str) -> None:
    observations, clear = _plain(real_data / name)
    counts = _check(observations, clear)
    assert counts.max() > 3


def test_two_empty_months_leave_two_empty_steps(real_data: Path) -> None:
    observations, clear = _plain(real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc")
    empty = ~clear.any(axis=(1, 2))
    assert empty.sum() == 2
    for month, nothing in zip(observations, empty, strict=True):
        values, counts = composite(month[None], "median")
        assert (values == 0).all() == nothing
        assert (counts == 0).all() == nothing
    counts = _check(observations, clear)
    assert counts.max() == 10
    both = [composite(o, "geomedian")[0] for o in (observations, observations[~empty])]
    np.testing.assert_array_equal(*both)


def test_the_greenest_date_of_a_real_series(real_data: Path) -> None:
    path = real_data / "s2_l2a_openeo" / "cdse_sentinel2_l2a.nc"
    names = [n for n in _bands(path) if n not in ("SCL", "AOT")]
    red, nir = names.index("B04"), names.index("B08")
    observations, clear = _clear_scl(path)
    values = _nan(observations, clear)
    ndvi = (values[:, nir] - values[:, red]) / (values[:, nir] + values[:, red])
    found = composite(observations, "max_ndvi", Evidence(red=red, nir=nir))[0].astype(float)
    seen = clear.any(axis=0)
    own = (found[nir] - found[red])[seen] / (found[nir] + found[red])[seen]
    np.testing.assert_allclose(own, np.nanmax(ndvi[:, seen], axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", [f"s2_l2a_openeo/{n}" for n in SCL_CUBES])
def test_geometric_median_and_deviations_of_real_series(real_data: Path, name: str) -> None:
    """No observation and no median of each band lies nearer to all dates; deviations are scipy's."""
    observations, clear = _clear_scl(real_data / name)
    medians, counts = geometric_median(observations)
    found = variability(observations, medians)
    np.testing.assert_array_equal(np.isnan(found[0]), counts == 0)
    for y, x in np.argwhere(counts > 0)[::53]:
        points = observations[clear[:, y, x], :, y, x].astype(float)
        centre = medians[None, :, y, x].astype(float)
        least = cdist(points, centre).sum()
        others = [*points, np.median(points, axis=0), points.mean(axis=0)]
        assert least <= cdist(points, others).sum(axis=0).min() + 0.01
        expected = [np.median(cdist(points, centre, m)) for m in ("euclidean", "cosine", "braycurtis")]
        np.testing.assert_allclose(found[:, y, x] * [1e4, 1, 1], expected, rtol=1e-5, atol=2e-7)
