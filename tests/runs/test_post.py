"""Records come by themselves; those that do not are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from engine.runs.driver import RunEvent, run_tiles
from engine.runs.post import Post
from engine.store.ledger import Ledger
from tests.runs.fake_job import FakeJob


def _fetches(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often the client asks for results."""
    seen: list[int] = []
    fetch = client._gather_remote

    async def counted(*args: Any, **how: Any) -> Any:
        seen.append(1)
        return await fetch(*args, **how)

    monkeypatch.setattr(client, "_gather_remote", counted)
    return seen


def _run(client: Client, folder: Path) -> None:
    """Make 16 tiles; the records that the client is told are those of the ledger."""
    job, told = FakeJob(str(folder)).create(), []

    def listen(event: RunEvent) -> None:
        told.extend([event.record] if event.kind == "done" else [])

    assert run_tiles(job, client, job.run_dir, None, listen).done == 16
    records = {r.tile: r for r in Ledger(job.run_dir, job.name).records()}
    assert {r.tile: r for r in told if r is not None} == records
    assert len(records) == 16


def test_no_result_is_fetched(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _fetches(client, monkeypatch)
    _run(client, tmp_path)
    assert not seen


def test_a_record_that_does_not_come_is_fetched(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _fetches(client, monkeypatch)
    monkeypatch.setattr(Post, "_receive", lambda self, event: None)
    _run(client, tmp_path)
    assert len(seen) >= 1


def test_records_of_others_are_left(client: Client, tmp_path: Path) -> None:
    post = Post(client, str(tmp_path))
    record = b"{}"
    post.expect("mine")
    for name in ("mine", "another"):
        post._receive((0.0, {"task": name, "record": record}))
    assert post._came == {"mine": record}
    assert post.collect("another") is None
    post._came.clear()
    assert post.collect("mine") is None
    post._receive((0.0, {"task": "mine", "record": record}))
    assert not post._came, "its task has ended"
    post.close()
