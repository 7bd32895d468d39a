"""The tiles of a stage as its plan tells them: what is needed to walk them, never a list of them all.

A plan stays small however large the area is: it says how many tiles there are and keeps grid, tile size and
reach; the outline lies beside it in the run folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.values.grid import Box, Grid
from engine.values.tiling import Reach, Tiling
from pipelines.tile_inputs import tiling_in


def walk_of(tiling: Tiling, outline: str) -> dict[str, Any]:
    """Return the entries of a plan from which `tiles_of` rebuilds a walk.

    Args:
        tiling: The tiles of a stage.
        outline: File of the outline in the run folder.

    Returns:
        JSON values: the number of tiles, grid, tile size, file of the outline, reach.
    """
    return {
        "tiles": len(tiling),
        "grid": asdict(tiling.grid),
        "tile_px": tiling.tile_px,
        "outline": outline,
        "reach": None if tiling.reach is None else asdict(tiling.reach),
    }


def tiles_of(run: str, plan: Mapping[str, Any]) -> Tiling:
    """Return the tiles of a stage from its run folder alone: counted and walked as the run does.

    Args:
        run: The run folder.
        plan: The stage's plan, as `pipelines.run_folder.read_plan` gives it.
    """
    grid = Grid(plan["grid"]["crs"], tuple(plan["grid"]["resolution_yx"]), tuple(plan["grid"]["anchor_xy"]))
    reach = plan.get("reach")
    if reach is not None:
        reach = Reach(Box(**reach["within"]), reach["block_px"], reach["halo_px"])
    return tiling_in(run, plan["outline"], grid, plan["tile_px"], reach)
