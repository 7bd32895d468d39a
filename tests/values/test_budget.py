"""Projected memory: what must make it larger, and what it must hold at least."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.values.budget import Reading, TileShape, require_fit, tile_bytes, widest
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
    with pytest.raises(BudgetError, match=r"GiB projected, expected 1\.00 GiB"):
        require_fit({"total": 3 << 30}, 1 << 30, "tile_px")
    require_fit({"total": 1 << 30}, 1 << 30, "tile_px")
