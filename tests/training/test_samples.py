"""Patches: inside the array, around labelled pixels, rare classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.errors import InputError
from engine.values.grid import Box
from training.losses import IGNORE
from training.samples import Patches, Pixels, Sampler, balanced_shares, places_of, rare_shares
from training.targets import Targets


def _target() -> np.ndarray:
    target = np.full((120, 150), IGNORE, np.uint8)
    target[20:100, 10:110] = 0
    target[60:64, 60:64] = 1  # rare: 16 pixels of 8000
    return target


@settings(max_examples=40, deadline=None)
@given(crop=st.integers(1, 120), seed=st.integers(0, 99), balance=st.floats(0, 1))
def test_patches_lie_inside_and_hold_a_label(crop: int, seed: int, balance: float) -> None:
    target = _target()
    sampler = Sampler.over(target, 3, crop, balance)
    for y, x in sampler.draw(20, np.random.default_rng(seed)):
        patch = target[y : y + crop, x : x + crop]
        assert patch.shape == (crop, crop)
        assert (patch != IGNORE).any()


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.5), (1.0, 16 / 8000), (0.5, 4 / (4 + 7984**0.5))])
def test_balance_sets_how_often_a_rare_class_is_drawn(balance: float, share: float) -> None:
    sampler = Sampler.over(_target(), 3, 16, balance)
    np.testing.assert_allclose(sampler.class_shares, [1 - share, share, 0], atol=1e-3)


def test_a_rare_class_is_really_in_its_patches() -> None:
    target = _target()
    sampler = Sampler.over(target, 2, 16, 0.0)
    drawn = sampler.draw(400, np.random.default_rng(0))
    hit = np.mean([(target[y : y + 16, x : x + 16] == 1).any() for y, x in drawn])
    assert 0.4 < hit < 0.65


def test_the_same_seed_draws_the_same_patches() -> None:
    sampler = Sampler.over(_target(), 2, 32, 0.5)
    a, b = (sampler.draw(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_nothing_to_draw_from_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no annotated pixel"):
        Sampler.over(np.full((64, 64), IGNORE, np.uint8), 2, 16, 0.5)
    with pytest.raises(InputError, match="smaller than a training patch"):
        Sampler.over(_target(), 2, 128, 0.5)


CUBE = Box(-1000, 500, -800, 700)
PLACE = Box(-980, 510, -860, 660)  # the labels cover a part of the cube


def _targets() -> Targets:
    return Targets(_target(), PLACE, 3)


def _patch(corner: np.ndarray, side: int) -> np.ndarray:
    """Classes of a patch, by single pixels."""
    found = np.full((side, side), IGNORE, np.uint8)
    for i, y in enumerate(range(corner[0], corner[0] + side)):
        for j, x in enumerate(range(corner[1], corner[1] + side)):
            if PLACE.y0 <= y < PLACE.y1 and PLACE.x0 <= x < PLACE.x1:
                found[i, j] = _target()[y - PLACE.y0, x - PLACE.x0]
    return found


def _corners(draw: Patches | Pixels, epoch: int = 0, cube: Box = CUBE) -> np.ndarray:
    return places_of(draw, _targets(), cube, 7, epoch)


@pytest.mark.parametrize("kind", ["lattice", "classes", "rare"])
def test_patches_lie_in_the_cube_and_know_something(kind: str) -> None:
    draw = Patches(patch_px=32, draw=kind, least_known=0.3)  # type: ignore[arg-type]
    corners = _corners(draw)
    assert len(corners) > 3
    assert (corners >= (CUBE.y0, CUBE.x0)).all()
    assert (corners + 32 <= (CUBE.y1, CUBE.x1)).all()
    for corner in corners:
        assert np.mean(_patch(corner, 32) != IGNORE) >= 0.3
    np.testing.assert_array_equal(corners, _corners(draw))
    assert not np.array_equal(corners, _corners(draw, 1))


def test_a_lattice_is_anchored_on_the_grid_whatever_the_area() -> None:
    draw = Patches(patch_px=24, draw="lattice", overlap_px=8, shift=False)
    small, large = _corners(draw), _corners(draw, cube=CUBE.pad(100))
    assert (small % 16 == 0).all()
    assert {tuple(c) for c in small.tolist()} <= {tuple(c) for c in large.tolist()}
    whole = {(y, x) for y in range(-1200, 0, 16) for x in range(0, 1200, 16)}
    inside = {(y, x) for y, x in whole if CUBE.holds(Box(y, x, y + 24, x + 24))}
    known = {c for c in inside if (_patch(np.array(c), 24) != IGNORE).any()}
    assert {tuple(c) for c in small.tolist()} == known
    shifted = _corners(draw.model_copy(update={"shift": True}), 3)
    assert len(np.unique(shifted % 16, axis=0)) == 1
    assert len(_corners(draw.model_copy(update={"per_epoch": 5}))) == 5


def test_rare_patches_are_centred_and_drawn_by_the_logarithm() -> None:
    corners = _corners(Patches(patch_px=17, draw="rare", per_epoch=2000))
    centres = corners + 8 - (PLACE.y0, PLACE.x0)
    classes = _target()[centres[:, 0], centres[:, 1]]
    shares = np.bincount(classes, minlength=3)[:3] / 2000
    expected = rare_shares(np.array([7984.0, 16.0, 0.0]))
    np.testing.assert_allclose(shares, expected, atol=0.03)
    assert expected[1] == pytest.approx(np.log(1 + 500) / (np.log(1 + 500) + np.log(1 + 8000 / 7984)))


def test_an_epoch_covers_the_annotated_pixels_once_by_default() -> None:
    assert len(_corners(Patches(patch_px=20))) == round(8000 / 400)


@pytest.mark.parametrize("background", [None, 0])
def test_a_share_of_patches_is_empty(background: int | None) -> None:
    draw = Patches(patch_px=12, per_epoch=60, balance=0.0, empty_share=0.25, background=background)
    corners = _corners(draw)
    something = [
        ((patch != IGNORE) & (patch != (IGNORE if background is None else background))).any()
        for patch in (_patch(c, 12) for c in corners)
    ]
    assert len(corners) == 60
    assert not any(something[-15:])
    with pytest.raises(InputError, match="too few patches without any class"):
        _corners(draw.model_copy(update={"background": None}), cube=Box(-955, 525, -885, 615))


def test_pixels_are_annotated_balanced_or_all() -> None:
    every = _corners(Pixels())
    assert len(every) == 8000 == len(np.unique(every, axis=0))
    local = every - (PLACE.y0, PLACE.x0)
    assert (_target()[local[:, 0], local[:, 1]] != IGNORE).all()
    drawn = _corners(Pixels(per_epoch=3000, balance=0.5)) - (PLACE.y0, PLACE.x0)
    share = np.mean(_target()[drawn[:, 0], drawn[:, 1]] == 1)
    assert share == pytest.approx(balanced_shares(np.array([7984.0, 16.0]), 0.5)[1], abs=0.02)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="smaller than a training patch"):
        _corners(Patches(patch_px=500))
    with pytest.raises(InputError, match="as many annotated pixels"):
        _corners(Patches(patch_px=150, least_known=0.9))
    with pytest.raises(InputError, match="as many annotated pixels"):
        _corners(Patches(patch_px=150, draw="lattice", least_known=0.9))
    with pytest.raises(InputError, match="overlap wholly"):
        _corners(Patches(patch_px=16, draw="lattice", overlap_px=16))
