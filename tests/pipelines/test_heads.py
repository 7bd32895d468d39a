"""Maps that are no maps of classes on the cube's own pixels: values on a coarser grid, and single pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pystac
import pytest
import rasterio
import xarray as xr
import yaml
from distributed import Client
from onnx import helper, numpy_helper

from engine.cube.cube import open_cube
from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle, load_bundle
from engine.inference.manifest import Layout
from engine.inference.predict import predict
from engine.models.normalise import Standard
from engine.values.classes import ClassScheme
from engine.values.georef import georef_of
from engine.values.head import ONE_CLASS, Classes, Values
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.map_area import MapResult, map_area
from pipelines.run_folder import current_records
from pipelines.sample.archive import SampleArchive
from pipelines.verify_run import verify_run

HEIGHT = Values(variable="tree_height", low=-2.0, high=2.0, unit="m")


def fields(head: Classes | Values, names: list[str], lattice: Lattice) -> BundleFields:
    return BundleFields(
        name="foreign network",
        spec=CubeSpec(bands=("red", "nir", "swir16")),
        n_dates=8,
        classes=ClassScheme.from_names(names),
        lattice=lattice,
        normalisation=Standard(mean=[1500.0, 2500.0, 2000.0], std=[900.0, 1200.0, 900.0]),
        head=head,
    )


def save_onnx(
    path: Path, nodes: list[Any], weights: dict[str, np.ndarray], axes: tuple[list[Any], list[Any]]
) -> Path:
    tensor = helper.make_tensor_value_info
    values = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    x, y = (tensor(n, onnx.TensorProto.FLOAT, a) for n, a in zip("xy", axes, strict=True))
    graph = helper.make_graph(nodes, "net", [x], [y], values)
    opset = [helper.make_opsetid("", 15)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def coarse_values(folder: Path) -> Bundle:
    """Two values for each 2 x 2 pixels, from the 6 x 6 around them."""
    rng = np.random.default_rng(2)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[2, 2, 2, 2])
    weights = {"w": rng.normal(0, 0.02, (2, 24, 6, 6))}
    path = save_onnx(folder / "coarse.onnx", [conv], weights, (["n", 24, "h", "w"], ["n", 2, "i", "j"]))
    layout = Layout(order="NCHW", stride=2)
    return create_onnx_bundle(
        folder / "coarse", path, layout, fields(HEIGHT, ["mean", "spread"], Lattice(48, 16))
    )


def single_pixels(folder: Path) -> Bundle:
    """Five classes by a linear layer over all dates and bands of a pixel."""
    weights = {"w": np.random.default_rng(3).normal(0, 0.2, (24, 5))}
    path = save_onnx(
        folder / "rows.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], weights, (["n", 24], ["n", 5])
    )
    about = fields(ONE_CLASS, list("abcde"), Lattice(1, 0))
    return create_onnx_bundle(folder / "rows", path, Layout(order="NF"), about)


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    coarse_values(folder)
    single_pixels(folder)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "tile_px": 128,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run(project: Path, client: Client, model: str, *overrides: str, out: str = "") -> MapResult:
    out = str(project / (out or f"map-{model}"))
    extra = [f"out={json.dumps(out)}", f"bundle={json.dumps(str(project / model))}", *overrides]
    return map_area(load_config(project / "run.yaml", extra), client=client)


def untiled(project: Path, model: str, **options: Any) -> xr.Dataset:
    """The map in one piece: one chunk, with the halo around it."""
    out, bundle_dir = json.dumps(str(project / "none")), json.dumps(str(project / model))
    config = load_config(project / "run.yaml", [f"out={out}", f"bundle={bundle_dir}"])
    bundle, area = load_bundle(project / model), area_of(config.area)
    grid, box = grid_and_box(area, None, 10)
    box = box.snap_out(bundle.layout.stride)
    scenes = find_scenes(config, area, pad_m=480)
    cube = open_cube(scenes, bundle.spec, grid=grid, box=bundle.outer(box), chunks_yx=(4096, 4096))
    return predict(cube, bundle, core=box, **options).compute(scheduler="sync")


def test_values_on_a_coarser_grid_are_those_of_the_untiled_map_and_are_published(
    project: Path, client: Client
) -> None:
    assert run(project, client, "coarse").exit_code == 0
    whole = untiled(project, "coarse")
    assert georef_of(whole)[0].resolution_yx == (20.0, 20.0)
    found = xr.open_zarr(project / "map-coarse" / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
    inside = found.observations.values > 0
    assert 0.3 < inside.mean() < 1
    stored, expected = found.tree_height.values, whole.tree_height.values
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored[:, inside], expected[:, inside])
    assert (stored[:, ~inside] == -32768).all()
    assert len(np.unique(stored[:, inside])) > 1000
    assert found.tree_height.attrs["scale"] == HEIGHT.step
    _check_files(project / "map-coarse", stored)
    assert verify_run(str(project / "map-coarse")).exit_code == 0
    records = current_records(str(project / "map-coarse"))
    assert sum(r.counts["pixels"] for r in records) == (stored[0] != -32768).sum(), "not once for each plane"

    staged = run(project, client, "coarse", "through=staged", "products=false", "tile_px=96", out="staged")
    assert staged.exit_code == 0
    again = xr.open_zarr(project / "staged" / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
    np.testing.assert_array_equal(again.tree_height.values, stored)


def _check_files(folder: Path, stored: np.ndarray) -> None:
    with rasterio.open(folder / "cog" / "tree_height.tif") as src:
        assert (src.count, src.dtypes[0], src.nodata, src.res) == (2, "int16", -32768, (20.0, 20.0))
        assert src.scales[0] == pytest.approx(HEIGHT.step)
        assert src.offsets[0] == pytest.approx(HEIGHT.offset)
        valid = stored[0][stored[0] != -32768]
        np.testing.assert_array_equal(np.sort(src.read(1)[src.read(1) != -32768]), np.sort(valid))
    assert (folder / "quicklook.png").stat().st_size > 10_000
    (item,) = (
        pystac.Item.from_file(str(p))
        for p in (folder / "stac").glob("*.json")
        if p.stem not in ("catalog", "collection")
    )
    band = item.assets["tree_height"].to_dict()["raster:bands"][1]
    assert (band["data_type"], band["unit"], band["nodata"]) == ("int16", "m", -32768)


def test_single_pixels_need_no_halo_and_give_the_untiled_map(project: Path, client: Client) -> None:
    result = run(project, client, "rows", "layers=[entropy, margin]", "products=false")
    assert result.exit_code == 0
    whole = untiled(project, "rows", layers=("entropy", "margin"))
    found = xr.open_zarr(project / "map-rows" / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
    inside = found.label.values > 0
    assert 0.3 < inside.mean() < 1
    for name in ("label", "confidence", "entropy", "margin", "observations"):
        np.testing.assert_array_equal(found[name].values[inside], whole[name].values[inside])
    assert (found.entropy.values[~inside] == 255).all()
