from __future__ import annotations

from pathlib import Path

import pytest

from cluster.spec import KINDS, ClusterSpec
from engine.values.errors import InputError


def test_the_default_is_this_machine() -> None:
    spec = ClusterSpec()
    assert (spec.kind, spec.n_workers, spec.threads_per_worker) == ("local", None, 1)


def test_a_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: local\nn_workers: 3\nmemory_limit: 2GiB\n")
    assert ClusterSpec.load(path) == ClusterSpec(n_workers=3, memory_limit="2GiB")
    path.write_text("kind: address\naddress: tcp://10.0.0.1:8786\n")
    assert ClusterSpec.load(path).address == "tcp://10.0.0.1:8786"
    path.write_text("")
    assert ClusterSpec.load(path) == ClusterSpec()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"kind": "mainframe"}, "known kinds: local, address"),
        ({"kind": "address"}, "an address belongs to kind: address"),
        ({"address": "tcp://x:1"}, "an address belongs to kind: address"),
        ({"kind": "address", "address": "10.0.0.1"}, "no address"),
        ({"n_workers": 0}, "n_workers"),
        ({"threads_per_worker": 0}, "threads_per_worker"),
        ({"memory_limit": "much"}, "no amount of memory"),
        ({"workers": 3}, "workers"),
        ([], "cluster"),
    ],
)
def test_wrong_settings_are_named(raw: object, says: str) -> None:
    with pytest.raises(InputError) as refused:
        ClusterSpec.parse(raw)
    assert says in str(refused.value)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(InputError) as refused:
        ClusterSpec.parse({"n_workers": 0, "workers": 1})
    assert "n_workers" in str(refused.value)
    assert "workers: Extra" in str(refused.value)


@pytest.mark.parametrize("text", [None, "a: [", "just a text"])
def test_files_that_are_no_spec_are_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError):
        ClusterSpec.load(path)


def test_kinds_are_listed_in_the_schema() -> None:
    assert ClusterSpec.model_json_schema()["properties"]["kind"]["enum"] == list(KINDS)
