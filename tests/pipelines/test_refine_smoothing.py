"""Probabilities and parcels through the refined stage of a run: what the whole array gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from distributed import Client

from engine.refine.chain import RefineSpec
from engine.refine.whole import refine_map
from engine.runs.tile import digests_of, key_of
from engine.store.layout import Dim, StoreSpec, Variable, create
from engine.store.ledger import Ledger, TileRecord
from engine.store.regions import write_region
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Box, TileKey
from pipelines.plan_tiles import walk_of
from pipelines.refine_config import RefineConfig
from pipelines.refine_run import RefineCall, refine_run
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import put_area, tiling_in
from tests.pipelines.refine_sample import GRID, SCHEME

TILE_PX = 48
BOX = Box(-500_016, 49_968, -499_920, 50_112)  # 2 x 3 tiles
NO_DATA = {"label": 0, "confidence": 255, "probability": 255, "observations": 0}


def layers() -> dict[str, np.ndarray]:
    """Noisy probabilities in patches, and a hole."""
    rng = np.random.default_rng(4)
    truth = np.kron(rng.integers(0, 4, (8, 12)), np.ones((12, 12), int))
    raw = rng.gamma(0.5, 1, (4, *truth.shape)) + 1.2 * (truth == np.arange(4)[:, None, None])
    p = np.floor(250 * raw / raw.sum(0) + 0.5).astype(np.uint8)
    p[:, 40:55, 60:80] = 255
    label = np.where(p[0] == 255, 0, p.argmax(0) + 1).astype(np.uint8)
    return {"label": label, "confidence": p.max(0), "probability": p, "observations": np.full_like(label, 9)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder whose map has probabilities, and a file of fields."""
    folder = tmp_path_factory.mktemp("smoothing")
    home = put_area(str(folder), _whole())
    tiling = tiling_in(str(folder), home, GRID, TILE_PX)
    classes = Dim("class", SCHEME.names)
    variables = [
        Variable(name, "uint8", no, (classes,) if name == "probability" else ())
        for name, no in NO_DATA.items()
    ]
    create(f"{folder}/map.zarr", StoreSpec(GRID, BOX, TILE_PX, tuple(variables), chunk_px=16))
    for tile in tiling:
        _commit(str(folder), tile)
    config = {"area": [14, 44, 15, 46], "time": "2023", "bundle": "/nowhere", "out": str(folder)}
    more: dict[str, Any] = {"stage": "map", "store": "map.zarr", "area": "Weavonia", "config": config}
    more |= {"classes": SCHEME.model_dump(mode="json"), "projected_bytes": 1 << 28, "versions": {}}
    write_plan(str(folder), {**walk_of(tiling, home), **more})
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    xy = np.random.default_rng(1).uniform((left, bottom), (right, top), (60, 2))
    fields = shapely.buffer(shapely.points(xy), 70)
    gpd.GeoDataFrame(geometry=fields, crs=GRID.crs).to_crs(4326).to_file(folder / "fields.gpkg")
    return str(folder)


def _whole() -> Area:
    from pyproj import Transformer

    shape = shapely.segmentize(shapely.box(*GRID.bounds_of_box(BOX)).buffer(-1), 50)
    back = Transformer.from_crs(GRID.crs, "OGC:CRS84", always_xy=True)
    return Area("Weavonia", shapely.transform(shape, back.transform, interleaved=False))


def _commit(run: str, tile: TileKey) -> None:
    box, inputs = tile.box(TILE_PX), {"tile": str(tile)}
    arrays = {n: np.ascontiguousarray(a[(..., *box.slices_in(BOX))]) for n, a in layers().items()}
    checksums = write_region(f"{run}/map.zarr", box, arrays)
    told: dict[str, Any] = {
        "attempt": 1,
        "seconds": 1.0,
        "peak_bytes": 1,
        "counts": {"pixels": 1},
        "epoch": 1,
    }
    told |= {"finished_utc": "2026-01-01T00:00:00+00:00", "worker": "test", "engine": "test"}
    key = {"tile": tile, "key": key_of(inputs), "checksums": checksums, "inputs": digests_of(inputs)}
    Ledger(run, "map").commit(TileRecord(**key, **told))


def test_smoothing_and_parcels_are_those_of_the_whole_array(run: str, client: Client) -> None:
    steps = [
        {"step": "gaussian", "sigma_px": 0.7},
        {"step": "bayes", "within_px": 2},
        {"step": "rules", "rules": [{"below": 0.3, "into": None}]},
        {"step": "parcels", "file": str(Path(run) / "fields.gpkg"), "largest_m": 200, "fill": True},
    ]
    spec = RefineSpec.model_validate({"steps": steps})
    config = RefineConfig(refine=spec, products=False, tile_px=64)
    result = refine_run(run, config, RefineCall(client=client, resume=False))
    assert (result.exit_code, result.summary.failed) == (0, 0)
    before = xr.open_zarr(f"{run}/map.zarr", chunks=None).load()
    wanted = refine_map(before, spec, SCHEME, block_px=1000)
    found = xr.open_zarr(f"{run}/refined.zarr", chunks=None).load()
    found = found.sel(y=wanted.y, x=wanted.x)
    for name in ("label", "confidence", "changed"):
        np.testing.assert_array_equal(found[name].values, wanted[name].values, err_msg=name)
    assert {1, 4} <= set(np.unique(found.changed))
    assert (found.label.values[before.label.values == 0] != 0).any()


def test_a_map_without_probabilities_is_told_before_anything_runs(tmp_path: Path, client: Client) -> None:
    from tests.pipelines.refine_sample import make_run

    spec = RefineSpec.model_validate({"steps": [{"step": "bilateral"}]})
    with pytest.raises(InputError, match=r"layers: \[probability\]"):
        refine_run(
            make_run(tmp_path / "run"), RefineConfig(refine=spec, products=False), RefineCall(client=client)
        )
