"""A project that can be submitted without a search, and a place that only remembers what it was given."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from cluster.base import ClusterSpec
from cluster.submit import Job, Look, Order, Place
from engine.store.lease import Holder
from engine.values.classes import ClassScheme
from tests.pipelines.test_map_area import make_bundle

SQUARE = {
    "type": "Feature",
    "properties": {},
    "geometry": {"type": "Polygon", "coordinates": [[[6, 49], [6.1, 49], [6.1, 49.1], [6, 49.1], [6, 49]]]},
}


def make_project(folder: Path) -> Path:
    """Write a bundle, an outline and a run.yaml with relative paths; return the YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [
        {"value": n, "name": name, "colour": "#00ff00"} for n, name in enumerate(("field", "forest"), 1)
    ]
    make_bundle(folder / "bundle", ClassScheme.model_validate({"classes": classes}), seed=0)
    (folder / "area.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [SQUARE]}))
    settings = {"area": "area.geojson", "time": "2023-03/2023-10", "bundle": "bundle", "out": "run"}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml"


@dataclass
class Remembers:
    """A batch system of one's own.

    Attributes:
        orders: What was handed over.
        states: What it says of each job; pending until told otherwise.
        refuses: Raised by the next order.
    """

    orders: list[tuple[Place, Order]] = field(default_factory=list)
    states: dict[str, Look] = field(default_factory=dict)
    refuses: Exception | None = None

    def start(self, place: Place, spec: ClusterSpec, order: Order) -> Job:
        if self.refuses is not None:
            raise self.refuses
        self.orders.append((place, order))
        return Job("slurm", str(len(self.orders)), order.name, socket.gethostname(), order.output)

    def look(self, job: Job) -> Look:
        return self.states.get(job.id, Look("pending", "Priority"))

    def stop(self, job: Job) -> str:
        self.states[job.id] = Look("gone", "CANCELLED")
        return ""

    def into(self, patch: Any) -> Remembers:
        for module, name in (
            ("pipelines.submit_run", "start"), ("pipelines.drivers", "look"), ("pipelines.run_status", "look"),
            ("pipelines.run_status", "stop"), ("pipelines.drive_run", "stop"),
        ):  # fmt: skip
            patch.setattr(f"{module}.{name}", getattr(self, name))
        return self


def dead() -> Holder:
    """A process of this machine that is gone."""
    return replace(Holder.me(), pid_started=1.0)


def far() -> Holder:
    """A process of another machine."""
    return replace(Holder.me(), machine="elsewhere|boot|pid", host="node7")


def as_record(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()
