"""The minimum mapping unit is scipy's whole-array answer, whatever the tiles, and looks no farther than it must."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError
from rasterio.windows import Window

from engine.refine.around import Around
from engine.refine.mmu import MinimumMappingUnit, MmuStep, array_source, merge_small
from engine.refine.objects import find_objects
from engine.refine.steps import Layers, grown
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from tests.refine.whole_array import Tile, merged, tiles

TILINGS: tuple[Tile, ...] = (2, 3, 5, 8, (4, 9), (20, 2), 13)
MASK = "full_tile/cloudmask_T19GBQ_20170725.tif"


def _step(least: int | dict[int, int], **settings) -> MmuStep:
    table = [0] * 256
    for value in range(1, 256):
        table[value] = least if isinstance(least, int) else least.get(value, 0)
    return MmuStep(tuple(table), **settings)


def _tiled(label: NDArray[np.uint8], step: MmuStep, tile: Tile) -> tuple[NDArray[np.uint8], int, int]:
    """Return the classes, and the pixels that were settled and left, from tiles that see the array only as a source."""
    out, settled, left = np.zeros_like(label), 0, 0
    for box in tiles(label.shape, tile):
        found = step.merged(array_source(label), box)
        out[box.slices_in(Box(0, 0, *label.shape))] = found.label
        settled, left = settled + found.merged_px, left + found.left_px
    return out, settled, left


@st.composite
def _cases(draw) -> tuple[NDArray[np.uint8], MmuStep]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12)))
    label = draw(arrays(np.uint8, shape, elements=st.integers(0, 4)))
    zoom = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    least = {v: draw(st.integers(0, 12)) for v in range(1, 5)}
    return label.repeat(zoom[0], 0).repeat(zoom[1], 1), _step(
        least,
        never_into=draw(st.sampled_from([(), (2,), (1, 3)])),
        connectivity=draw(st.sampled_from([4, 8])),
        rounds=draw(st.integers(1, 4)),
        first_halo_px=draw(st.sampled_from([None, 0, 1, 3])),
    )


@settings(max_examples=50)
@given(_cases(), st.sampled_from(TILINGS))
def test_equal_to_the_whole_array_for_any_tiling(case: tuple[NDArray[np.uint8], MmuStep], tile: Tile) -> None:
    label, step = case
    expected, left = merged(label, step)
    whole = merge_small(label, step)
    assert (whole.label == expected).all()
    assert whole.left_px == left.sum()
    out, settled, left_px = _tiled(label, step, tile)
    assert (out == expected).all()
    assert (settled, left_px) == (whole.merged_px, whole.left_px)


@settings(max_examples=40)
@given(_cases())
def test_what_is_small_is_gone_or_was_left(case: tuple[NDArray[np.uint8], MmuStep]) -> None:
    label, step = case
    assume(label.any())
    found = merge_small(label, step)
    _, left = merged(label, step)
    assert ((found.label == 0) == (label == 0)).all()
    before, after = find_objects(label, step.connectivity), find_objects(found.label, step.connectivity)
    least = np.array(step.least_px)
    was_small = before.sizes_px < least[before.classes]
    assert ((found.label == label) | was_small[before.number]).all()  # only small objects change
    is_small = (after.sizes_px < least[after.classes])[after.number] & (found.label > 0)
    assert (left | ~is_small).all()
    if not left.any():
        assert merge_small(found.label, step).merged_px == 0
    grown_into = found.label[found.label != label]
    assert not np.isin(grown_into, step.never_into).any()


@settings(max_examples=40)
@given(_cases(), st.randoms(use_true_random=False))
def test_nothing_beyond_the_reach_matters(case: tuple[NDArray[np.uint8], MmuStep], random) -> None:
    label, step = case
    box = Box(2, 3, 5, 7)
    near = grown(box, step.reach_px)

    def other(asked: Box) -> Layers:
        found = array_source(label)(asked)["label"].copy()
        for (y, x), _ in np.ndenumerate(found):
            if not near.holds(Box(asked.y0 + y, asked.x0 + x, asked.y0 + y + 1, asked.x0 + x + 1)):
                found[y, x] = random.randrange(5)
        return {"label": found}

    assert (step.merged(other, box).label == step.merged(array_source(label), box).label).all()


def _serpentine(rows: int, cols: int) -> NDArray[np.uint8]:
    """Return class 1 with a line of class 2, one pixel wide, that winds through all of it."""
    label = np.ones((rows, cols), np.uint8)
    label[1:-1:2, 1:-1] = 2
    for turn, row in enumerate(range(2, rows - 2, 2)):
        label[row, cols - 2 if turn % 2 == 0 else 1] = 2
    return label


@pytest.mark.parametrize("tile", [4, 7, (3, 40), (41, 5), 16, 64])
@pytest.mark.parametrize("more", [0, 1])
def test_a_snake_through_many_tiles_is_judged_by_its_whole_length(tile: Tile, more: int) -> None:
    label = _serpentine(21, 40)
    length = int((label == 2).sum())
    step = _step({2: length + more})
    out, settled, left = _tiled(label, step, tile)
    assert (out == (np.ones_like(label) if more else label)).all()
    assert (settled, left) == (length * more, 0)


@pytest.mark.parametrize("tile", [1, 2, 5, (1, 9), (9, 1), 30])
def test_a_chain_of_small_objects_settles_round_by_round(tile: Tile) -> None:
    label = np.repeat(np.arange(1, 11, dtype=np.uint8), 3)[None, :].repeat(2, 0)
    label[:, :3] = 9  # as far as 9 is large, each later object waits for the one before it
    step = _step({v: 7 for v in range(2, 11) if v != 9}, rounds=4)
    out, _, left = _tiled(label, step, tile)
    assert (out == merged(label, step)[0]).all()
    assert out[0, ::3].tolist() == [9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
    one = _step({v: 7 for v in range(2, 11) if v != 9}, rounds=1)
    out, _, left = _tiled(label, one, tile)
    assert (out[0, ::3].tolist(), left) == ([9, 9, 3, 4, 5, 6, 7, 9, 9, 9], 30)


def test_the_longest_border_wins_and_ties_go_to_the_lowest_class() -> None:
    label = np.array([[3, 3, 3, 3], [5, 7, 7, 2], [5, 5, 5, 2]], np.uint8)
    large = {7: 3}
    assert merge_small(label, _step(large)).label[1].tolist() == [
        5,
        5,
        5,
        2,
    ]  # 5 shares 3 edges, 3 two, 2 one
    label[2, 1] = 3
    assert merge_small(label, _step(large)).label[1, 1] == 3  # then 3 shares three, 5 two
    label[2, 1:3] = 5, 3
    assert merge_small(label, _step(large)).label[1, 1] == 3
    label[0, 1] = 5
    assert merge_small(label, _step(large)).label[1, 1] == 5  # 5 three, 3 two
    tie = np.array([[4, 4], [7, 7], [2, 2]], np.uint8)
    assert merge_small(tie, _step(large)).label[1].tolist() == [2, 2]
    assert merge_small(tie, _step(large, never_into=(2,))).label[1].tolist() == [4, 4]
    assert merge_small(tie, _step(large, never_into=(2, 4))).left_px == 2


@pytest.mark.parametrize("least", [30, 400])
def test_equal_on_a_real_mask_for_many_tilings(real_data: Path, least: int) -> None:
    with rasterio.open(real_data / MASK) as file:
        label = file.read(1, window=Window(9000, 4500, 700, 500)) + 1
    label[200:230, 100:300] = 0
    step = _step(least)
    expected, left = merged(label, step)
    assert (expected != label).mean() > 0.001
    for tile in (500, 256, 128, (64, 700), (500, 50), (97, 31)):
        out, _, left_px = _tiled(label, step, tile)
        assert (out == expected).all()
        assert left_px == left.sum()


@pytest.mark.long
@pytest.mark.parametrize("least", [50, 500])
def test_equal_on_the_whole_real_mask_for_many_tilings(real_data: Path, least: int) -> None:
    with rasterio.open(real_data / MASK) as file:
        label = file.read(1) + 1
    step = _step(least)
    expected, left = merged(label, step)
    whole = merge_small(label, step)
    assert (whole.label == expected).all()
    assert whole.left_px == left.sum()
    for tile in (4096, 2048, 1000, 512, (300, 10980), (10980, 777)):
        out, settled, left_px = _tiled(label, step, tile)
        assert (out == expected).all()
        assert (settled, left_px) == (whole.merged_px, whole.left_px)


def test_looks_no_farther_than_it_must() -> None:
    label = np.ones((600, 600), np.uint8)
    label[300:303, 300:303] = 2  # a small object in the middle of a tile
    step, asked = _step(50), []

    def source(box: Box) -> Layers:
        asked.append(box)
        return array_source(label)(box)

    box = Box(250, 250, 350, 350)
    assert (step.merged(source, box).label == 1).all()
    assert asked == [grown(box, step.usual_px)]
    label[260, 348:370] = 2  # now one that leaves the first window, and is small
    asked.clear()
    found = step.merged(source, box)
    assert (found.label == 1).all()
    assert (found.halo_px, step.reach_px) == (28, 441)
    assert asked[1:] == [grown(Box(260, 348, 261, 350), 28)]  # only its own bounds are looked at again


def test_other_layers_pass_unchanged() -> None:
    label = np.random.default_rng(2).integers(0, 3, (30, 30), np.uint8)
    confidence = np.random.default_rng(3).integers(0, 250, (30, 30), np.uint8)
    probability = np.random.default_rng(4).integers(0, 250, (2, 30, 30), np.uint8)
    whole = Box(-40, -40, 90, 90)

    def source(box: Box) -> Layers:
        at = Box(box.y0, box.x0, box.y1, box.x1).slices_in(whole)
        pads = {"label": label, "confidence": confidence, "probability": probability}
        padded = {n: np.pad(a, [(0, 0)] * (a.ndim - 2) + [(40, 60), (40, 60)]) for n, a in pads.items()}
        return {n: a[(..., *at)] for n, a in padded.items()}

    step, box = _step(9), Box(3, 5, 20, 18)
    after = step.apply(source, box)
    assert (after["label"] == merged(label, step)[0][3:20, 5:18]).all()
    assert (after["confidence"] == confidence[3:20, 5:18]).all()
    assert (after["probability"] == probability[:, 3:20, 5:18]).all()


AROUND = Around(
    ClassScheme.from_names(["water", "forest", "road"]), (10.0, 20.0), Grid("EPSG:32633", (20.0, 10.0))
)


def test_settings_become_pixels_and_values() -> None:
    config = MinimumMappingUnit.model_validate(
        {
            "step": "mmu",
            "min_ha": 0.5,
            "per_class": {"water": 0.07, 2: 1.5},
            "keep": ["road"],
            "never_into": [1],
        }
    )
    step = config.made(AROUND)
    assert step.least_px[:5] == (0, 4, 75, 0, 0)  # 200 m2 a pixel; 700 m2 are three and a half
    assert step.never_into == (1,)
    assert (step.connectivity, step.rounds) == (4, 8)
    assert step.reach_px == 9 * 74
    assert pickle.loads(pickle.dumps(step)) == step
    in_pixels = MinimumMappingUnit(step="mmu", min_px=7, per_class={"road": 0}, connectivity=8, rounds=2)
    assert in_pixels.made(AROUND).least_px[:4] == (0, 7, 7, 0)
    assert in_pixels.fingerprint() != config.fingerprint()


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in (
        {},
        {"min_ha": 1, "min_px": 1},
        {"min_ha": -1},
        {"min_px": 0},
        {"min_px": 3, "rounds": 0},
        {"min_px": 3, "connectivity": 6},
        {"min_px": 3, "per_class": {"water": -1}},
        {"min_px": 3, "minimum": 4},
    ):
        with pytest.raises(ValidationError):
            MinimumMappingUnit.model_validate({"step": "mmu", **wrong})
    with pytest.raises(InputError, match=r"mmu.keep.*watr.*water, forest, road.*did you mean water"):
        MinimumMappingUnit(step="mmu", min_px=3, keep=("watr",)).made(AROUND)
    with pytest.raises(InputError, match="each label"):
        MmuStep((0, 1))
    with pytest.raises(InputError, match="found int64, expected uint8"):
        merge_small(np.ones((3, 3), np.int64), _step(3))
    with pytest.raises(InputError, match="connectivity"):
        _step(3, connectivity=6)


def test_a_step_without_minima_changes_nothing_and_reaches_nowhere() -> None:
    label = np.random.default_rng(0).integers(0, 5, (12, 9), np.uint8)
    step = _step(1)
    assert (step.reach_px, step.usual_px) == (0, 0)
    assert (merge_small(label, step).label == label).all()
