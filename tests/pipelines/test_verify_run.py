"""Verification against planted damage: shards, records, plans, stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from typer.testing import CliRunner

from cluster.launch import open_client
from cluster.local import LocalSpec
from engine.store.lease import Lease
from engine.store.ledger import Ledger
from engine.store.regions import read_region, write_region
from engine.values.errors import ConflictError, RetryableError
from engine.values.grid import TileKey
from pipelines import verify_run as module
from pipelines.cli import app
from pipelines.verify_run import LISTED, verify_run
from tests.pipelines.small_run import StageJob, run

SIDE = 6  # 36 tiles in two ledger folders


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    with open_client(LocalSpec(n_workers=1, memory_limit="1GiB")) as client:
        yield client


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run(StageJob(str(folder), SIDE), workers).exit_code == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def damage(folder: Path, tile: TileKey, name: str = "label") -> None:
    """Write other pixels where a tile lies, past its record."""
    job = StageJob(str(folder), SIDE)
    url, box = job.store_url, job.box(tile)
    write_region(url, box, {name: read_region(url, box, [name])[name] ^ 1})


def test_a_whole_run_is_as_recorded(folder: Path) -> None:
    heard = []
    found = verify_run(str(folder / "run"), listener=lambda *told: heard.append(told))
    assert (found.read, found.planned, found.differ, found.exit_code) == (36, 36, [], 0)
    assert heard == [(n, 36, "map") for n in range(1, 37)]


def test_each_damage_is_named_with_its_variable(folder: Path) -> None:
    damage(folder, TileKey(2, 3))
    damage(folder, TileKey(-1, 0), "value")
    shard = next((folder / "run" / "map.zarr" / "value" / "c" / "4").iterdir())
    shard.write_bytes(shard.read_bytes()[:-7])
    torn = f"r3_c{shard.name}"
    found = verify_run(str(folder / "run"))
    named = {(d.stage, d.tile, d.variable) for d in found.differ}
    assert named == {("map", "r2_c3", "label"), ("map", "r-1_c0", "value"), ("map", torn, "value")}
    assert (found.differing, found.exit_code) == (3, 4)
    why = {d.tile: d.why for d in found.differ}
    assert why["r2_c3"].startswith("the store gives back other bytes than were written: found ")
    assert why[torn].startswith("the store cannot be read back")
    shown = CliRunner().invoke(app, ["verify", str(folder / "run")])
    assert shown.exit_code == 4
    assert "differs    map r2_c3 label: the store gives back other bytes" in shown.stdout
    assert f"`landweave verify {folder / 'run'} --redo`" in shown.stdout


def test_redo_removes_those_records_and_the_next_run_makes_those_tiles(folder: Path, workers: Client) -> None:
    job = StageJob(str(folder), SIDE)
    before = {r.tile: r.to_json() for r in Ledger(job.run_dir, "map").records()}
    gone = {TileKey(0, 0), TileKey(4, 5)}
    for tile in gone:
        damage(folder, tile)
    shown = CliRunner().invoke(app, ["verify", job.run_dir, "--redo", "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)["records removed"]) == (4, 2)
    left = {r.tile: r.to_json() for r in Ledger(job.run_dir, "map").records()}
    assert left == {tile: text for tile, text in before.items() if tile not in gone}
    again = run(job, workers).summary
    assert (again.done, again.reused) == (2, 34)
    assert verify_run(job.run_dir).exit_code == 0


def test_redo_is_refused_while_a_run_holds_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(folder, TileKey(0, 0))
    with Lease(str(folder / "run"), beat_s=0.05):
        with pytest.raises(ConflictError, match="another run"):
            verify_run(str(folder / "run"), redo=True)
        assert verify_run(str(folder / "run")).differing == 1  # looking is allowed
    assert len(list(Ledger(str(folder / "run"), "map").records())) == 36


def test_a_tile_that_a_run_makes_again_meanwhile_is_no_difference(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder, TileKey(1, 1))
    monkeypatch.setattr(Ledger, "done", lambda self, tile, key: None)  # its record was cleared
    assert verify_run(str(folder / "run")).exit_code == 0


def test_tiles_without_record_and_records_without_plan_are_listed(folder: Path, tmp_path: Path) -> None:
    run_dir = folder / "run"
    for name in ("r0_c2", "r3_c3"):
        next(run_dir.glob(f"ledger/map/*/{name}.*.json")).unlink()
    stray = next(run_dir.glob("ledger/map/*/r1_c1.*.json"))
    moved = json.loads(stray.read_text()) | {"tile": "r40_c40"}
    (run_dir / "ledger/map/r2_c2").mkdir()
    (run_dir / f"ledger/map/r2_c2/r40_c40.{stray.name.split('.')[1]}.json").write_text(json.dumps(moved))
    found = verify_run(str(run_dir))
    assert (found.missing.total(), found.unplanned.total(), found.exit_code) == (2, 1, 3)
    assert sorted(found.listed["missing"]) == ["map r0_c2", "map r3_c3"]
    assert found.listed["unplanned"] == ["map r40_c40"]
    assert "no record  2 tiles: map r0_c2" in CliRunner().invoke(app, ["verify", str(run_dir)]).stdout


def test_a_store_that_does_not_fit_its_plan_is_told(folder: Path) -> None:
    path = folder / "run" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"grid": plan["grid"] | {"anchor_xy": [5.0, 0.0]}}))
    found = verify_run(str(folder / "run"))
    assert found.exit_code == 4
    assert found.stores == ["map: the grid's anchor_xy is [0.0, 0.0], the plan has [5.0, 0.0]"]
    path.write_text(json.dumps(plan | {"store": "other.zarr"}))
    found = verify_run(str(folder / "run"))
    assert found.exit_code == 4
    assert found.stores[0].startswith("map: there is no store")


def test_a_network_that_fails_says_nothing_of_the_tiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.values.errors import DataError

    def unreachable(*_: object) -> None:
        raise DataError("the store cannot be read back") from RetryableError("no answer")

    monkeypatch.setattr(module, "read_back", unreachable)
    with pytest.raises(RetryableError, match="no answer"):
        verify_run(str(folder / "run"), redo=True)
    assert len(list(Ledger(str(folder / "run"), "map").records())) == 36


def test_only_a_thousand_are_named_but_all_are_counted() -> None:
    found = module.Verified()
    tiles = [TileKey(0, n) for n in range(LISTED + 500)]
    found.list_tiles("unplanned", "map", tiles)
    found.list_tiles("unplanned", "map", tiles)
    assert (found.unplanned["map"], len(found.listed["unplanned"])) == (2 * LISTED + 1000, LISTED)


def test_planned_tiles_take_a_bit_each() -> None:
    import sys

    planned = module._Planned(TileKey(r - 100, c) for r in range(320) for c in range(320))
    assert planned.count == planned.left_count == 102_400
    assert sum(sys.getsizeof(bits) for bits in planned._all.values()) < 40_000
    assert planned.take(TileKey(5, 5))
    assert not planned.take(TileKey(500, 5))
    assert planned.left_count == 102_399
    assert planned.take(TileKey(5, 5))
    assert planned.left_count == 102_399
    assert len(planned.left(7)) == 7
    assert TileKey(5, 5) not in planned.left(200_000)
