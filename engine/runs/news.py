"""What workers tell of themselves: that one leaves in good order, differs from the others, or was refused.

A worker that leaves takes no more tiles, finishes those in hand and says good-bye. Dask's scheduler hands what is
left to another worker without asking the client, so the news is all that a run hears of it::

    worker ──"worker-left", tiles still in hand──► scheduler ──► client: counted, told, blamed on nobody
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "landweave-workers"
"""The events of all workers of a scheduler."""

_CLOSE_S = 5.0

NewsKind = Literal["worker-left", "worker-differs", "worker-refused"]


@dataclass(frozen=True)
class News:
    """One thing that a worker told.

    Attributes:
        kind: What.
        worker: Its address.
        message: In words.
        tasks: Keys of the tasks that it had in hand and did not finish (``worker-left``).
    """

    kind: NewsKind
    worker: str
    message: str
    tasks: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """Return what travels: plain values."""
        return {"kind": self.kind, "worker": self.worker, "message": self.message, "tasks": list(self.tasks)}


class NewsRoom:
    """Collects what workers tell from now on.

    Args:
        client: Whose scheduler passes it on.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._came: queue.SimpleQueue[News] = queue.SimpleQueue()
        client.subscribe_topic(TOPIC, self._receive)

    def collect(self) -> list[News]:
        """Return what came since the last time."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._came.get_nowait())
        return found

    def close(self) -> None:
        """Listen no more; what the client's own thread was still to do has been done then."""
        self._client.unsubscribe_topic(TOPIC)
        self._client.sync(asyncio.sleep, 0, callback_timeout=_CLOSE_S)

    def _receive(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take in one event; called in the client's own thread. Other versions may tell what is not known here."""
        told = event[1]
        if told.get("kind") in get_args(NewsKind):
            tasks = tuple(map(str, told.get("tasks", ())))
            self._came.put(
                News(told["kind"], str(told.get("worker", "")), str(told.get("message", "")), tasks)
            )
