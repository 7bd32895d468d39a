from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import cluster.scale as scale
import cluster.slurm_jobs as slurm_jobs
from cluster.launch import open_client
from cluster.slurm import SlurmSpec
from engine.store.ledger import Ledger
from engine.values.errors import InputError, RetryableError
from pipelines.map_area import map_area
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import TILES, SampleRun
from tests.services.slurm import Slurm

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", autouse=True)
def quick_looks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_jobs, "_LOOK_S", 0.5)
        yield


SECRET = "loopback-secret-92c1"


def _spec(folder: Path, **changes: Any) -> SlurmSpec:
    settings = {"n_workers": 1, "memory_limit": "1GiB", "interface": "lo", "log_directory": str(folder)}
    return SlurmSpec(**{**settings, **changes})


@contextmanager
def _after_some_tiles(run: Path, do: Callable[[], Any]) -> Iterator[None]:
    """Do something once a few of the tiles, and not all, are on record."""
    seen: list[int] = []

    def watch() -> None:
        begun = time.monotonic()
        while sum(1 for _ in (run / "ledger").rglob("*.json")) < 4 and time.monotonic() - begun < 200:
            time.sleep(0.02)
        do()
        seen.append(sum(1 for _ in Ledger(str(run), "map").records()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert 0 < seen[0] < TILES


def _nearly_over(dask_worker: Any) -> None:
    """Let a worker believe that its time is nearly over: of the last 17 s it keeps 15 s for leaving."""
    dask_worker.plugins["landweave-retirement"].end = time.time() + 17


def _born(name: str) -> bool:
    """Tell whether a worker process has had a variable from its first instruction."""
    return f"{name}={SECRET}".encode() in Path("/proc/self/environ").read_bytes().split(b"\0")


class TestJobs(ClusterConformance):
    """On a site that exports nothing to jobs."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmSpec]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARCHIVE_TOKEN", SECRET)
            patch.setenv("SBATCH_EXPORT", "NONE")
            yield _spec(tmp_path_factory.mktemp("logs"), forward=("ARCHIVE_TOKEN",))

    def test_a_secret_reaches_workers_and_is_written_nowhere(
        self, client: Client, target: SlurmSpec, slurm: Slurm
    ) -> None:
        assert client.submit(_born, "ARCHIVE_TOKEN", pure=False).result(timeout=self.wait_s)
        (number,) = slurm.jobs("landweave-worker")
        script = slurm.run("scontrol", "write", "batch_script", number, "-")
        assert "dask_worker" in script
        (output,) = Path(target.log_directory).glob("*.out")
        told = [script, output.read_text(), slurm.run("scontrol", "show", "job", number), slurm.logs()]
        assert SECRET not in "".join(told)

    @pytest.mark.long
    def test_a_job_cancelled_in_the_middle_is_followed_by_another(
        self, client: Client, slurm: Slurm, sample_run: SampleRun, tmp_path: Path
    ) -> None:
        run, before = tmp_path / "run", slurm.jobs("landweave-worker")
        with _after_some_tiles(run, lambda: slurm.run("scancel", *before)):
            made = map_area(sample_run.config(run), client=client)
        assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
        sample_run.assert_same(run)
        after = slurm.jobs("landweave-worker")
        assert len(after) == 1
        assert after.keys().isdisjoint(before)

    def test_a_worker_leaves_before_its_walltime_and_another_job_follows(
        self, client: Client, slurm: Slurm, sample_run: SampleRun, tmp_path: Path
    ) -> None:
        client.wait_for_workers(1, timeout=self.wait_s)
        run, before = tmp_path / "run", slurm.jobs("landweave-worker")
        with _after_some_tiles(run, lambda: client.run(_nearly_over)):
            made = map_area(sample_run.config(run), client=client)
        assert (made.exit_code, made.summary.done, made.summary.failed) == (0, TILES, 0)
        sample_run.assert_same(run)
        assert _left_in_the_middle(run)
        assert slurm.jobs("landweave-worker").keys().isdisjoint(before)


@pytest.mark.long
def test_a_walltime_shorter_than_the_run(slurm: Slurm, sample_run: SampleRun, tmp_path: Path) -> None:
    """Slurm's shortest walltime is a minute: maps are made until it ends in the middle of one."""
    with open_client(_spec(tmp_path / "logs", walltime="1m")) as client:
        for number in range(30):
            run = tmp_path / f"run-{number}"
            made = map_area(sample_run.config(run), client=client)
            assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
            sample_run.assert_same(run)
            if _left_in_the_middle(run):
                break
        else:
            pytest.fail("no worker left while a map was made")
    outputs = [path.read_text() for path in (tmp_path / "logs").glob("*.out")]
    assert len(outputs) > 1
    assert all("TIME LIMIT" not in text for text in outputs)


def _left_in_the_middle(run: Path) -> bool:
    """Tell whether tiles were made both before and after a worker left."""
    texts = [path.read_text() for path in sorted((run / "logs").glob("*.jsonl"))]
    events = [json.loads(line)["event"] for line in "".join(texts).splitlines()]
    if "worker-left" not in events:
        return False
    at = events.index("worker-left")
    return "done" in events[:at] and "done" in events[at:]


def _hold(flag: str, number: int) -> int:
    while not Path(flag).exists():
        time.sleep(0.02)
    return number


def test_jobs_follow_the_work(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "INTERVAL", "200ms")
    monkeypatch.setattr(scale, "WAIT_COUNT", 3)
    spec = _spec(tmp_path / "logs", n_workers=None, adapt={"minimum": 0, "maximum": 2})
    with open_client(spec) as client:
        assert len(slurm.jobs("landweave-worker")) == 1
        held = client.map(_hold, [str(tmp_path / "flag")] * 40, range(40))
        client.wait_for_workers(2, timeout=120)
        assert len(slurm.jobs("landweave-worker")) == 2
        (tmp_path / "flag").touch()
        assert client.gather(held) == list(range(40))
        begun = time.monotonic()
        while len(client.nthreads()) > 1 and time.monotonic() - begun < 60:
            time.sleep(0.1)
        assert len(client.nthreads()) == 1
    assert not [state for state in slurm.jobs("landweave-worker").values() if state == "RUNNING"]


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"queue": "night"}, InputError, "invalid partition specified: night"),
        ({"memory_limit": "900GiB"}, InputError, "--mem=921900M"),
        (
            {"prologue": ("echo no module gcc >&2", "exit 3")},
            InputError,
            "found no module gcc; to mend: see prologue",
        ),
        ({"directives": ("--hold",), "queue_wait": "2s"}, RetryableError, "PENDING (JobHeldUser)"),
    ],
)
def test_what_slurm_says_is_told(
    changes: dict[str, Any], kind: type[Exception], says: str, slurm: Slurm, tmp_path: Path
) -> None:
    with pytest.raises(kind) as refused, open_client(_spec(tmp_path / "logs", **changes)):
        pass
    assert says in str(refused.value)
    assert not [state for state in slurm.jobs("landweave-worker").values() if state in ("PENDING", "RUNNING")]


def test_a_machine_without_slurm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InputError, match="sbatch is not on this machine"),
        open_client(_spec(tmp_path / "logs")),
    ):
        pass
