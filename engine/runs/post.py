"""What goes to the workers with each tile, and how its record comes back: as little as can be.

A job is pickled once and travels as bytes, so neither client nor scheduler takes it apart for each tile; a
worker unpacks it once. And to fetch the result of each task, the client would ask the scheduler, which asks
the worker: two more round trips for a few hundred bytes. A worker tells its record as an event instead, on
the connections that are there anyway and always before the news that the task has ended::

    client ──job, tile──► scheduler ──job, tile──► worker
       ◄──record, ended──     ◄──record, ended──

A record that does not arrive this way (a scheduler that drops events) is fetched as any other result.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.runs.tile import TileJob, TileTask, execute_tile
from engine.store.ledger import TileRecord
from engine.values.errors import BudgetError, InputError

if TYPE_CHECKING:
    from distributed import Client


JOB_LIMIT_BYTES = 1 << 20
"""A job travels with each tile, so it must be small: names and numbers, no pixels, no item tables."""


def topic_of(run_dir: str) -> str:
    """Name the events of a run; a folder has one run at a time, so a long-lived scheduler keeps few topics."""
    return f"landweave {run_dir}"


def pack(job: TileJob) -> bytes:
    """Pickle a job for its travels.

    Raises:
        InputError: If it cannot be pickled.
        BudgetError: If it is too big to travel with each tile.
    """
    from distributed.protocol.pickle import dumps

    try:
        data = bytes(dumps(job))
    except Exception as error:
        raise InputError("the job cannot be sent to workers", where=job.name, found=repr(error)) from error
    if len(data) > JOB_LIMIT_BYTES:
        raise BudgetError(
            "the job is too big to travel with each tile",
            where=job.name,
            found=f"{len(data)} bytes",
            limit=f"at most {JOB_LIMIT_BYTES} bytes",
            mend="let it carry the path of its tables, not the tables",
        )
    return data


@lru_cache(maxsize=8)
def _unpack(data: bytes) -> TileJob:
    from distributed.protocol.pickle import loads

    job: TileJob = loads(data)
    return job


def execute_and_tell(job: bytes, task: TileTask, name: str) -> TileRecord:
    """Make a tile of a packed job, and tell the client its record under the name of the Dask task."""
    from distributed import get_worker

    record = execute_tile(_unpack(job), task)
    get_worker().log_event(topic_of(task.run_dir), {"task": name, "record": record.to_json()})
    return record


class Post:
    """The records that came and were not collected yet.

    Args:
        client: Whose scheduler passes them on.
        run_dir: The run's folder.
    """

    def __init__(self, client: Client, run_dir: str):
        self._client, self._topic = client, topic_of(run_dir)
        self._waiting: set[str] = set()
        self._came: dict[str, bytes] = {}
        client.subscribe_topic(self._topic, self._receive)

    def expect(self, name: str) -> None:
        """Keep the record of a task when it comes; those of others are left lying."""
        self._waiting.add(name)

    def collect(self, name: str) -> TileRecord | None:
        """Return the record of a task that ended, None if it has not come; it is not expected any more."""
        self._waiting.discard(name)
        data = self._came.pop(name, None)
        return None if data is None else TileRecord.from_json(data)

    def close(self) -> None:
        """Take no more records; what the client's own thread was still to do has been done then."""
        self._client.unsubscribe_topic(self._topic)
        self._client.sync(asyncio.sleep, 0)

    def _receive(self, event: tuple[float, dict[str, bytes | str]]) -> None:
        """Take a record in; called in the client's own thread."""
        name = str(event[1]["task"])
        if name in self._waiting:
            self._came[name] = bytes(event[1]["record"])  # type: ignore[arg-type]
