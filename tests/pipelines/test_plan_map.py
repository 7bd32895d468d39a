"""Plans against the runs that follow them, on the simulated archive and on real catalogue records."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client

from engine.runs.estimate import Load
from engine.store.ledger import Ledger, TileRecord
from engine.values.budget import tile_bytes
from engine.values.classes import ClassScheme
from engine.values.errors import BudgetError
from pipelines import probe_tiles
from pipelines.config import RunConfig, load_config
from pipelines.map_area import design, map_area, prepare, tile_px_of, way_of
from pipelines.plan_area import tile_shape, widest_core
from pipelines.plan_map import PlanOptions, plan_map
from pipelines.plan_view import MapPlan
from pipelines.probe_tiles import cold_tiles, unreachable
from pipelines.run_folder import read_plan, require_memory, write_plan
from pipelines.sample.archive import SampleArchive
from tests.pipelines.test_map_area import make_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory), "time": "2023-03/2023-10", "catalog": str(sample.catalog), "bundle": "bundle",
        "out": "map", "tile_px": 64, "products": False, "cluster": {"n_workers": 2},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def planned(project: Path, out: str, probe: int | None, client: Client | None = None, *more: str) -> MapPlan:
    config = load_config(project / "run.yaml", [f"out={json.dumps(str(project / out))}", *more])
    return plan_map(config, PlanOptions(probe=probe, client=client))


@pytest.fixture(scope="module")
def followed(project: Path, client: Client) -> tuple[MapPlan, dict[str, Any], list[TileRecord], list[str]]:
    """A plan with a probe, the figures it froze, all records of the run that followed, tiles that this made."""
    plan = planned(project, "followed", 4, client)
    frozen = read_plan(str(project / "followed"))
    made: list[str] = []
    config = load_config(project / "run.yaml", [f"out={json.dumps(str(project / 'followed'))}"])
    map_area(
        config, client=client, listener=lambda e, _: made.append(str(e.tile)) if e.kind == "done" else None
    )
    return plan, frozen, list(Ledger(str(project / "followed"), "map").records()), made


def test_what_is_planned_is_what_is_made(
    followed: tuple[MapPlan, dict[str, Any], list[TileRecord], list[str]],
) -> None:
    plan, _, records, _ = followed
    told = plan.as_dict()
    assert told["tiles"]["make"] == sum(r.counts["scenes"] > 0 for r in records)
    assert told["tiles"]["empty"] == sum(r.counts["scenes"] == 0 for r in records)
    assert told["windows"] == sum(r.counts["windows"] for r in records)
    assert 0 < told["storage_bytes"]["map_compressed"] < told["storage_bytes"]["map"]


def test_the_tiles_of_the_probe_are_tiles_of_the_run(
    followed: tuple[MapPlan, dict[str, Any], list[TileRecord], list[str]],
) -> None:
    plan, frozen, records, made = followed
    probed = plan.as_dict()["probe"]["tiles"]
    assert len(probed) == len(set(probed)) == 4 + 2  # and one to warm each of two workers
    assert not set(probed) & set(made)
    assert set(probed) | set(made) == {str(r.tile) for r in records}
    assert frozen["estimate"]["probe"]["tiles"] == probed
    assert frozen["through"] == "fused"


def test_a_small_area_across_tiles_is_not_projected_as_whole_tiles(project: Path) -> None:
    job = design(load_config(project / "run.yaml"), inputs_dir=str(project / "widest")).job
    big, small = replace(job, tile_px=4096), job
    tiles = [big.core(tile) for tile in big.tiles()]
    assert all(core.area_px < 300 * 300 for core in tiles)
    assert widest_core(big) == max(tiles, key=lambda core: big.bundle.lattice.pad(core).area_px)
    assert 0.7 * 64**2 < widest_core(small).area_px <= 64**2


def test_on_record_is_counted_by_what_becomes_of_it(
    followed: tuple[MapPlan, dict[str, Any], list[TileRecord], list[str]],
    project: Path,
    sample: SampleArchive,
) -> None:
    _, _, records, _ = followed
    assert planned(project, "followed", 0).record == {"kept": len(records)}
    make_bundle(project / "other", ClassScheme.from_file(sample.classes), seed=5)
    other = planned(project, "followed", 0, None, f"bundle={project / 'other'}")
    assert other.record == {"bundle": len(records)}
    assert other.lines()["on record"] == f"{len(records)} made again (bundle)"


def test_bytes_are_bounded_by_what_the_files_hold(project: Path, sample: SampleArchive) -> None:
    """One tile over everything reads each file of its bands about once, however it is cut."""
    told = planned(project, "bytes", 0, None, "tile_px=512", "chunk_px=1024").as_dict()
    files = [p for name in ("B04", "B08", "B11", "SCL") for p in sample.root.rglob(f"{name}.tif")]
    held = sum(p.stat().st_size for p in files)
    assert told["tiles"]["make"] <= 4
    assert held <= told["read_bytes"] <= 4.0 * held  # up to four tiles meet in a file smaller than its block
    small = planned(project, "bytes", 0, None, "tile_px=64").as_dict()
    assert small["read_bytes"] > 4 * told["read_bytes"]  # blocks of files are read again and again
    assert told["file_sizes"] == f"{len(files)} by the files"


def test_without_a_probe_nothing_is_left_and_no_hours_are_invented(project: Path) -> None:
    plan = planned(project, "dry", 0)
    told = plan.as_dict()
    assert (told["seconds"], told["money"], told["storage_bytes"]["map_compressed"]) == (None, None, None)
    assert told["memory_bytes"]["total"] > told["memory_bytes"]["process"]
    assert not (project / "dry").exists()
    assert "no probe was asked for" in plan.lines()["probe"]
    assert "not looked at" in plan.lines()["pixels"]


def test_an_archive_that_does_not_answer_gives_a_plan_without_hours(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.plan_map.unreachable", lambda table: "item X: no answer")
    plan = planned(project, "silent", None)
    assert (plan.run_s, plan.probe) == (None, None)
    assert plan.survey.tiles > 0
    assert "item X: no answer" in plan.lines()["pixels"]


def test_a_look_that_hangs_is_left_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    table = design(load_config(project / "run.yaml"), inputs_dir=str(project / "look")).table
    assert unreachable(table) == ""
    release = threading.Event()
    monkeypatch.setattr("engine.archive.look.look", lambda *a, **k: release.wait(60))
    assert unreachable(table, answer_s=0.05).endswith("no answer")
    release.set()


def test_money_is_price_times_workers_times_hours(
    followed: tuple[MapPlan, dict[str, Any], list[TileRecord], list[str]],
) -> None:
    import dataclasses

    plan = followed[0]
    assert plan.run_s is not None
    assert plan.money is None
    priced = dataclasses.replace(plan, price=0.5).money
    assert priced is not None
    assert priced.high == pytest.approx(plan.run_s.high * 2 * 0.5 / 3600)
    assert dataclasses.replace(plan, price=1.0).money == priced.times(2)


def test_a_tile_that_does_not_fit_is_refused_before_the_probe(project: Path) -> None:
    small = json.dumps({"n_workers": 1, "memory_limit": "256MiB"})
    with pytest.raises(BudgetError, match="would not fit"):
        planned(project, "unfit", 2, None, f"cluster={small}")
    assert not (project / "unfit" / "ledger").exists()


def test_the_refusal_of_a_run_names_a_tile_that_is_accepted(project: Path, client: Client) -> None:
    config = load_config(project / "run.yaml", [f"out={json.dumps(str(project / 'advice'))}", "tile_px=2048"])
    with tempfile.TemporaryDirectory() as folder:
        made = design(config, inputs_dir=folder)
        needed = {
            px: tile_bytes(tile_shape(replace(made.job, tile_px=px), made.steps))["total"]
            for px in (128, 2048)
        }
    assert needed[128] < needed[2048]
    limit = sum(needed.values()) // 2
    prepare(config)
    with pytest.raises(BudgetError, match=r"tile_px: \d+ ") as refused:
        require_memory(config.out, "map", limit)
    proposed = int(re.findall(r"tile_px: (\d+)", str(refused.value))[0])
    prepare(config.model_copy(update={"tile_px": proposed, "out": str(project / "advised")}))
    require_memory(str(project / "advised"), "map", limit)


def test_auto_takes_the_frozen_way_else_the_one_that_moves_less(project: Path) -> None:
    auto = load_config(project / "run.yaml", [f"out={json.dumps(str(project / 'followed'))}", "through=auto"])
    assert way_of(auto) == read_plan(str(project / "followed"))["through"]
    fresh = load_config(project / "run.yaml", [f"out={json.dumps(str(project / 'auto'))}", "through=auto"])
    dry = plan_map(fresh, PlanOptions(probe=0))
    assert way_of(fresh) == dry.proposal[0] == dry.through


def test_first_tiles_of_a_process_are_cold(followed: tuple[Any, Any, list[TileRecord], Any]) -> None:
    import dataclasses

    base = followed[2][0]

    def record(n: int, worker: str, seconds: float, second: int) -> TileRecord:
        tile = dataclasses.replace(base.tile, col=n)
        ended = f"2026-01-01T00:00:{second:02}+00:00"
        return dataclasses.replace(base, tile=tile, worker=worker, seconds=seconds, finished_utc=ended)

    records = [record(0, "a", 5, 10), record(1, "b", 6, 11), record(2, "a", 3, 13), record(3, "a", 9, 12)]
    # the last one ran beside the first in the same process
    assert {t.col for t in cold_tiles(records)} == {0, 1, 3}


def test_tiles_that_warm_a_process_come_first_and_from_the_middle() -> None:
    costs = [Load(float(n), n) for n in (1, 9, 2, 8, 3, 7, 4, 6, 5)]

    class Seen:
        loads = tuple(costs)

    picked = probe_tiles._pick(Seen(), 3, 2)  # type: ignore[arg-type]
    assert len(set(picked)) == 5
    warm = sorted(costs[i].windows for i in picked[:2])
    timed = sorted(costs[i].windows for i in picked[2:])
    assert timed[0] < warm[0] <= warm[1] < timed[-1]


def test_the_command_prints_lines_and_figures(project: Path) -> None:
    def cli(*args: str) -> str:
        code = "from pipelines.cli import main; main()"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = json.loads(cli("plan", "run.yaml", "--probe", "0", "--json"))
    assert told["tile_px_proposed"]["tile_px"] in {64, 1024, 2048, 4096, 8192}
    lines = cli("plan", "run.yaml", "--probe", "0")
    assert f"{told['tiles']['make']} to make" in lines
    assert "fused" in lines


def test_tiles_of_a_chosen_side_are_frozen_with_the_plan(project: Path) -> None:
    def auto(*more: str) -> RunConfig:
        out = json.dumps(str(project / "chosen"))
        return load_config(project / "run.yaml", [f"out={out}", "tile_px=auto", *more])

    dry = plan_map(auto(), PlanOptions(probe=0))
    assert dry.tile_px == dry.size[0].tile_px == tile_px_of(auto()) == 1024
    settled = auto().model_copy(update={"tile_px": tile_px_of(auto())})
    prepare(settled)
    assert read_plan(str(project / "chosen"))["tile_px"] == 1024
    run = str(project / "chosen")
    write_plan(run, read_plan(run) | {"tile_px": 512})
    assert tile_px_of(auto()) == design(auto()).job.tile_px == 512, "a run that goes on keeps its tiles"
