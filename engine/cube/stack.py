"""Stacks: the clear observations of one time step, and what a reducer has to know of each date beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.cube.best_pixel import cap_px, cloud_distance
from engine.cube.composites import Evidence, red_and_nir
from engine.cube.hiding import hidden
from engine.cube.plan import CubePlan, Step, touches
from engine.cube.scene import read_group
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.recipe import BestPixel
from engine.values.spec import CubeSpec

Group = tuple[ItemRecord, ...]


def require_bands(spec: CubeSpec) -> None:
    """Refuse a cube without bands, or without those that its reducer compares.

    Raises:
        InputError: If there are none, or ``max_ndvi`` has no red or no near infrared.
    """
    if not spec.bands:
        raise InputError(
            "a cube of scenes needs bands",
            where="cube.bands",
            found="none",
            limit="one at least",
            mend="name them, e.g. bands: [B02, B03, B04, B08]",
        )
    if spec.reducer == "max_ndvi":
        red_and_nir(_positions(spec.bands))


def _positions(bands: tuple[str, ...]) -> Evidence:
    red, nir = (bands.index(b) if b in bands else None for b in ("red", "nir"))
    return Evidence(red=red, nir=nir)


def read_stack(plan: CubePlan, step: Step, box: Box) -> tuple[NDArray[np.uint16], Evidence]:
    """Read the overpasses of a time step that have a clear pixel in a box.

    The stack is laid out once for all overpasses and filled in place; memory that no overpass fills is
    never touched, and so never taken.

    Args:
        plan: The cube.
        step: One of its time steps.
        box: Global pixels.

    Returns:
        (time, band, y, x) uint16 reflectance x 10000 in order of time, 0 in all bands = missing, and the
        evidence that the cube's reducer needs.
    """
    stack = np.empty((len(step.groups), len(plan.spec.bands), *box.shape_yx), np.uint16)
    groups: list[Group] = []
    for group in step.groups:
        layer = read_group(plan, group, box)
        if layer is not None:
            stack[len(groups)] = layer
            groups.append(group)
    return stack[: len(groups)], _evidence(plan, step, groups, box)


def _evidence(plan: CubePlan, step: Step, groups: list[Group], box: Box) -> Evidence:
    bands, reducer = plan.spec.bands, plan.spec.reducer
    resolution_m = min(plan.grid.resolution_yx)
    distance = None
    if isinstance(reducer, BestPixel) and reducer.cloud_weight > 0:
        cap = cap_px(reducer, resolution_m)
        distance = np.empty((len(groups), *box.shape_yx), np.uint16)
        for layer, group in zip(distance, groups, strict=True):
            layer[:] = cloud_distance(_clouds(plan, group, box.pad(cap)), cap, cap)
    return replace(
        _positions(bands),
        days=tuple(_days_from_middle(step, group) for group in groups),
        cloud_distance_px=distance,
        resolution_m=resolution_m,
    )


def _days_from_middle(step: Step, group: Group) -> float:
    """Count the days between the middle of an overpass's day and the middle of its period."""
    day = min(item.datetime for item in group).date()
    return (day - step.start).days + 0.5 - (step.end - step.start).days / 2


def _clouds(plan: CubePlan, group: Group, box: Box) -> NDArray[np.bool_]:
    """Tell which pixels an overpass saw, but hidden in each of its scenes; no data is no cloud.

    What a scene saw is told by its first band, so that a wide margin costs one band and the masks.
    """
    seen, clear = np.zeros(box.shape_yx, np.bool_), np.zeros(box.shape_yx, np.bool_)
    for item in group:
        reached = touches(item, plan.grid, box)
        if reached is False or not plan.spec.mask:
            continue
        band = plan.reader.read(item, plan.spec.bands[:1], plan.grid, box, plan.spec.resampling)[0]
        own = (band != 0) & reached
        seen |= own
        for mask in plan.spec.mask:
            if own.any():
                own &= ~hidden(plan, item, box, mask)
        clear |= own
    return seen & ~clear
