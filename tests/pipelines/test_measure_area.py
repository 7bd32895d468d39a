"""The command that measures a map: files that others open, figures that hold, errors that help."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from typer.testing import CliRunner

from engine.assessment.record import Assessment
from engine.assessment.types import Sample, Stratum
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from pipelines.cli import app
from pipelines.measure_area import AreaOptions, MeasuredAreas, measure_area, report_areas
from tests.products.mapstore import GRID, write_map

SCHEME = ClassScheme(
    classes=(
        LandClass(value=1, name="wheat", colour="#e3b448", parent="crops"),
        LandClass(value=2, name="maize", colour="#f2e205", parent="crops"),
        LandClass(value=5, name="old forest", colour="#14532d"),
    )
)
SIDE = 300


def _labels() -> np.ndarray[Any, Any]:
    label = np.ones((SIDE, SIDE), np.uint8)
    label[:, 150:] = 2
    label[200:] = 5
    label[290:, :30] = 0
    return label


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a map of 300 x 300 pixels, units (one beyond the map, one far away), and an assessment."""
    folder = tmp_path_factory.mktemp("areas")
    box = write_map(folder / "map.zarr", {"label": _labels()}, SCHEME)
    left, bottom, _, top = GRID.bounds_of_box(box)
    shapes = {
        "Nord": shapely.box(left + 5, top - 1500, left + 3000, top),
        "Süd": shapely.box(left, bottom - 1000, left + 3000, bottom + 1000),
        "Ferne": shapely.box(left + 1e5, bottom, left + 1.1e5, top),
    }
    frame = gpd.GeoDataFrame({"name": list(shapes)}, geometry=list(shapes.values()), crs=GRID.crs)
    frame.to_file(folder / "units.gpkg")
    (folder / "assessment.json").write_text(json.dumps(_assessment(folder, left, top).told))
    return folder


class _Told:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told


def _assessment(folder: Path, left: float, top: float) -> _Told:
    """Draw 300 points; one in ten is the next class."""
    rng, label = np.random.default_rng(1), _labels()
    rows, cols = rng.integers(0, SIDE, (2, 300))
    kept = label[rows, cols] > 0
    rows, cols = rows[kept], cols[kept]
    mapped = label[rows, cols].astype(np.int64)
    truth = np.where(rng.random(len(rows)) < 0.1, 1, mapped)
    counts = {v: int((label == v).sum()) for v in (1, 2, 5)}
    strata = [Stratum(str(v), n, n / 100, mapped=v) for v, n in counts.items()]
    sample = Sample.of(strata, mapped.astype(str), mapped, truth)
    xy = np.column_stack([left + (cols + 0.5) * 10, top - (rows + 0.5) * 10])
    ids = np.arange(len(rows)).astype(str)
    hectares = {v: n / 100 for v, n in counts.items()}
    known = Assessment(str(folder), GRID.crs, SCHEME, "stratified", sample, ids, xy, counts, hectares)
    return _Told(known.as_json(known.accuracy()))


@pytest.fixture(scope="module")
def found(made: Path) -> MeasuredAreas:
    """Measure it once with everything."""
    options = AreaOptions(zones=made / "units.gpkg", assessment=made / "assessment.json", block_px=128)
    return measure_area(str(made / "map.zarr"), made / "out", options)


def test_hectares_of_a_unit_are_counted_by_hand(found: MeasuredAreas) -> None:
    north = found.report.units[0]
    assert north.area.name == "Nord"
    wheat = next(own for own in north.classes if own.value == 1)
    nominal = 150 * (150 - 0.5) / 100  # half a pixel of the first column lies outside
    assert wheat.mapped == pytest.approx(nominal / 0.9996**2, rel=1e-4)  # the scale in the middle of a zone
    assert north.area.no_data == 0
    assert north.area.off == pytest.approx(0, abs=1e-6)


def test_what_lies_off_the_map_is_said(found: MeasuredAreas) -> None:
    south = found.report.units[1].area
    assert south.outside == pytest.approx(south.hectares / 2, rel=1e-4)
    assert south.no_data == pytest.approx(3.0, rel=1e-3)
    assert [u.area.name for u in found.report.units] == ["Nord", "Süd"]
    assert found.report.missed == ("Ferne",)
    assert any("Ferne" in line for line in found.lines())


def test_csv_has_a_row_for_each_unit_and_class(found: MeasuredAreas) -> None:
    rows = list(csv.DictReader(io.StringIO(found.files["csv"].read_text(encoding="utf-8"))))
    assert [(r["unit"], r["class"]) for r in rows[:3]] == [("Nord", n) for n in SCHEME.names]
    assert [r["unit"] for r in rows[-3:]] == ["whole map"] * 3
    for row in rows:
        bias = float(row["mapped_ha"]) - float(row["adjusted_ha"])
        assert float(row["pixel_count_bias_ha"]) == pytest.approx(bias, abs=2e-4)
        if row["low_ha"]:  # no point tells of forest or maize where none is mapped
            assert float(row["low_ha"]) <= float(row["adjusted_ha"]) <= float(row["high_ha"])
    assert sum(1 for r in rows if r["low_ha"]) >= 6
    assert {r["method"] for r in rows} == {"assisted", "sample"}


def test_adjusted_areas_of_a_unit_add_up_to_what_is_mapped(found: MeasuredAreas) -> None:
    for unit in (*found.report.units, found.report.whole):
        adjusted = sum(own.adjusted.value or 0 for own in unit.classes if own.adjusted)
        assert adjusted == pytest.approx(
            unit.area.mapped, rel=2e-3
        )  # the assessment counted nominal hectares
    whole = {own.value: own for own in found.report.whole.classes}
    assert (whole[1].bias or 0) < 0  # wheat was found where other classes are mapped
    assert (whole[2].bias or 0) > 0


def test_geoparquet_is_opened_by_others_with_its_crs(found: MeasuredAreas) -> None:
    path = found.files["parquet"]
    frame = gpd.read_parquet(path)
    assert frame.crs.to_epsg() == 32633
    assert list(frame["name"]) == ["Nord", "Süd"]
    assert {"old forest_ha", "old forest_adjusted_ha", "old forest_low_ha", "unit_ha"} <= set(frame.columns)
    assert frame["unit_ha"].tolist() == pytest.approx((frame.area / 1e4 / 0.9996**2).tolist(), rel=1e-4)
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert not list(path.parent.glob(".*.part"))


def test_json_says_all(found: MeasuredAreas) -> None:
    told = json.loads(found.files["json"].read_text())
    assert told["schema"] == "landweave/areas/1"
    assert told["off_the_map"] == ["Ferne"]
    assert [u["name"] for u in told["units"]] == ["Nord", "Süd"]
    assert told["units"][0]["points"] > 30
    assert told["whole"]["mapped_ha"] == pytest.approx(
        sum(c["mapped_ha"] for c in told["whole"]["classes"]), abs=1e-3
    )


@pytest.mark.parametrize(("kind", "colour"), [("figure", "#14532d"), ("units_figure", "#e3b448")])
def test_charts_show_classes_in_their_colours(found: MeasuredAreas, kind: str, colour: str) -> None:
    with Image.open(found.files[kind]) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    shown = np.rint(0.6 * rgb + 0.4 * 255)  # as bars are laid on white
    assert (np.abs(pixels - shown).max(axis=1) <= 2).sum() > 500
    assert (pixels.max(axis=1) < 80).sum() > 100  # text, intervals


def test_any_block_size_measures_the_same(made: Path, found: MeasuredAreas) -> None:
    wanted = json.loads(found.files["json"].read_text())
    for block_px, workers in ((64, 3), (200, 1), (512, 2)):
        options = AreaOptions(
            zones=made / "units.gpkg", assessment=made / "assessment.json", block_px=block_px, workers=workers
        )
        again = report_areas(str(made / "map.zarr"), options)
        assert json.loads(json.dumps(again.as_json())) == wanted


def test_a_raster_file_measures_as_the_store_does(made: Path, found: MeasuredAreas) -> None:
    import rasterio
    from affine import Affine

    transform = Affine(*GRID.transform_of(_box()))
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(made / "map.tif", "w", crs=GRID.crs, transform=transform, **profile) as file:
        file.write(_labels(), 1)
    (made / "classes.yaml").write_text(SCHEME.to_yaml())
    options = AreaOptions(zones=made / "units.gpkg", classes=str(made / "classes.yaml"))
    told = report_areas(str(made / "map.tif"), options)
    for unit, wanted in zip(told.units, found.report.units, strict=True):
        assert unit.area == wanted.area


def _box() -> Any:
    from engine.values.grid import Box

    return Box(-500_000, 50_000, -500_000 + SIDE, 50_000 + SIDE)


def test_an_assessment_of_the_parents_measures_parents(made: Path, tmp_path: Path) -> None:
    told = json.loads((made / "assessment.json").read_text())
    table = {1: 1, 2: 1, 5: 5}
    told["classes"] = [
        {"value": 1, "name": "crops", "colour": "#e3b448"},
        {"value": 5, "name": "old forest", "colour": "#14532d"},
    ]
    for name in ("mapped", "reference"):
        told["points"][name] = [table[v] for v in told["points"][name]]
    both = told["mapped"].pop("2")
    told["mapped"]["1"]["pixels"] += both["pixels"]
    (tmp_path / "assessment.json").write_text(json.dumps(told))
    (tmp_path / "classes.yaml").write_text(SCHEME.to_yaml())  # CF flags know no parents
    options = AreaOptions(
        zones=made / "units.gpkg",
        assessment=tmp_path / "assessment.json",
        classes=str(tmp_path / "classes.yaml"),
    )
    report = report_areas(str(made / "map.zarr"), options)
    plain = report_areas(str(made / "map.zarr"), AreaOptions(zones=made / "units.gpkg"))
    assert [own.value for own in report.whole.classes] == [1, 5]
    assert report.units[0].area.classes[1] == pytest.approx(
        sum(plain.units[0].area.classes[v] for v in (1, 2))
    )


def test_an_assessment_of_another_map_is_refused(made: Path, tmp_path: Path) -> None:
    told = json.loads((made / "assessment.json").read_text())
    told["mapped"]["1"]["pixels"] *= 2
    (tmp_path / "other.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="of another map"):
        report_areas(str(made / "map.zarr"), AreaOptions(assessment=tmp_path / "other.json"))
    told["classes"][0]["name"] = "rye"
    (tmp_path / "classes.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="other classes"):
        report_areas(str(made / "map.zarr"), AreaOptions(assessment=tmp_path / "classes.json"))


def test_units_that_all_lie_elsewhere_are_refused(made: Path) -> None:
    options = AreaOptions(zones=made / "units.gpkg", where="name = 'Ferne'")
    with pytest.raises(InputError, match="no unit lies on the map"):
        report_areas(str(made / "map.zarr"), options)


def test_the_command_prints_tables_and_writes_files(made: Path, tmp_path: Path) -> None:
    arguments = [
        "area",
        str(made / "map.zarr"),
        "--zones",
        str(made / "units.gpkg"),
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--assessment", str(made / "assessment.json")])
    assert result.exit_code == 0, result.output
    assert "old forest" in result.output
    assert "pixel count bias ha" in result.output
    written = {"areas.csv", "areas.json", "areas.md", "areas.parquet", "areas.png", "areas-units.png"}
    assert {p.name for p in (tmp_path / "o").iterdir()} == written


def test_the_command_explains_itself() -> None:
    result = CliRunner().invoke(app, ["area", "--help"])
    assert result.exit_code == 0
    assert all(
        option in result.output
        for option in ("--zones", "--name-column", "--assessment", "--fewest", "--json")
    )


def test_the_command_alone_measures_the_whole_map(made: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["area", str(made / "map.zarr"), "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["units"] == []
    assert told["whole"]["mapped_ha"] == pytest.approx((90_000 - 300) / 100 / 0.9996**2, rel=1e-4)
    assert "adjusted_ha" not in told["whole"]["classes"][0]
    assert not (tmp_path / "areas.parquet").exists()
