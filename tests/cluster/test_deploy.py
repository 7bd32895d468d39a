from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.pods import driver_access
from cluster.spec import load_spec
from engine.values.errors import InputError
from pipelines.cli import app
from pipelines.cluster_view import manifests
from tests.cluster.kubernetes_schema import check

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
SPECS = ["cluster.yaml", "cluster-gpu.yaml"]
DRIVER = "landweave map /runs/luxembourg/run.yaml"


def _printed(*args: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["cluster", "manifest", *args], catch_exceptions=False)
    assert result.exit_code == 0
    return list(yaml.safe_load_all(result.stdout))


@pytest.mark.parametrize("name", SPECS)
def test_what_the_command_prints_is_what_is_sent(name: str) -> None:
    printed = _printed(str(DEPLOY / name), "--name", "lux", "--driver", DRIVER)
    assert printed == manifests(DEPLOY / name, "lux", driver=DRIVER)
    assert [manifest["kind"] for manifest in printed if manifest["kind"] != "DaskAutoscaler"] == [
        "DaskCluster",
        "Job",
    ]
    for manifest in printed:
        check(manifest)
        assert manifest["metadata"] | {"name": "lux", "namespace": "landweave"} == manifest["metadata"]


def test_rights_are_printed_by_themselves() -> None:
    printed = _printed(str(DEPLOY / SPECS[0]), "--access")
    assert printed == list(driver_access(load_spec(DEPLOY / SPECS[0])))


def test_the_manifests_that_are_shipped_are_those_that_are_made() -> None:
    wanted = {
        "access.yaml": _printed(str(DEPLOY / "cluster.yaml"), "--access"),
        "example.yaml": _printed(str(DEPLOY / "cluster.yaml"), "--driver", DRIVER),
    }
    for name, made in wanted.items():
        shipped = list(yaml.safe_load_all((DEPLOY / name).read_text()))
        assert shipped == made, f"make it again: docs/clusters/kubernetes.md tells how ({name})"


def test_every_file_is_a_spec_or_a_valid_manifest() -> None:
    for path in sorted(DEPLOY.iterdir()):
        if path.name in SPECS:
            load_spec(path)
            continue
        for manifest in yaml.safe_load_all(path.read_text()):
            check(manifest)


def test_other_kinds_have_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: local\n")
    with pytest.raises(InputError, match="only Kubernetes"):
        manifests(path, "lux")
