"""Flips, turns, shifts, scale and rotation against scipy and the symmetries of the square."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from training.warps import Move, dihedral, moved, moved_values


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


@pytest.mark.parametrize(
    "move",
    [
        Move(angle_deg=17.0),
        Move(scale=1.3),
        Move(scale=0.8, angle_deg=-9.0, shift_yx=(3, -2)),
        Move(turn=5, angle_deg=4.0),
    ],
)
def test_resampling_equals_scipy(move: Move) -> None:
    values = np.random.default_rng(0).normal(size=(2, 40, 40)).astype(np.float32)
    found = moved_values(values, np.ones((1, 40, 40), bool), move)
    turn, centre = np.deg2rad(move.angle_deg), np.array([19.5, 19.5])
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / move.scale
    for mine, plane in zip(found, dihedral(values, move.turn), strict=True):
        offset = centre - back @ (centre + np.array(move.shift_yx))
        oracle = affine_transform(plane.astype(np.float64), back, offset, order=1, cval=np.nan)
        inner = np.isfinite(oracle) & np.isfinite(mine)
        assert inner.mean() > 0.5
        np.testing.assert_allclose(mine[inner], oracle[inner], atol=2e-5)


def test_a_right_angle_is_a_quarter_turn() -> None:
    values = np.random.default_rng(1).integers(0, 9, (24, 24)).astype(np.uint8)
    np.testing.assert_array_equal(moved(values, Move(angle_deg=90.0), 255), dihedral(values, 1))


def test_no_data_does_not_bleed() -> None:
    values = np.full((1, 20, 20), 7.0, np.float32)
    valid = np.ones((1, 20, 20), bool)
    valid[0, 5:12, 5:12] = False
    values[~valid] = -999
    found = moved_values(values, valid, Move(angle_deg=13.0, scale=1.1))
    known = np.isfinite(found)
    assert 0.3 < known.mean() < 1
    np.testing.assert_allclose(found[known], 7.0, rtol=1e-5)


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -4), (-2, 5), (25, 0)])
def test_whole_pixel_shifts_touch_no_value(shift: tuple[int, int]) -> None:
    values = np.arange(400, dtype=np.uint16).reshape(20, 20) + 1
    found = moved(values, Move(shift_yx=shift), 0)
    padded = np.zeros((80, 80), np.uint16)
    padded[30 + shift[0] : 50 + shift[0], 30 + shift[1] : 50 + shift[1]] = values
    np.testing.assert_array_equal(found, padded[30:50, 30:50])
