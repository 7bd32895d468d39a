"""One draw for each patch, applied to everything that it holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import AugmentOptions, augment
from training.batch import Batch
from training.losses import IGNORE

SIDE = 32
STRONG = AugmentOptions(
    shift_px=5, scale=0.3, rotate_deg=20, brightness=0.02, contrast=0.2, gamma=0.2, noise=0.01,
    date_drop=0.2, date_shift_days=20, clouds=0.3, band_drop=0.2, paste=0.5,
)  # fmt: skip


def _batch(n: int = 3, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 9000, (n, 4, 3, SIDE, SIDE)).astype(np.uint16)
    x[:, 1, :, : SIDE // 2] = 0
    target = rng.integers(0, 3, (n, SIDE, SIDE)).astype(np.uint8)
    target[:, :, :3] = IGNORE
    radar = rng.normal(-12, 3, (n, 4, 2, SIDE, SIDE)).astype(np.float32)
    radar[:, 2] = np.nan
    return Batch(
        x=torch.from_numpy(x),
        dates=torch.tensor([[10, 100, 200, 0]] * n, dtype=torch.int16),
        present=torch.tensor([[True, True, True, False]] * n),
        target=torch.from_numpy(target),
        weight=torch.from_numpy((target != IGNORE).astype(np.float32)),
        place=torch.zeros((n, 2), dtype=torch.int64),
        radar=torch.from_numpy(radar),
        layers=torch.from_numpy(rng.normal(0, 1, (n, 1, SIDE, SIDE)).astype(np.float32)),
    )


def _keys(n: int, *first: int) -> Any:
    return np.array([[*first, i] for i in range(n)])


def _same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(getattr(one, k).numpy(), getattr(other, k).numpy(), equal_nan=k in ("radar", "layers"))
        for k in vars(one)
    )


def test_nothing_asked_changes_nothing() -> None:
    batch = _batch()
    assert _same(augment(batch, AugmentOptions(turns=False), _keys(3, 1)), batch)


def test_the_draw_hangs_on_the_key_not_on_the_company() -> None:
    batch, options = _batch(), STRONG.model_copy(update={"paste": 0.0})
    whole = augment(batch, options, _keys(3, 7, 2))
    assert _same(whole, augment(batch, options, _keys(3, 7, 2)))
    assert not _same(whole, augment(batch, options, _keys(3, 7, 3)))
    alone = augment(Batch(**{k: v[2:] for k, v in vars(batch).items()}), options, np.array([[7, 2, 2]]))
    assert _same(alone, Batch(**{k: v[2:] for k, v in vars(whole).items()}))


def test_the_batch_that_came_in_is_left_alone() -> None:
    batch, kept = _batch(), _batch()
    augment(batch, STRONG, _keys(3, 5))
    assert _same(batch, kept)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.integers(0, 8), angle=st.floats(0, 30), scale=st.floats(0, 0.5))
def test_sensors_layers_and_target_move_together(seed: int, shift: int, angle: float, scale: float) -> None:
    """All hold the same picture of plateaus; wherever nothing is mixed they must agree after any move."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 5, (4, 4)), np.ones((8, 8), np.int64))
    batch = replace(
        _batch(1),
        x=torch.from_numpy(np.broadcast_to(100 + picture, (1, 4, 3, SIDE, SIDE)).astype(np.uint16)),
        target=torch.from_numpy(picture[None].astype(np.uint8)),
        weight=torch.ones((1, SIDE, SIDE)),
        radar=torch.from_numpy(np.broadcast_to(picture, (1, 4, 2, SIDE, SIDE)).astype(np.float32)),
        layers=torch.from_numpy(picture[None, None].astype(np.float32)),
    )
    moved = augment(batch, AugmentOptions(shift_px=shift, rotate_deg=angle, scale=scale), _keys(1, seed))
    target = moved.target[0].numpy().astype(np.float64)
    known = target != IGNORE
    assert known.any()
    assert (moved.x[0, 0, 0].numpy()[~known] == 0).all(), "outside is no data and not annotated"
    assert np.isnan(moved.layers[0, 0].numpy()[~known]).all()
    assert (moved.weight[0].numpy() == known).all()
    radar, layer = moved.radar[0, 1, 1].numpy(), moved.layers[0, 0].numpy()
    np.testing.assert_allclose(radar[known], layer[known], atol=1e-4)
    np.testing.assert_allclose(moved.x[0, 2, 1].numpy()[known], 100 + layer[known], atol=0.51)
    flat = known & (np.abs(layer - np.rint(layer)) < 1e-3)
    assert (np.abs(layer[known] - target[known]) <= 4).all()
    if not (angle or scale):
        np.testing.assert_array_equal(layer[flat], target[flat])
    else:  # bilinear passes whole numbers between plateaus; in their middle all agree
        assert (layer[flat] == target[flat]).mean() > 0.8


def test_all_dates_get_the_same_light_and_move() -> None:
    batch = _batch(1)
    still = replace(batch, x=batch.x[:, :1].repeat(1, 4, 1, 1, 1))
    options = AugmentOptions(shift_px=4, rotate_deg=10, brightness=0.05)
    found = augment(still, options, _keys(1, 3)).x
    for t in range(1, 4):
        assert torch.equal(found[:, t].to(torch.int32), found[:, 0].to(torch.int32))


def test_no_data_stays_and_data_stays_unless_clouds_or_edges_come() -> None:
    batch = _batch()
    options = AugmentOptions(turns=False, brightness=0.1, contrast=0.5, gamma=0.5, noise=0.05, band_drop=0.5)
    found = augment(batch, options, _keys(3, 1))
    assert torch.equal(found.x != 0, batch.x != 0)
    cloudy = augment(batch, AugmentOptions(turns=False, clouds=0.9, missed_clouds=0), _keys(3, 1))
    changed = (cloudy.x != 0) != (batch.x != 0)
    assert changed.any()
    assert (cloudy.x[changed].to(torch.int32) == 0).all()
    kept = cloudy.x != 0
    assert torch.equal(cloudy.x[kept].to(torch.int32), batch.x[kept].to(torch.int32))
    by_band = (cloudy.x == 0).sum(dim=2)
    assert set(by_band.unique().tolist()) <= {0, 3}, "a cloud hides all bands"


def test_dropped_bands_take_the_mean_of_training() -> None:
    batch = _batch()
    found = augment(
        batch, AugmentOptions(turns=False, band_drop=0.9), _keys(3, 2), band_means=(500.4, 600.0, 700.0)
    )
    flat = found.x.numpy().astype(np.int64)
    dropped = 0
    for i in range(3):
        for c, mean in enumerate((500, 600, 700)):
            values = set(np.unique(flat[i, :, c]).tolist()) - {0}
            dropped += values == {mean}
            assert values == {mean} or len(values) > 100
    assert 3 <= dropped <= 6, "of three bands one stays"


def test_the_season_moves_as_one() -> None:
    found = augment(_batch(), AugmentOptions(date_shift_days=30), _keys(3, 4))
    dates = found.dates.numpy().astype(np.int64)
    assert (dates[:, 3] == 0).all()
    assert ((dates[:, 1] - dates[:, 0]) % 366 == 90).all()
    assert ((dates[:, :3] >= 1) & (dates[:, :3] <= 366)).all()
    assert len(set(dates[:, 1].tolist())) > 1, "each patch has its own draw"
    assert ((dates[:, 1] >= 70) & (dates[:, 1] <= 130)).all()


def test_a_pasted_field_brings_its_label_and_its_whole_season() -> None:
    batch = _batch(2)
    target = np.full((2, SIDE, SIDE), IGNORE, np.uint8)
    target[0, 4:14, 4:14] = 1
    target[1, 10:20, 12:24] = 2
    batch = replace(
        batch, target=torch.from_numpy(target), weight=torch.from_numpy((target != IGNORE) * np.float32(1))
    )
    found = augment(batch, AugmentOptions(turns=False, paste=0.999), _keys(2, 0))
    field = target[1] == 2
    assert (found.target[0].numpy()[field] == 2).all()
    np.testing.assert_array_equal(found.x[0].numpy()[..., field], batch.x[1].numpy()[..., field])
    np.testing.assert_array_equal(found.radar[0].numpy()[..., field], batch.radar[1].numpy()[..., field])
    np.testing.assert_array_equal(found.x[0].numpy()[..., ~field], batch.x[0].numpy()[..., ~field])
    other = replace(batch, dates=torch.tensor([[10, 100, 200, 0], [11, 100, 200, 0]], dtype=torch.int16))
    left = augment(other, AugmentOptions(turns=False, paste=0.999), _keys(2, 0))
    assert torch.equal(left.target, batch.target), "another season is not mixed in"


@pytest.mark.parametrize("wrong", [{"scale": -1}, {"date_drop": 1.0}, {"rotate_deg": 90}, {"flips": True}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentOptions(**wrong)
