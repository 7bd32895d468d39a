"""Why a tile would be made again, or not: its record's inputs against those of the plan as it is now."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from engine.archive.items import ItemRecord
from engine.refine.chain import RefineSpec
from engine.runs.tile import TileJob, digests_of, key_of
from engine.runs.walk import changed
from engine.store.ledger import Ledger, Lookup, TileRecord
from engine.values.errors import InputError
from engine.values.grid import TileKey
from pipelines.config import RunConfig
from pipelines.make_cube import planned_cubes
from pipelines.map_area import design, way_of
from pipelines.map_job import MapJob
from pipelines.plan_cube import cube_config_of
from pipelines.refine_job import RefineJob
from pipelines.tile_inputs import all_items

_MEANING = {
    "format": "the engine's format is another one",
    "grid": "the grid is another one",
    "tile": "the tiles have another size",
    "outline": "the outline cuts it elsewhere",
    "spec": "the cube is another one: bands, period, reducer, mask",
    "bundle": "the model is another one: weights, window, classes",
    "layers": "other layers are wanted",
    "augment": "the network sees windows in other views",
    "range": "the time is another one",
    "scenes": "other scenes touch it",
    "proj": "PROJ transforms between the scenes and the grid otherwise",
    "cube": "the staged cube below it is another one, or it was made without one",
    "gaps": "something could not be read last time",
    "steps": "the steps of the refinement, or a file that they read, are others",
    "classes": "the map's classes are others",
    "map": "a tile of the map within reach is another one",
}


def explain_tile(config: RunConfig, text: str, *, refresh: bool = False) -> dict[str, Any]:
    """Say whether `map` would make a tile again, and why.

    Args:
        config: The run.
        text: A tile, as ``r3_c-4``.
        refresh: Search again, as ``map --refresh`` would.

    Returns:
        What is known of it: ``tile``, ``would be``, ``because`` (a line for each component that differs),
        scenes added and gone by id, its last making.

    Raises:
        InputError: If there is no such tile.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = job_as_planned(config, folder, known=not refresh)
        tile = _tile(job, text)
        record = Lookup(Ledger(config.out, job.name)).of(tile)
        told = _told(job, tile, record)
        if record is not None and "scenes" in reasons(job, record):
            told |= _scenes_that_differ(config.out, job, record)
        if config.refine is not None and not config.refine.sieve:
            refined = refined_as_planned(config.refine, job)
            told["refined"] = _told(refined, tile, Lookup(Ledger(config.out, refined.name)).of(tile))
        return told


def _told(job: TileJob, tile: TileKey, record: TileRecord | None) -> dict[str, Any]:
    """Say what a stage would do with a tile."""
    told: dict[str, Any] = {"tile": str(tile), "stage": job.name}
    if record is None:
        return told | {"would be": "made: it is not on record"}
    why = reasons(job, record)
    told["would be"] = "made again" if why else "kept: all that it is made of is the same"
    told["because"] = [f"{name}: {_MEANING.get(name, 'differs')}" for name in why]
    if record.gaps:
        told["gaps"] = [f"{g.item} {g.asset}: {g.kind}" for g in record.gaps]
    return told | {"last made": f"{record.finished_utc} on {record.worker}, {record.seconds:.1f} s"}


def refined_as_planned(spec: RefineSpec, job: MapJob) -> RefineJob:
    """Return the job that would refine a map that is not made yet; for questions about its tiles, not to run it."""
    return RefineJob(
        run_dir=job.run_dir,
        grid=job.grid,
        tile_px=job.tile_px,
        spec=spec,
        digest=spec.digest(),
        scheme=job.bundle.classes,
        outline=job.outline,
        map_stage=job.name,
        map_tile_px=job.tile_px,
        epoch=0,
        map=job,
    )


def count_changes(config: RunConfig, job: MapJob) -> Counter[str]:
    """Count a map's tiles on record by what `map` would do: ``kept``, or the reasons to make them again."""
    counts: Counter[str] = Counter()
    tiles = job.tiles()
    for record in Ledger(config.out, job.name).records():
        if record.tile in tiles:
            counts[", ".join(reasons(job, record)) or "kept"] += 1
    return counts


def reasons(job: TileJob, record: TileRecord) -> list[str]:
    """Name the components for which a tile on record would be made again."""
    inputs = job.inputs(record.tile)
    if record.key != key_of(inputs):
        return changed(record, digests_of(inputs)) or ["format"]
    return ["gaps"] if record.gaps else []


def job_as_planned(config: RunConfig, folder: str, *, known: bool = True) -> MapJob:
    """Return the job that `map` would run now; its inputs are written into another folder.

    Raises:
        InputError: If it reads a staged cube that was never planned.
    """
    job = design(config, inputs_dir=folder, known=known).job
    if way_of(config) == "fused":
        return job
    staged = with_cubes(config, job)
    if not staged.cubes:
        raise InputError(
            "the cube of this map was not staged yet, so nothing is on record",
            where=config.out,
            mend="landweave map, or landweave cube",
        )
    return staged


def with_cubes(config: RunConfig, job: MapJob) -> MapJob:
    """Return the job that reads the cube of its run folder; itself where no such cube was planned."""
    return replace(job, cubes=tuple(planned_cubes(cube_config_of(config))))


def _tile(job: MapJob, text: str) -> TileKey:
    try:
        tile = TileKey.parse(text)
    except (ValueError, InputError) as error:
        raise InputError("no tile is called so", found=text, limit="r<row>_c<column>, as r3_c-4") from error
    if not job.covers(tile):
        first = next(iter(job.tiles()))
        raise InputError(
            "the map has no such tile: it lies outside the outline",
            found=text,
            limit=f"tiles such as {first}",
        )
    return tile


def _scenes_that_differ(run: str, job: MapJob, record: TileRecord) -> dict[str, Any]:
    """Name the scenes that came and went, if the scenes of the record's plan are still in the folder."""
    now = {s.id: s for s in job.scenes_of(record.tile) or ()}
    for before in _earlier(run, job, record):
        told = {
            "scenes added": sorted(set(now) - set(before)),
            "scenes gone": sorted(set(before) - set(now)),
            "scenes changed": sorted(
                i for i in set(now) & set(before) if now[i].digest() != before[i].digest()
            ),
        }
        return {k: v for k, v in told.items() if v}
    return {"scenes added": "not known: the folder no longer holds the scenes that it was made of"}


def _earlier(run: str, job: MapJob, record: TileRecord) -> Iterator[dict[str, ItemRecord]]:
    """Yield the scenes that a record was made of."""
    for table in all_items(run):
        near = job.scenes_among(table, record.tile)
        digests = digests_of({"scenes": [s.digest() for s in near]})
        if digests["scenes"] == record.inputs.get("scenes"):
            yield {s.id: s for s in near}
