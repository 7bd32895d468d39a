"""What a run prints: in a pseudo-terminal, and where there is none."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from engine.runs.events import RunEvent
from engine.values.grid import TileKey
from pipelines import console as module
from pipelines.console import map_progress
from tests.runs.records import Clock, done, submitted, trouble

ROOT = Path(__file__).parents[2]
SIGNED = "https://a.blob/x.tif?sv=1&sig=abc"

_SCRIPT = """
import time
from engine.runs.events import RunEvent
from engine.values.grid import TileKey
from pipelines.console import map_progress
from tests.runs.records import done, submitted, trouble

with map_progress() as hear:
    for stage in ("cube", "map"):
        hear(RunEvent("begun", stage, None, 0, 4, message="http://127.0.0.1:1/status"), 2.0)
    for n in range(4):
        hear(submitted(TileKey(0, n), 4), 2.0)
        time.sleep(0.25)
        if n == 2:
            hear(trouble("error", TileKey(0, n), "two\\nlines", 4, error="DataError"), 2.0)
            hear(trouble("failed", TileKey(0, n), "two\\nlines", 4, error="DataError"), 2.0)
        else:
            hear(done(TileKey(0, n), 0.25, 4), 2.0)
"""


def test_a_terminal_has_a_bar_for_each_stage() -> None:
    import pty

    leader, follower = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT], cwd=ROOT, env=env, stderr=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            block = os.read(leader, 1 << 16)
        except OSError:  # Linux says so when the other side has closed
            break
        if not block:
            break
        seen += block
    assert process.wait(timeout=60) == 0
    os.close(leader)
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", seen.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    assert lines.count("dashboard http://127.0.0.1:1/status") == 1
    assert "error        map r0_c2  DataError: two lines" in lines
    assert "failed       map r0_c2  DataError: given up" in lines
    bars = [line for line in lines if "tiles" in line]
    assert any(line.startswith("cube") and "0/4 tiles" in line for line in bars)
    assert re.search(r"1/4 tiles 0:00:0\d [\d,]+ km2/h, \d+ in flight", "\n".join(bars))
    last = [line for line in bars if line.startswith("map")][-1]
    assert "4/4 tiles" in last
    assert last.endswith("1 failed")


def test_elsewhere_a_line_is_printed_now_and_then() -> None:
    clock, text = Clock(), io.StringIO()
    hear = module._PlainLines(Console(file=text, width=80), clock).hear
    hear(RunEvent("begun", "map", None, 0, 100, message="http://x/status"), 2.0)
    for n in range(100):
        hear(submitted(TileKey(0, n), 100), 2.0)
        clock.now += 5
        if n == 50:
            hear(trouble("worker-died", TileKey(0, n), f"lost while reading {SIGNED}", 100), 2.0)
            hear(submitted(TileKey(0, n), 100), 2.0)
        hear(done(TileKey(0, n), 5.0, 100), 2.0)
    assert "\r" not in text.getvalue()
    assert "\x1b" not in text.getvalue()
    lines = text.getvalue().splitlines()
    assert lines[0] == "dashboard http://x/status"
    assert len(lines) == 1 + 1 + 500 // 35 + 1
    assert re.match(r"map  \d+/100 tiles  1,440 km2/h, .* left, \d in flight$", lines[2])
    assert "worker-died  map r0_c50  lost while reading https://a.blob/x.tif?***" in lines
    assert lines[-1] == "map  100/100 tiles  1,440 km2/h"


def test_without_a_terminal_nothing_is_drawn_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with map_progress() as hear:
        for n in range(3):
            hear(submitted(TileKey(0, n), 3), 2.0)
            hear(done(TileKey(0, n), 5.0, 3), 2.0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"map  3/3 tiles  [\d,]+ km2/h\n", shown.err)


def test_programs_see_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with map_progress(quiet=True) as hear:
        hear(RunEvent("begun", "map", None, 0, 1, message="http://x"), 2.0)
        hear(trouble("error", TileKey(0, 0)), 2.0)
    assert capsys.readouterr() == ("", "")


def test_a_run_that_is_stopped_says_what_happens_now() -> None:
    text = io.StringIO()
    lines = module._PlainLines(Console(file=text, width=200))
    lines.hear(RunEvent("begun", "map", None, 0, 9), 1.0)
    lines.hear(RunEvent("draining", "", None, 0, 0), 1.0)
    assert text.getvalue().splitlines() == [
        "stopping: tiles in flight end, no more begin; again Ctrl-C stops at once"
    ]
    assert lines.stages["map"].total == 9
