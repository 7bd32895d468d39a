"""The seam statistic of a run's map: what was frozen of its windows, and the map looked at again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.inference.ensemble import Model, bundles_of
from engine.inference.seams import SeamReport, map_seams
from engine.store.layout import open_spec
from engine.store.objects import join
from engine.values.area import Area
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from pipelines.plan_tiles import tiles_of
from pipelines.tile_inputs import area_in

LATTICES_KEY = "lattices"


def lattices_of(model: Model) -> tuple[Lattice, ...]:
    """Return the windows of a model's bundles in pixels of its map, which are coarser where its output is."""
    return tuple(dict.fromkeys(b.lattice.coarser(b.stride) for b in bundles_of(model)))


def frozen_lattices(model: Model) -> dict[str, Any]:
    """Return the entry of a plan from which `stored_seams` knows the windows."""
    return {LATTICES_KEY: [asdict(lattice) for lattice in lattices_of(model)]}


def area_box(grid: Grid, area: Area, store: str) -> Box:
    """Return the area's own pixels of a map, without the padding to whole tiles."""
    return grid.box_of_bounds(area.to_crs(grid.crs).bounds) & open_spec(store).box


def stored_seams(run: str, plan: Mapping[str, Any]) -> SeamReport | None:
    """Look for seams in the stored map of a stage, from the run folder alone.

    Args:
        run: Run folder.
        plan: The stage's plan.

    Returns:
        The report, equal to the run's own of a map that has not changed; None for a stage that has no
        windows (a cube), or whose plan does not tell them (of an older version).
    """
    if LATTICES_KEY not in plan:
        return None
    lattices = [Lattice(**fields) for fields in plan[LATTICES_KEY]]
    store, grid = join(run, plan["store"]), tiles_of(run, plan).grid
    box = area_box(grid, area_in(run, plan["outline"]), store)
    return map_seams(store, lattices, plan["tile_px"], box, grid=grid)
