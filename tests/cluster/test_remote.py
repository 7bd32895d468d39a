"""The far side of ssh, run on this machine without ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from distributed import Client

from cluster.remote import MARK, look
from tests.cluster.sample import ROOT


def _start(order: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.remote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return process


def _answer(output: IO[str] | None) -> dict[str, Any]:
    assert output is not None
    for line in output:
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    pytest.fail("no answer")


def test_servers_run_until_the_input_ends(tmp_path: Path) -> None:
    scheduler = {"cls": "distributed.Scheduler", "opts": {"host": "127.0.0.1", "dashboard": False}}
    order = {
        "folder": str(tmp_path),
        "environment": {"OF_THE_ORDER": "yes"},
        "servers": {"s": scheduler},
        "arguments": [],
        "security": None,
    }
    process = _start(order)
    (address,) = _answer(process.stdout)["ready"]
    with Client(address, set_as_default=False) as client:
        assert client.run_on_scheduler(os.getpid) == process.pid
        assert client.run_on_scheduler(os.getcwd) == str(tmp_path)
        assert client.run_on_scheduler(os.getenv, "OF_THE_ORDER") == "yes"
    _, errors = process.communicate(timeout=60)  # closes the input
    assert process.returncode == 0, errors


def test_what_cannot_start_says_why_and_ends() -> None:
    server = {"cls": "distributed.Scheduler", "opts": {"host": "203.0.113.1"}}  # no address of this machine
    order = {"folder": "/no/such/folder", "environment": {}, "servers": {"s": server}}
    order |= {"arguments": [], "security": None}
    output, errors = _start(order).communicate(timeout=60)
    assert MARK not in output
    assert "203.0.113.1" in errors or "Cannot assign requested address" in errors


def test_a_look_tells_of_this_machine() -> None:
    from dask.system import CPU_COUNT

    found = look()
    assert found["cores"] == CPU_COUNT
    assert 2**28 < found["memory_bytes"] < 2**50
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
