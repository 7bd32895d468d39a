"""Refinement as a stage of a run: any tiling, resuming, what is made again, gaps, verifying, refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from distributed import Client
from rasterio.features import sieve as gdal_sieve
from scipy.ndimage import distance_transform_edt

from engine.cube.masks import inside_outline
from engine.refine.chain import RefineSpec
from engine.refine.whole import refine_map
from engine.runs.gaps import read_gaps
from engine.store.ledger import Gap, Ledger
from engine.store.regions import read_region, write_region
from engine.values.budget import MIB
from engine.values.errors import BudgetError, InputError
from engine.values.georef import georef_of
from engine.values.grid import TileKey
from pipelines.refine_config import RefineConfig, load_refine_config
from pipelines.refine_run import RefineCall, RefineResult, earlier_settings, refine_run
from pipelines.run_folder import current_records, read_plan
from pipelines.run_status import status_of
from pipelines.tile_inputs import outline_in
from pipelines.verify_run import verify_run
from tests.pipelines.refine_sample import SCHEME, TILE_PX, commit_tile, make_run, speckled

STEPS = [
    {"step": "majority", "within_px": 1},
    {"step": "mmu", "min_px": 9, "rounds": 2},
    {"step": "fill", "within_px": 3},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, client: Client) -> str:
    """A run with a map of 32-pixel tiles that was refined with tiles of that size."""
    run = make_run(tmp_path_factory.mktemp("refined") / "run")
    result = refine(run, client)
    assert (result.exit_code, result.summary.done) == (0, len(current_records(run)))
    return run


@pytest.fixture
def run(whole: str, tmp_path: Path) -> str:
    """A copy of the run, to be changed."""
    shutil.copytree(whole, tmp_path / "run")
    return str(tmp_path / "run")


def spec(steps: Any = STEPS) -> RefineSpec:
    return RefineSpec.model_validate({"steps": steps} if isinstance(steps, list) else steps)


def refine(
    run: str, client: Client, steps: Any = STEPS, *, only: str | None = None, **more: Any
) -> RefineResult:
    config = RefineConfig(refine=spec(steps), **{"products": False, **more})
    return refine_run(run, config, RefineCall(client=client, only=only))


def refined(run: str) -> xr.Dataset:
    return xr.open_zarr(f"{run}/refined.zarr", chunks=None).load()


def expected(run: str, steps: Any = STEPS) -> xr.Dataset:
    """The whole map refined as one array."""
    return refine_map(
        xr.open_zarr(f"{run}/map.zarr", chunks=None).load(), spec(steps), SCHEME, block_px=10_000
    )


def in_the_middle(run: str) -> TileKey:
    """Return a tile with all eight neighbours."""
    tiles = {r.tile for r in current_records(run)}
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return next(t for t in sorted(tiles) if {TileKey(t.row + i, t.col + j) for i, j in around} <= tiles)


def compare(found: xr.Dataset, wanted: xr.Dataset) -> None:
    """Equal where both are; beyond the map nothing."""
    both, whole = xr.align(found, wanted, join="inner")
    for name in ("label", "confidence", "changed", "observations"):
        np.testing.assert_array_equal(both[name].values, whole[name].values, err_msg=name)
    for dataset in (found, wanted):
        assert int((dataset.label != 0).sum()) == int((both.label != 0).sum()) > 5000


def test_the_refined_map_is_that_of_the_whole_array(whole: str) -> None:
    found = refined(whole)
    compare(found, expected(whole))
    assert set(np.unique(found.changed)) == {0, 1, 2, 3, 255}
    assert found.changed.attrs["flag_meanings"] == "unchanged 1_majority 2_mmu 3_fill"
    assert found.label.attrs["flag_values"] == SCHEME.flag_attributes()["flag_values"]
    assert georef_of(found)[0].crs == "EPSG:32633"
    counted = {k: v for r in current_records(whole, "refined") for k, v in r.counts.items()}
    assert set(counted) == {"pixels", "changed", "1_majority", "2_mmu", "3_fill"}


@pytest.mark.parametrize("tile_px", [64, 80, 96, 112, 256])
def test_any_tile_size_gives_the_same_map(tile_px: int, run: str, whole: str, client: Client) -> None:
    shutil.rmtree(f"{run}/refined.zarr")
    shutil.rmtree(f"{run}/ledger/refined")
    result = refine(run, client, tile_px=tile_px)
    assert (result.exit_code, result.summary.reused) == (0, 0)
    compare(refined(run), refined(whole))


def test_again_everything_is_kept_and_what_changed_is_told(run: str, client: Client) -> None:
    again = refine(run, client, products=True)
    found = refined(run)
    assert (again.summary.done, again.summary.reused) == (0, len(current_records(run, "refined")))
    pixels = int((found.label != 0).sum())
    for number, name in enumerate(("1_majority", "2_mmu", "3_fill"), 1):
        assert again.changed is not None
        assert again.changed[name] == pytest.approx(int((found.changed == number).sum()) / pixels)
    assert again.as_dict()["changed by 2_mmu"].endswith("%")
    assert "nowhere" in again.as_dict()["no products"]  # the model is gone; the refined map needs none


def test_a_changed_tile_of_the_map_is_refined_again_with_all_within_reach(run: str, client: Client) -> None:
    tiles = {r.tile for r in current_records(run)}
    middle = in_the_middle(run)
    assert read_plan(run, "refined")["reach_px"] == 1 + 3 * 8 + 3 < TILE_PX
    flat = {n: np.full_like(a, 3) for n, a in speckled().items()}
    commit_tile(run, middle, flat, version=2)
    again = refine(run, client)
    made = {r.tile for r in current_records(run, "refined") if r.epoch > 1}
    assert made == {t for t in tiles if abs(t.row - middle.row) <= 1 and abs(t.col - middle.col) <= 1}
    assert (again.summary.done, again.exit_code) == (9, 0)
    compare(refined(run), expected(run))


def test_other_steps_make_every_tile_again_in_the_same_store(run: str, client: Client) -> None:
    steps = [{"step": "rules", "rules": [{"class": "maize", "into": "wheat"}]}]
    result = refine(run, client, steps)
    assert result.summary.done == result.summary.total
    compare(refined(run), expected(run, steps))
    assert refined(run).changed.attrs["flag_meanings"] == "unchanged 1_rules"


def test_gaps_are_filled_in_the_whole_outline_and_never_beyond(run: str, client: Client) -> None:
    assert refine(run, client, [{"step": "fill", "within_px": 4, "gaps": "outline"}]).exit_code == 0
    found, raw = refined(run), xr.open_zarr(f"{run}/map.zarr", chunks=None).load()
    grid, box = georef_of(raw)
    outline = outline_in(run, read_plan(run)["outline"], grid.crs)
    inside = inside_outline(outline, grid, box)
    distance = distance_transform_edt(raw.label.values == 0)
    np.testing.assert_array_equal(found.label.values > 0, inside & (distance <= 4))
    filled = (found.label.values > 0) & (raw.label.values == 0)
    assert filled.sum() > 50
    assert (found.confidence.values[filled] == 0).all()
    with pytest.raises(InputError, match="no outline is known"):
        refine_map(raw, spec([{"step": "fill", "gaps": "outline"}]), SCHEME)


def test_a_missing_tile_of_the_map_is_a_gap_until_it_is_there(run: str, whole: str, client: Client) -> None:
    ledger = Ledger(run, "map")
    record = next(iter(ledger.records()))
    ledger.clear(record.tile, 2)
    result = refine(run, client)
    assert (result.exit_code, verify_run(run).exit_code) == (3, 3)
    assert f"map {record.tile}" in Path(run, "gaps.json").read_text()
    assert status_of(run)["stages"][-1]["state"] == "partial"
    ledger.commit(record)
    assert (refine(run, client).exit_code, verify_run(run).exit_code) == (0, 0)
    compare(refined(run), refined(whole))


def test_a_damaged_refined_tile_is_found_and_mended(run: str, whole: str, client: Client) -> None:
    record = max(Ledger(run, "refined").records(), key=lambda r: r.counts["pixels"])
    box = record.tile.box(TILE_PX)
    label = read_region(f"{run}/refined.zarr", box, ["label"])["label"]
    write_region(f"{run}/refined.zarr", box, {"label": label ^ 1})
    found = verify_run(run, redo=True)
    assert [(d.stage, d.variable) for d in found.differ] == [("refined", "label")]
    assert refine(run, client).summary.done == 1
    compare(refined(run), refined(whole))


def test_only_a_part_is_refined(run: str, client: Client) -> None:
    from pyproj import Transformer

    shutil.rmtree(f"{run}/ledger/refined")
    tile = in_the_middle(run)
    x, y = (TILE_PX * 10 * (n + 0.5) for n in (tile.col, -tile.row - 1))
    lon, lat = Transformer.from_crs(32633, "OGC:CRS84", always_xy=True).transform(x, y)
    result = refine(run, client, only=f"{lon},{lat},{lon + 1e-6},{lat + 1e-6}")
    assert (result.summary.total, [r.tile for r in current_records(run, "refined")]) == (1, [tile])


def test_settings_come_from_a_file_a_maps_yaml_overrides_or_the_folder(whole: str, tmp_path: Path) -> None:
    own, of_map = tmp_path / "refine.yaml", tmp_path / "run.yaml"
    own.write_text(
        yaml.safe_dump({"steps": [*STEPS, {"step": "fill", "inside": "parts.gpkg"}], "tile_px": 128})
    )
    asked = load_refine_config(own, None)
    assert asked.refine.names == ("1_majority", "2_mmu", "3_fill", "4_fill")
    assert (asked.tile_px, asked.cluster) == (128, None)
    assert asked.refine.steps[-1].inside == tmp_path / "parts.gpkg"  # type: ignore[union-attr]
    cluster = {"kind": "local", "n_workers": 3}
    of_map.write_text(yaml.safe_dump({"area": "X", "refine": {"steps": STEPS}, "cluster": cluster}))
    found = load_refine_config(of_map, ["products=false"])
    assert (found.refine, found.products, found.cluster.n_workers) == (spec(), False, 3)  # type: ignore[union-attr]
    assert load_refine_config(None, ["steps=[{step: mmu, min_px: 4}]"]).refine.names == ("1_mmu",)
    before = earlier_settings(whole, RefineCall())
    assert load_refine_config(None, [], before).refine == spec()
    with pytest.raises(InputError, match=r"refine: Field required"):
        load_refine_config(None, [])
    with pytest.raises(InputError, match=r"steps\.0"):
        load_refine_config(None, ["steps=[{step: majorty}]"])


def test_what_cannot_be_is_refused_before_a_tile_is_made(
    run: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(run, "plan-refined.json").read_bytes()
    with pytest.raises(InputError, match=r"no such class.*found wheatt.*did you mean wheat"):
        refine(run, client, [{"step": "mmu", "min_px": 4, "keep": ["wheatt"]}])
    with pytest.raises(InputError, match="not a run folder"):
        refine(str(Path(run).parent), client)
    assert Path(run, "plan-refined.json").read_bytes() == before
    monkeypatch.setattr("pipelines.tile_stage.memory_limit", lambda client: 300 * MIB)
    with pytest.raises(BudgetError, match="would not fit into a worker's memory"):
        refine(run, client)


def test_a_sieve_of_the_whole_map_is_gdals(run: str, client: Client) -> None:
    result = refine(run, client, {"sieve": {"min_px": 6, "connectivity": 8}})
    label = xr.open_zarr(f"{run}/map.zarr", chunks=None).label.values
    found = refined(run)
    wanted = gdal_sieve(label, 6, mask=label > 0, connectivity=8)
    np.testing.assert_array_equal(found.label.values, wanted)
    np.testing.assert_array_equal(found.changed.values == 1, wanted != label)
    assert int((wanted != label).sum()) > 0
    assert found.changed.attrs["flag_meanings"] == "unchanged 1_sieve"
    assert (result.exit_code, Path(f"{run}/refined-sieved.zarr").exists()) == (0, False)
    again = refine(run, client, {"sieve": {"min_px": 6, "connectivity": 8}})
    assert (again.summary.done, again.summary.reused) == (0, result.summary.done)
    commit_tile(run, in_the_middle(run), speckled(1), version=9)
    assert (
        refine(run, client, {"sieve": {"min_px": 6, "connectivity": 8}}).summary.done == result.summary.done
    )


def test_status_names_the_stage_and_its_command(run: str) -> None:
    told = status_of(run)
    assert [s["stage"] for s in told["stages"]] == ["map", "refined"]
    assert (told["stages"][1]["state"], told["area"]) == ("done", "Weavonia")
    shutil.rmtree(f"{run}/status")
    shutil.rmtree(f"{run}/ledger/refined")
    record = next(iter(Ledger(run, "map").records()))
    Ledger(run, "refined").commit(record)
    assert "`landweave refine`" in status_of(run)["advice"]


def test_gaps_of_the_map_are_gaps_of_what_is_refined_near_them(run: str, client: Client) -> None:
    ledger = Ledger(run, "map")
    record = next(iter(ledger.records()))
    ledger.clear(record.tile, 2)
    ledger.commit(replace(record, epoch=2, gaps=(Gap(str(record.tile), "S2A", "red", "DataError", "torn"),)))
    shutil.rmtree(f"{run}/ledger/refined")
    assert refine(run, client).exit_code == 3
    tiles = {g.tile for g in read_gaps(run, "refined") if g.item == "S2A"}
    near = {
        str(r.tile)
        for r in current_records(run)
        if max(abs(r.tile.row - record.tile.row), abs(r.tile.col - record.tile.col)) <= 1
    }
    assert tiles <= near
    assert str(record.tile) in tiles
