"""Radar in a configuration: found beside the scenes, refused where the model would not see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from engine.values.errors import InputError
from engine.values.spec import CubeSpec
from pipelines.config import RadarConfig, RunConfig, SourceConfig, parse_config, parse_yaml
from pipelines.cube_area import area_of, cube_of, find_radar
from pipelines.plan_area import spec_of
from pipelines.sample.archive import SampleArchive
from pipelines.sample.stac import RADAR_COLLECTION
from tests.inference.bundles import random_bundle

SPEC = CubeSpec(bands=["nir"], mask=(), sentinel1=True)


def settings(archive: SampleArchive) -> dict[str, object]:
    return {
        "area": str(archive.territory),
        "time": "2023-03/2023-05",
        "catalog": str(archive.catalog),
        "sentinel1": {"catalog": str(archive.catalog), "collection": RADAR_COLLECTION},
    }


def test_the_default_is_the_terrain_corrected_collection() -> None:
    config = SourceConfig(area={"name": "Luxembourg"}, time="2023")
    assert config.sentinel1 == RadarConfig(catalog="planetary-computer", collection="sentinel-1-rtc")


def test_radar_is_searched_over_the_same_area_and_time(two_zones: SampleArchive) -> None:
    config = parse_config(settings(two_zones), "test", SourceConfig)
    area = area_of(config.area)
    assert find_radar(config, area, SPEC.model_copy(update={"sentinel1": None})) is None
    radar = find_radar(config, area, SPEC)
    assert radar is not None
    assert {i.collection for i in radar} == {RADAR_COLLECTION}
    assert {i.datetime.month for i in radar} == {3, 5}


def test_a_configurations_cube_has_radar_beside_the_reflectance(two_zones: SampleArchive) -> None:
    cube = cube_of(parse_config(settings(two_zones), "test", SourceConfig), SPEC)
    assert cube.reflectance.sizes["time"] == cube.backscatter.sizes["time"] == 3
    march = cube.backscatter.isel(time=0, y=slice(100, 140), x=slice(100, 140)).compute(scheduler="threads")
    assert np.isfinite(march).all()
    assert march.sel(polarisation="vv").mean() > march.sel(polarisation="vh").mean()


def test_paths_of_the_radar_start_at_the_yaml(two_zones: SampleArchive, tmp_path: Path) -> None:
    told = settings(two_zones) | {"sentinel1": {"catalog": "radar/catalog.json"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(told))
    config = parse_yaml(SourceConfig, tmp_path / "run.yaml", None, paths=())
    assert config.sentinel1.catalog == str(tmp_path / "radar/catalog.json")


def test_a_map_refuses_radar_that_its_model_does_not_see(two_zones: SampleArchive, tmp_path: Path) -> None:
    run = parse_config({**settings(two_zones), "bundle": "b", "out": "o", "cube": SPEC}, "test", RunConfig)
    with pytest.raises(InputError, match=r"the model does not see backscatter.*\[cube.sentinel1\]"):
        spec_of(run, random_bundle(tmp_path))
