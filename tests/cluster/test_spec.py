from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from cluster.base import seconds_of
from cluster.local import LocalSpec
from cluster.spec import KINDS, AnyCluster, load_spec, parse_spec
from engine.values.errors import InputError


def test_the_default_is_this_machine() -> None:
    spec = LocalSpec()
    assert (spec.kind, spec.n_workers, spec.threads_per_worker) == ("local", None, 1)


def test_a_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: local\nn_workers: 3\nmemory_limit: 2GiB\n")
    assert load_spec(path) == LocalSpec(n_workers=3, memory_limit="2GiB")
    path.write_text("kind: address\naddress: tcp://10.0.0.1:8786\n")
    assert load_spec(path).address == "tcp://10.0.0.1:8786"
    path.write_text("")
    assert load_spec(path) == LocalSpec()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"kind": "mainframe"}, "known kinds: local, address, slurm"),
        ({"kind": "address"}, "needs an address or a scheduler_file"),
        ({"address": "tcp://x:1"}, "address: Extra inputs"),
        ({"kind": "address", "address": "10.0.0.1"}, "no address"),
        ({"n_workers": 0}, "n_workers"),
        ({"threads_per_worker": 0}, "threads_per_worker"),
        ({"memory_limit": "much"}, "no amount of memory"),
        ({"lifetime": "soon"}, "no duration"),
        ({"environment": {"AWS_SECRET_ACCESS_KEY": "x"}}, "under forward"),
        ({"code": ["masks.txt"]}, "no Python file"),
        ({"n_workers": 2, "adapt": {"maximum": 4}}, "keep one"),
        ({"adapt": {"minimum": 5, "maximum": 4}}, "above maximum"),
        ({"workers": 3}, "workers"),
        ([], "cluster"),
    ],
)
def test_wrong_settings_are_named(raw: object, says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_spec(raw)
    assert says in str(refused.value)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(InputError) as refused:
        parse_spec({"n_workers": 0, "workers": 1})
    assert "n_workers" in str(refused.value)
    assert "workers: Extra" in str(refused.value)


@pytest.mark.parametrize("text", [None, "a: [", "just a text"])
def test_files_that_are_no_spec_are_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError):
        load_spec(path)


def test_kinds_are_listed_in_the_schema() -> None:
    told = TypeAdapter(AnyCluster).json_schema()["discriminator"]["mapping"]
    assert list(told) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_module_that_starts_it(kind: str) -> None:
    module = importlib.import_module(f"cluster.{kind}")
    assert callable(module.start)
    needed = {
        "address": {"address": "tcp://x:1"},
        "ssh": {"hosts": ["lab1"]},
        "kubernetes": {"image": "landweave:0.1"},
    }
    spec = parse_spec({"kind": kind, **needed.get(kind, {})})
    assert type(spec).__module__ == module.__name__


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h", 7200), ("1 minute", 60), ("30:00", 1800), ("00:30:00", 1800), ("2-00:00", 172800)],
)
def test_durations_as_people_and_slurm_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
