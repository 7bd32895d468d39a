"""Scenes: the clear pixels of one scene, and of the scenes of one overpass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.cube.bands import read_reflectance
from engine.cube.hiding import hidden
from engine.cube.plan import CubePlan, touches
from engine.values.grid import Box


def read_group(plan: CubePlan, group: tuple[ItemRecord, ...], box: Box) -> NDArray[np.uint16] | None:
    """Read one overpass: the first scene with a clear pixel gives it, in the group's fixed order."""
    merged: NDArray[np.uint16] | None = None
    for item in group:
        scene = read_scene(plan, item, box)
        if scene is None:
            continue
        if merged is None:
            merged = scene
        else:
            np.copyto(merged, scene, where=(merged[0] == 0) & (scene[0] != 0))
        if merged[0].all():
            break
    return merged


def read_scene(plan: CubePlan, item: ItemRecord, box: Box) -> NDArray[np.uint16] | None:
    """Read one scene's clear pixels, (band, y, x) uint16 reflectance x 10000; None where it has none.

    A pixel that is hidden by the mask, or lacks any band, is 0 in all bands.
    """
    reached = touches(item, plan.grid, box)
    if reached is False:
        return None
    values = read_reflectance(plan, item, box)
    clear = values.all(axis=0)
    if reached is not True:
        clear &= reached
    for mask in plan.spec.mask:
        if clear.any():
            clear &= ~hidden(plan, item, box, mask)
    if not clear.any():
        return None
    values *= clear
    return values
