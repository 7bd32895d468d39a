from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster, SchedulerPlugin

from engine.runs import tile as tile_module
from engine.runs.driver import RunEvent, RunOptions, TileTask, execute_tile, run_tiles
from engine.runs.gaps import Gap, read_gaps
from engine.runs.tile import TileOutput
from engine.store.layout import create
from engine.store.lease import Lease
from engine.store.ledger import Ledger
from engine.store.regions import checksum, open_epoch, read_region
from engine.values.errors import BudgetError, ConflictError, DataError, InputError, RetryableError
from engine.values.grid import TileKey
from tests.runs.fake_job import FakeJob, tree_bytes


@pytest.fixture
def job(tmp_path: Path) -> FakeJob:
    return FakeJob(str(tmp_path)).create()


class GappyJob(FakeJob):
    """One tile does without a scene until `healed`."""

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        output = super().compute(tile, threads)
        healed = Path(self.folder, "healed").exists()
        if tile != TileKey(0, 0) or healed:
            return output
        return replace(output, gaps=(Gap(str(tile), "S2A_1", "red", "RetryableError", "throttled"),))


class RestlessJob(FakeJob):
    """Gives other pixels each time."""

    def expected(self, tile: TileKey) -> dict[str, np.ndarray]:
        n = self.executions()[str(tile)]
        return {k: v + np.asarray(n, v.dtype) for k, v in super().expected(tile).items()}


@pytest.fixture(scope="module")
def counted() -> Iterator[tuple[Client, set[str]]]:
    """A client on an in-process scheduler that notes every task it gets."""
    keys: set[str] = set()

    class Count(SchedulerPlugin):
        def transition(self, key: str, start: str, finish: str, *args: object, **kwargs: object) -> None:
            keys.add(str(key))

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.scheduler.add_plugin(Count())
        yield client, keys


def _assert_map(job: FakeJob, but: tuple[TileKey, ...] = ()) -> None:
    for tile in job.tiles():
        got, wanted = read_region(job.store_url, job.box(tile)), job.expected(tile)
        if tile in but:
            assert (got["label"] == 0).all()
            assert (got["value"] == -9999).all()
        else:
            assert all(np.array_equal(got[n], wanted[n]) for n in wanted)


def test_a_run_makes_every_tile_once_and_records_it(job: FakeJob, client: Client) -> None:
    events: list[RunEvent] = []
    summary = run_tiles(job, client, job.run_dir, on_event=events.append)
    assert (summary.done, summary.total, summary.left, summary.exit_code) == (16, 16, 0, 0)
    _assert_map(job)
    assert set(job.executions().values()) == {1}
    records = {r.tile: r for r in Ledger(job.run_dir, "fake").records()}
    assert set(records) == set(job.tiles())
    for tile, record in records.items():
        assert dict(record.checksums) == {n: checksum(a) for n, a in job.expected(tile).items()}
        assert record.key == job.key(tile)
        assert record.attempt == 1
        assert record.counts == {"pixels": 1024}
        assert 20e6 < record.peak_bytes < 2e9
        assert record.worker.startswith("tcp://")
        assert len(record.to_json()) < 1000
    assert [e.kind for e in events].count("done") == 16
    assert events[-1].ended == events[-1].total == 16
    assert read_gaps(job.run_dir) == []
    assert summary.peak_bytes == max(r.peak_bytes for r in records.values())


def test_running_again_reuses_everything(job: FakeJob, client: Client) -> None:
    run_tiles(job, client, job.run_dir)
    before = tree_bytes(job.store_url)
    events: list[RunEvent] = []
    summary = run_tiles(job, client, job.run_dir, on_event=events.append)
    assert (summary.done, summary.reused, summary.epoch) == (0, 16, 2)
    assert {e.kind for e in events} == {"reused"}
    assert tree_bytes(job.store_url) == before
    assert set(job.executions().values()) == {1}


def test_another_key_makes_the_tile_again(job: FakeJob, client: Client) -> None:
    run_tiles(job, client, job.run_dir)
    newer = replace(job, version=2)
    assert run_tiles(newer, client, job.run_dir).done == 16
    _assert_map(newer)
    assert run_tiles(job, client, job.run_dir).done == 16, "the older pixels are gone, so is their record"
    _assert_map(job)


def test_without_resume_everything_is_made_again(job: FakeJob, client: Client) -> None:
    run_tiles(job, client, job.run_dir)
    before = tree_bytes(job.store_url)
    summary = run_tiles(job, client, job.run_dir, RunOptions(resume=False))
    assert (summary.done, summary.reused) == (16, 0)
    assert set(job.executions().values()) == {2}
    assert tree_bytes(job.store_url) == before


def test_failed_tiles_are_gaps_and_flaky_ones_are_not(tmp_path: Path, client: Client) -> None:
    bad, flaky = TileKey(0, 1), TileKey(1, 1)
    job = FakeJob(str(tmp_path), bad=(bad,), flaky=(flaky,)).create()
    summary = run_tiles(job, client, job.run_dir)
    assert (summary.done, summary.failed, summary.exit_code) == (15, 1, 3)
    _assert_map(job, but=(bad,))
    assert [(g.tile, g.kind) for g in read_gaps(job.run_dir)] == [("r0_c1", "DataError")]
    assert "truncated" in read_gaps(job.run_dir)[0].message
    assert job.executions()["r1_c1"] == 2
    assert job.executions()["r0_c1"] == 1
    # mended, the same command fills the hole and no other tile
    mended = replace(job, bad=())
    summary = run_tiles(mended, client, job.run_dir)
    assert (summary.done, summary.reused, summary.exit_code) == (1, 15, 0)
    assert read_gaps(job.run_dir) == []


def test_a_run_of_nothing_but_errors_gives_up_early(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path), side=8)
    job = replace(job, bad=tuple(job.tiles())).create()
    summary = run_tiles(job, client, job.run_dir)
    assert summary.hopeless
    assert summary.exit_code == 4
    assert 20 <= summary.failed < 30
    assert summary.left == 64 - summary.failed


def test_gaps_inside_tiles_are_listed_again_on_resume_and_can_be_redone(
    tmp_path: Path, client: Client
) -> None:
    job = GappyJob(str(tmp_path)).create()
    summary = run_tiles(job, client, job.run_dir)
    assert (summary.done, summary.gaps, summary.exit_code) == (16, 1, 3)
    assert [g.item for g in read_gaps(job.run_dir)] == ["S2A_1"]
    assert run_tiles(job, client, job.run_dir).gaps == 1
    (tmp_path / "healed").touch()
    summary = run_tiles(job, client, job.run_dir, RunOptions(redo_gaps=True))
    assert (summary.done, summary.reused, summary.exit_code) == (1, 15, 0)
    assert run_tiles(job, client, job.run_dir).exit_code == 0


def test_the_scheduler_gets_one_task_per_tile(tmp_path: Path, counted: tuple[Client, set[str]]) -> None:
    client, keys = counted
    job = FakeJob(str(tmp_path), side=10).create()
    keys.clear()
    assert run_tiles(job, client, job.run_dir).done == 100
    assert len(keys) <= 1.1 * 100
    assert not client.futures, "futures of finished tiles are not held"


def test_no_more_than_the_limit_is_in_flight(tmp_path: Path, counted: tuple[Client, set[str]]) -> None:
    client, _ = counted
    job = FakeJob(str(tmp_path), side=5, sleep_s=0.01).create()
    seen = []
    out = [0]

    def listen(event: RunEvent) -> None:
        out.append(out[-1] + {"submitted": 1, "done": -1}.get(event.kind, 0))
        seen.append(len(client.futures))

    run_tiles(job, client, job.run_dir, RunOptions(in_flight=3), listen)
    assert max(out) == 3
    assert max(seen) <= 6  # those that came back together are let go a moment later
    seen.clear()
    run_tiles(replace(job, version=2), client, job.run_dir, None, lambda e: seen.append(len(client.futures)))
    assert max(seen) <= 2 * (2 + 1)


def test_tiles_are_planned_only_as_they_are_needed(tmp_path: Path, counted: tuple[Client, set[str]]) -> None:
    client, _ = counted

    class Lazy(FakeJob):
        asked = 0

        def key(self, tile: TileKey) -> str:
            Lazy.asked += 1
            return super().key(tile)

        def __reduce__(self) -> object:
            return FakeJob, (self.folder, self.side, self.sleep_s)

    job = Lazy(str(tmp_path), side=30).create()
    first: list[int] = []

    def stop_at_first(event: RunEvent) -> None:
        if event.kind == "done":
            first.append(Lazy.asked)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiles(job, client, job.run_dir, on_event=stop_at_first)
    assert first[0] <= 10, "900 tiles, but the first is done after a handful of keys"


def test_a_job_that_is_too_big_is_refused(job: FakeJob, client: Client) -> None:
    heavy = replace(job, name="x" * 2_000_000)
    with pytest.raises(BudgetError, match="too big"):
        run_tiles(heavy, client, job.run_dir)


def test_without_a_store_nothing_runs(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path))
    with pytest.raises(InputError, match="no store"):
        run_tiles(job, client, job.run_dir)


def test_a_second_run_is_refused(job: FakeJob, client: Client) -> None:
    options = RunOptions(patience_s=2, beat_s=0.1)
    with Lease(job.run_dir, beat_s=0.1), pytest.raises(ConflictError, match="another run"):
        run_tiles(job, client, job.run_dir, options)
    assert run_tiles(job, client, job.run_dir, options).done == 16


def test_a_run_that_is_taken_over_stops_with_a_conflict(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path), side=4, sleep_s=0.05).create()
    rivals: list[bool] = []

    def take_over(event: RunEvent) -> None:
        if event.kind == "done" and not rivals:
            rivals.append(True)
            Path(job.run_dir, "lease", "epoch-000002.json").write_text("{}")

    with pytest.raises(ConflictError, match="took this folder over"):
        run_tiles(job, client, job.run_dir, on_event=take_over)
    assert sum(job.executions().values()) < 16


def test_a_drained_run_goes_on_later(tmp_path: Path, client: Client) -> None:
    import os
    import signal

    assert threading.current_thread() is threading.main_thread()
    job = FakeJob(str(tmp_path), side=5, sleep_s=0.05).create()
    events: list[str] = []

    def interrupt_once(event: RunEvent) -> None:
        events.append(event.kind)
        if event.kind == "done" and events.count("done") == 3:
            os.kill(os.getpid(), signal.SIGINT)

    summary = run_tiles(job, client, job.run_dir, on_event=interrupt_once)
    assert summary.interrupted
    assert summary.exit_code == 5
    assert 3 <= summary.done <= 3 + 4
    assert summary.left == 25 - summary.done
    after = events[events.index("draining") :]
    assert "submitted" not in after
    summary = run_tiles(job, client, job.run_dir)
    assert summary.exit_code == 0
    assert set(job.executions().values()) == {1}, "a drained run loses nothing"
    _assert_map(job)


def test_results_that_differ_between_attempts_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = RestlessJob(str(tmp_path)).create()
    with Lease(job.run_dir) as lease:
        open_epoch(job.store_url, lease.epoch)
        task = TileTask(TileKey(0, 0), 1, job.run_dir, lease.epoch)
        ledger = Ledger(job.run_dir, job.name)
        record = execute_tile(job, task)
        assert execute_tile(job, task) == record, "what is done is not done again"
        # two attempts side by side: the first one's record appears while the second computes
        ledger.clear(task.tile, lease.epoch + 1)
        other = replace(record, checksums={"label": "0"})
        monkeypatch.setattr(tile_module, "read_back", lambda *_: ledger.commit(other) and {"label": "1"})
        with pytest.raises(DataError, match="different bytes"):
            execute_tile(job, task)


@pytest.mark.parametrize("step", ["write_region", "read_back"])
def test_an_error_at_any_step_leaves_no_record(
    job: FakeJob, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tile = TileKey(0, 0)
    with Lease(job.run_dir) as lease:
        open_epoch(job.store_url, lease.epoch)
        task = TileTask(tile, 1, job.run_dir, lease.epoch)
        with monkeypatch.context() as patch:
            patch.setattr(tile_module, step, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                execute_tile(job, task)
        assert Ledger(job.run_dir, job.name).done(tile, job.key(tile)) is None
        assert execute_tile(job, task).attempt == 1


def test_events_options_and_summaries_pickle(job: FakeJob) -> None:
    for value in (job, RunOptions(), TileTask(TileKey(0, 0), 1, "run", 1)):
        assert pickle.loads(pickle.dumps(value)) == value


def test_a_run_folder_in_a_bucket(tmp_path: Path, counted: tuple[Client, set[str]]) -> None:
    client, _ = counted  # threads of this process share its memory file system

    class Remote(FakeJob):
        @property
        def store_url(self) -> str:
            return f"memory://{self.folder}/map.zarr"

        @property
        def run_dir(self) -> str:
            return f"memory://{self.folder}/run"

    job = Remote(str(tmp_path))
    create(job.store_url, job.spec())
    assert run_tiles(job, client, job.run_dir).done == 16
    assert run_tiles(job, client, job.run_dir).reused == 16
    _assert_map(job)


def test_torn_records_are_made_again(job: FakeJob, client: Client) -> None:
    run_tiles(job, client, job.run_dir)
    torn = next(Path(job.run_dir, "ledger").rglob("r0_c1.*.json"))
    torn.write_bytes(torn.read_bytes()[:50])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        summary = run_tiles(job, client, job.run_dir)
    assert any("damaged" in str(w.message) for w in caught)
    assert (summary.done, summary.reused) == (1, 15)
    assert Ledger(job.run_dir, "fake").done(TileKey(0, 1), job.key(TileKey(0, 1))) is not None


def test_a_cluster_without_workers_is_not_waited_for_for_ever(job: FakeJob) -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as empty,
        pytest.raises(RetryableError, match="no worker"),
    ):
        run_tiles(job, empty, job.run_dir, RunOptions(no_worker_timeout_s=0.5))


def test_workers_that_go_and_never_return_are_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runs.driver._LOOK_S", 0.1)
    job = FakeJob(str(tmp_path), sleep_s=0.05).create()
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def dismiss(event: RunEvent) -> None:
            if event.kind == "done":
                cluster.scale(0)

        with pytest.raises(RetryableError, match="no worker"):
            run_tiles(job, client, job.run_dir, RunOptions(no_worker_timeout_s=1), dismiss)
    assert 1 <= sum(1 for _ in Ledger(job.run_dir, "fake").records()) < 16


def test_a_lost_scheduler_ends_the_run_and_the_next_goes_on(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path), sleep_s=0.05).create()
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        lost = Client(cluster, set_as_default=False, timeout=2)

        def close(event: RunEvent) -> None:
            if event.kind == "done":
                cluster.close()

        with pytest.raises(RetryableError, match="scheduler is lost"):
            run_tiles(job, lost, job.run_dir, on_event=close)
        lost.close()
    summary = run_tiles(job, client, job.run_dir)
    assert summary.exit_code == 0
    assert summary.reused >= 1


def test_a_record_is_taken_from_the_ledger_when_its_worker_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    from distributed import Future

    def gone(self: Future, timeout: float | None = None) -> None:
        raise TimeoutError("its worker is gone")

    job = FakeJob(str(tmp_path)).create()
    monkeypatch.setattr(Future, "result", gone)
    summary = run_tiles(job, client, job.run_dir)
    assert (summary.done, summary.exit_code) == (16, 0)
    assert set(job.executions().values()) == {1}
