"""Plans: each patch once over all streams, never more blocks than allowed, and every block there when it is used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.errors import BudgetError, InputError
from training.mixing import mixing
from training.plan import Blocks, EpochPlan, Mix, plan_epoch


def blocks_of(n: int, side: int = 32, patch_px: int = 20) -> Blocks:
    edges = np.arange(-64, -64 + n * side + 1, side)
    return Blocks(edges, edges + 1000, patch_px)


def corners_of(blocks: Blocks, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ys = rng.integers(blocks.edges_y[0], blocks.edges_y[-1] - blocks.patch_px + 1, n)
    xs = rng.integers(blocks.edges_x[0], blocks.edges_x[-1] - blocks.patch_px + 1, n)
    return np.stack([ys, xs], axis=1)


def require_sound(plan: EpochPlan, blocks: Blocks, mix: Mix) -> None:
    """Walk through each stream with a set of held blocks, as a reader would."""
    every = np.concatenate([s.order for s in plan.streams])
    np.testing.assert_array_equal(np.sort(every), np.arange(len(plan.corners)))
    assert len({s.n_batches for s in plan.streams}) == 1
    sizes = [len(s.order) for s in plan.streams]
    assert max(sizes) - min(sizes) <= 1
    spans = blocks.spans(plan.corners)
    for stream in plan.streams:
        lengths = np.diff(stream.bounds)
        assert lengths.max() - lengths.min() <= 1
        assert lengths.min() >= 1
        assert lengths.max() <= mix.batch + 1
        assert stream.peak <= mix.blocks
        assert (np.diff(stream.first) >= 0).all()
        step_of = np.repeat(np.arange(stream.n_batches), lengths)
        for at, patch in enumerate(stream.order):
            held = stream.reads[(stream.first <= at) & (stream.last >= at)]
            assert len(held) <= stream.peak
            there = {tuple(b) for b in held.tolist()}
            assert len(there) == len(held)
            users = [patch]
            if mix.together:  # all blocks of the batch at its first patch
                users = stream.batch(int(step_of[at])) if at == stream.bounds[step_of[at]] else []
            for user in users:
                r0, r1, c0, c1 = spans[user]
                assert {(r, c) for r in range(r0, r1 + 1) for c in range(c0, c1 + 1)} <= there


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(6, 160),
    side=st.integers(2, 9),
    patch_px=st.integers(1, 50),
    batch=st.integers(1, 9),
    streams=st.integers(1, 5),
    held=st.integers(0, 30),
    places=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_every_patch_comes_once_and_its_blocks_are_held(
    n: int, side: int, patch_px: int, batch: int, streams: int, held: int, places: int, seed: int
) -> None:
    blocks = blocks_of(side, patch_px=min(patch_px, side * 32))
    corners = corners_of(blocks, n, seed)
    spans = blocks.spans(corners)
    most = int(((spans[:, 1] - spans[:, 0] + 1) * (spans[:, 3] - spans[:, 2] + 1)).max())
    mix = Mix(batch, streams, most + held, places)
    require_sound(plan_epoch(corners, blocks, mix, seed, 3), blocks, mix)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(5, 200), batch=st.integers(1, 16), streams=st.integers(1, 3), seed=st.integers(0, 5))
def test_single_pixels_have_all_blocks_of_their_batch(n: int, batch: int, streams: int, seed: int) -> None:
    blocks = blocks_of(6, patch_px=1)
    mix = Mix(batch, streams, batch + 3, 2, together=True)
    require_sound(plan_epoch(corners_of(blocks, n, seed), blocks, mix, seed, 0), blocks, mix)


def test_seed_and_epoch_decide_the_order() -> None:
    blocks = blocks_of(12)
    corners, mix = corners_of(blocks, 300), Mix(8, 2, 12, 3)
    plan = plan_epoch(corners, blocks, mix, 1, 0)
    assert plan.digest() == plan_epoch(corners, blocks, mix, 1, 0).digest()
    others = [plan_epoch(corners, blocks, mix, seed, epoch) for seed, epoch in ((1, 1), (2, 0))]
    assert len({p.digest() for p in (plan, *others)}) == 3


def test_streams_take_turns() -> None:
    blocks = blocks_of(5)
    plan = plan_epoch(corners_of(blocks, 60), blocks, Mix(4, 3, 9), 0, 0)
    assert plan.n_batches == 15
    np.testing.assert_array_equal(plan.batch(7), plan.streams[1].batch(2))


def test_what_is_held_at_once_is_read_once_and_wholly_mixed() -> None:
    blocks = blocks_of(10)
    corners = corners_of(blocks, 2000)
    plan = plan_epoch(corners, blocks, Mix(8, 1, 100), 0, 0)
    assert plan.n_reads == 100
    assert plan.streams[0].lanes == 0
    assert mixing(corners[plan.streams[0].order], plan.streams[0].bounds).quality > 0.97


def test_few_blocks_still_mix_and_read_little_twice() -> None:
    """An eighth of the blocks held: close to a random order, for fewer than three reads a block."""
    blocks = blocks_of(24)
    corners = corners_of(blocks, 4000)
    plan = plan_epoch(corners, blocks, Mix(8, 1, 72, 8), 0, 0)
    assert plan.n_reads < 2.5 * 24**2
    assert mixing(corners[plan.streams[0].order], plan.streams[0].bounds).quality > 0.75
    wider = plan_epoch(corners, blocks, Mix(8, 1, 72, 3), 0, 0)
    assert wider.n_reads < 0.8 * plan.n_reads
    assert wider.streams[0].lanes < plan.streams[0].lanes


def test_lone_patches_cost_no_mixing() -> None:
    """Where no two patches share a block there is nothing to save: many lanes, a random order."""
    blocks = blocks_of(60)
    rng = np.random.default_rng(0)
    rows, cols = np.divmod(rng.choice(30 * 30, 200, replace=False), 30)
    corners = np.stack([rows * 64 - 64 + 8, cols * 64 + 936 + 8], axis=1)
    plan = plan_epoch(corners, blocks, Mix(8, 1, 40, 8), 0, 0)
    assert plan.n_reads == np.unique(blocks.spans(corners)[:, [0, 2]], axis=0).shape[0]
    assert mixing(corners[plan.streams[0].order], plan.streams[0].bounds).quality > 0.9


def test_too_little_is_refused() -> None:
    blocks = blocks_of(4)
    with pytest.raises(InputError, match="fewer patches than streams"):
        plan_epoch(corners_of(blocks, 2), blocks, Mix(1, 3, 9), 0, 0)
    corners = np.array([[-64 + 30, 936 + 30]])
    with pytest.raises(BudgetError, match="blocks of one patch"):
        plan_epoch(corners, blocks, Mix(1, 1, 3), 0, 0)
    pixels = Blocks(blocks.edges_y, blocks.edges_x, 1)
    spread = np.stack([np.arange(4) * 32 - 64, np.arange(4) * 32 + 936], axis=1)
    with pytest.raises(BudgetError, match="blocks of one batch"):
        plan_epoch(spread, pixels, Mix(4, 1, 3, together=True), 0, 0)
