"""Map an area: find the scenes, freeze the plan, run the tiles, make the products.

Running it again goes on: the scenes of the first run are kept while the question (area, time, catalogue)
is the same, tiles whose key is on record are not made again.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.items import ItemTable
from engine.inference.bundle import load_bundle
from engine.inference.lane import instruction_set
from engine.runs.driver import RunOptions
from engine.store.layout import create
from engine.store.lease import Lease
from engine.values.area import Area
from engine.values.budget import tile_bytes
from engine.values.grid import Box
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, grid_and_box
from pipelines.map_job import MapJob
from pipelines.plan_area import check_fit, search_padded, spec_of, tile_shape
from pipelines.plan_tiles import walk_of
from pipelines.products import Products, make_products
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import ITEMS_FILE, write_inputs
from pipelines.tile_stage import (
    Around,
    Listener,
    StageResult,
    check_sizes,
    known_scenes,
    local_folder,
    question_of,
    radiometry_of,
    run_stage,
    versions,
)


@dataclass(frozen=True)
class MapResult(StageResult):
    """What a run did.

    Attributes:
        products: What was made of the tiles; None after an interruption or when not wanted.
    """

    products: Products | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        return {**super().as_dict(), **(self.products.as_dict() if self.products else {})}


def map_area(
    config: RunConfig, *, resume: bool = True, client: Any = None, listener: Listener | None = None
) -> MapResult:
    """Make the map that a configuration asks for.

    Args:
        config: The run.
        resume: False searches again and makes every tile again.
        client: A `distributed.Client` to run on; default what ``config.cluster`` says.
        listener: Called for each event of the run, with the mean square kilometres of one tile.

    Raises:
        InputError: If area, scenes, bundle or sizes do not fit together.
        ConflictError: If another run holds the folder.
    """
    run_dir, options = local_folder(config.out), RunOptions(resume=resume)
    with Lease(str(run_dir), patience_s=options.patience_s, beat_s=options.beat_s) as lease:
        job, area, table = prepare(config, resume=resume)
        done = run_stage(job, area, Around(lease, options, client or config.cluster, listener))
        products, summary = None, done.summary
        if config.products and not summary.interrupted and summary.done + summary.reused:
            products = make_products(job, area, table)
    return MapResult(config.out, done.km2, summary, products)


def prepare(config: RunConfig, *, resume: bool = True) -> tuple[MapJob, Area, ItemTable]:
    """Do all that comes before the first tile: read, search, check, freeze, and make the empty store.

    The caller holds the folder's lease, so that two runs cannot freeze two plans.
    """
    check_sizes(config.tile_px)
    run_dir = local_folder(config.out)
    bundle, area = load_bundle(config.bundle), area_of(config.area)
    spec = spec_of(config, bundle)
    grid, _ = grid_and_box(area, config.crs, spec.resolution_m)
    question = question_of(config, area, bundle.lattice.window_px * bundle.spec.resolution_m)
    table = known_scenes(run_dir, question) if resume else None
    if table is None:
        table = search_padded(config, area, bundle)
    steps = check_fit(bundle, table, spec, grid)
    job = MapJob(
        run_dir=str(run_dir),
        grid=grid,
        tile_px=config.tile_px,
        chunk_px=config.chunk_px,
        spec=spec,
        bundle=bundle,
        probability=config.probability,
    )
    create(
        job.store_url, job.store_spec(area, f"{area.name}, {config.time}")
    )  # refuses before anything is changed
    write_inputs(run_dir, area, table)
    tile = Box(0, 0, config.tile_px, config.tile_px)
    memory = tile_bytes(tile_shape(bundle, spec, steps, tile, config.chunk_px))
    plan = _plan(config, job, table) | {"question": question, "items": ITEMS_FILE}
    write_plan(str(run_dir), plan | {"projected_bytes": memory["total"], "area": area.name})
    return job, area, table


def _plan(config: RunConfig, job: MapJob, table: ItemTable) -> dict[str, Any]:
    """Freeze what was decided, with the versions and the instruction set that make the bytes."""
    return {
        "stage": job.name,
        "store": Path(job.store_url).name,
        "config": config.model_dump(mode="json"),
        **walk_of(job.tiles()),
        "bundle": job.bundle.digest(),
        "scenes": table.digest(),
        "superseded": list(table.superseded),
        "radiometry": radiometry_of(table),
        "versions": versions("torch", "onnxruntime"),
        "instruction_set": instruction_set(),
        "planned_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
