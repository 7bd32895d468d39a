from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import zarr
from pyproj import Proj, Transformer
from shapely import box, transform
from typer.testing import CliRunner

from engine.store.view import open_view
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.cli import app
from pipelines.export_map import ExportRequest, counts_of, export_map, view_of
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import put_area
from tests.products.mapstore import write_map

SCHEME = ClassScheme.from_names(["winter wheat", "maize", "forest"])
SHAPE = (700, 1100)


def _to_degrees(xy: np.ndarray) -> np.ndarray:
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(xy[:, 0], xy[:, 1])
    return np.column_stack([lon, lat])


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    label = np.kron(rng.integers(0, 4, (28, 44), np.uint8), np.ones((25, 25), np.uint8))
    confidence = np.where(label > 0, rng.integers(0, 251, SHAPE), 255).astype(np.uint8)
    return {"label": label, "confidence": confidence}


@pytest.fixture(scope="module")
def run(layers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_map(folder / "map.zarr", layers, SCHEME)
    return folder


def test_all_formats_at_once(run: Path, layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    call = [
        "export",
        str(run),
        "--out",
        str(tmp_path),
        "--cog",
        "--gdal",
        "--legend",
        "--statistics",
        "--json",
    ]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["map"] == f"{run}/map.zarr"
    for name in ("label", "confidence"):
        with rasterio.open(told[name]) as file:
            np.testing.assert_array_equal(file.read(1), layers[name])
        np.testing.assert_array_equal(zarr.open_group(told["gdal"], mode="r")[name][:], layers[name])
    assert ClassScheme.from_file(told["classes"]) == SCHEME
    rows = list(csv.DictReader((tmp_path / "statistics.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == list(SCHEME.names)
    assert [int(row["pixels"]) for row in rows] == [int((layers["label"] == v).sum()) for v in SCHEME.values]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-7)
    assert json.loads((tmp_path / "statistics.json").read_text())["classes"][1]["name"] == "maize"
    entries = {e["name"]: e for e in json.loads((tmp_path / "legend.json").read_text())["classes"]}
    assert entries["forest"]["share"] > 0


def test_a_part_of_some_layers_as_cells(run: Path, layers: dict[str, np.ndarray], tmp_path: Path) -> None:
    corners = Transformer.from_crs(32633, 4326, always_xy=True).transform(
        [502_000, 505_000], [4_997_000, 4_995_000]
    )
    (west, east), (north, south) = corners
    call = [
        "export",
        str(run / "map.zarr"),
        "--out",
        str(tmp_path),
        "--vrt",
        "--cell",
        "1024",
        "--layers",
        "label",
    ]
    done = CliRunner().invoke(app, [*call, "--area", f"{west},{south},{east},{north}"])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["label", "label.vrt"]
    with rasterio.open(tmp_path / "label.vrt") as file:
        rows, cols = rasterio.transform.rowcol(file.transform, [502_005, 504_995], [4_996_995, 4_995_005])
        found = file.read(1)[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1]
    np.testing.assert_array_equal(found, layers["label"][300:500, 200:500])


def test_the_refined_map_comes_first_and_others_by_name(
    run: Path, layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_map(tmp_path / "map.zarr", layers, SCHEME)
    write_map(tmp_path / "refined.zarr", layers, SCHEME)
    assert view_of(str(tmp_path)).url.endswith("refined.zarr")
    assert view_of(str(tmp_path), "map").url.endswith("map.zarr")
    with pytest.raises(InputError, match=r"no map there.*no refined\.zarr, no map\.zarr"):
        view_of(str(tmp_path / "none"))


def test_a_run_is_cut_to_its_area_and_to_named_parts_of_it(
    layers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    write_map(tmp_path / "run" / "map.zarr", layers, SCHEME)
    outline = transform(box(501_000, 4_995_000, 506_000, 4_999_000), _to_degrees)
    parts = {
        "name": ["west", "east"],
        "geometry": [outline, transform(box(502e3, 4_996e3, 503e3, 4_997e3), _to_degrees)],
    }
    gpd.GeoDataFrame(parts, crs=4326).to_file(tmp_path / "parts.gpkg")
    area = {"name": "west", "file": str(tmp_path / "parts.gpkg")}
    plan = {"stage": "map", "outline": put_area(run, Area("here", outline)), "config": {"area": area}}
    write_plan(run, plan)
    for name, part, expected in (
        ("whole", None, (100, 500, 100, 600)),
        ("part", "east", (300, 400, 200, 300)),
    ):
        told = export_map(ExportRequest(run, tmp_path / name, ("cog",), ("label",), area=part))
        y0, y1, x0, x1 = expected
        with rasterio.open(told["label"]) as file:
            top, left = file.index(500_000 + x0 * 10 + 5, 5_000_000 - y0 * 10 - 5)
            assert max(abs(top), abs(left)) <= 3  # a box in degrees is no box in metres
            found = file.read(1)[top : top + y1 - y0, left : left + x1 - x0]
        np.testing.assert_array_equal(found, layers["label"][y0:y1, x0:x1])


def test_what_cannot_be_exported_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no such variable.*height.*confidence, label"):
        export_map(ExportRequest(str(run), out, layers=("height",)))
    with pytest.raises(InputError, match="outside the map"):
        export_map(ExportRequest(str(run), out, area="100,10,101,11"))
    with pytest.raises(InputError, match="local folder"):
        export_map(ExportRequest(str(run), "s3://bucket/x"))  # type: ignore[arg-type]
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(out), "--overviews", "cubic"])
    assert isinstance(done.exception, InputError)
    assert not out.exists()


def _true_hectares(label: np.ndarray, grid: Grid, box: Box) -> dict[int, float]:
    """Weigh each pixel by PROJ's areal scale at its centre."""
    y, x = grid.centres(box)
    lon, lat = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    scale = Proj(grid.crs).get_factors(lon, lat).areal_scale
    weights = grid.resolution_yx[0] * grid.resolution_yx[1] / scale / 1e4
    return {int(v): float(weights[label == v].sum()) for v in np.unique(label) if v}


@pytest.mark.parametrize("block_px", [64, 100, 256, 333, 512, 1000, 4096])
def test_statistics_are_those_of_the_whole_array_for_any_block(
    run: Path, layers: dict[str, np.ndarray], block_px: int
) -> None:
    view, label = open_view(str(run / "map.zarr")), layers["label"]
    counts = counts_of(view, block_px=block_px)
    assert counts == counts_of(view)  # to the last bit
    assert counts.pixels == {v: int((label == v).sum()) for v in (1, 2, 3)}
    expected = _true_hectares(label, view.grid, view.box)
    assert counts.hectares == pytest.approx(expected, rel=1e-7)
    nominal = {v: n / 100 for v, n in counts.pixels.items()}
    assert all(abs(counts.hectares[v] / nominal[v] - 1) > 1e-4 for v in nominal)  # the scale of UTM is not 1


def test_statistics_of_amounts_are_refused(run: Path) -> None:
    amounts = replace(open_view(str(run / "map.zarr")), variables=("confidence",))
    with pytest.raises(InputError, match="not a map of classes"):
        counts_of(amounts)
