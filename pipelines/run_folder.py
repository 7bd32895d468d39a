"""What lies in a run folder, by name: plans and records of its stages.

::

    plan.json            the map's plan               ledger/map/     status/map.json     logs/map-000001.jsonl
    plan-cube.json       the staged cube's            ledger/cube/    status/cube.json    ...
    plan-cube-2024-03.json   of what was appended     ledger/cube-2024-03/
    plan-refined.json    the refined map's            ledger/refined/ ...

Whoever asks how far a run is (`pipelines.run_status`), or whether its bytes are those recorded
(`pipelines.verify_run`), needs this folder and nothing else: never the scheduler, never the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engine.store.ledger import Ledger, TileRecord
from engine.store.objects import Folder
from engine.values.budget import Smaller, require_fit
from engine.values.errors import InputError
from pipelines.plan_tiles import tiles_of

MAP, PLAN_FILE, GAPS_FILE = "map", "plan.json", "gaps.json"
QUESTION_KEY, ITEMS_KEY, RADAR_KEY = "question", "items", "radar"
PROJECTED_KEY, SMALLER_KEY = "projected_bytes", "smaller"


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
    return _parsed(run, plan_file(stage), Folder(run).read(plan_file(stage)))


def require_memory(run: str, stage: str, limit_bytes: int | None) -> None:
    """Refuse a plan whose tiles do not fit into a worker, naming the settings that would.

    Raises:
        BudgetError: If they do not.
    """
    if limit_bytes:
        plan = read_plan(run, stage)
        require_fit(plan[PROJECTED_KEY], limit_bytes, [Smaller(**s) for s in plan.get(SMALLER_KEY, ())])


def plans_in(run: str) -> Iterator[dict[str, Any]]:
    """Yield the plans of all stages, cubes first, then maps, then what was made of them."""
    found = [n for n in Folder(run).names() if n.startswith("plan") and n.endswith(".json")]
    for name in sorted(found, key=lambda n: (n.startswith("plan-refined"), n == PLAN_FILE, n)):
        yield _parsed(run, name, Folder(run).read(name))


def all_plans(run: str) -> list[dict[str, Any]]:
    """Return the plans of all stages, in the order of `plans_in`.

    Raises:
        InputError: If there is none: the folder is no run folder.
    """
    return list(plans_in(run)) or [read_plan(run)]


def current_records(run: str, stage: str = MAP) -> list[TileRecord]:
    """Return the record of each tile of a stage's plan; for tests and small runs, as it holds them all."""
    wanted = set(tiles_of(run, read_plan(run, stage)))
    return [record for record in Ledger(run, stage).records() if record.tile in wanted]


def _parsed(run: str, name: str, data: bytes | None) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(data or b"")
    except ValueError as error:
        raise InputError(
            "not a run folder",
            where=run,
            found=f"no {name}" if data is None else f"{name}: {error}",
            mend="give the `out` of a run",
        ) from error
    return plan
