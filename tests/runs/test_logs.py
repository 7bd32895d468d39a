from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.runs import logs
from engine.runs.logs import LogReader, LogWriter
from engine.store.objects import Folder


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run"


def line(number: int, stage: str = "map") -> bytes:
    return json.dumps({"time": f"2026-01-01T00:{number:04d}", "n": number, "stage": stage}).encode() + b"\n"


def numbers(reader: LogReader) -> list[int]:
    return [told["n"] for told in reader.lines()]


def test_lines_come_back_once_in_order_and_later_ones_follow(run_dir: str) -> None:
    writer, reader = LogWriter(run_dir, "map", 1), LogReader(run_dir)
    assert numbers(reader) == []
    writer.write(line(1) + line(2))
    assert numbers(reader) == [1, 2]
    writer.write(line(3))
    assert numbers(reader) == [3]
    assert numbers(reader) == []
    assert numbers(LogReader(run_dir)) == [1, 2, 3]


def test_stages_are_merged_by_time_and_epochs_follow_each_other(run_dir: str) -> None:
    LogWriter(run_dir, "map", 1).write(line(1) + line(4))
    LogWriter(run_dir, "cube-2024-03", 1).write(line(2, "cube") + line(3, "cube"))
    LogWriter(run_dir, "map", 2).write(line(0))
    assert numbers(LogReader(run_dir)) == [1, 2, 3, 4, 0]


def test_objects_stay_small_and_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logs, "SEGMENT_BYTES", 500)
    run_dir = f"memory://{tmp_path}/run"
    writer, reader = LogWriter(run_dir, "map", 1), LogReader(run_dir)
    got = []
    for n in range(60):
        writer.write(line(n))
        got += numbers(reader) if n % 7 == 0 else []
    folder = Folder(run_dir).child("logs")
    names = list(folder.names())
    assert len(names) > 5
    assert max(len(folder.read(n) or b"") for n in names) < 600
    got += numbers(reader)
    assert got == list(range(60)) == numbers(LogReader(run_dir))
    read = []
    monkeypatch.setattr(Folder, "read", lambda self, name: read.append(name))
    list(reader.lines())
    assert read == names[-1:]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path: Path) -> None:
    LogWriter(str(tmp_path), "map", 1).write(line(1))
    with (tmp_path / "logs" / "map-000001.jsonl").open("ab") as file:
        file.write(line(2)[:20])
    reader = LogReader(str(tmp_path))
    assert numbers(reader) == [1]
    with (tmp_path / "logs" / "map-000001.jsonl").open("ab") as file:
        file.write(line(2)[20:])
    assert numbers(reader) == [2]
