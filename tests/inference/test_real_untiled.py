"""Dynamic World on real pixels: windows against one pass over the whole scene, and seams where overlap lacks.

Over whole scenes, and with trained networks, this is measured by benchmarks/real_untiled.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.real_untiled import border_distance, box_of, compare, one_pass, scene_33uuu, world
from engine.inference.bundle import Bundle
from engine.values.grid import Box
from engine.values.lattice import Lattice

WIDE, NARROW = Lattice(192, 96, "trim"), Lattice(32, 0, "trim")


@pytest.fixture(scope="module")
def scene(real_data: Path) -> xr.Dataset:
    """Forest and a frozen lake under the centres of two windows."""
    whole = scene_33uuu(real_data)
    box = box_of(whole)
    y, x = 300 + -(box.y0 + 300) % 96, 400 + -(box.x0 + 400) % 96
    return whole.isel(y=slice(y, y + 96), x=slice(x, x + 192))


@pytest.fixture(scope="module")
def bundle(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return world(real_data, tmp_path_factory.mktemp("world"), WIDE)


def test_trimmed_windows_are_one_pass_where_the_overlap_holds_what_the_network_sees(
    scene: xr.Dataset, bundle: Bundle
) -> None:
    single = one_pass(bundle, scene, 48)
    wide = compare(bundle, scene, single, 0)
    assert wide.equal > 0.9999
    assert wide.largest < 0.004, "a step of the stored probability"
    assert "SEEN" not in wide.seam
    narrow = compare(replace(bundle, lattice=NARROW), scene, single, 0)
    assert narrow.near < narrow.far < 1
    assert narrow.equal < 0.98
    assert narrow.largest > 0.1
    assert narrow.seam.startswith("SEEN: ")
    assert "window cuts" in narrow.seam


def test_distances_are_those_to_the_nearest_border() -> None:
    found = border_distance(Lattice(8, 2), Box(0, 0, 12, 12))  # starts at 0, 6, 12; ends at 2, 8
    line = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(found, np.minimum.outer(line, line))
