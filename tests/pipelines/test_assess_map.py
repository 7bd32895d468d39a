"""From design to estimates: drawn points, blind files, answers read, figures against formulas written out again."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin
from typer.testing import CliRunner

from engine.assessment.record import read_assessment
from engine.store.layout import create
from engine.store.regions import write_region
from engine.store.storespec import StoreSpec, Variable
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid
from pipelines.assess_config import DesignOptions, RunOptions
from pipelines.assess_map import assess_map
from pipelines.class_maps import open_class_map
from pipelines.cli import app
from pipelines.config import parse_config
from pipelines.draw_sample import design_sample
from pipelines.response_file import response_style

SCHEME = ClassScheme(
    classes=(
        LandClass(value=1, name="winter wheat", colour="#aa8800", parent="crop", codes=("W", 110)),
        LandClass(value=2, name="maize", colour="#ffcc00", parent="crop"),
        LandClass(value=4, name="forest", colour="#006600"),
    )
)
GRID, BOX = Grid("EPSG:32633", (10.0, 10.0)), Box(-530100, 50010, -530100 + 60, 50010 + 80)


def scene(seed: int, share_right: float = 0.8) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a map with an edge without data, and the truth everywhere."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.choice([1, 2, 4], (6, 8), p=[0.3, 0.1, 0.6]), 10, 0), 10, 1).astype(
        np.uint8
    )
    said = np.where(rng.random(truth.shape) < share_right, truth, rng.choice([1, 2, 4], truth.shape)).astype(
        np.uint8
    )
    said[:, :3] = 0
    return said, truth


def write_map(path: Path, values: NDArray[np.uint8]) -> str:
    left, _, _, top = GRID.bounds_of_box(BOX)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=60,
        width=80,
        crs="EPSG:32633",
        transform=from_origin(left, top, 10, 10),
        nodata=0,
    ) as file:
        file.write(values, 1)
    (path.parent / "classes.yaml").write_text(SCHEME.to_yaml())
    return str(path)


def designed(folder: Path, values: NDArray[np.uint8], name: str = "points.csv", **options: Any) -> Path:
    source = write_map(folder / "map.tif", values)
    settings = DesignOptions(classes=str(folder / "classes.yaml"), **options)
    design_sample(source, folder / name, settings)
    return folder / name


def pixels_of(frame: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    at = frame["id"].str.extract(r"r(-?\d+)_c(-?\d+)").astype(int).to_numpy()
    return at[:, 0] - BOX.y0, at[:, 1] - BOX.x0


def answered(path: Path, truth: NDArray[np.uint8], names: dict[int, Any] | None = None) -> Path:
    frame = pd.read_csv(path)
    names = names or dict(zip(SCHEME.values, SCHEME.names, strict=True))
    frame["reference"] = [names[int(v)] for v in truth[pixels_of(frame)]]
    frame["certainty"] = 3
    frame.to_csv(path, index=False)
    return path


def run(folder: Path, reference: Path, **options: Any) -> Any:
    settings = RunOptions(classes=str(folder / "classes.yaml"), **options)
    return assess_map(str(folder / "map.tif"), reference, settings)


def test_a_design_is_blind_complete_and_drawn_by_strata(tmp_path: Path) -> None:
    said, _ = scene(1)
    path = designed(tmp_path, said, "points.gpkg", points=90, rare_share=0.3, rare_points=20)
    frame, squares = gpd.read_file(path, layer="points"), gpd.read_file(path, layer="footprints")
    assert set(frame.columns) == {
        "number", "id", "lon", "lat", "x", "y", "reference", "certainty", "notes", "geometry",
    }  # fmt: skip
    assert frame["reference"].isna().all()
    assert frame["number"].tolist() == list(range(1, 91))
    assert frame.crs == "EPSG:32633"
    assert np.allclose(shapely.area(squares.geometry), 100)
    assert squares.geometry.contains(frame.geometry).all()
    lonlat = frame.to_crs("EPSG:4326").geometry
    assert np.allclose(lonlat.x, frame["lon"], atol=1e-7)
    design = json.loads((tmp_path / "points.design.json").read_text())
    mapped = said[pixels_of(frame)]
    assert [p["mapped"] for p in design["points"]] == mapped.tolist()
    strata = {s["mapped"]: s for s in design["strata"]}
    for value in SCHEME.values:
        assert strata[value]["pixels"] == (said == value).sum()
        assert strata[value]["points"] == (mapped == value).sum()
        assert strata[value]["hectares"] == pytest.approx((said == value).sum() / 100, rel=2e-3)
    rare = [v for v in SCHEME.values if (said == v).sum() < 0.3 * (said > 0).sum()]
    assert rare
    assert all((mapped == v).sum() == 20 for v in rare)
    runs = np.flatnonzero(np.diff(mapped.astype(int)))  # classes stand mixed, not stratum after stratum
    assert len(runs) > 20


def test_the_same_points_for_any_blocks_and_more_points_hold_fewer(tmp_path: Path) -> None:
    said, _ = scene(2)
    ids = []
    for size in (256, 300, 777):
        folder = tmp_path / str(size)
        folder.mkdir()
        ids.append(
            pd.read_csv(designed(folder, said, points=60, allocation="proportional", block_px=size))["id"]
        )
    assert ids[0].equals(ids[1])
    assert ids[0].equals(ids[2])
    more = pd.read_csv(designed(tmp_path, said, points=100, allocation="proportional"))["id"]
    assert set(ids[0]) < set(more)


def test_answers_so_far_are_kept_in_a_larger_sample(tmp_path: Path) -> None:
    said, truth = scene(3)
    first = answered(designed(tmp_path, said, points=40), truth)
    source, options = str(tmp_path / "map.tif"), {"classes": str(tmp_path / "classes.yaml")}
    design_sample(source, tmp_path / "more.gpkg", DesignOptions(points=70, **options), keep=first)
    more = gpd.read_file(tmp_path / "more.gpkg", layer="points")
    assert more["reference"].notna().sum() == 40
    assert (
        dict(zip(more["id"], more["reference"], strict=True)).items()
        >= dict(pd.read_csv(first)[["id", "reference"]].to_numpy().tolist()).items()
    )
    with pytest.raises(InputError, match="answered points are not in the new sample"):
        design_sample(source, tmp_path / "other.csv", DesignOptions(points=70, seed=5, **options), keep=first)
    with pytest.raises(ConflictError, match="may hold answers"):
        design_sample(source, first, DesignOptions(points=70, **options))
    with pytest.raises(InputError, match=r"which format.*found \.xls"):
        design_sample(source, tmp_path / "a.xls", DesignOptions(points=70, **options))


def test_a_target_error_is_met_by_what_the_design_promises(tmp_path: Path) -> None:
    said, _ = scene(4)
    path = designed(tmp_path, said, target_error=0.03, expected=0.8, rare_share=0.0)
    design = json.loads((tmp_path / "points.design.json").read_text())
    n = np.array([s["points"] for s in design["strata"]])
    size = np.array([s["pixels"] for s in design["strata"]])
    promised = np.sqrt(((size / size.sum()) ** 2 * (1 - n / size) * 0.16 / (n - 1)).sum())
    assert 0.027 < promised <= 0.03
    assert len(pd.read_csv(path)) == n.sum()
    with pytest.raises(InputError, match="one of points, target_error and target_users"):
        parse_config({"points": 50, "target_error": 0.01}, "here", DesignOptions)
    with pytest.raises(InputError, match=r"no such class.*found.*'wheet'"):
        designed(tmp_path, said, "b.csv", points=50, without=("wheet",))


def test_estimates_are_olofssons_formulas(tmp_path: Path) -> None:
    """Equations 1 to 11 of Olofsson et al. 2014, written out again, without correction for the finite population."""
    said, truth = scene(5)
    path = answered(designed(tmp_path, said, points=150, allocation="equal"), truth)
    assessment, _ = run(tmp_path, path)
    found = assessment.accuracy()
    frame = pd.read_csv(path)
    m, r = said[pixels_of(frame)], truth[pixels_of(frame)]
    k = SCHEME.values
    n_ij = np.array([[((m == a) & (r == b)).sum() for b in k] for a in k], float)
    assert found.counts.tolist() == n_ij.astype(int).tolist()
    n_i, area = n_ij.sum(axis=1), np.array([assessment.hectares[v] for v in k])
    w = area / area.sum()
    p = w[:, None] * n_ij / n_i[:, None]
    np.testing.assert_allclose(found.shares, p, rtol=1e-9)
    users, overall, shares = np.diag(p) / p.sum(axis=1), np.trace(p), p.sum(axis=0)
    left = 1 - n_i / np.array([assessment.pixels[v] for v in k])
    assert found.overall.value == pytest.approx(overall)
    assert found.overall.standard_error == pytest.approx(
        np.sqrt((w**2 * left * users * (1 - users) / (n_i - 1)).sum()), rel=1e-4
    )
    share_ij = n_ij / n_i[:, None]
    errors = np.sqrt(
        (w[:, None] ** 2 * left[:, None] * share_ij * (1 - share_ij) / (n_i - 1)[:, None]).sum(axis=0)
    )
    for i, v in enumerate(k):
        assert found.users[v].value == pytest.approx(users[i])
        assert found.producers[v].value == pytest.approx(p[i, i] / shares[i])
        assert found.areas_ha[v].value == pytest.approx(shares[i] * area.sum())
        assert found.areas_ha[v].standard_error == pytest.approx(errors[i] * area.sum(), rel=1e-4)


def test_a_census_has_no_error_and_tells_the_truth(tmp_path: Path) -> None:
    said, truth = scene(6)
    path = answered(designed(tmp_path, said, points=int((said > 0).sum()), allocation="proportional"), truth)
    assessment, _ = run(tmp_path, path)
    found, there = assessment.accuracy(), said > 0
    assert found.overall.value == pytest.approx((said == truth)[there].mean(), abs=1e-6)
    assert found.overall.standard_error == pytest.approx(0, abs=1e-12)
    for v in SCHEME.values:
        assert found.areas_ha[v].value == pytest.approx((truth[there] == v).sum() / 100, rel=2e-3)


def test_another_map_is_assessed_by_the_same_points(tmp_path: Path) -> None:
    """Strata that are not the map's classes: the indicator estimator of Stehman 2014, equation 3, written out."""
    said, truth = scene(7)
    path = answered(designed(tmp_path, said, points=120, allocation="equal"), truth)
    other, _ = scene(8)
    other = np.where(other == 0, 4, other).astype(np.uint8)
    write_map(tmp_path / "map.tif", other)
    assessment, _ = run(tmp_path, path)
    assert any("not the one from which points were drawn" in note for note in assessment.notes)
    frame = pd.read_csv(path)
    at = pixels_of(frame)
    design = json.loads((tmp_path / "points.design.json").read_text())
    area = {s["mapped"]: s["hectares"] for s in design["strata"]}
    total = sum(area.values())
    right = other[at] == truth[at]
    expected = sum(area[h] / total * right[said[at] == h].mean() for h in area)
    assert assessment.accuracy().overall.value == pytest.approx(expected)
    assert assessment.pixels == {v: int((other == v).sum()) for v in SCHEME.values}


def test_clusters_are_drawn_whole_and_estimated_as_such(tmp_path: Path) -> None:
    said, truth = scene(9)
    path = answered(
        designed(tmp_path, said, kind="clusters", points=60, clusters={"side_px": 10, "points_each": 5}),
        truth,
    )
    design = json.loads((tmp_path / "points.design.json").read_text())
    clusters = {(p["row"] // 10, p["column"] // 10) for p in design["points"]}
    assert len(clusters) == design["clusters"]["drawn"] == 12
    inside = [(BOX.y0 + y, BOX.x0 + x) for y, x in zip(*np.nonzero(said), strict=True)]
    assert design["strata"][0]["clusters"] == len({(y // 10, x // 10) for y, x in inside})
    for p in design["points"]:
        same = [(y, x) for y, x in inside if (y // 10, x // 10) == (p["row"] // 10, p["column"] // 10)]
        assert p["cluster_pixels"] == len(same)
    assessment, _ = run(tmp_path, path)
    estimate = assessment.accuracy().overall
    assert assessment.design == "clusters"
    assert estimate.low < (said == truth)[said > 0].mean() < estimate.high


def test_answers_may_be_names_codes_or_values(tmp_path: Path) -> None:
    said, truth = scene(10)
    path = designed(tmp_path, said, points=60)
    figures = set()
    for names in (
        {1: "Winter  wheat", 2: "MAIZE", 4: "forest"},
        {1: "W", 2: "2", 4: "4.0"},
        {1: 110, 2: 2, 4: 4},
    ):
        assessment, _ = run(tmp_path, answered(path, truth, names))
        figures.add(assessment.accuracy().overall.value)
    assert len(figures) == 1


def test_answers_that_mean_nothing_are_told_row_by_row(tmp_path: Path) -> None:
    said, truth = scene(11)
    path = answered(designed(tmp_path, said, points=60), truth)
    frame = pd.read_csv(path, dtype={"reference": object})
    frame.loc[3, "reference"] = "weat"
    frame.loc[[5, 6], "reference"] = None
    frame.loc[7, "certainty"] = 1
    frame.drop(index=9).to_csv(path, index=False)
    with pytest.raises(
        InputError, match=rf"1 answer\(s\) mean no class.*'weat' \(id {frame.id[3]}\).*expected winter"
    ):
        run(tmp_path, path)
    assessment, _ = run(tmp_path, path, skip_unknown=True, least_certainty=2)
    found = assessment.accuracy()
    assert (found.points, found.unanswered) == (55, 5)
    assert assessment.notes == (
        "1 answers mean no class: taken as unanswered",
        "1 answers are less certain than 2: left out",
    )
    frame.loc[0, "id"] = "r1_c1"
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"the design does not know.*found 1: r1_c1"):
        run(tmp_path, path, skip_unknown=True)
    frame.loc[0, "id"] = frame.loc[1, "id"]
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match="more than once"):
        run(tmp_path, path, skip_unknown=True)


def test_points_of_no_design_are_weighted_by_what_is_mapped(tmp_path: Path) -> None:
    said, truth = scene(12)
    write_map(tmp_path / "map.tif", said)
    rng = np.random.default_rng(1)
    rows, cols = rng.integers(0, 60, 100), rng.integers(0, 80, 100)
    left, _, _, top = GRID.bounds_of_box(BOX)
    points = shapely.points(
        left + cols * 10 + rng.uniform(1, 9, 100), top - rows * 10 - rng.uniform(1, 9, 100)
    )
    frame = gpd.GeoDataFrame({"crop": truth[rows, cols]}, geometry=points, crs="EPSG:32633").to_crs(
        "EPSG:4326"
    )
    frame.to_file(tmp_path / "field.gpkg")
    with pytest.raises(InputError, match=r"how were these points drawn.*--no-design"):
        run(tmp_path, tmp_path / "field.gpkg", column="crop")
    assessment, _ = run(tmp_path, tmp_path / "field.gpkg", column="crop", no_design=True)
    inside = said[rows, cols] > 0
    m, r = said[rows, cols][inside], truth[rows, cols][inside]
    w = {v: assessment.hectares[v] / sum(assessment.hectares.values()) for v in SCHEME.values}
    expected = sum(w[v] * (r[m == v] == v).mean() for v in SCHEME.values)
    assert assessment.accuracy().overall.value == pytest.approx(expected)
    assert "simple random sample" in assessment.notes[0]
    assert f"{(~inside).sum()} points lie where the map has no data" in assessment.notes[1]
    table = pd.DataFrame({"lon": frame.geometry.x, "lat": frame.geometry.y, "reference": frame["crop"]})
    table.to_csv(tmp_path / "field.csv", index=False)
    again, _ = run(tmp_path, tmp_path / "field.csv", no_design=True)
    assert again.accuracy().overall == assessment.accuracy().overall


def test_broader_classes(tmp_path: Path) -> None:
    said, truth = scene(13)
    path = answered(designed(tmp_path, said, points=100, allocation="equal"), truth)
    assessment, _ = run(tmp_path, path, broader=True)
    assert assessment.scheme.names == ("crop", "forest")
    frame = pd.read_csv(path)
    m, r = (np.where(v == 2, 1, v) for v in (said[pixels_of(frame)], truth[pixels_of(frame)]))
    assert assessment.accuracy().counts.tolist() == [
        [int(((m == a) & (r == b)).sum()) for b in (1, 4)] for a in (1, 4)
    ]
    assert assessment.pixels == {1: int(np.isin(said, (1, 2)).sum()), 4: int((said == 4).sum())}


def test_the_whole_way_on_the_command_line(tmp_path: Path) -> None:
    said, truth = scene(14)
    source = write_map(tmp_path / "map.tif", said)
    yaml, path = str(tmp_path / "classes.yaml"), tmp_path / "points.csv"
    runner = CliRunner()
    drawn = runner.invoke(
        app, ["assess", "design", source, "--points", "80", "--out", str(path), "--classes", yaml, "--expected-of",
              "maize=0.6"],
    )  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    assert "winter wheat" in drawn.stdout
    answered(path, truth)
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    middle = (left + right) / 2
    halves = gpd.GeoDataFrame(
        {"name": ["West", "East"]},
        geometry=[shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)],
        crs="EPSG:32633",
    )
    halves.to_file(tmp_path / "halves.geojson")
    frame = pd.read_csv(path)
    frame["team"] = np.arange(len(frame)) % 25
    frame.to_csv(path, index=False)
    out = tmp_path / "out"
    told = runner.invoke(
        app, ["assess", "run", source, "--reference", str(path), "--out", str(out), "--classes", yaml, "--kappa",
              "--regions", str(tmp_path / "halves.geojson"), "--cluster", "team", "--replicates", "50"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    for word in ("winter wheat", "overall accuracy", "kappa", "West", "bias ha", "Bootstrap"):
        assert word in told.stdout
    written = json.loads((out / "assessment.json").read_text())
    assert written["schema"] == "landweave/assessment/1"
    parts = written["regions"]
    assert parts["West"]["points"] + parts["East"]["points"] == 80
    assert written["bootstrap"]["groups"] == 25
    overall = written["bootstrap"]["overall"]
    assert overall["value"] == pytest.approx(written["estimates"]["overall"]["value"])
    assert overall["standard_error"] == pytest.approx(
        written["estimates"]["overall"]["standard_error"], rel=0.4
    )
    again = read_assessment(out / "assessment.json")
    assert json.loads(json.dumps(again.accuracy(with_kappa=True).as_json())) == written["estimates"]
    for name in (
        "assessment.md",
        "points.csv",
        "shares.csv",
        "areas.csv",
        "confusion.png",
        "accuracies.png",
        "areas.png",
    ):
        assert (out / name).stat().st_size > 100
    areas = pd.read_csv(out / "areas.csv").set_index("value")
    assert areas.loc[1, "area_ha"] == pytest.approx(written["estimates"]["areas_ha"]["1"]["value"])


def test_the_style_offers_the_classes(tmp_path: Path) -> None:
    root = ET.fromstring(response_style(SCHEME).split("\n", 1)[1])
    fields = {f.get("name"): f for f in root.iter("field") if f.find("editWidget") is not None}
    offered = [o.get("value") for o in fields["reference"].iter("Option") if o.get("type") == "QString"]
    assert offered == list(SCHEME.names)
    assert [o.get("value") for o in fields["certainty"].iter("Option") if o.get("value")] == ["3", "2", "1"]


def test_a_file_that_is_no_assessment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"everywhere": {}}')
    with pytest.raises(InputError, match=r"not an assessment.*landweave assess run"):
        read_assessment(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot read the assessment"):
        read_assessment(tmp_path / "b.json")


def run_folder(folder: Path, said: NDArray[np.uint8], name: str = "map") -> tuple[NDArray[Any], NDArray[Any]]:
    """Make what a run leaves: a plan, a store with confidence and observations, a status with a tile missing."""
    rng = np.random.default_rng(99)
    confidence = rng.choice([100, 160, 250], said.shape).astype(np.uint8)
    observations = rng.integers(1, 10, said.shape).astype(np.uint8)
    variables = (
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255),
        Variable("observations", "uint8", 0),
    )
    spec = StoreSpec(GRID, BOX, 256, variables)
    create(str(folder / f"{name}.zarr"), spec)
    whole = {v.name: np.full(spec.box.shape_yx, v.no_data, np.uint8) for v in variables}
    for layer, values in (("label", said), ("confidence", confidence), ("observations", observations)):
        whole[layer][BOX.slices_in(spec.box)] = values
    write_region(str(folder / f"{name}.zarr"), spec.box, whole)
    (folder / "plan.json").write_text("{}")
    (folder / "status").mkdir(exist_ok=True)
    (folder / "status" / f"{name}.json").write_text('{"counts": {"total": 5, "done": 3, "reused": 1}}')
    return confidence, observations


def test_a_run_is_told_by_confidence_and_observations(tmp_path: Path) -> None:
    said, truth = scene(15)
    confidence, observations = run_folder(tmp_path, said)
    path = tmp_path / "points.geojson"
    drawn = design_sample(str(tmp_path), path, DesignOptions(kind="simple", points=200))
    assert "1 of 5 tiles of map are not made" in drawn.facts[1]
    frame = gpd.read_file(path)
    at = pixels_of(frame)
    frame.assign(reference=truth[at]).to_file(tmp_path / "points.geojson", driver="GeoJSON")
    runner = CliRunner()
    out = runner.invoke(app, ["assess", "run", str(tmp_path), "--reference", str(path), "--json"])
    assert out.exit_code == 0, out.output
    told = json.loads((tmp_path / "assessment.json").read_text())
    assert (tmp_path / "assessment" / "by_layer.png").exists()
    assert told["notes"][0].startswith("1 of 5 tiles")
    right = said[at] == truth[at]
    for name, inside in (
        ("0-0.5", confidence[at] == 100),
        ("0.6-0.7", confidence[at] == 160),
        ("0.95-1", confidence[at] == 250),
    ):
        assert told["by_confidence"][name]["value"] == pytest.approx(right[inside].mean())
        assert told["by_confidence"][name]["n"] == inside.sum()
    few = (observations[at] >= 3) & (observations[at] <= 4)
    assert told["by_observations"]["3-4"]["value"] == pytest.approx(right[few].mean())
    assert told["points"]["confidence"] == pytest.approx((confidence[at] / 250).tolist())


def test_the_refined_map_of_a_run_comes_first(tmp_path: Path) -> None:
    said, _ = scene(16)
    run_folder(tmp_path, said)
    assert open_class_map(str(tmp_path)).where.endswith("map.zarr")
    run_folder(tmp_path, np.full_like(said, 4), "refined")
    assert open_class_map(str(tmp_path)).where.endswith("refined.zarr")
    assert np.array_equal(open_class_map(str(tmp_path), store="map").labels(BOX), said)


def test_points_outside_what_another_map_covers_count_as_wrong(tmp_path: Path) -> None:
    said, truth = scene(17)
    path = answered(designed(tmp_path, said, points=100, allocation="proportional"), truth)
    holed = said.copy()
    holed[20:30] = 0
    write_map(tmp_path / "map.tif", holed)
    assessment, _ = run(tmp_path, path)
    at = pixels_of(pd.read_csv(path))
    inside = (holed[at] == 0).sum()
    assert f"at {inside} points the map has no data" in assessment.notes[0]
    found = assessment.accuracy()
    assert found.classes == (1, 2, 4, 0)
    design = json.loads((tmp_path / "points.design.json").read_text())
    area = {s["mapped"]: s["hectares"] for s in design["strata"]}
    right = holed[at] == truth[at]
    expected = sum(area[h] * right[said[at] == h].mean() for h in area) / sum(area.values())
    assert found.overall.value == pytest.approx(expected)


def test_a_simple_sample_may_be_weighed_by_what_is_mapped(tmp_path: Path) -> None:
    said, truth = scene(18)
    path = answered(designed(tmp_path, said, kind="simple", points=150), truth)
    plain, _ = run(tmp_path, path)
    weighed, _ = run(tmp_path, path, poststratify=True)
    at = pixels_of(pd.read_csv(path))
    right, mapped = said[at] == truth[at], said[at]
    assert plain.accuracy().overall.value == pytest.approx(right.mean())
    expected = sum((said == v).sum() * right[mapped == v].mean() for v in SCHEME.values) / (said > 0).sum()
    assert weighed.accuracy().overall.value == pytest.approx(expected, abs=1e-4)
    assert weighed.accuracy().areas_ha[4].standard_error < plain.accuracy().areas_ha[4].standard_error


def test_classes_outside_the_population_are_drawn_nowhere(tmp_path: Path) -> None:
    said, truth = scene(19)
    path = answered(designed(tmp_path, said, points=60, without=("forest",)), truth)
    assert not (said[pixels_of(pd.read_csv(path))] == 4).any()
    assessment, _ = run(tmp_path, path)
    assert set(assessment.pixels) == {1, 2}
    assert assessment.notes == (
        "what was mapped as forest is no part of the population: nothing here speaks of it",
    )
