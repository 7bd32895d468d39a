from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.values.errors import ConflictError, InputError, TrustError
from pipelines.config import CubeConfig, RunConfig, load_config, parse_config
from pipelines.submission import Asked, Submission, freeze, frozen, frozen_name, held, read_asked
from tests.pipelines.submitted import make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


def _put(run: Path, told: Submission, text: str) -> None:
    (run / told.config).parent.mkdir(parents=True, exist_ok=True)
    (run / told.config).write_text(text)
    told.write(str(run))


def test_what_is_frozen_is_what_was_meant(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parent)  # relative paths of the YAML and of an override
    overrides = (
        "tile_px=128",
        "cube.period=10D",
        "cube.bands=[red,nir,swir16]",
        "layers=[probability]",
        "out=made",
    )
    asked = Asked("run.yaml", overrides)
    config = read_asked(asked)
    told, text = freeze(asked, config, "process", "landweave-run-abc")
    _put(tmp_path, told, text)
    monkeypatch.chdir(tmp_path)
    project.parent.joinpath("other.yaml").write_text("changed later: nobody minds")
    again = Submission.find(str(tmp_path))
    assert again == told
    assert again is not None
    back = again.settings(str(tmp_path))
    assert isinstance(back, RunConfig)
    home = project.parent
    assert (back.out, back.bundle, back.area.file) == (
        f"{home}/made",
        f"{home}/bundle",
        f"{home}/area.geojson",
    )
    assert back == config.model_copy(
        update={"out": back.out, "bundle": back.bundle, "area": back.area, "catalog": back.catalog}
    )
    assert (back.tile_px, back.catalog, again.overrides) == (128, "earth-search", overrides)
    assert again.source == f"{home}/run.yaml"
    again.require_same(back)


def test_paths_of_the_cluster_become_absolute(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    spec = {"kind": "slurm", "code": ["masks.py"], "log_directory": "logs"}
    slurm = yaml.safe_load(frozen(load_config(project, [f"cluster={json.dumps(spec)}"])))["cluster"]
    assert slurm["code"] == [f"{project.parent}/masks.py"]
    assert slurm["log_directory"] == f"{project.parent}/logs"
    file = {"kind": "address", "scheduler_file": "here.json"}
    address = yaml.safe_load(frozen(load_config(project, [f"cluster={json.dumps(file)}"])))["cluster"]
    assert address["scheduler_file"] == f"{project.parent}/here.json"
    assert address["address"] is None


def test_the_text_is_the_same_however_often_it_is_frozen(project: Path) -> None:
    text = frozen(load_config(project))
    again = frozen(parse_config(yaml.safe_load(text), "frozen"))
    assert text == again
    assert frozen_name(text) == frozen_name(again)


def test_a_cube_is_frozen_with_the_halo_of_its_bundle(project: Path, tmp_path: Path) -> None:
    asked = Asked(str(project), command="cube")
    told, text = freeze(asked, read_asked(asked), "process", "name")
    _put(tmp_path, told, text)
    config = told.settings(str(tmp_path))
    assert isinstance(config, CubeConfig)
    assert config.halo_px == 48
    assert set(told.holds) == {"area"}


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("catalog=https://a.blob/catalog.json?sig=c2VjcmV0", "catalog"),
        ("out=s3://key:word@host/run", "out"),
        ("sentinel1.catalog=https://user:word@api/v1", "sentinel1.catalog"),
    ],
)
def test_secrets_are_refused_and_not_repeated(override: str, where: str, project: Path) -> None:
    with pytest.raises(InputError, match="secret in the configuration") as refused:
        frozen(load_config(project, [override]))
    assert refused.value.where == where
    assert "word" not in str(refused.value).replace("password", "")
    assert "c2VjcmV0" not in str(refused.value)


def test_trust_is_never_written_down(project: Path, tmp_path: Path) -> None:
    asked = Asked(str(project), trust_model=True)
    told, text = freeze(asked, read_asked(asked), "process", "name")
    assert "trust" not in text + json.dumps(told.overrides)
    _put(tmp_path, told, text)
    assert not told.settings(str(tmp_path)).trust_model  # type: ignore[attr-defined]
    assert told.settings(str(tmp_path), trust_model=True).trust_model  # type: ignore[attr-defined]
    (tmp_path / told.config).write_text(text + "trust_model: true\n")
    with pytest.raises(TrustError):
        told.settings(str(tmp_path))


def test_another_model_or_outline_than_submitted_is_refused(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    asked = Asked(str(path))
    told, _ = freeze(asked, read_asked(asked), "process", "name")
    config = read_asked(asked)
    told.require_same(config)
    area: dict[str, Any] = json.loads((tmp_path / "area.geojson").read_text())
    area["features"][0]["geometry"]["coordinates"][0][2] = [6.2, 49.1]
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    with pytest.raises(
        ConflictError, match=r"the area is not the one that was submitted.*submit the YAML again"
    ):
        told.require_same(config)
    with pytest.raises(ConflictError, match="the bundle is not"):
        replace(told, holds={**held(config), "bundle": "0" * 64}).require_same(config)


def test_a_part_keeps_its_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    asked = Asked("run.yaml", only="area.geojson")
    told, _ = freeze(asked, read_asked(asked), "process", "name")
    part = told.part()
    assert part is not None
    assert part.file == f"{project.parent}/area.geojson"
    wrong = replace(asked, only="nowhere.geojson")
    with pytest.raises(InputError):
        freeze(wrong, read_asked(wrong), "process", "name")


def test_a_frozen_file_that_is_gone_is_told(project: Path, tmp_path: Path) -> None:
    asked = Asked(str(project))
    told, _ = freeze(asked, read_asked(asked), "process", "name")
    with pytest.raises(InputError, match="frozen configuration is gone"):
        told.settings(str(tmp_path))
    assert Submission.find(str(tmp_path)) is None
