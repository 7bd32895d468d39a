"""What a run folder tells on its own: how far it is, and whether its bytes are those recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.store.layout import open_spec
from engine.store.ledger import Ledger, TileRecord
from engine.store.regions import read_back
from engine.values.errors import DataError, InputError
from pipelines.map_job import STORE

PLAN_FILE, GAPS_FILE = "plan.json", "gaps.json"


def read_plan(run: str) -> dict[str, Any]:
    """Read a run's plan.

    Raises:
        InputError: If the folder is no run folder.
    """
    path = Path(run) / PLAN_FILE
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            "not a run folder", where=run, found=str(error), mend="give the `out` of a run"
        ) from error
    return plan


def current_records(run: str) -> list[TileRecord]:
    """Return the newest record of each tile of the plan."""
    wanted = set(read_plan(run)["tiles"])
    newest: dict[str, TileRecord] = {}
    for record in Ledger(run, "map").records():
        tile = str(record.tile)
        if tile in wanted and (tile not in newest or record.finished_utc > newest[tile].finished_utc):
            newest[tile] = record
    return list(newest.values())


def status_of(run: str) -> dict[str, Any]:
    """Say how far a run is, from its folder alone."""
    plan, records = read_plan(run), current_records(run)
    seconds = sorted(r.seconds for r in records)
    slowest = max(records, key=lambda r: r.seconds, default=None)
    gaps = sum(len(r.gaps) for r in records)
    return {
        "area": plan["area"],
        "tiles done": f"{len(records)} of {len(plan['tiles'])}",
        "last tile": max((r.finished_utc for r in records), default="none yet"),
        "seconds a tile, median": round(seconds[len(seconds) // 2], 1) if seconds else None,
        "slowest tile": f"{slowest.tile} {slowest.seconds:.1f} s" if slowest else None,
        "memory measured, most": f"{max((r.peak_bytes for r in records), default=0) / 2**30:.2f} GiB",
        "memory projected": f"{plan['projected_bytes'] / 2**30:.2f} GiB",
        "second attempts": sum(r.attempt > 1 for r in records),
        "gaps": gaps,
        "workers": ", ".join(sorted({r.worker for r in records})) or "none yet",
    }


def verify_run(run: str) -> dict[str, Any]:
    """Read every finished tile back and compare with its record.

    Returns:
        Counts, and the tiles that differ with the reason.
    """
    url = f"{run}/{STORE}"
    tile_px = read_plan(run)["tile_px"]
    open_spec(url)
    records = current_records(run)
    differ = []
    for record in records:
        try:
            read_back(url, record.tile.box(tile_px), record.checksums)
        except DataError as error:
            differ.append(f"{record.tile}: {error}")
    return {"tiles read": len(records), "tiles planned": len(read_plan(run)["tiles"]), "differ": differ}
