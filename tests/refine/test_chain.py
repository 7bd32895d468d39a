"""Steps in a row: what they ask for, what they give, what is noted of them."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import maximum_filter

from engine.refine.around import Around
from engine.refine.chain import CHANGED, Chain, RefineSpec, chain, finished
from engine.refine.source import ArraySource, clipped
from engine.refine.steps import Layers
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from tests.refine.spread import Rename, RenameConfig, Spread

GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-37, 11, 26, 94)
SCHEME = ClassScheme.from_names(["a", "b", "c", "water"])
TILINGS = (1000, 63, 40, 17, 8, 5)


def random_map(seed: int = 0, box: Box = BOX) -> dict[str, np.ndarray]:
    """Class 1 with holes and a few others in it, and their confidence."""
    rng = np.random.default_rng(seed)
    label = rng.choice(np.arange(5, dtype=np.uint8), box.shape_yx, p=(0.2, 0.77, 0.01, 0.01, 0.01))
    confidence = rng.integers(0, 251, box.shape_yx, np.uint8)
    return {"label": label, "confidence": np.where(label > 0, confidence, 255).astype(np.uint8)}


def tiled(steps: Chain, layers: Layers, box: Box, tile_px: int) -> dict[str, np.ndarray]:
    """Refine tile by tile."""
    found: dict[str, np.ndarray] = {}
    refined = steps.over(ArraySource(layers, box))
    for tile in box.blocks(tile_px):
        for name, values in refined(tile).items():
            found.setdefault(name, np.zeros(box.shape_yx, values.dtype))[tile.slices_in(box)] = values
    return found


def expected(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread by 2, then 1 becomes 2, then spread by 3; and who was the last to change a pixel, by numpy and scipy."""
    changed = np.zeros(label.shape, np.uint8)
    for number, within in enumerate((2, None, 3), 1):
        if within is None:
            after = np.where(label == 1, 2, label)
        else:
            after = np.where(label > 0, maximum_filter(label, 2 * within + 1, mode="constant"), 0)
        changed[after != label] = number
        label = after
    return label, changed


@pytest.mark.parametrize("tile_px", TILINGS)
def test_any_tiling_gives_the_whole_arrays_answer(tile_px: int) -> None:
    layers = random_map()
    label, changed = expected(layers["label"])
    found = tiled(Chain((Spread(2), Rename(1, 2), Spread(3))), layers, BOX, tile_px)
    np.testing.assert_array_equal(found["label"], label)
    np.testing.assert_array_equal(found[CHANGED], changed)
    np.testing.assert_array_equal(found["confidence"], layers["confidence"])
    assert set(np.unique(changed)) == {0, 1, 2, 3}


def test_each_step_asks_once_and_for_no_more_than_it_reaches() -> None:
    asked: list[Box] = []
    layers = ArraySource(random_map(), BOX)

    def source(box: Box) -> Layers:
        asked.append(box)
        return layers(box)

    steps = Chain((Spread(2), Rename(1, 2), Spread(3)))
    steps.apply(source, Box(0, 20, 10, 30))
    assert steps.reach_px == 5
    assert asked == [Box(-5, 15, 15, 35)]


def test_what_lies_beyond_the_reach_changes_nothing() -> None:
    steps, box = Chain((Spread(2), Spread(1))), Box(0, 20, 10, 30)
    source = ArraySource(random_map(), BOX)
    seen, blind = steps.apply(source, box), steps.apply(clipped(source, box.pad(3)), box)
    np.testing.assert_array_equal(seen["label"], blind["label"])
    np.testing.assert_array_equal(seen[CHANGED], blind[CHANGED])
    assert (
        steps.apply(clipped(source, box.pad(2)), box)["label"] != seen["label"]
    ).any()  # and nearer it does


def test_no_data_stays_no_data_in_what_was_changed() -> None:
    label, changed = np.array([[0, 0, 1, 2]], np.uint8), np.array([[0, 2, 0, 1]], np.uint8)
    assert finished({"label": label, CHANGED: changed})[CHANGED].tolist() == [[255, 2, 0, 1]]


def test_settings_become_steps_of_the_maps_own_classes() -> None:
    around = Around.of(SCHEME, GRID, BOX)
    assert RenameConfig(old="a", new="water").made(around) == Rename(1, 4)
    with pytest.raises(InputError, match=r"rename.old.*found watr.*did you mean water"):
        RenameConfig(old="watr").made(around)
    assert around.values(["water", 1, "1"]) == (1, 4)
    assert (around.pixels(0.25), around.pixels(0.004), around.within_px(35)) == (25, 1, (3, 3))


def test_a_pixel_in_degrees_is_measured_where_the_map_lies() -> None:
    # WGS 84 at 60 degrees: 111 412 m a degree of latitude, 55 800 m one of longitude (Snyder 1987, table 3)
    around = Around.of(SCHEME, Grid("EPSG:4326", (0.001, 0.001)), Box(-60_000, 10_000, -60_000, 10_000))
    assert around.resolution_yx == pytest.approx((111.412, 55.800), abs=0.01)
    feet = Around.of(SCHEME, Grid("EPSG:2263", (100.0, 100.0)), BOX)
    assert feet.resolution_yx == pytest.approx((30.48006, 30.48006), abs=1e-4)


def test_a_refinement_is_steps_or_a_sieve() -> None:
    sieve = {"sieve": {"min_px": 12, "connectivity": 8}}
    made = RefineSpec.model_validate(sieve).sieve
    assert made is not None
    assert (made.made(Around.of(SCHEME, GRID, BOX)).min_px, made.connectivity) == (12, 8)
    for wrong in ({}, {"steps": []}, {"sieve": {}}, {"sieve": {"min_px": 2, "min_ha": 1}}):
        with pytest.raises(ValidationError, match="give"):
            RefineSpec.model_validate(wrong)


def test_the_digest_follows_the_settings() -> None:
    def digest(**steps: object) -> str:
        return RefineSpec.model_validate({"sieve": steps}).digest()

    assert digest(min_px=3) == digest(min_px=3, connectivity=4) != digest(min_px=4)


def test_a_lone_link_needs_no_changes_before_it() -> None:
    spec = RefineSpec.model_validate({"steps": [{"step": "rules", "rules": [{"class": "a", "into": "b"}]}]})
    found = chain(spec, Around.of(SCHEME, GRID, BOX), ArraySource(random_map(), BOX))(BOX)
    np.testing.assert_array_equal(found[CHANGED], random_map()["label"] == 1)


def test_settings_come_back_as_they_were_frozen() -> None:
    steps = [
        {"step": "rules", "keep": ["water"], "rules": [{"class": ["a", "b"], "below": 0.4, "into": None}]},
        {"step": "context", "class": "c", "needs": ["water"], "within_m": 50, "else": "a"},
        {"step": "mmu", "min_ha": 0.5},
        {"step": "fill", "within_px": 3},
    ]
    spec = RefineSpec.model_validate({"steps": steps})
    assert spec.names == ("1_rules", "2_context", "3_mmu", "4_fill")
    again = RefineSpec.model_validate(spec.model_dump(mode="json"))
    assert (again, again.digest()) == (spec, spec.digest())
