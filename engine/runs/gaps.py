"""The gap list: what a run had to do without, for machines to read.

``gaps.json`` in the run's folder maps each stage to its gaps. A tile that failed as a whole has one gap
with an empty item; a tile that was made from less than it should have been has one per missing asset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from engine.store.ledger import Gap
from engine.store.objects import Folder
from engine.values.errors import DataError

__all__ = ["GAPS_FILE", "Gap", "gaps_by_tile", "read_gaps", "write_gaps"]

GAPS_FILE = "gaps.json"


def write_gaps(run_dir: str, stage: str, gaps: Iterable[Gap]) -> None:
    """Replace the gaps of one stage, atomically; those of other stages stay.

    Args:
        run_dir: The run's folder, local or any fsspec URL.
        stage: What was made, e.g. ``map``.
        gaps: All gaps of the stage; none at all is worth writing too.
    """
    stages = _read(run_dir)
    stages[stage] = [asdict(gap) for gap in sorted(gaps, key=lambda g: (g.tile, g.item, g.asset))]
    Folder(run_dir).replace(GAPS_FILE, json.dumps(stages, indent=1, sort_keys=True).encode())


def read_gaps(run_dir: str, stage: str | None = None) -> list[Gap]:
    """Read the gaps of one stage, or of all.

    Raises:
        DataError: If the file is no gap list.
    """
    stages = _read(run_dir)
    wanted = sorted(stages) if stage is None else [stage]
    return [Gap(**fields) for name in wanted for fields in stages.get(name, [])]


def gaps_by_tile(run_dir: str, stage: str) -> dict[str, list[Gap]]:
    """Read the gaps of a stage by tile."""
    found: dict[str, list[Gap]] = {}
    for gap in read_gaps(run_dir, stage):
        found.setdefault(gap.tile, []).append(gap)
    return found


def _read(run_dir: str) -> dict[str, list[dict[str, str]]]:
    data = Folder(run_dir).read(GAPS_FILE)
    try:
        stages: dict[str, list[dict[str, str]]] = json.loads(data) if data is not None else {}
    except ValueError as error:
        raise DataError(
            "the gap list is damaged", where=f"{run_dir}/{GAPS_FILE}", mend="delete it and run again"
        ) from error
    return stages
