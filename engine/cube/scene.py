"""Scenes: the clear pixels of one scene, and of the scenes of one overpass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.cube.bands import read_reflectance
from engine.cube.hiding import hidden
from engine.cube.plan import CubePlan, touches
from engine.values.grid import Box
from engine.values.masking import Mask, ModelMask


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

    A pixel that is hidden by a mask, or lacks any band, is 0 in all bands. Masks that read a layer of the
    product come first: where they hide all, as under closed cloud or beside the swath, no band is read.
    """
    reached = touches(item, plan.grid, box)
    if reached is False:
        return None
    clear = np.ones(box.shape_yx, np.bool_) & reached
    layers = [m for m in plan.spec.mask if not isinstance(m, ModelMask)]
    models = [m for m in plan.spec.mask if isinstance(m, ModelMask)]
    if not _still_clear(plan, item, box, layers, clear):
        return None
    values = read_reflectance(plan, item, box)
    clear &= values.all(axis=0)
    if not _still_clear(plan, item, box, models, clear):
        return None
    values *= clear
    return values


def _still_clear(
    plan: CubePlan, item: ItemRecord, box: Box, masks: Sequence[Mask], clear: NDArray[np.bool_]
) -> bool:
    """Take what masks hide out of `clear` (y, x), and tell whether anything is left."""
    for mask in masks:
        if clear.any():
            clear &= ~hidden(plan, item, box, mask)
    return bool(clear.any())
