"""What a map makes again after a change, and what it keeps; fused and staged; parts and versions."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import xarray as xr
import yaml
from distributed import Client
from shapely.geometry import box

from engine.archive.items import ItemTable
from engine.runs.driver import RunEvent
from engine.store.ledger import Ledger
from engine.values.area import Area, to_lonlat
from engine.values.classes import ClassScheme
from engine.values.errors import ConflictError, InputError
from engine.values.grid import TileKey
from pipelines.config import AreaConfig, load_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.explain_tile import explain_tile
from pipelines.make_cube import make_cube
from pipelines.map_area import MapResult, map_area
from pipelines.plan_cube import cube_config_of
from pipelines.plan_tiles import tiles_of
from pipelines.run_folder import read_plan
from pipelines.sample.archive import SampleArchive
from tests.pipelines.test_map_area import make_bundle
from tests.runs.fake_job import tree_bytes

TILE_PX = 64


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run.yaml over the sample archive whose catalogue is a table of items that can be changed."""
    folder = tmp_path_factory.mktemp("incremental")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "map",
        "tile_px": TILE_PX,
        "products": False,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def config(project: Path, out: str, **settings: Any) -> Any:
    extra = [f"{k}={json.dumps(v)}" for k, v in {"out": str(project / out), **settings}.items()]
    return load_config(project / "run.yaml", extra)


def layers(run_dir: Path, store: str = "map.zarr") -> dict[str, np.ndarray]:
    opened = xr.open_zarr(run_dir / store, chunks=None)
    return {str(n): opened[n].values for n in opened.data_vars}


def run(found: Any, client: Client, **how: Any) -> tuple[MapResult, list[RunEvent]]:
    events: list[RunEvent] = []
    return map_area(found, client=client, listener=lambda e, _: events.append(e), **how), events


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def fused(project: Path, client: Client) -> dict[str, np.ndarray]:
    result, _ = run(config(project, "fused"), client)
    assert result.exit_code == 0
    return layers(project / "fused")


def test_the_staged_map_is_the_fused_one(project: Path, client: Client, fused: dict[str, np.ndarray]) -> None:
    wanted = config(project, "staged", through="staged")
    result, events = run(wanted, client)
    cube, made = result.summaries
    assert (cube.job, made.job, result.exit_code) == ("cube", "map", 0)
    assert cube.done == cube.total >= made.total == made.done
    assert_equal(layers(project / "staged"), fused)
    done = [e for e in events if e.kind == "done"]
    first = next(i for i, e in enumerate(done) if e.stage == "map")
    assert any(e.stage == "cube" for e in done[first:]), "the map begins while the cube is being made"
    again, _ = run(wanted, client)
    assert [(s.done, s.reused) for s in again.summaries] == [(0, cube.total), (0, made.total)]


def test_a_cube_that_was_staged_before_is_read(
    project: Path, client: Client, fused: dict[str, np.ndarray]
) -> None:
    """With other tiles, and in two stages of time."""
    for season in ("2023-03/2023-05", "2023-06/2023-10"):
        before = cube_config_of(config(project, "before", time=season)).model_copy(update={"tile_px": 128})
        assert make_cube(before, client=client).exit_code == 0
    result, _ = run(config(project, "before", through="staged"), client)
    assert [(s.job, s.done) for s in result.summaries[:2]] == [("cube", 0), ("cube-2023-06", 0)]
    assert result.exit_code == 0
    assert_equal(layers(project / "before"), fused)


def _table(project: Path, sample: SampleArchive) -> ItemTable:
    """All scenes of the sample, with absolute hrefs."""
    found = config(project, "unused")
    return find_scenes(found, area_of(found.area), pad_m=480)


def test_a_new_scene_redoes_the_tiles_that_it_touches(
    project: Path, client: Client, sample: SampleArchive
) -> None:
    table, catalog = _table(project, sample), project / "items.parquet"
    late = _in_a_corner(project, table.items[0])
    fewer = ItemTable(table.items[1:], table.time_range)
    table = ItemTable((late, *table.items[1:]), table.time_range)
    fewer.to_parquet(catalog)
    wanted = config(project, "scene", catalog=str(catalog))
    first, _ = run(wanted, client)
    before = tree_bytes(str(project / "scene/map.zarr"))
    table.to_parquet(catalog)
    kept, _ = run(wanted, client)
    assert kept.summary.reused == first.summary.total, "without --refresh the scenes of the plan stay"
    surely, perhaps = (_touched(project, wanted, late, reach_m) for reach_m in (1900, 3600))
    assert 0 < len(surely) < first.summary.total
    told = explain_tile(wanted, str(min(surely)), refresh=True)
    assert told["would be"] == "made again"
    assert told["scenes added"] == [late.id]
    assert "scenes gone" not in told
    _, events = run(wanted, client, refresh=True)
    touched = {e.tile for e in events if e.kind == "done"}
    assert surely <= touched <= perhaps
    assert {e.message for e in events if e.kind == "changed"} == {"scenes"}
    assert explain_tile(wanted, str(min(surely)))["would be"].startswith("kept")
    after = tree_bytes(str(project / "scene/map.zarr"))
    changed = {n for n in before if "/c/" in n and before[n] != after.get(n)}
    assert {tuple(map(int, n.split("/")[-2:])) for n in changed} <= _shards(project / "scene", touched)
    whole, _ = run(config(project, "scene-whole", catalog=str(catalog)), client)
    assert whole.exit_code == 0
    assert_equal(layers(project / "scene"), layers(project / "scene-whole"))


def _in_a_corner(project: Path, scene: Any) -> Any:
    """Return a scene whose footprint, with the 2 km that are added, reaches into a corner of the area only."""
    found = config(project, "unused")
    grid, pixels = grid_and_box(area_of(found.area), None, 10)
    left, bottom, _, _ = grid.bounds_of_box(pixels)
    footprint = to_lonlat(box(left - 3000, bottom - 3000, left + 200, bottom + 200), grid.crs)
    return replace(scene, geometry_wkb=shapely.to_wkb(footprint))


def _touched(project: Path, wanted: Any, scene: Any, reach_m: float) -> set[TileKey]:
    """Tiles whose part of the outline lies within a distance of a scene's footprint, by plain geometry."""
    area = area_of(wanted.area)
    grid, _ = grid_and_box(area, None, 10)
    footprint = Area("scene", shapely.from_wkb(scene.geometry_wkb)).to_crs(grid.crs).buffer(reach_m)
    found = set()
    for tile in planned(project / "scene"):
        part = area.to_crs(grid.crs).intersection(box(*grid.bounds_of_box(tile.box(TILE_PX))))
        if footprint.intersects(box(*part.bounds)):
            found.add(tile)
    return found


def planned(run_dir: Path) -> list[TileKey]:
    return list(tiles_of(str(run_dir), read_plan(str(run_dir))))


def _shards(run_dir: Path, tiles: set[TileKey]) -> set[tuple[int, int]]:
    opened = json.loads((run_dir / "map.zarr/zarr.json").read_text())
    corner = opened["attributes"]["landweave"]["spec"]["box"]
    return {(t.row - corner["y0"] // TILE_PX, t.col - corner["x0"] // TILE_PX) for t in tiles}


def test_other_weights_redo_everything_and_say_so(
    project: Path, client: Client, sample: SampleArchive
) -> None:
    first, _ = run(config(project, "weights"), client)
    make_bundle(project / "other", ClassScheme.from_file(sample.classes), seed=1)
    changed = config(project, "weights", bundle=str(project / "other"))
    told = explain_tile(changed, str(planned(project / "weights")[0]))
    assert told["because"] == ["bundle: the model is another one: weights, window, classes"]
    result, events = run(changed, client)
    assert (result.summary.done, result.summary.reused) == (first.summary.total, 0)
    assert Counter(e.message for e in events if e.kind == "changed") == {"bundle": first.summary.total}


def test_one_part_is_made_again_and_the_rest_keeps_its_bytes(project: Path, client: Client) -> None:
    wanted = config(project, "part")
    first, _ = run(wanted, client)
    west, south, east, north = area_of(wanted.area).bounds
    part = AreaConfig(bbox=(west, south, (west + east) / 2, (south + north) / 2))
    epochs = {r.tile: r.epoch for r in Ledger(str(project / "part"), "map").records()}
    before = tree_bytes(str(project / "part/map.zarr"))
    result, events = run(wanted, client, resume=False, only=part)
    done = {e.tile for e in events if e.kind == "done"}
    assert 0 < len(done) == result.summary.total < first.summary.total
    assert result.exit_code == 0
    after = {r.tile: r.epoch for r in Ledger(str(project / "part"), "map").records()}
    assert {t for t in after if after[t] != epochs[t]} == done
    assert tree_bytes(str(project / "part/map.zarr")) == before
    with pytest.raises(InputError, match="outside the area"):
        run(wanted, client, only=AreaConfig(bbox=(0.0, 0.0, 1.0, 1.0)))


def test_versions_lie_side_by_side(
    project: Path, client: Client, sample: SampleArchive, fused: dict[str, np.ndarray]
) -> None:
    make_bundle(project / "second", ClassScheme.from_file(sample.classes), seed=2)
    plain = config(project, "versions")
    named = config(project, "versions", version="b", bundle=str(project / "second"), products=True)
    first, _ = run(plain, client)
    second, _ = run(named, client)
    assert second.summary.done == first.summary.total
    assert_equal(layers(project / "versions"), fused)
    other = layers(project / "versions", "map-b.zarr")
    assert (other["label"] != fused["label"]).any()
    assert (project / "versions/versions/map-b/cog/label.tif").exists()
    assert not (project / "versions/cog").exists()
    for wanted in (plain, named):
        assert run(wanted, client)[0].summary.done == 0


def test_a_smaller_area_is_refused(project: Path, client: Client) -> None:
    wanted = config(project, "fused")
    west, south, east, north = area_of(wanted.area).bounds
    with pytest.raises(ConflictError, match="--only"):
        run(config(project, "fused", area=[west, south, (west + east) / 2, north]), client)


@pytest.mark.parametrize("through", ["fused", "staged"])
def test_a_bigger_area_keeps_what_lies_inside(
    through: str, project: Path, client: Client, fused: dict[str, np.ndarray]
) -> None:
    """The map of the south-west grows into that of the whole territory: same bytes as made at once."""
    out = f"grows-{through}"
    whole = config(project, out, crs="EPSG:32633", through=through)
    west, south, east, north = area_of(whole.area).bounds
    southwest = box(west, south, west + 0.8 * (east - west), south + 0.8 * (north - south))
    part = area_of(whole.area).geometry.intersection(southwest)
    (project / "part.geojson").write_text(shapely.to_geojson(part))
    small = config(project, out, area=str(project / "part.geojson"), crs="EPSG:32633", through=through)
    first, _ = run(small, client)
    outline = Area("part", part).to_crs("EPSG:32633")
    grid, _ = grid_and_box(area_of(whole.area), "EPSG:32633", 10)
    inside = {t for t in planned(project / out) if outline.contains(box(*grid.bounds_of_box(t.box(TILE_PX))))}
    assert 0 < len(inside) < first.summary.total
    result, events = run(whole, client)
    first_stage = result.summaries[
        0
    ].job  # a map tile reads cube tiles around it, which end at the old border
    assert {e.tile for e in events if (e.kind, e.stage) == ("reused", first_stage)} >= inside
    assert {e.message for e in events if e.kind == "changed"} <= {
        "outline",
        "blocks",
        "cube",
        "cube, outline",
    }
    assert result.summary.reused + result.summary.done == result.summary.total > first.summary.total
    grown = xr.open_zarr(project / out / "map.zarr", chunks=None)
    once = xr.open_zarr(project / "fused/map.zarr", chunks=None)
    for name in once.data_vars:
        np.testing.assert_array_equal(grown[name].sel(y=once.y, x=once.x).values, once[name].values)
    assert [s.done for s in run(whole, client)[0].summaries] == [0] * len(result.summaries)


def test_other_names_and_colours_make_nothing_again(
    project: Path, client: Client, sample: SampleArchive
) -> None:
    wanted = config(project, "names")
    run(wanted, client)
    before = tree_bytes(str(project / "names/map.zarr/label/c"))
    renamed = yaml.safe_load(Path(sample.classes).read_text())
    for number, entry in enumerate(renamed["classes"]):
        entry["name"], entry["colour"] = f"kind-{number}", "#102030"
    (project / "renamed.yaml").write_text(yaml.safe_dump(renamed))
    make_bundle(project / "renamed", ClassScheme.from_file(project / "renamed.yaml"), seed=0)
    result, _ = run(config(project, "names", bundle=str(project / "renamed")), client)
    assert (result.summary.done, result.exit_code) == (0, 0)
    assert tree_bytes(str(project / "names/map.zarr/label/c")) == before
    meanings = xr.open_zarr(project / "names/map.zarr", chunks=None).label.attrs["flag_meanings"]
    assert "kind-0" in meanings


def test_a_tile_that_is_not_there_is_told(project: Path, client: Client, fused: Any) -> None:
    with pytest.raises(InputError, match="outside the outline"):
        explain_tile(config(project, "fused"), "r0_c0")
    with pytest.raises(InputError, match="r<row>_c<column>"):
        explain_tile(config(project, "fused"), "third")
    told = explain_tile(config(project, "never"), str(planned(project / "fused")[0]))
    assert told["would be"] == "made: it is not on record"
    assert not (project / "never").exists(), "explaining leaves nothing behind"
