"""What ``assessment.json`` holds: the estimates, and the sample that they were made of, so that more can be made of it.

Schema ``landweave/assessment/1``, one JSON object::

    schema, map, crs, design, level, interval
    classes      [{value, name, colour}]            the classes of the estimates
    strata       [{name, pixels, hectares, clusters, mapped}]
    points       {id: [...], x: [...], y: [...], stratum: [...], mapped: [...], reference: [...], ...}
    estimates    as `engine.assessment.stratified.Accuracy.as_json` gives them
    mapped       {"<value>": {pixels, hectares}}    by counting pixels
    regions, by_confidence, by_observations, bootstrap, notes   where asked for
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.stratified import Accuracy, accuracy
from engine.assessment.types import Sample, Stratum
from engine.values.classes import NO_DATA_LABEL, ClassScheme, LandClass
from engine.values.errors import InputError

SCHEMA = "landweave/assessment/1"

_FLOATS = ("confidence", "observations")


@dataclass(frozen=True, eq=False)
class Assessment:
    """A sample with its answers, what it was drawn from, and what is mapped.

    Attributes:
        map: The map that was assessed.
        crs: Of the points' coordinates.
        scheme: The classes of the estimates.
        design: ``simple``, ``stratified``, ``clusters``, or ``none`` (points of unknown design).
        sample: The points.
        ids: (N,) text, the points' ids.
        xy: (N, 2) float64, where they lie in `crs`.
        pixels: Pixels of each class value in the map.
        hectares: What they cover on the ellipsoid.
        level: Of the intervals.
        interval: Kind of the intervals.
    """

    map: str
    crs: str
    scheme: ClassScheme
    design: str
    sample: Sample
    ids: NDArray[np.str_]
    xy: NDArray[np.float64]
    pixels: Mapping[int, int]
    hectares: Mapping[int, float]
    level: float = 0.95
    interval: str = "wilson"
    notes: tuple[str, ...] = field(default=())

    def accuracy(self, **options: Any) -> Accuracy:
        """Estimate accuracies and areas of the scheme's classes from the sample."""
        settings: dict[str, Any] = {"kind": self.interval, "level": self.level, **options}
        return accuracy(self.sample, self.values, **settings)

    @property
    def values(self) -> tuple[int, ...]:
        """Class values of the estimates: the scheme's, and 0 where points lie outside what is mapped."""
        nothing = bool((self.sample.mapped == NO_DATA_LABEL).any())
        return self.scheme.values + ((NO_DATA_LABEL,) if nothing else ())

    def as_json(self, estimates: Accuracy) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "schema": SCHEMA,
            "map": self.map,
            "crs": self.crs,
            "design": self.design,
            "level": self.level,
            "interval": self.interval,
            "classes": [{"value": c.value, "name": c.name, "colour": c.colour} for c in self.scheme.classes],
            "strata": [asdict(s) for s in self.sample.strata],
            "estimates": estimates.as_json(),
            "mapped": {
                str(v): {"pixels": n, "hectares": round(self.hectares[v], 4)} for v, n in self.pixels.items()
            },
            "notes": [*self.notes, *estimates.notes],
            "points": self._points(),
        }

    def _points(self) -> dict[str, list[Any]]:
        frame = self.sample.to_frame()
        told: dict[str, list[Any]] = {"id": self.ids.tolist()}
        told |= {"x": self.xy[:, 0].tolist(), "y": self.xy[:, 1].tolist()}
        for name in frame:
            values = frame[name].tolist()
            told[str(name)] = [_none_if_nan(v) for v in values] if name in _FLOATS else values
        return told


def read_assessment(path: str | Path) -> Assessment:
    """Read ``assessment.json``.

    Raises:
        InputError: If the file is missing or is no assessment of this schema.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("cannot read the assessment", where=str(path), mend=str(error)) from error
    except ValueError as error:
        raise InputError("the assessment is not JSON", where=str(path), found=str(error)) from error
    schema = told.get("schema") if isinstance(told, dict) else None
    if schema != SCHEMA:
        raise InputError(
            "not an assessment that this version reads",
            where=str(path),
            found=schema,
            limit=SCHEMA,
            mend="make it with `landweave assess run`",
        )
    points = told["points"]
    known = {f.name for f in fields(Sample)} - {"strata"}
    columns: dict[str, Any] = {k: v for k, v in points.items() if k in known}
    for name in _FLOATS:
        if name in columns:
            columns[name] = np.array([np.nan if v is None else v for v in columns[name]], np.float64)
    strata = tuple(Stratum(**s) for s in told["strata"])
    return Assessment(
        map=told["map"],
        crs=told["crs"],
        scheme=ClassScheme(classes=tuple(LandClass(**c) for c in told["classes"])),
        design=told["design"],
        sample=Sample.of(strata, **columns),
        ids=np.array(points["id"], str),
        xy=np.column_stack([points["x"], points["y"]]).astype(np.float64).reshape(-1, 2),
        pixels={int(v): int(own["pixels"]) for v, own in told["mapped"].items()},
        hectares={int(v): float(own["hectares"]) for v, own in told["mapped"].items()},
        level=told["level"],
        interval=told["interval"],
        notes=tuple(told["notes"]),
    )


def _none_if_nan(value: float) -> float | None:
    return None if value != value else value
