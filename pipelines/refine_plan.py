"""Before the first refined tile: the steps made for the map, the plan frozen, the empty store."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.inference.ensemble import load_model
from engine.products.styles import scheme_of_flags
from engine.refine.around import Around
from engine.refine.chain import RefineSpec
from engine.refine.memory import RefineShape, refine_bytes, smaller_refine_settings
from engine.refine.source import require_layers
from engine.store.layout import open_spec
from engine.store.ledger import Ledger
from engine.store.widen import fit
from engine.values.classes import ClassScheme
from engine.values.errors import InputError, LandweaveError
from engine.values.grid import Grid
from pipelines.map_job import MapJob
from pipelines.plan_tiles import walk_of
from pipelines.refine_job import BLOCK_PX, RefineJob
from pipelines.run_folder import PROJECTED_KEY, SMALLER_KEY, write_plan
from pipelines.tile_inputs import outline_in
from pipelines.tile_stage import check_sizes, versions

CLASSES_KEY = "classes"


@dataclass(frozen=True)
class Refining:
    """How a map of a run is refined.

    Attributes:
        spec: The steps.
        epoch: The lease's epoch.
        tile_px: Side of a tile; None for that of the map.
        at_once: Tiles that a worker makes at the same time.
        threads: Threads that a tile may use.
    """

    spec: RefineSpec
    epoch: int
    tile_px: int | None = None
    at_once: int = 1
    threads: int = 1


def prepare_refined(
    run_dir: str, plan: Mapping[str, Any], how: Refining, making: MapJob | None = None
) -> RefineJob:
    """Freeze the plan of a refinement and make its empty store.

    Args:
        run_dir: The run folder, whose lease the caller holds.
        plan: Plan of the map.
        how: How it is refined.
        making: The map's job, where the same run makes the map.

    Raises:
        InputError: If the map is no map of classes, lacks a layer or has not a class that a step names.
    """
    tile_px = how.tile_px or plan["tile_px"]
    check_sizes(tile_px)
    grid = plan["grid"]
    job = RefineJob(
        run_dir=run_dir,
        grid=Grid(grid["crs"], tuple(grid["resolution_yx"]), tuple(grid["anchor_xy"])),
        tile_px=tile_px,
        spec=how.spec,
        digest=how.spec.digest(),
        scheme=scheme_of(run_dir, plan),
        outline=plan["outline"],
        map_stage=plan["stage"],
        map_tile_px=plan["tile_px"],
        epoch=how.epoch,
        whole="" if how.spec.sieve is None else _all_of(run_dir, plan["stage"]),
        map=making,
    )
    require_layers(job.map_url, job.spec.reads, (v.name for v in open_spec(job.map_url).variables))
    _ = job.chain  # refuses a class that the map has not, before anything is changed
    fit(job.store_url, job.store_spec(f"{plan['area']}, refined"))
    write_plan(run_dir, _plan(job, plan, how))
    return job


def _all_of(run_dir: str, stage: str) -> str:
    """Hash all records of a map, in whatever order they come: what a whole map is made of."""
    total = 0
    for record in Ledger(run_dir, stage).records():
        digest = hashlib.sha256(f"{record.tile} {record.key}".encode()).digest()
        total = (total + int.from_bytes(digest)) % 2**256
    return f"{total:064x}"


def _plan(job: RefineJob, plan: Mapping[str, Any], how: Refining) -> dict[str, Any]:
    shape = refine_shape(job, how)
    return {
        "stage": job.name,
        "store": f"{job.name}.zarr",
        "area": plan["area"],
        "of": job.map_stage,
        "config": {"refine": job.spec.model_dump(mode="json"), "tile_px": how.tile_px},
        "steps_done": list(job.spec.names),
        "digest": job.digest,
        "reach_px": job.chain.reach_px,
        CLASSES_KEY: job.scheme.model_dump(mode="json"),
        **walk_of(job.tiles(), job.outline),
        PROJECTED_KEY: refine_bytes(shape)["total"],
        SMALLER_KEY: [asdict(s) for s in smaller_refine_settings(shape)],
        "versions": versions("numba"),
        "planned_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def refine_shape(job: RefineJob, how: Refining) -> RefineShape:
    """Gather what decides the memory of a worker."""
    return RefineShape(
        steps=job.chain.steps,
        tile_px=job.tile_px,
        block_px=job.block_px,
        read_bytes=sum(_planes(job, name) for name in job.spec.reads),
        tile_bytes=len(open_spec(job.store_url).variables),
        threads=how.threads,
        at_once=how.at_once,
    )


def foreseen(job: MapJob, spec: RefineSpec, at_once: int) -> dict[str, Any]:
    """Say what refining a map will take, before there is a map.

    Returns:
        JSON values: ``steps`` by name; ``reach_px``; ``waits_for``, the most tiles of the map under one refined tile
        and within its reach; ``memory_bytes`` of a worker by purpose.

    Raises:
        InputError: If the model gives no classes, or a step names one that it has not.
    """
    layers = job.bundle.layers(job.layers)
    require_layers("the map", spec.reads, layers.slices)
    box = job.grid.box_of_bounds(outline_in(job.run_dir, job.outline, job.grid.crs).bounds)
    steps = spec.made(Around.of(job.bundle.classes, job.grid, box))
    planes = {name: s.stop - s.start for name, s in layers.slices.items()}
    shape = RefineShape(
        steps=steps.steps,
        tile_px=job.tile_px,
        block_px=BLOCK_PX,
        read_bytes=sum(planes[name] for name in spec.reads),
        tile_bytes=2 + sum(n for n in planes.values() if n == 1),
        at_once=at_once,
    )
    memory = {k: v for k, v in refine_bytes(shape).items() if k != "total"}
    side = 1 + 2 * -(-steps.reach_px // job.tile_px)
    waits = "all" if spec.sieve else min(side**2, len(job.tiles()))
    return {"steps": spec.names, "reach_px": steps.reach_px, "waits_for": waits, "memory_bytes": memory}


def _planes(job: RefineJob, name: str) -> int:
    return len(job.scheme.values) if name == "probability" else 1


def scheme_of(run_dir: str, plan: Mapping[str, Any]) -> ClassScheme:
    """Return the classes of a run's map: as its plan froze them, else its model's, else the store's flags.

    Raises:
        InputError: If it is no map of classes.
    """
    if plan.get(CLASSES_KEY):
        return ClassScheme.model_validate(plan[CLASSES_KEY])
    bundle = str(plan.get("config", {}).get("bundle", ""))
    if bundle and Path(bundle).exists():
        try:
            return load_model(bundle).classes
        except LandweaveError:  # a model that wants trust: the store tells its classes too
            pass
    url = f"{run_dir}/{plan['store']}"
    found = [v for v in open_spec(url).variables if v.name == "label"]
    if not found:
        raise InputError("the map has no classes to refine", where=url, mend="refine a map of classes")
    return scheme_of_flags(found[0].attrs, url)
