"""Real Sentinel-2 pixels, end to end: native JP2 files to a map by Dynamic World.

Reference polygons and the winter day are told in the data's README: frozen lakes, haze.
"""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import xarray as xr
from distributed import Client
from rasterio.features import rasterize

from engine.archive.staging import stage
from engine.cube.cube import open_cube
from engine.inference.bundle import load_bundle
from engine.inference.foreign import dynamic_world
from engine.inference.lane import lane_for
from engine.inference.predict import predict
from engine.inference.seams import map_seams
from engine.values.grid import Box
from engine.values.lattice import Lattice
from pipelines.config import RunConfig, parse_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.map_area import map_area

SCENE = (12.494, 52.4525, 12.7245, 52.527)  # the cut-out's own bounds, degrees
WEST = (12.494, 52.4525, 12.6135, 52.527)
PART = (12.5965, 52.4627, 12.6315, 52.4836)
"""241 x 247 px around a corner of 1024 px tiles, so that tiles of any size cut it, and few windows do."""


@pytest.fixture(scope="module")
def project(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A staged catalogue and a Dynamic World bundle."""
    folder = tmp_path_factory.mktemp("real")
    stage(real_data / "s2_l1c_33UUU", folder / "stac")
    weights = real_data / "weights"
    network, constants = weights / "dynamicworld_forward.onnx", weights / "dynamicworld_normalisation.json"
    dynamic_world(folder / "bundle", network, constants, Lattice(256, 64))
    return folder


def config(project: Path, out: str, bbox: tuple[float, ...], **settings: object) -> RunConfig:
    raw = {
        "area": {"bbox": list(bbox)},
        "time": "2017-02",
        "catalog": str(project / "stac" / "catalog.json"),
        "bundle": str(project / "bundle"),
        "out": str(project / out),
        "crs": "EPSG:32633",
        **settings,
    }
    return parse_config(raw, "test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "pixels"),
    [(WEST, 900), pytest.param(SCENE, 1000, marks=pytest.mark.long)],
    ids=["west", "whole"],
)
def test_the_scene_is_mapped_as_its_reference_polygons_say(
    part: tuple[float, ...], pixels: int, project: Path, real_data: Path, client: Client
) -> None:
    out = f"scene-{pixels}"
    result = map_area(config(project, out, part, tile_px=512), client=client)
    assert result.exit_code == 0
    assert result.products is not None
    assert not result.products.seams.seam
    polygons = gpd.read_file(real_data / "s2_l1c_33UUU" / "s2l1c_ref.gpkg").to_crs(32633)
    with rasterio.open(project / out / "cog" / "label.tif") as cog:
        label, transform = cog.read(1), cog.transform
    share = {}
    for cid in (1, 2):
        inside = rasterize(polygons[polygons.cid == cid].geometry, label.shape, transform=transform) == 1
        values = label[inside & (label > 0)]
        assert values.size > pixels
        share[cid] = {c: float((values == c).mean()) for c in range(1, 10)}
    assert share[1][1] + share[1][9] > 0.95, "water polygons are water, or snow and ice"
    assert share[2][2] > 0.80, "forest polygons are trees"


@pytest.mark.long
@pytest.mark.parametrize(
    "layouts", [[(512, 300)], [(128, 1024), (256, 100), (1024, 4096)]], ids=["one", "more"]
)
def test_layouts_give_the_bytes_of_an_untiled_map(
    layouts: list[tuple[int, int]], project: Path, client: Client
) -> None:
    base = config(project, "whole", PART)
    bundle, area = load_bundle(base.bundle), area_of(base.area)
    grid, box = grid_and_box(area, base.crs, 10)
    outer = bundle.lattice.pad(box)
    cube = open_cube(find_scenes(base, area), bundle.spec, grid=grid, box=outer, chunks_yx=(4096, 4096))
    whole = predict(cube, bundle, core=box).compute(scheduler="sync")
    for tile, chunk in layouts:
        out = f"part-{tile}"
        workers = client if tile != 512 else None  # one layout on three processes of its own
        cluster = {"n_workers": 3}
        run = config(project, out, PART, tile_px=tile, chunk_px=chunk, products=False, cluster=cluster)
        assert map_area(run, client=workers).exit_code == 0
        found = xr.open_zarr(project / out / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
        inside = found.observations.values > 0
        assert inside.mean() > 0.9
        for name in ("label", "confidence", "observations"):
            np.testing.assert_array_equal(found[name].values[inside], whole[name].values[inside])
        report = map_seams(f"{run.out}/map.zarr", bundle.lattice, tile, grid=grid)
        assert not report.seam, json.dumps([f.__dict__ for f in report.families if f.seam])


@pytest.mark.slow
def test_blending_stays_close_to_one_untiled_forward_pass(project: Path) -> None:
    """One pass over 768 x 768 pixels against windows of 256: what the windows change, away from borders.

    The network sees at most as far as its receptive field, so the two differ by little; the difference
    that is left is stated in benchmarks/RESULTS.md.
    """
    base = config(project, "pass", (12.60, 52.47, 12.66, 52.505))
    bundle, area = load_bundle(base.bundle), area_of(base.area)
    grid, box = grid_and_box(area, base.crs, 10)
    core = Box(box.y0, box.x0, box.y0 + 256, box.x0 + 256)
    outer = core.pad(256)
    cube = open_cube(find_scenes(base, area, pad_m=3000), bundle.spec, grid=grid, box=outer)
    blended = predict(cube, bundle, core=core).compute(scheduler="sync")
    values = cube.reflectance.values
    single = _one_pass(bundle, values)[core.slices_in(outer)]
    agree = float((single == blended.label.values).mean())
    assert agree > 0.995


def _one_pass(bundle: object, values: np.ndarray) -> np.ndarray:
    """Labels of one forward pass over everything, by ONNX Runtime and numpy alone."""
    import onnxruntime

    lane = lane_for(bundle)  # type: ignore[arg-type]
    norm = lane.bundle.normalisation
    x = values[0].astype(np.float32)
    centre = np.array(norm.centre, np.float32)[:, None, None]  # type: ignore[union-attr]
    scale = np.array(norm.scale, np.float32)[:, None, None]  # type: ignore[union-attr]
    y = np.exp(5 * (np.log(0.005 * x + 1) - centre) / scale - 1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(lane.bundle.weights_path), options)
    (logits,) = session.run(None, {session.get_inputs()[0].name: (y / (y + 1)).transpose(1, 2, 0)[None]})
    return np.asarray(logits[0].argmax(-1) + 1, np.uint8)
