"""Measured receptive fields against arithmetic, by both ways of measuring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine.inference.foreign import dynamic_world
from engine.inference.lane import Lane
from engine.inference.receptive import (
    ReceptiveField,
    edge_share,
    measure_field,
    propose_lattice,
    receptive_field,
    simulated,
)
from engine.values.lattice import Lattice
from tests.inference.bundles import network, random_bundle

BANDS = 2


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def draw(side_px: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, BANDS, side_px, side_px, generator=generator), torch.ones(1, 1, side_px, side_px)


def measured(
    module: nn.Module,
    window_px: int,
    *,
    differences: bool,
    largest: int = 10_000,
    patience_s: float = math.inf,
) -> ReceptiveField:
    module.requires_grad_(False)

    def network_at(side_px: int) -> Callable[..., torch.Tensor]:
        if side_px > largest:
            raise RuntimeError("too large")
        return lambda x, valid: module(x.flatten(1, 2))

    return measure_field(network_at, draw, window_px, differences=differences, patience_s=patience_s)


def stack(*layers: tuple[int, int]) -> nn.Sequential:
    """3x3 or wider convolutions of (kernel, dilation), ReLU between."""
    torch.manual_seed(1)
    parts: list[nn.Module] = []
    for n, (kernel, dilation) in enumerate(layers):
        reach = (kernel - 1) // 2 * dilation
        parts += [nn.Conv2d(6 if n else BANDS, 6, kernel, padding=reach, dilation=dilation), nn.LeakyReLU()]
    return nn.Sequential(*parts)


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize(
    "layers", [[(1, 1)], [(3, 1)], [(3, 1), (5, 1)], [(3, 2), (3, 3), (1, 1)], [(3, 1)] * 6]
)
def test_stacks_of_convolutions_have_the_support_that_adds_up(
    layers: list[tuple[int, int]], differences: bool
) -> None:
    support = sum((k - 1) // 2 * d for k, d in layers)
    field = measured(stack(*layers), 32, differences=differences)
    assert (field.support_px, field.shift_px, field.whole_window) == (support, 1, False)
    assert (0 if support == 0 else 1) <= field.effective_px <= support
    assert field.size_free
    assert field.pixelwise == (support == 0)


@pytest.mark.parametrize("differences", [False, True])
def test_a_field_wider_than_the_trained_window_is_measured_in_a_larger_one(differences: bool) -> None:
    field = measured(stack(*[(5, 2)] * 3), 16, differences=differences)
    assert (field.support_px, field.probe_px, field.whole_window) == (12, 32, False)
    fixed = measured(stack(*[(5, 2)] * 3), 16, differences=differences, largest=16)
    assert (fixed.whole_window, fixed.size_free, fixed.probe_px) == (True, False, 16)
    hasty = measured(stack((3, 1), (5, 1)), 4, differences=differences, patience_s=0.0)
    assert (hasty.whole_window, hasty.probe_px) == (True, 4), "the trained window is looked at in any case"


class Pooled(nn.Module):
    """Adds the mean of the whole window."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(dim=(2, 3), keepdim=True)


class Placed(nn.Module):
    """Knows where in the window a pixel lies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        line = torch.linspace(-1, 1, x.shape[-1])
        return x * (1 + line[:, None] * line)


@pytest.mark.parametrize("differences", [False, True])
def test_a_network_that_pools_the_whole_window_is_not_free_of_its_size(differences: bool) -> None:
    field = measured(Pooled(), 16, differences=differences)
    assert field.whole_window
    assert field.probe_px == 64
    assert not field.size_free
    assert "up to the edge of all windows up to 64 px" in field.line()


def test_a_network_that_knows_the_place_is_not_free_of_the_size() -> None:
    field = measured(Placed(), 32, differences=False)
    assert (field.support_px, field.shift_px) == (0, 0)
    assert not field.size_free
    assert not field.pixelwise
    assert "depending on the place" in field.line()


@pytest.mark.parametrize("differences", [False, True])
def test_outputs_coarser_than_the_input(differences: bool) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(BANDS, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(6, 3, 4, stride=4))
    field = measured(net, 32, differences=differences)
    assert field.shift_px == 4
    assert field.support_px == 4  # from the last pixel of a block to one before its first, and the other way


def unet_support(depth: int, decoder: str) -> int:
    """The U-Net's support, by sets of rows: each level pools by 2, has two 3x3 and is raised again."""

    def convs(rows: set[int]) -> set[int]:
        return {r + d for r in rows for d in (-2, -1, 0, 1, 2)}

    def raised(rows: set[int]) -> set[int]:
        if decoder == "transposed":
            return {r // 2 for r in rows}
        low = {int(np.floor((r - 0.5) / 2)) for r in rows}  # pixel centres: coarse (r + 0.5) / 2 - 0.5
        return low | {r + 1 for r in low}

    def pooled(rows: set[int]) -> set[int]:
        return {2 * r + d for r in rows for d in (0, 1)}

    def level(rows: set[int], n: int) -> set[int]:
        if n == depth:
            return convs(rows)
        rows = convs(rows)  # the level's convolutions on the way up
        below = level(raised(rows), n + 1)
        return convs(rows | pooled(below))  # and on the way down

    step = 2**depth
    return max(abs(r - at) for at in (0, step - 1) for r in level({at}, 0))


@pytest.mark.parametrize(
    ("depth", "decoder"), [(1, "bilinear"), (2, "bilinear"), (2, "transposed"), (3, "bilinear")]
)
def test_the_registrys_network_has_the_support_that_its_layers_give(
    tmp_path: Path, depth: int, decoder: str
) -> None:
    bundle = random_bundle(tmp_path, network(depth=depth, decoder=decoder))
    field = receptive_field(bundle)
    assert field.support_px == unet_support(depth, decoder)
    assert field.shift_px == 2**depth
    assert (field.whole_window, field.size_free, field.method) == (False, True, "gradient")
    assert 1 <= field.effective_px <= field.support_px


def test_real_windows_are_measured_where_they_are_large_enough(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path, network(depth=1))
    flat = np.full((3, 2, 3, 32, 32), 900, np.uint16)
    assert receptive_field(bundle, flat).support_px <= receptive_field(bundle).support_px


@given(
    st.integers(0, 200),
    st.integers(0, 200),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.integers(1, 40).map(lambda n: 16 * n),
)
def test_proposals_hold_the_effective_field_or_half_the_window(
    effective: int, more: int, shift: int, window: int
) -> None:
    field = ReceptiveField(effective + more, effective, shift, 512, False, "gradient")
    proposal = propose_lattice(field, window)
    lattice = proposal.lattice
    if field.pixelwise:
        assert lattice == Lattice(1, 0)
        return
    assert lattice.window_px == window
    assert lattice.overlap_px <= max(window // 2, window % shift)
    assert lattice.stride_px % shift == 0 or window % shift
    assert proposal.effective_share <= proposal.support_share
    if lattice.overlap_px >= 2 * effective:
        assert proposal.effective_share == 0
        assert lattice.overlap_px < 2 * effective + 2 * max(2, shift)
    else:
        assert proposal.effective_share > 0
        assert "does not fit" in proposal.reason


def test_a_trained_network_is_told_which_overlap_shows_it_all(tmp_path: Path) -> None:
    from pipelines.train_model import overlap_line

    bundle = random_bundle(tmp_path, network(depth=1))
    effective = receptive_field(bundle).effective_px
    told = overlap_line(bundle)  # overlap 8
    assert effective > 4
    assert f"proposed: lattice.overlap_px: {min(2 * effective, 16)}" in told
    assert "shows less than that" in told
    wide = replace(bundle, lattice=Lattice(64, 2 * effective))
    assert overlap_line(wide).endswith(f"an overlap of {2 * effective} px shows it")


@given(st.integers(4, 24), st.integers(0, 12), st.integers(0, 12))
def test_edge_share_counts_pixels(window: int, overlap: int, radius: int) -> None:
    lattice = Lattice(window, min(overlap, window // 2) // 2 * 2, "trim")
    rows = np.arange(lattice.overlap_px // 2, lattice.overlap_px // 2 + lattice.stride_px)  # answered best
    free = (rows >= radius) & (rows + radius < window)
    assert edge_share(lattice, radius) == pytest.approx(1 - (free.mean()) ** 2)


def test_simulated_windows_hold_data_everywhere() -> None:
    values = simulated(2, 3, 50, 0)
    assert values.shape == (2, 3, 50, 50)
    assert values.dtype == np.uint16
    assert values.min() > 0
    np.testing.assert_array_equal(values, simulated(2, 3, 50, 0))
    assert not np.array_equal(values, simulated(2, 3, 50, 1))


@pytest.mark.long
def test_dynamic_world_answers_alike_in_windows_that_show_its_field(real_data: Path, tmp_path: Path) -> None:
    """Beside the probe: a cut-out of a window is answered as the window is, up to the support from its edge."""
    weights = real_data / "weights"
    names = "dynamicworld_forward.onnx", "dynamicworld_normalisation.json"
    bundle = dynamic_world(tmp_path / "dw", weights / names[0], weights / names[1], Lattice(64, 16))
    field = receptive_field(bundle)
    assert (field.method, field.size_free, field.shift_px) == ("differences", True, 2)
    values = simulated(1, 9, 128, 5)[None]
    wide = Lane(replace(bundle, lattice=Lattice(128, 16))).run(values)[0][:, 32:96, 32:96]
    cut = Lane(bundle).run(values[..., 32:96, 32:96])[0]
    gap = np.abs(wide - cut).max(axis=0)
    reach = field.support_px
    assert gap[reach : 64 - reach, reach : 64 - reach].max() <= 1  # of 65535: rounding
    assert gap[field.effective_px // 2].max() > 10
