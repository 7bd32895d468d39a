from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.size import ClusterSize, size_of
from cluster.slurm import SlurmSpec, allocation_script, clean_environment, clock, exported, log_folder
from cluster.slurm_allocation import step_of, workers_of
from cluster.slurm_jobs import job_script
from cluster.spec import parse_spec
from engine.values.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "clusters" / "slurm.md"


@pytest.fixture
def logs(tmp_path: Path) -> str:
    return str(tmp_path / "logs")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"walltime": "soon"}, "no duration"),
        ({"queue_wait": "0s"}, "no time at all"),
        ({"walltime": "1h", "lifetime": "1h"}, "must be below walltime"),
        ({"directives": ["constraint=a"]}, "no option of sbatch"),
        ({"directives": ["-C a\n#SBATCH -A b"]}, "no option of sbatch"),
        ({"one_allocation": True, "lifetime": "5m"}, "walltime instead of lifetime"),
        ({"one_allocation": True, "adapt": {"maximum": 3}}, "n_workers instead of adapt"),
        ({"cpus": 0}, "cpus"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_spec({"kind": "slurm", **changes})
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "lifetime_s"),
    [
        ({"walltime": "04:00:00"}, 4 * 3600 - 120),
        ({"walltime": "10m"}, 540),
        ({"walltime": "10m", "lifetime": "5m"}, 300),
        ({"walltime": "10m", "one_allocation": True}, None),
    ],
)
def test_workers_leave_before_the_walltime(changes: dict[str, Any], lifetime_s: float | None) -> None:
    assert SlurmSpec(**changes).lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, ClusterSize(4, 4, 8 * 2**30)),
        ({"n_workers": 3, "threads_per_worker": 2, "memory_limit": "1GiB"}, ClusterSize(3, 6, 2**30)),
        ({"adapt": {"minimum": 1, "maximum": 9}}, ClusterSize(9, 9, 8 * 2**30)),
        ({"one_allocation": True, "n_workers": 3}, ClusterSize(3, 3, 8 * 2**30)),
        ({"one_allocation": True}, None),
    ],
)
def test_the_size_is_known_before_anything_is_queued(
    changes: dict[str, Any], size: ClusterSize | None
) -> None:
    assert size_of(SlurmSpec(**changes)) == size


def test_a_job_asks_for_what_the_spec_says(logs: str) -> None:
    spec = SlurmSpec(
        queue="cpu",
        account="p1",
        walltime="90m",
        memory_limit="2GiB",
        threads_per_worker=2,
        cpus=3,
        gpus_per_worker=1,
        directives=("--qos=long",),
        prologue=("module load gcc",),
        environment={"A": "x y"},
        local_directory="/scratch",
        log_directory=logs,
    )
    lines = job_script(spec).splitlines()
    assert {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")} == {
        "-J landweave-worker",
        f"-o {logs}/landweave-worker-%J.out",
        "-p cpu",
        "-A p1",
        "-n 1",
        "--cpus-per-task=3",
        "--mem=2348M",
        "-t 01:30:00",
        "--gres=gpu:1",
        "--qos=long",
    }
    assert "export A='x y'" in lines
    assert "export OMP_NUM_THREADS=1" in lines
    assert lines.index("module load gcc") < len(lines) - 1
    for words in (
        "--nthreads 2",
        "--memory-limit 2.00GiB",
        "--resources GPU=1",
        "--local-directory /scratch",
    ):
        assert words in lines[-1]


def test_secrets_travel_by_name_alone(monkeypatch: pytest.MonkeyPatch, logs: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "3")
    spec = SlurmSpec(forward=("AWS_SECRET_ACCESS_KEY",), log_directory=logs)
    assert "s3cr3t-value" not in job_script(spec)
    assert "s3cr3t-value" not in allocation_script(spec, "landweave map run.yaml")
    step = step_of(spec, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "3", "AWS_SECRET_ACCESS_KEY": "s3cr3t-value"})
    assert "s3cr3t-value" not in " ".join(step.command)
    assert step.environment["AWS_SECRET_ACCESS_KEY"] == "s3cr3t-value"


@pytest.mark.parametrize(
    ("directives", "environ", "value"),
    [
        ((), {}, "ALL"),
        ((), {"SBATCH_EXPORT": "NONE"}, "NONE"),
        (("--export=NONE",), {"SBATCH_EXPORT": "ALL"}, "NONE"),
        (("--export=HOME,PATH",), {}, "HOME,PATH"),
    ],
)
def test_what_a_site_exports_stays(directives: tuple[str, ...], environ: dict[str, str], value: str) -> None:
    assert exported(SlurmSpec(directives=directives), environ) == value
    with_secret = exported(SlurmSpec(directives=directives, forward=("T",)), environ)
    assert with_secret == ("T" if value == "NONE" else f"{value},T")


def test_the_job_that_the_driver_is_in_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    told = clean_environment()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= set(told)
    assert not {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE"} & set(told)


@pytest.mark.parametrize(("seconds", "text"), [(60, "00:01:00"), (61, "00:02:00"), (86400 * 2, "2-00:00:00")])
def test_walltimes_are_whole_minutes(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_output_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="folder for the jobs' output"):
        log_folder(SlurmSpec(log_directory=str(tmp_path / "file" / "logs")))


@pytest.mark.parametrize(("n_workers", "tasks", "found"), [(None, 5, 4), (2, 5, 2), (4, 5, 4)])
def test_an_allocation_has_room_for_all_tasks_but_one(n_workers: int | None, tasks: int, found: int) -> None:
    environ = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": str(tasks)}
    assert workers_of(SlurmSpec(one_allocation=True, n_workers=n_workers), environ) == found


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "inside a Slurm job"),
        ({"SLURM_JOB_ID": "7"}, "found 1 tasks, expected 3 tasks"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "--ntasks=3"),
    ],
)
def test_a_wrong_allocation_is_refused_with_the_mend(environ: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as refused:
        workers_of(SlurmSpec(one_allocation=True, n_workers=2), environ)
    assert says in str(refused.value)


def test_the_guides_examples_are_valid_and_its_script_is_ours() -> None:
    blocks = PAGE.read_text().split("```")[1::2]
    specs = [yaml.safe_load(b.removeprefix("yaml")) for b in blocks if b.startswith("yaml\n")]
    whole = [parse_spec(s) for s in specs if "kind" in s]
    assert len(whole) == 3
    allocation = next(s for s in whole if isinstance(s, SlurmSpec) and s.one_allocation)
    shown = next(b for b in blocks if b.startswith("bash\n")).splitlines()
    told = {line.split("#", 2)[1].strip() for line in shown if line.startswith("#SBATCH")}
    script = allocation_script(
        allocation.model_copy(update={"walltime": "04:00:00", "queue": "cpu"}), "landweave map"
    )
    ours = {line.removeprefix("#") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert told == ours - {"SBATCH --job-name=landweave"}


def test_ctrl_c_stays_with_the_run() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
