from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster.slurm import SlurmSpec, allocation_script
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import ROOT, TILES, SampleRun, checksums
from tests.services.slurm import Slurm

pytestmark = pytest.mark.service


def _spec(folder: Path) -> SlurmSpec:
    return SlurmSpec(
        one_allocation=True, n_workers=1, memory_limit="1GiB", interface="lo", log_directory=str(folder)
    )


class TestAllocation(ClusterConformance):
    """The driver is beside the allocation here, as in a shell from `salloc`."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmSpec]:
        told = subprocess.run(
            ["salloc", "--no-shell", "--ntasks=2", "--mem-per-cpu=1500M"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stderr
        found = re.search(r"Granted job allocation (\d+)", told)
        assert found, told
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_JOB_ID", found[1])
            patch.setenv("SLURM_NTASKS", "2")
            yield _spec(tmp_path_factory.mktemp("logs"))
        slurm.run("scancel", found[1])


def _job_script(sample_run: SampleRun, folder: Path) -> Path:
    """Write what a user would hand to sbatch."""
    spec = _spec(folder / "logs")
    told = spec.model_dump(mode="json", exclude_defaults=True)
    (folder / "slurm.yaml").write_text(yaml.safe_dump({"kind": "slurm", **told}))
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "map", str(sample_run.yaml)]
    command += ["--out", str(folder / "run"), "--cluster", str(folder / "slurm.yaml")]
    options = (f"--output={folder}/driver-%j.log", f"--chdir={ROOT}", f"--export=ALL,PYTHONPATH={ROOT}")
    script = folder / "job.sh"
    script.write_text(allocation_script(spec, shlex.join(command), options))
    return script


def _until(true: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not true() and time.monotonic() - begun < 280:
        time.sleep(0.1)


@pytest.mark.long
def test_a_script_that_is_cancelled_and_submitted_again(
    slurm: Slurm, sample_run: SampleRun, tmp_path: Path
) -> None:
    script, run = _job_script(sample_run, tmp_path), tmp_path / "run"
    first = slurm.run("sbatch", "--parsable", str(script)).strip()
    _until(lambda: sum(1 for _ in (run / "ledger").rglob("*.json")) >= 4)
    slurm.run("scancel", first)
    _until(lambda: first not in slurm.jobs())
    assert 0 < len(checksums(run)) < TILES, (tmp_path / f"driver-{first}.log").read_text()
    again = slurm.run("sbatch", "--parsable", str(script)).strip()
    _until(lambda: again not in slurm.jobs())
    said = (tmp_path / f"driver-{again}.log").read_text()
    assert "JobState=COMPLETED" in slurm.run("scontrol", "show", "job", again), said
    sample_run.assert_same(run)
