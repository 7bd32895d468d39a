"""The small map that every kind of cluster makes, and what it looks like made on this machine."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.store.ledger import Ledger
from engine.values.classes import ClassScheme
from pipelines.config import RunConfig, load_config
from pipelines.map_area import map_area
from pipelines.sample.archive import make_sample_archive
from tests.pipelines.test_map_area import make_bundle

ROOT = Path(__file__).parents[2]
"""Of the source tree: what a worker process that a test starts needs as PYTHONPATH."""

TILES = 20


@dataclass(frozen=True)
class SampleRun:
    """A project of 20 tiles, each made in a fraction of a second.

    Attributes:
        folder: Holds archive, bundle, ``run.yaml`` and the reference.
    """

    folder: Path

    @property
    def yaml(self) -> Path:
        """Return the configuration, for the command line; ``-o out=...`` puts the run elsewhere."""
        return self.folder / "run.yaml"

    def config(self, out: Path, **changes: Any) -> RunConfig:
        """Return the configuration for a run in a folder of its own."""
        return load_config(self.yaml).model_copy(update={"out": str(out), **changes})

    def assert_same(self, run: Path) -> None:
        """Compare all files of a run's map, and all checksums of its ledger, with those made on this machine."""
        assert checksums(run) == checksums(self.folder / "reference")
        made, wanted = files(run / "map.zarr"), files(self.folder / "reference" / "map.zarr")
        assert set(made) == set(wanted)
        assert [name for name in wanted if made[name] != wanted[name]] == []


def make_sample_run(folder: Path) -> SampleRun:
    """Make archive and bundle, and the map on two local worker processes."""
    archive = make_sample_archive(folder / "archive", seed=7, size_m=2560, n_dates=2, zones=(33,))
    make_bundle(folder / "bundle", ClassScheme.from_file(archive.classes), seed=0)
    settings = {
        "area": str(archive.territory),
        "time": "2023-03/2023-10",
        "catalog": str(archive.catalog),
        "bundle": str(folder / "bundle"),
        "out": str(folder / "reference"),
        "tile_px": 64,
        "through": "fused",
        "probe": "off",
        "products": False,
        "cluster": {"kind": "local", "n_workers": 2, "memory_limit": "1GiB"},
    }
    sample = SampleRun(folder)
    sample.yaml.write_text(yaml.safe_dump(settings))
    made = map_area(load_config(sample.yaml))
    assert (made.exit_code, made.summary.done) == (0, TILES)
    return sample


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by their names in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def checksums(run: Path) -> dict[str, Mapping[str, str]]:
    """Return the checksums on record by tile."""
    return {str(record.tile): dict(record.checksums) for record in Ledger(str(run), "map").records()}


def hears_hangups() -> None:
    """Let a process die of SIGHUP as below a terminal, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
