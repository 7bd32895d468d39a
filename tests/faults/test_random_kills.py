"""At least a hundred random SIGKILLs over worker, nanny, scheduler and client; only `make test-long`.

Before each kill all workers are stopped for a moment, so that what is in flight is known exactly. Set
``LANDWEAVE_KILL_SEED`` to repeat a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import SIDE, Harness, bytes_under
from tests.faults.processes import Cluster, end, running
from tests.faults.struck_job import VICTIMS, StruckJob
from tests.services.s3 import running_s3

KILLS = int(os.environ.get("LANDWEAVE_KILLS", "100"))


@dataclass
class Toll:
    """What the kills of all rounds came to."""

    kills: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    recomputed: int = 0
    tiles: int = 0
    rounds: int = 0

    def __str__(self) -> str:
        who = ", ".join(f"{n} {victim}" for victim, n in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({who}); {self.rounds} maps of {self.tiles // self.rounds} tiles; "
            f"{self.in_flight} tiles in flight at the kills, {self.recomputed} made again; all bytes equal"
        )


@pytest.fixture
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on an S3 server of its own."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="kills")
        yield "s3://kills"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills_lose_nothing(
    tmp_path: Path, cluster: Cluster, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    _hundred(tmp_path, cluster, undisturbed, capsys, "")


@pytest.mark.long
@pytest.mark.service
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills_lose_nothing_in_a_bucket(
    tmp_path: Path, bucket: str, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(tmp_path / "cluster")  # started with the bucket's keys in its environment
    try:
        _hundred(tmp_path, cluster.heal(), undisturbed, capsys, bucket)
    finally:
        cluster.close()


def _hundred(
    tmp_path: Path,
    cluster: Cluster,
    undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    bucket: str,
) -> None:
    seed = int(os.environ.get("LANDWEAVE_KILL_SEED", time.time_ns() % 10**6))
    with capsys.disabled():
        print(f"\nseed {seed}")
    dice, toll = random.Random(seed), Toll()
    while toll.kills.total() < KILLS:
        name = f"round-{toll.rounds}"
        folder = tmp_path / name
        folder.mkdir()
        base = f"{bucket}/{name}" if bucket else ""
        _round(Harness(cluster, StruckJob(str(folder), SIDE, 0.2, base=base)), dice, toll, undisturbed)
    with capsys.disabled():
        print(toll)
    assert set(toll.kills) == set(VICTIMS)


def _round(harness: Harness, dice: random.Random, toll: Toll, undisturbed: dict[str, bytes]) -> None:
    """Make one map, killing all the time, with the same command again and again until it is done."""
    allowed: Counter[str] = Counter()
    told = {"exit": -1}
    while told["exit"] != 0:
        assert len(harness.ends) < 200, "it never ends"
        with running(**harness.settings()) as process:
            while process.poll() is None:
                _until_busy(harness, process.pid)
                _wait(process.pid, dice.uniform(0, 0.5))
                if process.poll() is None and toll.kills.total() < KILLS:
                    allowed.update(_kill(harness, process.pid, dice.choice(VICTIMS), toll))
                harness.cluster.heal()
            told = end(process)
        harness.ends.append(told)
        assert told["exit"] in (0, 3, -signal.SIGKILL), told
    recomputed = harness.recomputed()
    for tile, times in recomputed.items():
        assert times <= allowed[tile], (
            f"{tile} was made again {times} times, in flight at {allowed[tile]} kills"
        )
    assert bytes_under(harness.job.store_url) == undisturbed
    toll.in_flight += allowed.total()
    toll.recomputed += recomputed.total()
    toll.tiles += SIDE * SIDE
    toll.rounds += 1


def _until_busy(harness: Harness, pid: int) -> None:
    """Wait for the next tile to begin, or for the end: an idle run is not worth a kill."""
    before, last = harness.job.executions().total(), time.monotonic() + 40
    while _lives(pid) and time.monotonic() < last:
        if harness.job.executions().total() > before:
            return
        _wait(pid, 0.05)


def _wait(pid: int, seconds: float) -> None:
    last = time.monotonic() + seconds
    while _lives(pid) and time.monotonic() < last:
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kill(harness: Harness, client: int, victim: str, toll: Toll) -> list[str]:
    """Kill one process; return the tiles that were in flight."""
    cluster = harness.cluster
    assert cluster.scheduler is not None
    with _still(cluster.workers()) as workers:
        choice = {
            "worker": [w.pid for w in workers[:1]],
            "nanny": [cluster.nannies[-1].pid],
            "scheduler": [cluster.scheduler.pid],
            "client": [client],
        }[victim]
        in_flight = harness.job.in_flight()
        for pid in choice:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                toll.kills[victim] += 1
    return in_flight


@contextmanager
def _still(workers: list[psutil.Process]) -> Iterator[list[psutil.Process]]:
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGSTOP)
    yield workers
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)
