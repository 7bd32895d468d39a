"""Symmetries of the square, and dropped dates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.augment import dihedral, drop_dates


def test_the_eight_symmetries_are_all_different_and_closed() -> None:
    base = np.arange(9).reshape(3, 3)
    found = {dihedral(base, k).tobytes() for k in range(8)}
    assert len(found) == 8
    for a in range(8):
        for b in range(8):
            assert dihedral(dihedral(base, a), b).tobytes() in found
    np.testing.assert_array_equal(dihedral(base, 0), base)


def test_image_and_labels_turn_together() -> None:
    labels = np.arange(16).reshape(4, 4)
    x_TCHW = np.broadcast_to(labels, (2, 3, 4, 4))
    for k in range(8):
        np.testing.assert_array_equal(dihedral(x_TCHW, k)[1, 2], dihedral(labels, k))


@given(share=st.floats(0, 0.99), dates=st.integers(1, 6), seed=st.integers(0, 99))
def test_dropped_dates_are_whole_and_one_stays(share: float, dates: int, seed: int) -> None:
    x_TCHW = np.full((dates, 2, 3, 3), 5, np.uint16)
    found = drop_dates(x_TCHW, share, np.random.default_rng(seed))
    assert found.dtype == np.uint16
    by_date = found.reshape(dates, -1)
    assert all(set(row.tolist()) in ({0}, {5}) for row in by_date)
    assert by_date.any()
    assert (x_TCHW == 5).all()
