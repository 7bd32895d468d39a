"""Projected memory: what must make it larger, and what it must hold at least."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.values.budget import (
    CubeTileShape,
    Reading,
    TileShape,
    _block,
    cube_tile_bytes,
    require_fit,
    smaller_cube_settings,
    smaller_settings,
    tile_bytes,
    widest,
)
from engine.values.errors import BudgetError
from engine.values.grid import Box, TileKey
from engine.values.lattice import Lattice

READING = Reading(n_bands=4, overpasses=3, chunk_px=1024)
SHAPE = TileShape(Box(0, 0, 1024, 1024), Lattice(256, 96), READING, n_dates=8, n_classes=5)


@given(st.integers(4, 40), st.integers(8, 96), st.integers(0, 7), st.integers(-50, 50), st.integers(-50, 50))
def test_no_tile_with_its_halo_is_wider_than_the_widest(
    window: int, side: int, overlap: int, row: int, col: int
) -> None:
    lattice = Lattice(window, min(overlap, window - 1))
    tile = TileKey(row, col).box(side)
    height, width = lattice.pad(tile).shape_yx
    most = widest(lattice, tile)
    assert height <= most[0] < side + 2 * window
    assert width <= most[1] < side + 2 * window


@pytest.mark.parametrize(
    ("changes", "grown"),
    [
        ({"filled": True}, "filling"),
        ({"layer_bytes": 7}, "layers"),
        ({"n_dates": 16}, "cube"),
        ({"channels": 128}, "batch"),
        ({"n_classes": 9}, "sums"),
        ({"reading": dataclasses.replace(READING, sharpened=True)}, "reading"),
        ({"reading": dataclasses.replace(READING, deviations=True)}, "reading"),
        ({"reading": dataclasses.replace(READING, distances=True)}, "reading"),
        ({"reading": dataclasses.replace(READING, geomedian=True)}, "reading"),
    ],
)
def test_more_to_make_needs_more(changes: dict[str, object], grown: str) -> None:
    before, after = tile_bytes(SHAPE), tile_bytes(dataclasses.replace(SHAPE, **changes))  # type: ignore[arg-type]
    assert after[grown] > before[grown]
    assert after["total"] > before["total"] == sum(v for k, v in before.items() if k != "total")


@given(st.integers(64, 4000), st.sampled_from([64, 256, 512, 1000, 1024, 2048]), st.integers(-3000, 3000))
def test_no_piece_is_larger_than_the_largest(span: int, chunk: int, first: int) -> None:
    from engine.cube.cube import _edges

    edges = _edges(first, first + span, chunk)
    largest = max(b - a for a, b in itertools.pairwise(edges))
    assert largest <= Reading(1, 1, chunk).side_px(span)


def test_what_does_not_fit_is_refused_with_both_figures() -> None:
    with pytest.raises(
        BudgetError, match=r"3\.00 GiB projected, expected 1\.00 GiB.*no smaller setting fits"
    ):
        require_fit(3 << 30, 1 << 30)
    require_fit(1 << 30, 1 << 30)


def test_a_part_of_a_tile_needs_no_more_than_the_tile() -> None:
    lattice = Lattice(1120, 96, "trim")
    whole = dataclasses.replace(SHAPE, lattice=lattice, tile_px=1024)
    part = dataclasses.replace(whole, core=Box(3, 5, 1000, 900))
    assert tile_bytes(part)["cube"] == tile_bytes(whole)["cube"]
    assert tile_bytes(dataclasses.replace(part, tile_px=0))["cube"] > tile_bytes(whole)["cube"]


def test_several_tiles_at_once_need_their_parts_each() -> None:
    one, two = tile_bytes(SHAPE), tile_bytes(dataclasses.replace(SHAPE, at_once=2))
    assert two["process"] == one["process"]
    assert two["total"] - two["process"] == 2 * (one["total"] - one["process"])


shapes = st.builds(
    lambda tile, lattice, chunk, dates, at_once: TileShape(
        Box(0, 0, tile, tile), lattice, Reading(10, 3, chunk), dates, 8, at_once=at_once
    ),
    st.sampled_from([512, 1024, 2048, 4096]),
    st.sampled_from([Lattice(256, 96), Lattice(1120, 96, "trim"), Lattice(1, 0)]),
    st.sampled_from([256, 1024, 2048]),
    st.integers(1, 12),
    st.integers(1, 3),
)


@given(shapes, st.floats(0.02, 0.98))
def test_what_a_refusal_proposes_is_accepted(shape: TileShape, share: float) -> None:
    total = tile_bytes(shape)["total"]
    limit = int(total * share)
    smaller = smaller_settings(shape, shape.core.shape_yx[0], 1, [Lattice(256, 96), Lattice(608, 96, "trim")])
    with pytest.raises(BudgetError) as refused:
        require_fit(total, limit, smaller)
    told = re.findall(r"([a-z_.]+): (\d+) \(([\d.]+) GiB\)", str(refused.value))
    assert bool(told) == any(s.total_bytes <= limit for s in smaller)
    for setting, value, gib in told:
        changed = _set(shape, setting, int(value))
        needed = tile_bytes(changed)["total"]
        assert needed <= limit
        assert float(gib) == pytest.approx(needed / 2**30, abs=0.01)
        require_fit(needed, limit)
        larger = [s for s in smaller if s.setting == setting and s.value > int(value)]
        assert all(s.total_bytes > limit for s in larger)


def _set(shape: TileShape, setting: str, value: int) -> TileShape:
    if setting == "tile_px":
        return dataclasses.replace(shape, core=Box(0, 0, value, value))
    if setting == "chunk_px":
        return dataclasses.replace(shape, reading=dataclasses.replace(shape.reading, chunk_px=value))
    if setting == "window":
        return dataclasses.replace(shape, lattice=Lattice(value, 96, "hann" if value == 256 else "trim"))
    assert setting == "cluster.threads_per_worker"
    return dataclasses.replace(shape, at_once=value)


def test_a_staged_cube_is_told_smaller_settings_too() -> None:
    shape = CubeTileShape(
        Box(0, 0, 2048, 2048), READING, pixel_bytes=200, step_bytes=20, shard_px=2048, at_once=2
    )
    found = smaller_cube_settings(shape)
    assert {s.setting for s in found} == {"tile_px", "chunk_px", "cluster.threads_per_worker"}
    assert all(s.total_bytes <= cube_tile_bytes(shape)["total"] for s in found)


@given(st.integers(100, 4000), st.sampled_from([64, 256, 1024]), st.sampled_from([48, 256, 608, 1120]))
def test_blocks_are_as_large_as_pieces_merged_until_a_window_fits(side: int, chunk: int, window: int) -> None:
    from engine.inference.blocks import _merge_thin

    pieces = max(1, round(side / chunk))
    edges = [round(i * side / pieces) for i in range(pieces + 1)]
    sizes = tuple(b - a for a, b in itertools.pairwise(edges))
    lattice = Lattice(window, 16)
    largest = max(_merge_thin(sizes, lattice.reach_px))
    assert largest <= _block(side, max(sizes), lattice) <= 3 * largest
