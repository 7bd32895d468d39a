"""Stage a cube: find the scenes, freeze the plan, make or lengthen the store, run the tiles.

Running it again goes on. Running it with a later `time` into the same folder appends the later time steps::

    time: 2023-03/2023-05     stage cube            steps 0..2
    time: 2023-06/2023-08     stage cube-2023-06    steps 3..5    (or 2023-03/2023-08: the same steps)

The cube's spec, grid, box and tiles must stay; its season then runs from the first day of the first stage
to the last day of the last one, as that of a cube opened over the whole time.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.archive.items import ItemTable
from engine.cube.stored import (
    CUBE_SPEC_ATTR,
    STAGED_ATTR,
    STORE,
    Stage,
    Staged,
    growth_barriers,
    read_staged,
)
from engine.store.grow import extend, followed_by
from engine.store.layout import StoreSpec, create, update_attrs
from engine.store.lease import Lease
from engine.store.ledger import Ledger, Lookup
from engine.store.storespec import TIME
from engine.store.widen import fit
from engine.values.area import Area
from engine.values.budget import cube_tile_bytes, smaller_cube_settings
from engine.values.errors import ConflictError, InputError
from engine.values.spec import CubeSpec
from pipelines.config import CubeConfig
from pipelines.cube_job import CubeJob
from pipelines.plan_cube import Asked, Scenes, ask, layout_of, tile_shape
from pipelines.plan_tiles import walk_of
from pipelines.run_folder import PROJECTED_KEY, RADAR_KEY, SMALLER_KEY, read_plan, write_plan
from pipelines.tile_inputs import items_in, put_area, put_items
from pipelines.tile_stage import (
    Around,
    Listener,
    StageResult,
    check_sizes,
    known_scenes,
    made_folder,
    question_of,
    radiometry_of,
    run_jobs,
    run_options,
    versions,
)

_MISSING_LISTED = 1000


@dataclass(frozen=True)
class CubeResult(StageResult):
    """What a staging did.

    Attributes:
        stage: Its name.
        time_steps: First time step and the one after the last.
    """

    stage: str = "cube"
    time_steps: tuple[int, int] = (0, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        first, end = self.time_steps
        told = {"stage": self.stage, "time steps": f"{first}..{end - 1}", "cube": f"{self.run}/{STORE}"}
        return {**super().as_dict(), **told}


def make_cube(
    config: CubeConfig,
    *,
    resume: bool = True,
    refresh: bool = False,
    client: Any = None,
    listener: Listener | None = None,
) -> CubeResult:
    """Stage the cube that a configuration asks for, or append its later time steps.

    Args:
        config: The cube.
        resume: False searches again and makes every tile of this time again.
        refresh: Search again and make again the tiles that other scenes touch now.
        client: A `distributed.Client` to run on; default what ``config.cluster`` says.
        listener: Called for each event of the run, with the mean square kilometres of one tile.

    Raises:
        InputError: If area, scenes or sizes do not fit together, or the cube cannot grow.
        ConflictError: If another run holds the folder, or it holds another cube; names the difference.
    """
    run_dir, options = made_folder(config.out), run_options(config.cluster, resume=resume)
    with Lease(run_dir, patience_s=options.patience_s, beat_s=options.beat_s) as lease:
        job, area = prepare_cube(config, lease, known=resume and not refresh)
        km2, summaries = run_jobs([job], area, Around(lease, options, client or config.cluster, listener))
        lease.check()
        close_stage(job, complete=summaries[0].exit_code == 0)
    return CubeResult(config.out, km2, summaries, job.name, job.steps)


def prepare_cubes(config: CubeConfig, lease: Lease, *, known: bool = True) -> list[CubeJob]:
    """Prepare the cube that a map reads: one stage, or those that staged exactly this time before.

    A cube that is there keeps the size of its tiles.
    """
    planned = planned_cubes(config)
    if len(planned) > 1 and known:
        return planned
    if planned:
        config = config.model_copy(update={"tile_px": planned[0].tile_px})
    return [prepare_cube(config, lease, known=known)[0]]


def planned_cubes(config: CubeConfig) -> list[CubeJob]:
    """Return the stages that made, or are making, exactly the cube asked for; none if it is not there.

    Raises:
        ConflictError: If the folder holds another cube.
    """
    asked = ask(config)
    past = _past(asked)
    if past is None:
        return []
    stages = past.staged.stages
    if (stages[0].asked[0], stages[-1].asked[1]) != asked.days_text:
        return []
    run = asked.run_dir
    return [CubeJob.of_plan(run, read_plan(run, stage.name)) for stage in stages]


@dataclass(frozen=True)
class _Past:
    """What the folder's store holds already."""

    layout: StoreSpec
    staged: Staged
    spec: CubeSpec

    @property
    def end(self) -> dt.date:
        """Day after the last time step."""
        return dt.date.fromisoformat(_bounds(self.layout)[-1][1])


def prepare_cube(config: CubeConfig, lease: Lease, *, known: bool = True) -> tuple[CubeJob, Area]:
    """Do all that comes before the first tile: read, search, check, freeze, and make or lengthen the store.

    The plan and the scenes of a stage are written before the store knows the stage, so that whatever is
    killed between, the same command finds its way.
    """
    check_sizes(config.tile_px)
    asked = ask(config)
    made_folder(config.out)
    past = _past(asked)
    stage = _stage_of(asked, past)
    scenes, question = _scenes_of(asked, stage, known=known)
    layout, attrs = layout_of(asked, scenes)
    stage = replace(stage, steps=(stage.steps[0], stage.steps[0] + len(_bounds(layout))))
    whole = layout if past is None else _whole(layout, stage, past)
    lease.check()
    run_dir = asked.run_dir
    job = CubeJob(
        run_dir=run_dir,
        grid=asked.grid,
        cube_box=asked.box,
        spec=asked.spec,
        halo_px=config.halo_px,
        tile_px=config.tile_px,
        chunk_px=config.chunk_px,
        steps=stage.steps,
        items=put_items(run_dir, scenes.items),
        outline=put_area(run_dir, asked.area),
        radar="" if scenes.radar is None else put_items(run_dir, scenes.radar, "radar"),
        name=stage.name,
    )
    shape = tile_shape(asked, layout, scenes)
    memory = {
        PROJECTED_KEY: cube_tile_bytes(shape)["total"],
        SMALLER_KEY: [asdict(s) for s in smaller_cube_settings(shape)],
    }
    frozen = _plan(config, job, scenes) | {"question": question, "area": asked.area.name}
    write_plan(asked.run_dir, frozen | memory)
    _commit(asked, whole, stage, attrs, past)
    return job, asked.area


def _past(asked: Asked) -> _Past | None:
    """Read what was staged before, its layout already as big as a bigger area wants it; refuse another cube.

    Raises:
        ConflictError: If spec or grid differ, or the box in another way; names each.
    """
    try:
        layout, staged, attrs = read_staged(asked.url)
    except InputError:  # no store, or its making was interrupted
        return None
    past = _Past(layout, staged, CubeSpec.model_validate_json(attrs[CUBE_SPEC_ATTR]))
    old = {"grid": layout.grid, "box": staged.box, **_fields(past.spec)}
    new = {"grid": asked.grid, "box": asked.box, **_fields(asked.spec)}
    differs = [k for k in old if old[k] != new[k]]
    at_once = len(staged.stages) == 1 and staged.stages[0].asked == asked.days_text
    if differs == ["box"] and at_once and asked.box.holds(staged.box):
        return replace(past, layout=replace(layout, box=asked.box.snap_out(asked.config.tile_px)))
    if differs:
        raise ConflictError(
            "the folder holds another cube",
            where=", ".join(differs),
            found={k: old[k] for k in differs},
            limit={k: new[k] for k in differs},
            mend="write to another folder",
        )
    return past


def _fields(spec: CubeSpec) -> dict[str, Any]:
    """Return a spec's fields but for what planning fills in: season, and the hash of a calendar's file."""
    fields: dict[str, Any] = {f"cube.{k}": v for k, v in spec.model_dump(mode="json").items()}
    fields.pop("cube.season")
    if isinstance(fields["cube.period"], dict):
        fields["cube.period"].pop("sha256", None)
    return fields


def _stage_of(asked: Asked, past: _Past | None) -> Stage:
    """Find the stage that makes the time asked for: a first one, one that was begun, or a new one."""
    first, last = asked.days
    if past is None:
        return Stage("cube", (0, 0), asked.days_text, first.isoformat())
    for stage in past.staged.stages:
        if stage.asked == asked.days_text:
            return replace(stage, state="being made", missing=())
    begins = max(first, past.end)
    if last < begins:
        raise ConflictError(
            "the cube holds later time steps already",
            where="time",
            found=f"{first}/{last}",
            limit=f"a day from {past.end} on, or a time that was staged: {_told(past)}",
            mend="stage earlier time steps into another folder",
        )
    if barriers := growth_barriers(asked.spec):
        raise ConflictError(
            "earlier time steps of this cube depend on later ones, so it cannot grow",
            where=barriers,
            found=asked.config.time,
            limit=_told(past),
            mend="stage the whole time into another folder, or leave these settings to the map's cube",
        )
    _require_prefix(asked, past, begins)
    count = len(_bounds(past.layout))
    name = f"cube-{begins:%Y-%m}" if begins.day == 1 else f"cube-{begins}"
    return Stage(name, (count, count), asked.days_text, begins.isoformat())


def _require_prefix(asked: Asked, past: _Past, begins: dt.date) -> None:
    """Refuse a time whose steps are not those of the cube, followed by later ones."""
    first, last = asked.days
    if first >= past.end or asked.spec.period is None:
        return
    wanted = [(a.isoformat(), b.isoformat()) for a, b in asked.spec.period_bounds(first, last)]
    later = [(a.isoformat(), b.isoformat()) for a, b in asked.spec.period_bounds(begins, last)]
    have = list(_bounds(past.layout))
    if wanted != have + later:
        pairs = itertools.zip_longest(have, wanted)
        differs = next(((h, w) for h, w in pairs if h != w and h is not None), (have[-1], later[0]))
        raise ConflictError(
            "the time steps do not continue those of the cube",
            where="time",
            found=f"{asked.config.time}: step {differs[1]}",
            limit=f"step {differs[0]}, or a time from {past.end} on",
            mend="ask for the later time alone, or write to another folder",
        )


def _bounds(layout: StoreSpec) -> tuple[tuple[str, str], ...]:
    return layout.dims[TIME].bounds or ()


def _told(past: _Past) -> str:
    return ", ".join("/".join(s.asked) for s in past.staged.stages)


def _scenes_of(asked: Asked, stage: Stage, *, known: bool) -> tuple[Scenes, str]:
    """Return a stage's scenes, found before or now, and the question that was asked."""
    config = asked.config
    if stage.begins != asked.days_text[0]:
        config = config.model_copy(update={"time": f"{stage.begins}/{asked.days_text[1]}"})
    question = question_of(config, asked.area, asked.pad_m)
    items = known_scenes(asked.run_dir, question) if known else None
    radar = known_scenes(asked.run_dir, question, RADAR_KEY) if known else None
    if items is not None and (radar is None) == (asked.spec.sentinel1 is None):
        return Scenes(items, radar), question
    return Scenes.find(config, asked), question


def _whole(layout: StoreSpec, stage: Stage, past: _Past) -> StoreSpec:
    """Return the store's layout with a stage: longer, or, for a stage that was begun, as it is."""
    longer, known = followed_by(past.layout, layout), {s.name for s in past.staged.stages}
    if stage.name not in known:
        return longer
    first, end = stage.steps
    have, wanted = _bounds(past.layout)[first:end], _bounds(layout)
    if have != wanted:
        raise ConflictError(
            "the scenes give other time steps than the cube holds",
            where=f"stage {stage.name}",
            found=f"{len(wanted)} steps",
            limit=f"{len(have)} steps",
            mend="without a period each acquisition is a step: write to another folder",
        )
    return past.layout


def _commit(asked: Asked, whole: StoreSpec, stage: Stage, attrs: dict[str, Any], past: _Past | None) -> None:
    """Make the stage known to readers: arrays first, the time axis and the attributes at one moment."""
    before = () if past is None else past.staged.stages
    stages = sorted({s.name: s for s in (*before, stage)}.values(), key=lambda s: s.steps)
    if len(stages) > 1:
        attrs = layout_of(asked, _union(asked, stages))[1]
    group = dict(attrs)
    group |= {STAGED_ATTR: Staged(asked.box, tuple(attrs), tuple(stages)).to_dict()}
    if past is None:
        create(asked.url, whole)
    elif len(stages) == 1:
        fit(asked.url, whole)  # the area may have grown
    if past is not None and len(_bounds(whole)) > len(_bounds(past.layout)):
        extend(asked.url, whole, group)
    else:
        update_attrs(asked.url, group)


def _union(asked: Asked, stages: Sequence[Stage]) -> Scenes:
    """Join the scenes of all stages, as one search over the whole time would have found them."""
    plans = [read_plan(asked.run_dir, stage.name) for stage in stages]
    items = _joined(asked, [plan["items"] for plan in plans])
    if asked.spec.sentinel1 is None:
        return Scenes(items, None)
    return Scenes(items, _joined(asked, [plan["radar"] for plan in plans]))


def _joined(asked: Asked, files: Sequence[str]) -> ItemTable:
    tables = [items_in(asked.run_dir, file) for file in files]
    items = dict.fromkeys(item for table in tables for item in table)
    return ItemTable(tuple(items), (tables[0].time_range[0], tables[-1].time_range[1]))


def close_stage(job: CubeJob, *, complete: bool) -> None:
    """Tell the cube's readers how a stage ended."""
    _, staged, _ = read_staged(job.store_url)
    records = Lookup(Ledger(job.run_dir, job.name))
    undone = (str(tile) for tile in job.tiles() if records.of(tile) is None)
    missing = list(itertools.islice(undone, _MISSING_LISTED))
    state = "complete" if complete and not missing else "partial"
    stages = tuple(
        replace(s, state=state, missing=tuple(missing)) if s.name == job.name else s for s in staged.stages
    )
    update_attrs(job.store_url, {STAGED_ATTR: replace(staged, stages=stages).to_dict()})


def _plan(config: CubeConfig, job: CubeJob, scenes: Scenes) -> dict[str, Any]:
    """Freeze what was decided, with the versions that make the bytes."""
    return {
        "stage": job.name,
        "store": STORE,
        "config": config.model_dump(mode="json"),
        "box": asdict(job.cube_box),
        "steps": job.steps,
        **walk_of(job.tiles(), job.outline),
        "items": job.items,
        "radar": job.radar or None,
        "scenes": scenes.items.digest(),
        "superseded": list(scenes.items.superseded),
        "radiometry": radiometry_of(scenes.items),
        "versions": versions(),
        "planned_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
