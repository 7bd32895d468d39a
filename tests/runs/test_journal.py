"""What a run writes of itself: lines, status, no secrets, and no harm when it cannot be written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine.runs import journal as journal_module
from engine.runs.events import RunEvent, RunSummary
from engine.runs.journal import Journal
from engine.runs.logs import LogReader, LogWriter
from engine.runs.progress import StageFacts
from engine.store.lease import Lease
from engine.store.objects import Folder
from engine.values.grid import TileKey
from tests.runs.records import done, record, submitted, trouble

SAS = "https://acc.blob.core.windows.net/c/B04.tif?sv=2021&sr=c&sig=AbCd3fgh%3D"
AWS = "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature=fe5f80f77d5fa3be"
_WHOLE = ["begun", "worker-died", "done", "error", "failed", "draining", "ended"]
FACTS = [StageFacts("map", 10, 1.5, 2 << 30, 4 << 30)]


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run"


def summary(**changes: Any) -> RunSummary:
    fields = {"job": "map", "total": 10, "done": 1, "reused": 2, "failed": 1, "quarantined": 0, "left": 6}
    fields |= {"gaps": 1, "interrupted": True, "hopeless": False, "seconds": 9.0, "tile_seconds": 8.0}
    return RunSummary(**fields | {"refused": "", "peak_bytes": 7, "epoch": 1} | changes)


def status(run_dir: str, stage: str = "map") -> dict[str, Any]:
    return json.loads(Folder(run_dir).read(f"status/{stage}.json") or b"{}")


def events(run_dir: str) -> list[str]:
    return [told["event"] for told in LogReader(run_dir).lines()]


def test_a_run_from_its_beginning_to_its_end(run_dir: str) -> None:
    with Lease(run_dir, beat_s=60) as lease:
        with Journal(run_dir, lease.epoch, FACTS, {"dashboard": "http://x/status"}, every_s=60) as journal:
            assert status(run_dir)["state"] == "running"
            assert events(run_dir) == ["begun"]
            for event in (
                RunEvent("reused", "map", TileKey(0, 0), 1, 10, record(TileKey(0, 0))),
                RunEvent("changed", "map", TileKey(0, 1), 1, 10, record(TileKey(0, 1)), "scenes"),
                submitted(TileKey(0, 1)),
                trouble("worker-died", TileKey(0, 1), "worker w was lost", worker="w"),
                submitted(TileKey(0, 1)),
                done(TileKey(0, 1), 3.25, attempt=2),
                submitted(TileKey(0, 2)),
                trouble("error", TileKey(0, 2), "truncated", error="DataError", worker="w", trace="line 3"),
                trouble("failed", TileKey(0, 2), "truncated", error="DataError"),
                RunEvent("draining", "", None, 0, 0),
            ):
                journal.hear(event)
            journal.write()
            assert status(run_dir)["state"] == "draining"
            journal.end([summary()])
        told, lines = status(run_dir), list(LogReader(run_dir).lines())
    assert [x["event"] for x in lines] == _WHOLE
    assert told["state"] == "ended"
    assert told["ended"]["exit_code"] == 5
    assert told["beat"] == "0"
    assert told["counts"]["done"] == told["counts"]["reused"] == told["counts"]["failed"] == 1
    assert told["made_again"] == {"scenes": 1}
    begun, made, error = lines[0], lines[2], lines[3]
    assert (begun["total"], begun["dashboard"], begun["epoch"]) == (10, "http://x/status", 1)
    assert begun["pid"] > 0
    assert (made["tile"], made["seconds"], made["attempt"], made["why"]) == ("r0_c1", 3.25, 2, "scenes")
    assert (error["error"], error["message"], error["worker"], error["trace"]) == (
        "DataError", "truncated", "w", "line 3",
    )  # fmt: skip
    assert all(x["time"].endswith("+00:00") for x in lines)


def test_a_run_that_breaks_off_says_why(run_dir: str) -> None:
    with pytest.raises(OSError, match="sig="), Journal(run_dir, 1, FACTS):
        raise OSError(f"cannot read {SAS}")
    assert status(run_dir)["state"] == "broke off"
    assert status(run_dir)["ended"]["error"] == "OSError"
    assert events(run_dir) == ["begun", "broke off"]


def test_no_secret_is_ever_written(tmp_path: Path) -> None:
    run_dir = str(tmp_path)
    facts = {"dashboard": f"http://hub/{AWS}", "command": f"landweave map -o catalog={SAS}", "list": [AWS]}
    with pytest.raises(ValueError, match="X-Amz"), Journal(run_dir, 1, FACTS, facts) as journal:  # noqa: PT012
        for kind in ("error", "failed", "worker-died", "quarantined"):
            journal.hear(trouble(kind, TileKey(0, 0), f"{SAS} and {AWS}", error="E", trace=f"at {AWS}"))
        raise ValueError(AWS)
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for secret in (b"AbCd3fgh", b"fe5f80f77d5fa3be", b"AKIAIOSFODNN7EXAMPLE"):
        assert secret not in written
    assert b"acc.blob.core.windows.net/c/B04.tif" in written


def test_the_journal_writes_by_itself(run_dir: str) -> None:
    with Journal(run_dir, 1, FACTS, every_s=0.05) as journal:
        journal.hear(submitted(TileKey(0, 0)))
        journal.hear(done(TileKey(0, 0)))
        deadline = time.monotonic() + 20
        while (events(run_dir), status(run_dir)["counts"]["done"]) != (["begun", "done"], 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_each_stage_has_a_journal_of_its_own(run_dir: str) -> None:
    facts = [StageFacts("cube", 4), StageFacts("map", 3)]
    with Journal(run_dir, 2, facts) as journal:
        journal.hear(RunEvent("done", "cube", TileKey(0, 0), 1, 4, record(TileKey(0, 0))))
        journal.hear(RunEvent("done", "map", TileKey(0, 0), 1, 2, record(TileKey(0, 0))))
        journal.hear(RunEvent("draining", "", None, 0, 0))
    assert {s: status(run_dir, s)["counts"]["left"] for s in ("cube", "map")} == {"cube": 3, "map": 1}
    assert events(run_dir).count("draining") == 2


def test_a_folder_that_takes_nothing_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_LINES_KEPT", 50)
    run_dir, write = str(tmp_path), LogWriter.write

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Journal(run_dir, 1, FACTS, every_s=60) as journal:
        monkeypatch.setattr(LogWriter, "write", refuse)
        monkeypatch.setattr(Folder, "replace", refuse)
        for n in range(200):
            journal.hear(done(TileKey(0, n), total=200))
            journal.write()
        monkeypatch.setattr(LogWriter, "write", write)
        monkeypatch.undo()
        journal.write()
    lines = list(LogReader(run_dir).lines())
    assert [x["event"] for x in lines[-1:]] == ["lines lost"]
    assert lines[-1]["lines"] + sum(x["event"] == "done" for x in lines) == 200
    assert status(run_dir)["counts"]["done"] == 200
