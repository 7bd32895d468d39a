"""The probe where scenes are found: verdicts on the simulated archive, plan.json, and wrong metadata."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
import yaml

from engine.archive.probe import RadiometryWarning, probe
from engine.archive.radiometry import radiometry
from engine.archive.search import search
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.errors import DataError
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes, search_scenes
from pipelines.map_area import prepare
from pipelines.plan_area import describe_radiometry
from pipelines.sample.archive import SampleArchive
from tests.pipelines.test_map_area import make_bundle


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory), "time": "2023-03/2023-10", "catalog": str(sample.catalog),
        "bundle": "bundle", "out": "map", "tile_px": 64,
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def lie(sample: SampleArchive, folder: Path) -> Path:
    """Copy the archive's records, with the baselines of its items exchanged; the pixels stay."""
    root = Path(sample.catalog).parent
    copy = folder / "lying"
    copy.mkdir()
    items = []
    for path in sorted(root.rglob("*.json")):
        item = json.loads(path.read_text())
        if "s2:processing_baseline" in item.get("properties", {}):  # radar has none
            facts = item["properties"]
            old = facts["s2:processing_baseline"] < "04.00"
            facts["s2:processing_baseline"] = "05.09" if old else "03.01"
            for asset in item["assets"].values():
                asset["href"] = str((path.parent / asset["href"]).resolve())
                for layer in asset.get("raster:bands", []):
                    layer.pop("offset", None)
            items.append(item)
    (copy / "items.json").write_text(json.dumps(items))
    return copy


def test_the_archive_agrees_with_itself(sample: SampleArchive) -> None:
    table = search(Area.from_file(sample.territory), "2023", sample.catalog)
    assert {radiometry(i).offset_dn for i in table} == {0.0, -1000.0}
    verdicts = Counter(i.probe.partition(":")[0] for i in probe(table, "fail"))
    assert set(verdicts) <= {"agrees", "undecided"}
    assert verdicts["agrees"] >= len(table) // 2


def test_exchanged_baselines_are_found_and_trusted_pixels_mend_them(
    sample: SampleArchive, tmp_path: Path
) -> None:
    area = Area.from_file(sample.territory)
    truth = {i.id: radiometry(i).offset_dn for i in search(area, "2023", sample.catalog)}
    lying = search(area, "2023", lie(sample, tmp_path))
    assert all(radiometry(i).offset_dn != truth[i.id] for i in lying)
    with pytest.raises(DataError, match="contradict the metadata"):
        probe(lying, "fail")
    with pytest.warns(RadiometryWarning, match="contradict"):
        warned = probe(lying, "warn")
    trusted = probe(lying, "trust")
    for item, heard in zip(trusted, warned, strict=True):
        told = item.probe.partition(":")[0]
        assert told in ("contradicts", "undecided")
        assert (radiometry(item).offset_dn == truth[item.id]) == (told == "contradicts")
        assert dataclasses.replace(item, probed_offset=None) == heard
    assert sum(i.probed_offset is not None for i in trusted) >= len(trusted) // 2


def test_a_plan_records_the_decision_of_each_item(
    project: Path, sample: SampleArchive, tmp_path: Path
) -> None:
    config = load_config(project / "run.yaml", [f"out={tmp_path / 'map'}"])
    table = prepare(config).table
    plan = json.loads((tmp_path / "map" / "plan.json").read_text())["radiometry"]
    assert set(plan) == {i.id for i in table}
    for item in table:
        decided = radiometry(item)
        assert plan[item.id]["offset_dn"] == decided.offset_dn
        assert plan[item.id]["reason"] == decided.reason
        assert plan[item.id]["probe"] == item.probe
        assert item.probe
    again = prepare(config).table  # the same run goes on with the same verdicts
    assert again == table
    assert "-1000 DN: " in describe_radiometry(table)
    assert "agrees" in describe_radiometry(table)


def test_off_and_fail(project: Path, sample: SampleArchive, tmp_path: Path) -> None:
    lying = lie(sample, tmp_path)
    off = load_config(project / "run.yaml", [f"catalog={lying}", "probe=off"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scenes = find_scenes(off, area_of(off.area))
    assert scenes == search_scenes(off, area_of(off.area))
    assert not any(i.probe for i in scenes)
    fail = load_config(project / "run.yaml", [f"catalog={lying}", "probe=fail"])
    with pytest.raises(DataError, match="dark end"):
        find_scenes(fail, area_of(fail.area))


def test_a_missing_file_stops_no_plan(project: Path, sample: SampleArchive, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(Path(sample.catalog).parent, root)
    for path in root.rglob("B02.tif"):
        path.unlink()
    config = load_config(project / "run.yaml", [f"catalog={root / Path(sample.catalog).name}", "probe=fail"])
    scenes = find_scenes(config, area_of(config.area))
    assert all(i.probe.startswith("undecided: cannot look at the file") for i in scenes)
