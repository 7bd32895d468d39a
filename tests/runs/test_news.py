"""What workers tell of themselves reaches the log and the status, and blames nobody."""

from __future__ import annotations

import io
import json
from pathlib import Path

from engine.runs.events import RunEvent
from engine.runs.journal import Journal
from engine.runs.logs import LogReader
from engine.runs.news import News
from engine.runs.progress import StageFacts
from engine.store.lease import Lease
from pipelines.run_view import log_line, status_view, wanted


def test_news_are_lines_of_the_log_and_figures_of_the_status(tmp_path: Path) -> None:
    run_dir, cluster = str(tmp_path / "run"), _cluster()
    with Lease(run_dir, beat_s=60) as lease:
        with Journal(
            run_dir, lease.epoch, [StageFacts("map", 4)], {"cluster": cluster}, every_s=60
        ) as journal:
            for kind, text in (("worker-left", "at the end of its time"), ("worker-differs", "torch 9")):
                journal.hear(RunEvent(kind, "", None, 0, 0, message=text, worker="tcp://a:1"))  # type: ignore[arg-type]
            journal.hear(RunEvent("waiting", "", None, 0, 0, message="for a worker"))
        told = json.loads((tmp_path / "run" / "status" / "map.json").read_text())
    assert told["left_workers"] == 1
    assert told["errors"] == {}, "nobody is blamed"
    lines = [line for line in LogReader(run_dir).lines() if "worker-" in line["event"]]
    assert [line["event"] for line in lines] == ["worker-left", "worker-differs"]
    assert "at the end of its time (tcp://a:1)" in log_line(lines[0])
    assert [line["event"] for line in wanted(lines, errors=True)] == ["worker-differs"]
    seen = _printed({"run": "r", "area": "a", "advice": "running", "alive": "alive", "holder": "h"}, told)
    assert "1 in good order" in seen
    assert "node7: 2 workers, 20.0 of 64.0 GiB of memory free; NVIDIA H200, 139.0 of 140.0 GiB free" in seen


def _cluster() -> dict[str, object]:
    gpu = {"index": 0, "name": "NVIDIA H200", "free_bytes": 139 << 30, "total_bytes": 140 << 30}
    host = {"host": "node7", "workers": 2, "free_bytes": 20 << 30, "total_bytes": 64 << 30, "gpus": [gpu]}
    return {"workers": 2, "memory": [host]}


def _printed(head: dict[str, object], stage: dict[str, object]) -> str:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO())
    with console.capture() as printed:
        console.print(status_view({**head, "epoch": 1, "counter": 1, "stages": [stage]}))
    return printed.get()


def test_news_travel_as_plain_values() -> None:
    news = News("worker-left", "tcp://a:1", "left", ("map-r0_c0-1-x",))
    assert json.loads(json.dumps(news.told()))["tasks"] == ["map-r0_c0-1-x"]
