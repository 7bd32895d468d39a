"""What a run asks of Dask's scheduler besides running tiles; each question is answered soon, or not at all.

A scheduler that is gone is found out by its closed connection. One that is only silent, because the network
is, would be waited for for ever by Dask's own calls, so each has a time limit here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.values.errors import RetryableError

if TYPE_CHECKING:
    from distributed import Client, Future

AGAIN = "run the same command again; finished tiles are kept"

_ANSWER_S = 5.0


def thread_count(client: Client) -> int:
    """Return the threads of all workers; 0 also when the scheduler does not answer."""
    threads = _ask(client, "ncores") if client.status == "running" else None
    return sum(threads.values()) if threads else 0


def first_thread_count(client: Client, timeout_s: float) -> int:
    """Wait for a first worker and return the threads of all.

    Raises:
        RetryableError: If none comes in time.
    """
    try:
        client.wait_for_workers(1, timeout=timeout_s)
    except TimeoutError as error:
        raise no_worker(timeout_s) from error
    return thread_count(client)


def no_worker(timeout_s: float, refusal: str = "") -> RetryableError:
    """Say that the cluster has no worker, or none that its scheduler tells of; `refusal`: why one got no tile."""
    return RetryableError(
        "the cluster has no worker",
        where="cluster",
        found=f"none for {timeout_s:g} s" + (f"; one was refused: {refusal}" if refusal else ""),
        mend=f"look at the workers' logs, then {AGAIN}",
    )


def lost_scheduler(client: Client) -> RetryableError:
    """Say that the scheduler is gone."""
    return RetryableError("the scheduler is lost", found=f"a client that is {client.status}", mend=AGAIN)


def died_on(error: BaseException | None) -> str | None:
    """Return the address of the worker that was lost, None for any other error."""
    from distributed import KilledWorker

    return str(error.last_worker.address) if isinstance(error, KilledWorker) else None


def why_quarantined(client: Client, lost: Sequence[str], lone: int, peak_bytes: int) -> str:
    """Say why a tile is tried no more, and what to change where that is known.

    Dask's nannies tell the scheduler when they end a worker because of its memory (topic
    ``worker-restart-memory``).

    Args:
        client: The run's client.
        lost: Addresses of the workers that were lost under the tile.
        lone: How many of them ran it alone.
        peak_bytes: The most that a finished tile took.
    """
    told = f"its worker died {len(lost)} times, {lone} of them running it alone"
    events = _ask(client, "events", topic="worker-restart-memory") or ()
    sizes = [event["rss"] for _, event in events if event.get("worker") in lost]
    if not sizes:
        return f"{told}; the workers' logs, or the kernel's, may tell why"
    return (
        f"{told}; Dask ended it {len(sizes)} times over its memory limit, at {max(sizes) / 2**30:.2f} GiB; "
        f"the most that a finished tile took is {peak_bytes / 2**30:.2f} GiB; "
        "to mend: more memory a worker (cluster.memory_limit) or smaller tiles (tile_px)"
    )


def cancellation(future: Future[Any], where: str) -> BaseException:
    """Return why a future gave neither a value nor an error."""
    if future.status == "cancelled":
        try:
            future.result(timeout=_ANSWER_S)
        except BaseException as error:
            return error
    return RetryableError("the tile's task was cancelled", where=where)


def came_back(error: BaseException | None) -> bool:
    """Tell whether a task was cancelled only because the connection to the scheduler was lost."""
    return getattr(error, "reason", "") == "scheduler-connection-lost"


def _ask(client: Client, question: str, **arguments: Any) -> Any:
    with contextlib.suppress(Exception):  # whether the scheduler is lost is seen by the client's status
        return client.sync(getattr(client.scheduler, question), callback_timeout=_ANSWER_S, **arguments)
    return None
