"""Two maps compared from files and stores: figures against scikit-learn, the map of errors against the arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin
from sklearn import metrics
from typer.testing import CliRunner

from engine.products.styles import pam
from engine.store.layout import create
from engine.store.regions import write_region
from engine.store.storespec import StoreSpec, Variable
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.agree_maps import AgreeOptions, agree
from pipelines.class_maps import open_class_map
from pipelines.cli import app

SCHEME = ClassScheme.from_names(["crop", "forest", "open water"])
GRID, BOX = Grid("EPSG:32633", (10.0, 10.0)), Box(-530100, 50010, -530100 + 90, 50010 + 120)


def labels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, BOX.shape_yx).astype(np.uint8)


def write_tif(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    left, _, _, top = GRID.bounds_of_box(BOX)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=values.dtype,
        count=1,
        height=values.shape[0],
        width=values.shape[1],
        crs="EPSG:32633",
        transform=from_origin(left, top, 10, 10),
        **profile,
    ) as file:
        file.write(values, 1)
        file.update_tags(1, **{f"class_{c.value}": c.name for c in SCHEME.classes})
    return path


def write_store(path: Path, values: NDArray[np.uint8]) -> Path:
    """Write a map store that is padded to whole shards."""
    variables = (
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255),
    )
    spec = StoreSpec(GRID, BOX, 256, variables)
    create(str(path), spec)
    whole = {
        "label": np.zeros(spec.box.shape_yx, np.uint8),
        "confidence": np.full(spec.box.shape_yx, 255, np.uint8),
    }
    whole["label"][BOX.slices_in(spec.box)] = values
    whole["confidence"][BOX.slices_in(spec.box)] = 125
    write_region(str(path), spec.box, whole)
    return path


def test_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    first, second = labels(1), labels(2)
    found = agree(
        str(write_store(tmp_path / "map.zarr", first)),
        str(write_tif(tmp_path / "truth.tif", second)),
        tmp_path / "out",
        AgreeOptions(kappa=True, block_px=256),
    )
    both = (first > 0) & (second > 0)
    a, b = first[both], second[both]
    matrix = metrics.confusion_matrix(a, b)
    told = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert told == json.loads(json.dumps(found.told))
    assert told["matrix"]["pixels"] == matrix.tolist()
    assert told["overall_agreement"] == pytest.approx(metrics.accuracy_score(b, a), abs=1e-6)
    assert told["kappa"] == pytest.approx(metrics.cohen_kappa_score(b, a), abs=1e-6)
    for k, name in enumerate(SCHEME.names):
        own, one = told["per_class"][name], (b == k + 1, a == k + 1)
        assert own["users_accuracy"] == pytest.approx(metrics.precision_score(*one), abs=1e-6)
        assert own["producers_accuracy"] == pytest.approx(metrics.recall_score(*one), abs=1e-6)
        assert own["f1"] == pytest.approx(metrics.f1_score(*one), abs=1e-6)
        assert own["iou"] == pytest.approx(metrics.jaccard_score(*one), abs=1e-6)
    assert told["pixels"]["only_first"] == int(((first > 0) & (second == 0)).sum())
    assert told["by_confidence"] == [
        {"from": 0.5, "to": 0.6, "pixels": int(both.sum()), "agree": pytest.approx((a == b).mean(), abs=1e-6)}
    ]
    written = {path.name for path in found.files}
    assert written == {
        "agreement.json",
        "agreement.md",
        "matrix.csv",
        "matrix.png",
        "by_layer.png",
        "errors.tif",
        "errors.qml",
    }
    assert all(path.stat().st_size > 100 for path in found.files)
    with rasterio.open(tmp_path / "out" / "errors.tif") as file:
        errors, colours = file.read(1), file.colormap(1)
        bounds = file.bounds
    left, _, _, top = GRID.bounds_of_box(BOX)
    row, col = round((bounds.top - top) / 10), round((left - bounds.left) / 10)
    cut = errors[row : row + 90, col : col + 120]
    assert np.array_equal(cut == 2, both & (first != second))
    assert np.array_equal(cut == 1, both & (first == second))
    assert (errors > 0).sum() == (cut > 0).sum()
    assert colours[2][:3] == (192, 57, 43)
    assert not (tmp_path / "out" / ".errors.zarr").exists()


def test_regions_are_told_apart(tmp_path: Path) -> None:
    first, second = labels(3), labels(4)
    left, _, _, top = GRID.bounds_of_box(BOX)
    west = shapely.Polygon([(left, top), (left + 611, top), (left + 333, top - 900), (left, top - 900)])
    east = shapely.box(left + 700, top - 450, left + 1200, top)
    units = tmp_path / "units.gpkg"
    frame = gpd.GeoDataFrame({"name": ["West", "East"]}, geometry=[west, east], crs="EPSG:32633")
    frame.to_crs("EPSG:4326").to_file(units)
    found = agree(
        str(write_tif(tmp_path / "a.tif", first)),
        str(write_tif(tmp_path / "b.tif", second)),
        None,
        AgreeOptions(regions=str(units)),
    )
    y, x = GRID.centres(BOX)
    both, told = (first > 0) & (second > 0), found.told["regions"]
    for name, shape in (("West", west), ("East", east)):
        inside = shapely.contains_xy(shape, *np.meshgrid(x, y)) & both
        assert abs(told[name]["pixels"] - inside.sum()) <= 2  # centres on the very line
        assert told[name]["overall_agreement"] == pytest.approx((first == second)[inside].mean(), abs=2e-3)
    assert sum(t["pixels"] for t in told.values()) == both.sum()


def test_a_wrong_column_of_regions_names_those_there_are(tmp_path: Path) -> None:
    units = tmp_path / "units.geojson"
    gpd.GeoDataFrame({"code": ["a"]}, geometry=[shapely.box(14, 47, 15, 48)], crs="EPSG:4326").to_file(units)
    a = str(write_tif(tmp_path / "a.tif", labels(1)))
    with pytest.raises(
        InputError, match=r"which column names the regions.*expected code; to mend: give --region-column"
    ):
        agree(a, a, None, AgreeOptions(regions=str(units)))
    with pytest.raises(InputError, match=r"no such column.*found nome, expected code"):
        agree(a, a, None, AgreeOptions(regions=str(units), region_column="nome"))


def test_the_command_prints_tables_or_json(tmp_path: Path) -> None:
    a, b = (str(write_tif(tmp_path / f"{s}.tif", labels(s))) for s in (5, 6))
    out = CliRunner().invoke(
        app, ["assess", "agree", a, b, "--out", str(tmp_path / "o"), "--errors", "none", "--json"]
    )
    assert out.exit_code == 0, out.output
    assert json.loads(out.stdout)["classes"] == list(SCHEME.names)
    shown = CliRunner().invoke(
        app, ["assess", "agree", a, b, "--out", str(tmp_path / "o"), "--errors", "second"]
    )
    assert "open water" in shown.stdout
    with rasterio.open(tmp_path / "o" / "errors.tif") as file:
        expected = np.where((labels(5) > 0) & (labels(6) > 0) & (labels(5) != labels(6)), labels(6), 0)
        assert np.array_equal(
            np.bincount(file.read(1).ravel(), minlength=4)[1:], np.bincount(expected.ravel())[1:]
        )


def test_maps_tell_their_classes_or_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.tif"
    left, _, _, top = GRID.bounds_of_box(BOX)
    with rasterio.open(
        plain,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=90,
        width=120,
        crs="EPSG:32633",
        transform=from_origin(left, top, 10, 10),
        nodata=255,
    ) as file:
        file.write(labels(1), 1)
    with pytest.raises(InputError, match=r"does not tell its classes.*--classes"):
        open_class_map(str(plain))
    yaml = tmp_path / "c.yaml"
    yaml.write_text(
        "classes:\n"
        + "".join(
            f"  - {{value: {v + 1}, name: c{v}, colour: '#00000{v}', codes: [{v}]}}\n" for v in range(4)
        )
    )
    assert np.array_equal(open_class_map(str(plain), yaml).labels(BOX), labels(1) + 1)
    with pytest.raises(InputError, match="no map there"):
        open_class_map(str(tmp_path))
    with pytest.raises(InputError, match="no map there"):
        open_class_map(str(tmp_path / "nothing.tif"))


def test_the_cloud_mask_of_a_whole_tile_agrees_with_itself_but_where_it_was_changed(
    real_data: Path, tmp_path: Path
) -> None:
    mask = real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif"
    yaml = tmp_path / "clouds.yaml"
    names = ("clear", "thick cloud", "thin cloud", "shadow")
    yaml.write_text(
        "classes:\n"
        + "".join(
            f"  - {{value: {v + 1}, name: {n}, colour: '#00000{v}', codes: [{v}]}}\n"
            for v, n in enumerate(names)
        )
    )
    with rasterio.open(mask) as file:
        values, profile = file.read(1, window=((3000, 3400), (5000, 5500))), file.profile
        transform = file.window_transform(rasterio.windows.Window(5000, 3000, 500, 400))
    changed = values.copy()
    changed[100:110, 200:230] = (changed[100:110, 200:230] + 1) % 4
    with rasterio.open(
        tmp_path / "b.tif", "w", **profile | {"height": 400, "width": 500, "transform": transform}
    ) as file:
        file.write(changed, 1)
    found = agree(
        str(mask),
        str(tmp_path / "b.tif"),
        None,
        AgreeOptions(first_classes=str(yaml), second_classes=str(yaml)),
    )
    assert found.told["pixels"] == {"both": 200000, "only_first": 0, "only_second": 0, "left_out": 0}
    assert (
        found.told["matrix"]["pixels"]
        == metrics.confusion_matrix(values.ravel(), changed.ravel(), labels=range(4)).tolist()
    )


def test_a_map_of_errors_tells_its_own_classes(tmp_path: Path) -> None:
    a, b = (str(write_tif(tmp_path / f"{s}.tif", labels(s))) for s in (5, 6))
    for size in (256, 512):
        agree(a, b, tmp_path / str(size), AgreeOptions(block_px=size))
    one, two = (open_class_map(str(tmp_path / size / "errors.tif")) for size in ("256", "512"))
    assert one.scheme.names == ("agree", "differ", "only in the first map", "only in the second map")
    assert np.array_equal(one.labels(BOX), two.labels(BOX))
    assert one.scheme.classes[1].colour == "#c0392b"


def test_broader_classes_are_compared(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text(
        "classes:\n"
        "  - {value: 1, name: crop, colour: '#000001', parent: land}\n"
        "  - {value: 2, name: forest, colour: '#000002', parent: land}\n"
        "  - {value: 3, name: open water, colour: '#000003'}\n"
    )
    first, second = labels(7), labels(8)
    a, b = str(write_tif(tmp_path / "a.tif", first)), str(write_tif(tmp_path / "b.tif", second))
    options = AgreeOptions(broader=True, first_classes=str(yaml), second_classes=str(yaml))
    told = agree(a, b, None, options).told
    assert told["classes"] == ["land", "open water"]
    both = (first > 0) & (second > 0)
    assert told["matrix"]["pixels"] == metrics.confusion_matrix(first[both] > 2, second[both] > 2).tolist()


@pytest.mark.parametrize("kind", ["aux", "vrt"])
def test_names_are_read_from_wherever_gdal_keeps_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    left, _, _, top = GRID.bounds_of_box(BOX)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=90,
        width=120,
        crs="EPSG:32633",
        transform=from_origin(left, top, 10, 10),
        nodata=0,
    ) as file:
        file.write(labels(1), 1)
        file.write_colormap(1, {c.value: (*c.rgb, 255) for c in SCHEME.classes})
    if kind == "aux":
        (tmp_path / "a.tif.aux.xml").write_text(pam(SCHEME))
    else:
        rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
        categories = "".join(f"<Category>{n}</Category>" for n in ("no data", *SCHEME.names))
        text = (tmp_path / "a.vrt").read_text()
        text = text.replace("<ColorInterp>", f"<CategoryNames>{categories}</CategoryNames><ColorInterp>", 1)
        path = tmp_path / "a.vrt"
        path.write_text(text)
    opened = open_class_map(str(path))
    assert opened.scheme == SCHEME
    assert np.array_equal(opened.labels(BOX), labels(1))
