"""What a run folder tells on its own: how far each stage is, and whether its bytes are those recorded.

::

    plan.json            the map's plan               ledger/map/
    plan-cube.json       the staged cube's            ledger/cube/
    plan-cube-2024-03.json   of what was appended     ledger/cube-2024-03/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.store.ledger import Ledger, TileRecord
from engine.store.objects import Folder
from engine.store.regions import read_back
from engine.values.errors import DataError, InputError
from pipelines.plan_tiles import tiles_of

MAP, PLAN_FILE, GAPS_FILE = "map", "plan.json", "gaps.json"
QUESTION_KEY, ITEMS_KEY, RADAR_KEY, PROJECTED_KEY = "question", "items", "radar", "projected_bytes"


def plan_file(stage: str) -> str:
    """Name the file of a stage's plan.

    >>> plan_file("map"), plan_file("cube-2024-03")
    ('plan.json', 'plan-cube-2024-03.json')
    """
    return PLAN_FILE if stage == MAP else f"plan-{stage}.json"


def write_plan(run: str, plan: dict[str, Any]) -> None:
    """Freeze the plan of a stage (its ``stage`` says which), atomically."""
    Folder(run).replace(plan_file(plan["stage"]), json.dumps(plan, indent=1, default=str).encode())


def read_plan(run: str, stage: str = MAP) -> dict[str, Any]:
    """Read the plan of a stage.

    Raises:
        InputError: If the folder is no run folder, or has no such stage.
    """
    path = Path(run) / plan_file(stage)
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            "not a run folder", where=run, found=str(error), mend="give the `out` of a run"
        ) from error
    return plan


def plans_in(run: str) -> Iterator[dict[str, Any]]:
    """Yield the plans of all stages, cubes first."""
    for path in sorted(Path(run).glob("plan*.json"), key=lambda p: (p.name == PLAN_FILE, p.name)):
        yield json.loads(path.read_text())


def current_records(run: str, stage: str = MAP) -> list[TileRecord]:
    """Return the newest record of each tile of a stage's plan."""
    wanted = {str(t) for t in tiles_of(run, read_plan(run, stage))}
    newest: dict[str, TileRecord] = {}
    for record in Ledger(run, stage).records():
        tile = str(record.tile)
        if tile in wanted and (tile not in newest or record.finished_utc > newest[tile].finished_utc):
            newest[tile] = record
    return list(newest.values())


def status_of(run: str) -> dict[str, Any]:
    """Say how far a run is, from its folder alone; with several stages, each line names its own."""
    plans = list(plans_in(run))
    if not plans:
        read_plan(run)
    told: dict[str, Any] = {"area": plans[0]["area"]}
    for plan in plans:
        before = f"{plan['stage']}: " if len(plans) > 1 else ""
        told |= {before + key: value for key, value in _status(run, plan).items()}
    return told


def _status(run: str, plan: dict[str, Any]) -> dict[str, Any]:
    records = current_records(run, plan["stage"])
    seconds = sorted(r.seconds for r in records)
    slowest = max(records, key=lambda r: r.seconds, default=None)
    return {
        "tiles done": f"{len(records)} of {plan['tiles']}",
        "last tile": max((r.finished_utc for r in records), default="none yet"),
        "seconds a tile, median": round(seconds[len(seconds) // 2], 1) if seconds else None,
        "slowest tile": f"{slowest.tile} {slowest.seconds:.1f} s" if slowest else None,
        "memory measured, most": f"{max((r.peak_bytes for r in records), default=0) / 2**30:.2f} GiB",
        "memory projected": f"{plan[PROJECTED_KEY] / 2**30:.2f} GiB",
        "second attempts": sum(r.attempt > 1 for r in records),
        "gaps": sum(len(r.gaps) for r in records),
        "workers": ", ".join(sorted({r.worker for r in records})) or "none yet",
    }


def verify_run(run: str) -> dict[str, Any]:
    """Read every finished tile of every stage back and compare with its record.

    Returns:
        Counts, and the tiles that differ with the reason.
    """
    plans = list(plans_in(run))
    if not plans:
        read_plan(run)
    told: dict[str, Any] = {"tiles read": 0, "tiles planned": 0, "differ": []}
    for plan in plans:
        records = current_records(run, plan["stage"])
        told["tiles read"] += len(records)
        told["tiles planned"] += plan["tiles"]
        told["differ"] += [text for record in records if (text := _difference(run, plan, record))]
    return told


def _difference(run: str, plan: dict[str, Any], record: TileRecord) -> str:
    """Say how a tile's stored bytes differ from its record, empty when they do not."""
    steps = tuple(plan["steps"]) if plan.get("steps") else None
    box = record.tile.box(plan["tile_px"])
    try:
        read_back(f"{run}/{plan['store']}", box, record.checksums, steps)
    except DataError as error:
        return (
            f"{record.tile}: {error}" if plan["stage"] == MAP else f"{plan['stage']} {record.tile}: {error}"
        )
    return ""
