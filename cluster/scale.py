"""Clusters whose number of workers follows the work, and none of whose tiles is lost by that.

Dask's adaptive scaling looks at the tasks that its scheduler has. A run hands out few, so it must be told how
far a cluster may grow (`RunOptions.grows_to`). And a worker may be chosen to leave while it makes a tile; its
removal is expected, so nobody counts it as a failure, but the tile would be begun anew elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import SchedulerPlugin

from cluster.base import Adapt

INTERVAL = "2s"
WAIT_COUNT = 15
"""How often, `INTERVAL` apart, a worker must be idle before it goes: half a minute."""

TARGET = "1ms"
"""Dask asks for as many workers as do what waits in so long, but for no more than there are tasks: each tile that
waits is worth a worker."""

_KEEP_S = 5.0


class BusyStay(SchedulerPlugin):
    """Only workers that make no tile are chosen when a cluster shrinks."""

    name = "landweave-busy-stay"
    idempotent = True

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:
        """Leave out the workers that have something to do."""
        return [worker for worker in workers if not worker.processing]


def follow_work(cluster: Any, adapt: Adapt) -> None:
    """Let a cluster follow its work; it begins with one worker at least, so that its size is known."""
    cluster.scale(max(1, adapt.minimum))
    cluster.adapt(
        minimum=adapt.minimum,
        maximum=adapt.maximum,
        interval=INTERVAL,
        wait_count=WAIT_COUNT,
        target_duration=TARGET,
    )


@contextmanager
def kept_up(cluster: Any) -> Iterator[None]:
    """Start again what is lost of a `distributed.SpecCluster`: a nanny that was killed, a job that ended.

    Dask forgets such a worker after ``distributed.deploy.lost-worker-timeout``, and brings another only when
    the cluster is scaled.
    """
    from tornado.ioloop import PeriodicCallback

    def again() -> None:
        if set(cluster.worker_spec) - set(cluster.workers):
            cluster.scale(len(cluster.worker_spec))

    keeper = PeriodicCallback(again, _KEEP_S * 1000)
    cluster.loop.add_callback(keeper.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(keeper.stop)
