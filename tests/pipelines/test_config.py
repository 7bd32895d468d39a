"""Settings: relative files start at the YAML, wherever they stand in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipelines.config import load_config


def test_every_file_that_a_cube_names_starts_at_the_yaml(tmp_path: Path) -> None:
    settings = {
        "area": "outline.geojson",
        "time": 2023,
        "bundle": "bundle",
        "out": "map",
        "cube": {
            "bands": ["red"],
            "period": {
                "kind": "calendar",
                "file": "regions.gpkg",
                "regions": {"north": {"kind": "windows", "windows": [["04-01", "05-01"]]}},
            },
            "mask": ["scl", {"kind": "model", "model": "clouds.onnx", "bands": ["red"]}],
            "features": {
                "layers": [{"name": "dem", "file": "dem.tif"}, {"name": "far", "file": "s3://b/a.tif"}]
            },
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    cube = load_config(tmp_path / "run.yaml").cube
    assert cube is not None
    assert cube.period.file == str(tmp_path / "regions.gpkg")  # type: ignore[union-attr]
    assert cube.mask[1].model == str(tmp_path / "clouds.onnx")  # type: ignore[union-attr]
    assert cube.features is not None
    assert [layer.file for layer in cube.features.layers] == [str(tmp_path / "dem.tif"), "s3://b/a.tif"]
