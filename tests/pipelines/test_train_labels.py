"""Labels and splits as a training's YAML names them, on the simulated archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from typer.testing import CliRunner

from engine.inference.bundle import load_bundle
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_coords, georef_of
from pipelines.cli import app
from pipelines.sample.archive import SampleArchive
from pipelines.train_model import Prepared, load_train_config, prepare_training, split_path, train_model
from training.labels import PolygonSource, rasterise
from training.split_file import read_split


def _settings(sample: SampleArchive, folder: Path) -> dict[str, Any]:
    west, south, east, north = gpd.read_file(sample.labels).to_crs(4326).total_bounds
    return {
        "area": [float(west), float(south), float(east), float(north)],
        "time": "2023",
        "catalog": str(sample.catalog),
        "crs": "EPSG:32633",
        "cube": {"bands": ["red", "nir"], "resolution_m": 20, "period": "1QS", "reducer": "median", "mask": "scl"},
        "labels": {"file": str(sample.labels), "column": "class_name", "classes": str(sample.classes)},
        "options": {
            "split": {"block_px": 20, "buffer_px": 3, "val": 0.3},
            "steps": 2, "batch": 2, "crop_px": 16, "checks": 1, "config": {"width": 4, "depth": 2},
        },
        "bundle": str(folder / "bundle"),
    }  # fmt: skip


def _write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def plain(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("plain")
    return prepare_training(load_train_config(_write(folder / "train.yaml", _settings(sample, folder))))


def test_a_training_writes_its_split_which_another_one_reuses(sample: SampleArchive, tmp_path: Path) -> None:
    settings = _settings(sample, tmp_path) | {"bundle": "made/bundle"}
    settings["options"]["split"] |= {"stratify": True, "test": 0.2}
    config = load_train_config(_write(tmp_path / "train.yaml", settings))
    bundle, trained = train_model(config)
    assert split_path(config) == tmp_path / "made" / "bundle-split.json"
    split = read_split(split_path(config))
    told = json.loads(split_path(config).read_text())
    assert {u["part"] for u in told["units"].values()} == {"train", "val", "test"}
    counted = sum(n for u in told["units"].values() for k, n in u.items() if k != "part")
    assert counted >= sum(trained.pixels.values()) > 0
    assert told["leakage"]["distance"]["train-val"] > 3
    assert load_bundle(bundle.path).training["options"]["split"]["assigned"] == told["split"]["assigned"]
    settings["options"]["split"] = "made/bundle-split.json"
    again = load_train_config(_write(tmp_path / "again.yaml", settings))
    assert again.options.split == split
    assert prepare_training(again).leakage.counts == told["leakage"]["counts"]
    with pytest.raises(InputError, match="another grid"):
        prepare_training(again.model_copy(update={"crs": "EPSG:32632"}))


def test_sources_of_every_kind_reach_the_pixels(
    sample: SampleArchive, plain: Prepared, tmp_path: Path
) -> None:
    grid, box = georef_of(plain.cube)
    classes = ClassScheme.from_file(sample.classes)
    fields = gpd.read_file(sample.labels)
    # Points of a few fields in a table, and the truth as a map with numbers of its own.
    middle = fields.to_crs(4326).geometry.representative_point()
    table = pd.DataFrame({"crop": fields["class_name"], "lon": middle.x, "lat": middle.y})
    table.to_csv(tmp_path / "survey.csv", index=False)
    truth = plain.labels.values.astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "height": truth.shape[0],
        "width": truth.shape[1],
        "count": 1,
        "dtype": "uint8",
    }
    with rasterio.open(
        tmp_path / "old.tif", "w", crs=grid.crs, transform=Affine(*grid.transform_of(box)), **profile
    ) as file:
        file.write(truth + 100, 1)
    remap = {str(c.value + 100): c.name for c in classes.classes}
    settings = _settings(sample, tmp_path)
    settings["labels"] = {
        "classes": str(sample.classes),
        "sources": [
            {"file": str(sample.labels), "inner_buffer_m": 20, "name": "fields"},
            {"file": "survey.csv", "column": "crop", "xy": ["lon", "lat"]},
            {"file": "old.tif", "remap": remap, "erode_px": 0, "weight": 0.4, "name": "old map"},
            {
                "kind": "rules",
                "rules": [{"class": classes.names[0], "when": ["NDVI_max > 0.2"]}],
                "weight": 0.1,
            },
        ],
    }
    ready = prepare_training(load_train_config(_write(tmp_path / "train.yaml", settings)))
    counted = ready.labels.source_counts()
    assert list(counted) == ["fields", "survey", "old map", "rules"]
    assert min(counted["fields"], counted["old map"], counted["rules"]) > 100
    # The buffered fields weigh most, the old map fills their rims.
    assert ready.labels.weights is not None
    filled = ready.labels.origin == 3
    np.testing.assert_array_equal(ready.labels.values[filled], truth[filled])
    assert set(ready.labels.weights[filled]) == {100}
    agree = (ready.labels.values == truth)[truth != 0]
    assert agree.mean() > 0.95
    assert "px old map" in ready.lines()["labels"]


def test_a_single_source_of_polygons_gives_what_it_always_gave(
    sample: SampleArchive, plain: Prepared
) -> None:
    source = PolygonSource(sample.labels, "class_name")
    classes = ClassScheme.from_file(sample.classes)
    np.testing.assert_array_equal(
        plain.labels.values, rasterise(source, classes, *georef_of(plain.cube)).values
    )
    assert plain.labels.weights is None


def test_a_map_of_ours_gives_its_sure_pixels(sample: SampleArchive, plain: Prepared, tmp_path: Path) -> None:
    grid, box = georef_of(plain.cube)
    classes = ClassScheme.from_file(sample.classes)
    rng = np.random.default_rng(0)
    label = rng.choice(classes.values, box.shape_yx).astype(np.uint8)
    sure = rng.choice([100, 245], box.shape_yx).astype(np.uint8)
    made = xr.Dataset(
        {"label": (("y", "x"), label, classes.flag_attributes()), "confidence": (("y", "x"), sure)},
        coords=georef_coords(grid, box),
    )
    made.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    settings = _settings(sample, tmp_path)
    more = {"kind": "prediction", "map": "map.zarr", "least": 0.95, "share": 1.0, "erode_px": 0}
    settings["labels"] = {"classes": str(sample.classes), "sources": [{"file": str(sample.labels)}, more]}
    ready = prepare_training(load_train_config(_write(tmp_path / "train.yaml", settings)))
    own = ready.labels.origin == 2
    np.testing.assert_array_equal(own, (plain.labels.values == 0) & (sure == 245))
    np.testing.assert_array_equal(ready.labels.values[own], label[own])
    other = made.assign(label=made["label"].assign_attrs(flag_meanings="no_data a b"))
    other.to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    settings["labels"]["sources"][1]["map"] = "other.zarr"
    with pytest.raises(InputError, match="other classes"):
        prepare_training(load_train_config(_write(tmp_path / "train.yaml", settings)))


def test_a_split_that_leaks_is_refused(sample: SampleArchive, tmp_path: Path) -> None:
    settings = _settings(sample, tmp_path)
    settings["options"]["split"]["buffer_px"] = 0
    with pytest.raises(InputError, match="too close"):
        prepare_training(load_train_config(_write(tmp_path / "train.yaml", settings)))


def test_labels_of_another_year_are_left_out(sample: SampleArchive, plain: Prepared, tmp_path: Path) -> None:
    fields = gpd.read_file(sample.labels)
    fields["year"] = np.where(np.arange(len(fields)) % 2, 2023, 2019)
    fields.to_file(tmp_path / "dated.gpkg")
    settings = _settings(sample, tmp_path)
    settings["labels"] |= {"file": "dated.gpkg", "start_column": "year"}
    ready = prepare_training(load_train_config(_write(tmp_path / "train.yaml", settings)))
    some, all_of_them = np.count_nonzero(ready.labels.values), np.count_nonzero(plain.labels.values)
    assert 0.2 < some / all_of_them < 0.8
    assert (ready.labels.values == plain.labels.values)[ready.labels.values != 0].all()


def test_labels_are_checked_before_training(sample: SampleArchive, tmp_path: Path) -> None:
    fields = gpd.read_file(sample.labels)
    wrong = pd.concat([fields, fields.iloc[:2], fields.iloc[2:3].assign(class_name="hops")])
    wrong.to_file(tmp_path / "fields.gpkg")
    settings = _settings(sample, tmp_path)
    settings["labels"] |= {"file": "fields.gpkg"}
    path = _write(tmp_path / "train.yaml", settings)
    done = CliRunner().invoke(app, ["train", str(path), "--check-labels", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    kinds = {p["kind"]: p["count"] for p in told["problems"]}
    assert (kinds["duplicate"], kinds["unknown class"]) == (2, 1)
    assert told["features"] == len(wrong)
    mended = gpd.read_file(told["mended"])
    assert len(mended) == told["kept"] == sum(told["classes"].values())
    lines = CliRunner().invoke(app, ["train", str(path), "--check-labels"]).output
    assert "unknown class" in lines
    assert "hops x 1" in lines
    assert not (tmp_path / "bundle").exists()
    settings["labels"] = {"classes": str(sample.classes), "sources": [{"file": "a.tif"}]}
    only_maps = CliRunner().invoke(
        app, ["train", str(_write(tmp_path / "m.yaml", settings)), "--check-labels"]
    )
    assert isinstance(only_maps.exception, InputError)


def test_paths_start_at_the_yaml_and_wrong_settings_are_named(sample: SampleArchive, tmp_path: Path) -> None:
    settings = _settings(sample, tmp_path)
    settings["labels"] = {
        "classes": "c.yaml",
        "sources": [
            {"kind": "agreement", "maps": [{"file": "a.tif"}, {"file": "s3://b/b.tif"}]},
            {"file": "f.gpkg", "background": "other", "complete": "done.gpkg"},
        ],
    }
    config = load_train_config(_write(tmp_path / "train.yaml", settings))
    assert config.labels.classes == str(tmp_path / "c.yaml")
    first, second = (s.model_dump() for s in config.labels.sources)
    assert [m["file"] for m in first["maps"]] == [str(tmp_path / "a.tif"), "s3://b/b.tif"]
    assert (second["file"], second["complete"]) == (str(tmp_path / "f.gpkg"), str(tmp_path / "done.gpkg"))
    settings["labels"] = {"classes": "c.yaml", "file": "f.gpkg", "rule": "some"}
    with pytest.raises(InputError, match=r"labels\.sources"):
        load_train_config(_write(tmp_path / "train.yaml", settings))
    bad = _settings(sample, tmp_path) | {"name": "wheat, barley"}  # known before training, not after it
    with pytest.raises(InputError, match="name"):
        load_train_config(_write(tmp_path / "train.yaml", bad))
    bad = _settings(sample, tmp_path) | {"options": {"architecture": "resnetx"}}
    with pytest.raises(InputError, match=r"options\.architecture.*resnetx.*unet_resnet"):
        load_train_config(_write(tmp_path / "train.yaml", bad))


def test_a_training_starts_from_a_bundle_beside_its_yaml(sample: SampleArchive, tmp_path: Path) -> None:
    """With a band more; the size of the network is the start's."""
    settings = _settings(sample, tmp_path)
    first, _ = train_model(load_train_config(_write(tmp_path / "train.yaml", settings)))
    more = settings | {"bundle": "second", "cube": settings["cube"] | {"bands": ["nir", "red", "blue"]}}
    more["options"] = {k: v for k, v in settings["options"].items() if k != "config"}
    more["options"]["transfer"] = {"start": "bundle"}
    config = load_train_config(_write(tmp_path / "second.yaml", more))
    assert config.options.transfer is not None
    assert config.options.transfer.start == str(tmp_path / "bundle")
    second, trained = train_model(config)
    assert second.config is not None
    assert first.config is not None
    assert second.config.model_dump(exclude={"n_bands"}) == first.config.model_dump(exclude={"n_bands"})
    assert second.normalisation.mean[1::-1] == first.normalisation.mean  # type: ignore[union-attr]
    assert trained.options.transfer == config.options.transfer


def test_the_schema_knows_both_forms_of_labels() -> None:
    import jsonschema

    told = json.loads(CliRunner().invoke(app, ["schema", "--kind", "train"]).output)
    of_labels = {**told["properties"]["labels"], "$defs": told["$defs"]}
    jsonschema.validate({"file": "f.gpkg", "classes": "c.yaml", "column": "crop"}, of_labels)
    jsonschema.validate({"classes": "c.yaml", "sources": [{"kind": "map", "file": "m.tif"}]}, of_labels)
    for wrong in ({"file": "f.gpkg", "classes": "c.yaml", "rule": "some"}, {"file": "f.gpkg"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, of_labels)


def test_a_look_at_the_data_trains_nothing(sample: SampleArchive, plain: Prepared, tmp_path: Path) -> None:
    config = _write(tmp_path / "train.yaml", _settings(sample, tmp_path))
    out = tmp_path / "seen"
    done = CliRunner().invoke(app, ["train", str(config), "--inspect", "--out", str(out)])
    assert done.exit_code == 0, done.output
    told = json.loads((out / "inspect.json").read_text())
    assert {p.name for p in out.iterdir()} == {"inspect.json", "map.png", "samples.png"}
    assert not (tmp_path / "bundle").exists()
    labels, parts = plain.labels, plain.split.parts(plain.labels.box)
    for c in labels.classes.classes:
        mine = labels.values == c.value
        found = told["classes"][c.name]
        assert found["pixels"]["train"] == int((mine & (parts == 1)).sum())
        assert found["hectares"] == pytest.approx(mine.sum() * 400 / 1e4, abs=0.01)
    assert "apart" in told["split"]
    assert "normalisation, of the training part alone" in done.stdout
    assert str(out / "map.png") in done.stdout.replace("\n", "")
