"""Worker, nanny, scheduler or client killed while a tile is at a named point of its way to the record.

Each point and each victim comes up more than once; together the pairs cover what differs: before and after
the write, before and after the record, for those who hold pixels and those who hold none.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import SIDE, Harness, bytes_under
from tests.faults.processes import Cluster
from tests.faults.strike import POINTS
from tests.faults.struck_job import VICTIMS, StruckJob

COVERING = [
    ("before-write", "worker"),
    ("staged", "client"),
    ("half-published", "nanny"),
    ("half-published", "scheduler"),
    ("after-write", "client"),
    ("after-read-back", "worker"),
    ("before-record", "scheduler"),
    ("inside-record", "nanny"),
    ("after-record", "worker"),
    ("after-record", "client"),
]
ALL = [(point, victim) for point in POINTS for victim in VICTIMS]


def _strike(tmp_path: Path, cluster: Cluster, undisturbed: dict[str, bytes], point: str, victim: str) -> None:
    job = StruckJob(str(tmp_path), side=SIDE, sleep_s=0.05, point=point, victim=victim)
    harness = Harness(cluster, job)
    first = harness.run()
    in_flight = set(harness.struck()["in_flight"])
    assert (job.target in in_flight) == (point != "after-record")
    assert len(in_flight) <= 3, "two workers of one thread, and one"
    match victim:
        case "client":
            assert first["exit"] == -9
        case "scheduler":
            assert (first["exit"], first["error"]) == (3, "RetryableError"), first
            assert "scheduler is lost" in first["text"]
            assert "run the same command again" in first["text"]
        case _:
            assert (first["exit"], first["done"]) == (0, SIDE * SIDE), first
    again = harness.run()
    assert (again["exit"], again["done"] + again["reused"]) == (0, SIDE * SIDE), again
    assert set(harness.recomputed()) <= in_flight
    assert sum(harness.recomputed().values()) <= len(in_flight)
    assert bytes_under(job.store_url) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("point", "victim"), COVERING)
def test_a_kill_at_a_named_point_costs_what_was_in_flight(
    tmp_path: Path, cluster: Cluster, undisturbed: dict[str, bytes], point: str, victim: str
) -> None:
    _strike(tmp_path, cluster, undisturbed, point, victim)


@pytest.mark.long
@pytest.mark.parametrize(("point", "victim"), [pair for pair in ALL if pair not in COVERING])
def test_all_other_pairs(
    tmp_path: Path, cluster: Cluster, undisturbed: dict[str, bytes], point: str, victim: str
) -> None:
    _strike(tmp_path, cluster, undisturbed, point, victim)


def test_the_selection_covers_every_point_and_every_victim() -> None:
    assert {p for p, _ in COVERING} == set(POINTS)
    assert {v for _, v in COVERING} == set(VICTIMS)
