"""Single bad tiles and lines are found and named; lattices of an ensemble, planes of values."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from engine.inference.seam_suspects import LISTED, Suspect
from engine.inference.seams import SeamReport, SeamSums
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from tests.inference.test_seams import classify, found, judged, ndvi, per_tile
from tests.products.mapstore import patches

LATTICE = Lattice(96, 32)
TILE = slice(256, 384), slice(512, 640)  # r2_c4 of tiles of 128 px


def only(report: SeamReport) -> Suspect:
    (suspect,) = report.suspects
    return suspect


@pytest.mark.parametrize("pixels", [3, 5])
def test_one_shifted_tile_is_named(real_data: Path, pixels: int) -> None:
    image = ndvi(real_data)
    image[TILE] = np.roll(image, (pixels, pixels), (0, 1))[TILE]
    suspect = only(judged(classify(image), LATTICE, 128))
    assert (suspect.kind, suspect.where) == ("tile", "r2_c4")
    assert suspect.score > suspect.limit
    assert suspect.ratio > 1.3


def test_one_tile_of_another_model_is_named_by_its_confidence(real_data: Path) -> None:
    layers = classify(ndvi(real_data))
    layers["confidence"][TILE] = np.minimum(layers["confidence"][TILE] + 25, 250)
    suspect = only(judged(layers, LATTICE, 128, (1280, -640)))  # tiles are numbered on the grid
    assert (suspect.kind, suspect.where, suspect.measure) == ("tile", "r12_c-1", "confidence")


def test_several_bad_places_are_named_once_each(real_data: Path) -> None:
    image = ndvi(real_data)
    image[TILE] += 0.1
    image[:, 256:] += 0.08
    told = judged(classify(image), LATTICE, 128)
    assert {(s.kind, s.where) for s in told.suspects} == {("line", "x = 256"), ("tile", "r2_c4")}
    assert told.n_suspects == 2
    assert "tile r2_c4" in told.told()


def test_places_beyond_the_first_are_counted() -> None:
    label = np.ones((2048, 2048), np.uint8)
    for row in range(0, 16, 2):
        label[row * 128 : row * 128 + 128, (row % 4) * 128 :: 512] = 2
        for col in range(row // 2 % 2 * 2, 16, 4):
            label[row * 128 : row * 128 + 128, col * 128 : col * 128 + 128] = 2
    told = judged({"label": label}, LATTICE, 128)
    assert len(told.suspects) == min(LISTED, told.n_suspects)
    assert told.seam


def test_a_land_cut_by_rows_and_columns_has_no_seam() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        label = np.empty((600, 700), np.uint8)
        edges = [0, *np.sort(rng.choice(np.arange(1, 600), 20, replace=False)), 600]
        for y0, y1 in itertools.pairwise(edges):
            x = np.sort(rng.choice(np.arange(1, 700), 24, replace=False))
            label[y0:y1] = np.repeat(rng.integers(1, 7, 25), np.diff([0, *x, 700]))
        report = judged({"label": label}, LATTICE, 128)
        assert not report.seam, report.told()


# --- layers -------------------------------------------------------------------------------------------


def planes(seed: int, shape: tuple[int, int] = (600, 700)) -> np.ndarray:
    """Two planes of values as a regression stores them: hills, noise, and a hole without data."""
    rng = np.random.default_rng(seed)
    made = np.stack([gaussian_filter(rng.normal(size=shape), s) * s * 20_000 for s in (4, 12)])
    made = made + rng.normal(0, 300, made.shape)
    made[:, :90, :90] = -32768
    return np.clip(made, -32768, 32767).astype(np.int16)


def test_a_step_of_stored_values_is_found(tmp_path: Path) -> None:
    values = planes(0)
    assert not judged({"height": values}, LATTICE, 128).seam
    offset = per_tile((600, 700), 128, 0, 1500, 1)
    moved = np.where(values == -32768, values, values + offset.astype(np.int16))
    report = judged({"height": moved}, LATTICE, 128)
    assert "tile" in found(report)
    assert {f.measure for f in report.families} == {"height"}
    rows = next(f for f in report.families if (f.family, f.axis) == ("tile", "y"))
    lines = [128, 256, 384, 512]
    valid = np.stack([(moved[:, r] != -32768) & (moved[:, r - 1] != -32768) for r in lines])
    step = np.stack([np.abs(moved[:, r].astype(int) - moved[:, r - 1]) for r in lines])
    assert rows.rate == pytest.approx(step[valid].mean() / 65534)
    assert rows.pairs == valid.sum()


def test_a_map_of_probabilities_alone_is_judged() -> None:
    rng = np.random.default_rng(2)
    smooth = np.stack([gaussian_filter(rng.normal(size=(600, 700)), 6) for _ in range(3)])
    shares = np.clip(125 + smooth * 900, 0, 250)
    assert not judged({"probability": shares.astype(np.uint8)}, LATTICE, 128).seam
    shares[1, 256:384, 384:512] = np.clip(shares[1, 256:384, 384:512] + 12, 0, 250)
    assert only(judged({"probability": shares.astype(np.uint8)}, LATTICE, 128)).where == "r2_c3"


def test_a_map_without_layers_says_nothing() -> None:
    report = SeamSums(Box(0, 0, 300, 300), 64).report(LATTICE)
    assert (report.seam, report.told()) == (False, "the map is too small to tell")


def test_layers_of_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="no seam statistic"):
        judged({"height": np.zeros((50, 50), np.float32)}, LATTICE, 16)


# --- lattices -----------------------------------------------------------------------------------------


def test_each_member_of_an_ensemble_has_its_own_lines(real_data: Path) -> None:
    members = (Lattice(160, 60), Lattice(192, 96), Lattice(1, 0))  # the last one is pixel-wise: no windows
    image = ndvi(real_data)
    quiet = judged(classify(image), members, 512)
    families = {"tile", "window starts 1", "window ends 1", "window starts 2", "window ends 2"}
    assert {f.family for f in quiet.families} == families
    assert quiet.lattices == members
    assert not quiet.seam
    offset = per_tile(image.shape, 96, 0, 0.04, 3)  # the second member's windows, not blended
    seen = found(judged(classify(image + offset), members, 512))
    assert "window starts 2" in seen
    assert "window starts 1" not in seen


def test_windows_that_overwrite_each_other_are_found(real_data: Path) -> None:
    image = ndvi(real_data)
    for first, kind in ((0, "window starts"), (96, "window ends")):
        offset = per_tile(image.shape, 80, first, 0.03, 4)
        assert kind in found(judged(classify(image + offset), Lattice(96, 16), 4096))


def test_dense_windows_hide_no_tile(real_data: Path) -> None:
    image = ndvi(real_data)
    image[TILE] += 0.1
    report = judged(classify(image), Lattice(8, 3), 128)
    assert only(report).where == "r2_c4"
    assert {f.lines for f in report.families if f.family != "tile"} == {0}


def test_pieces_longer_than_a_tile_name_where_they_begin() -> None:
    """A very large map, made small: tiles of 16 px under pieces of 64 px."""
    label = patches(5, (512, 640), 5, sites=700)
    label[304:] = np.roll(label, 37, 1)[304:]
    suspects = judged({"label": label}, Lattice(1, 0), 16).suspects
    assert suspects[0].kind == "line"
    assert suspects[0].where == "y = 304"
    label[:, :] = 1
    label[304:, 128:320] = 2
    found_ = {s.where for s in judged({"label": label}, Lattice(1, 0), 16).suspects}
    assert all(w.startswith(("y = 304", "x = 128", "x = 320")) for w in found_)
    assert found_


def test_boxes_that_begin_anywhere_give_tiles_their_own_pieces(real_data: Path) -> None:
    image = ndvi(real_data)
    whole = judged(classify(image), LATTICE, 128, (0, 0))
    assert whole.box == Box(0, 0, 680, 1000)
    for first in ((37, 61), (-300, 4000)):
        moved = image.copy()
        row, col = (-(-at // 128) + 1 for at in first)
        tile = tuple(slice(k * 128 - at, k * 128 - at + 128) for k, at in zip((row, col), first, strict=True))
        moved[tile] = np.roll(image, (6, 6), (0, 1))[tile]
        assert only(judged(classify(moved), LATTICE, 128, first)).where == f"r{row}_c{col}"
