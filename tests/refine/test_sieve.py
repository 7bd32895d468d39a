"""The sieve gives GDAL's pixels, for any strips, and its memory does not grow with the map."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.windows import Window

from engine.refine import sieve as sieve_module
from engine.refine.sieve import Sieve, sieve
from engine.values.errors import DataError, InputError
from tests.refine.whole_array import numbered
from tests.services.require import require_service

SHAPES = st.tuples(st.integers(2, 14), st.integers(1, 30))
MAPS = arrays(np.uint8, SHAPES, elements=st.integers(0, 4))
MASK = "full_tile/cloudmask_T19GBQ_20170725.tif"


def _gdal(label: NDArray[np.uint8], size: int, connectivity: int = 4, mask=None) -> NDArray[np.uint8]:
    return rasterio.features.sieve(label, size, mask=mask, connectivity=connectivity)


def _in_strips(label: NDArray[np.uint8], how: Sieve, mask=None) -> NDArray[np.uint8]:
    out = np.zeros_like(label)

    def write(y0: int, rows: NDArray[np.uint8]) -> None:
        out[y0 : y0 + len(rows)] = rows

    shown = None if mask is None else lambda y0, y1: mask[y0:y1]
    how.run(lambda y0, y1: label[y0:y1], write, label.shape, mask=shown)
    return out


@settings(max_examples=80)
@given(MAPS, st.integers(1, 30), st.sampled_from([4, 8]), st.integers(1, 60))
def test_equal_to_gdal(label: NDArray[np.uint8], size: int, connectivity: int, strip_px: int) -> None:
    size = min(size, label.size - 1)  # rasterio refuses larger ones
    every = Sieve(size, connectivity, hidden=None, strip_px=strip_px)
    assert (_in_strips(label, every) == _gdal(label, size, connectivity)).all()
    without_zero = Sieve(size, connectivity, strip_px=strip_px)
    assert (_in_strips(label, without_zero) == _gdal(label, size, connectivity, mask=label != 0)).all()


@settings(max_examples=40)
@given(MAPS, st.integers(1, 30), st.sampled_from([4, 8]), st.randoms())
def test_equal_to_gdal_with_a_mask(label: NDArray[np.uint8], size: int, connectivity: int, random) -> None:
    size = min(size, label.size - 1)
    mask = np.array([[random.random() < 0.8 for _ in row] for row in label])
    expected = _gdal(label, size, connectivity, mask=mask)
    assert (sieve(label, size, connectivity=connectivity, mask=mask, hidden=None) == expected).all()
    strips = Sieve(size, connectivity, hidden=None, strip_px=3)
    assert (_in_strips(label, strips, mask.astype(np.uint8) * 7) == expected).all()


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("size", [2, 50, 5000])
def test_equal_to_gdal_on_the_whole_real_mask(real_data: Path, size: int, connectivity: int) -> None:
    with rasterio.open(real_data / MASK) as file:
        label = file.read(1, window=Window(0, 0, 10980, 10980 if (size, connectivity) == (50, 4) else 1500))
    expected = _gdal(label, size, connectivity)
    assert (expected != label).any()
    assert (sieve(label, size, connectivity=connectivity, hidden=None) == expected).all()


def test_equal_to_gdals_command(tmp_path: Path) -> None:
    if shutil.which("gdal_sieve.py") is None:
        require_service("gdal_sieve.py", "apt-get install gdal-bin")
    label = np.random.default_rng(5).integers(0, 4, (70, 90), np.uint8)
    profile = {"driver": "GTiff", "width": 90, "height": 70, "count": 1, "dtype": "uint8", "nodata": 0}
    transform = rasterio.transform.from_origin(0, 700, 10, 10)
    with rasterio.open(tmp_path / "in.tif", "w", **profile, transform=transform) as file:
        file.write(label, 1)
    names = [str(tmp_path / "in.tif"), str(tmp_path / "out.tif")]
    subprocess.run(["gdal_sieve.py", "-q", "-st", "6", "-8", *names], check=True, timeout=60)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (sieve(label, 6, connectivity=8) == file.read(1)).all()


def test_chains_that_end_nowhere_stay_and_are_counted() -> None:
    label = np.array([[1, 2, 0, 3, 4, 5, 5, 5, 5]], np.uint8)
    out, done = label.copy(), []
    how = Sieve(3)
    done.append(
        how.run(lambda a, b: label[a:b], lambda y, rows: out.__setitem__(slice(y, None), rows), (1, 9))
    )
    assert out.tolist() == [[1, 2, 0, 5, 5, 5, 5, 5, 5]]  # 3 follows 4 to 5; 1 and 2 have only each other
    assert (done[0].regions, done[0].small, done[0].merged, done[0].changed_px) == (5, 4, 2, 2)


@settings(max_examples=30)
@given(MAPS, st.integers(2, 12))
def test_counts_say_what_was_done(label: NDArray[np.uint8], size: int) -> None:
    out = np.zeros_like(label)
    done = Sieve(size).run(
        lambda a, b: label[a:b], lambda y, r: out.__setitem__(slice(y, y + len(r)), r), label.shape
    )
    number, classes = numbered(label, 4)
    sizes = np.bincount(number.ravel(), minlength=len(classes))[1:]
    assert (done.regions, done.small) == (len(classes) - 1, (sizes < size).sum())
    assert done.changed_px == (out != label).sum()


def test_a_map_may_be_sieved_in_its_own_place() -> None:
    label = np.random.default_rng(0).integers(1, 4, (40, 33), np.uint8)
    expected = _gdal(label, 9)

    def write(y0: int, rows: NDArray[np.uint8]) -> None:
        label[y0 : y0 + len(rows)] = rows

    Sieve(9, strip_px=100).run(lambda y0, y1: label[y0:y1], write, label.shape)
    assert (label == expected).all()


def test_memory_does_not_grow_with_the_rows() -> None:
    def peak(rows: int) -> int:
        def read(y0: int, y1: int) -> NDArray[np.uint8]:
            return np.full((y1 - y0, 2000), 1, np.uint8)  # one region, however long

        tracemalloc.start()
        Sieve(5, strip_px=2**14).run(read, lambda y, rows: None, (rows, 2000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(20)
    assert peak(3000) < peak(30) * 1.1 < 3000 * 2000 / 4


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (1, 1)])
def test_maps_of_nothing_come_back(shape: tuple[int, int]) -> None:
    assert sieve(np.ones(shape, np.uint8), 3).tolist() == np.ones(shape).tolist()


def test_errors_say_what_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="found 6, expected 4 or 8"):
        Sieve(5, connectivity=6)
    with pytest.raises(InputError, match="min_px"):
        Sieve(0)
    with pytest.raises(InputError, match="found int16, expected uint8"):
        sieve(np.ones((3, 3), np.int16), 2)
    with pytest.raises(InputError, match=r"found \(2, 3\), expected \(3, 3\)"):
        sieve(np.ones((3, 3), np.uint8), 2, mask=np.ones((2, 3), bool))
    monkeypatch.setattr(sieve_module, "_PIECES_LIMIT", 20)
    with pytest.raises(DataError, match="minimum mapping unit"):
        sieve(np.arange(100, dtype=np.uint8).reshape(10, 10), 2)


def test_a_map_that_changes_meanwhile_is_noticed() -> None:
    maps = iter([np.ones((4, 4), np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 4)])
    with pytest.raises(DataError, match="changed while it was read"):
        Sieve(2).run(lambda a, b: next(maps), lambda y, rows: None, (4, 4))
