from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.slurm import SlurmSpec, allocation_script
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import ROOT, SampleRun
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


def test_a_script_of_ours_makes_the_map(slurm: Slurm, sample_run: SampleRun, tmp_path: Path) -> None:
    spec, run = _spec(tmp_path / "logs"), tmp_path / "run"
    told = spec.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump({"kind": "slurm", **told}))
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "map", str(sample_run.yaml)]
    command += ["--out", str(run), "--cluster", str(tmp_path / "slurm.yaml")]
    options = (f"--output={tmp_path}/driver.log", f"--chdir={ROOT}", f"--export=ALL,PYTHONPATH={ROOT}")
    (tmp_path / "job.sh").write_text(allocation_script(spec, shlex.join(command), options))
    number = slurm.run("sbatch", "--parsable", str(tmp_path / "job.sh")).strip()
    begun = time.monotonic()
    while number in slurm.jobs() and time.monotonic() - begun < 240:
        time.sleep(0.5)
    assert "JobState=COMPLETED" in slurm.run("scontrol", "show", "job", number), (
        tmp_path / "driver.log"
    ).read_text()
    sample_run.assert_same(run)
    assert not list((tmp_path / "logs").glob("scheduler-*.json"))
