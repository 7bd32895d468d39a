"""The Slurm of the tests is itself looked at: it runs jobs, says so, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.services.slurm import running_slurm

pytestmark = pytest.mark.service


def test_jobs_run_and_nothing_is_left(tmp_path: Path) -> None:
    script, said, before = tmp_path / "job.sh", tmp_path / "said", os.environ.get("SLURM_CONF")
    script.write_text(f"#!/bin/bash\n#SBATCH -o {tmp_path}/job.out\nid -un > {said}\nsleep 600 & wait\n")
    with running_slurm(tmp_path / "one") as one, running_slurm(tmp_path / "other") as other:
        assert os.environ["SLURM_CONF"] == other.environment["SLURM_CONF"]
        number = one.run("sbatch", "--parsable", "--job-name=first", str(script)).strip()
        assert one.jobs("first").keys() == {number}
        assert other.jobs() == {}
        begun = time.monotonic()
        while not (said.exists() and said.read_text()) and time.monotonic() - begun < 30:
            time.sleep(0.1)
        assert said.read_text().strip(), one.logs()
        assert one.jobs()[number] == "RUNNING"
    assert os.environ.get("SLURM_CONF") == before
    assert not _of(tmp_path)


def _of(folder: Path) -> list[str]:
    """Return the processes whose environment or command names the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = [*process.environ().values(), *process.cmdline()]
            if process.pid != os.getpid() and any(str(folder) in text for text in told):
                found.append(" ".join(process.cmdline()))
    return found
