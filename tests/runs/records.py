"""Events of runs that never were."""

from __future__ import annotations

from engine.runs.events import RunEvent
from engine.store.ledger import TileRecord
from engine.values.grid import TileKey


class Clock:
    """Seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(tile: TileKey, seconds: float = 10.0, worker: str = "tcp://a:1", attempt: int = 1) -> TileRecord:
    return TileRecord(
        tile, "0" * 64, attempt, {"label": "ab"}, seconds, 1 << 30, {"windows": 4}, "", worker, "e"
    )


def submitted(tile: TileKey, total: int = 10) -> RunEvent:
    return RunEvent("submitted", "map", tile, 0, total)


def done(tile: TileKey, seconds: float = 10.0, total: int = 10, **more: object) -> RunEvent:
    return RunEvent("done", "map", tile, 1, total, record(tile, seconds, **more))  # type: ignore[arg-type]


def trouble(kind: str, tile: TileKey, message: str = "no", total: int = 10, **more: str) -> RunEvent:
    return RunEvent(kind, "map", tile, 1, total, message=message, **more)  # type: ignore[arg-type]
