"""Planes: everything that a network sees of one date, as uint16 like reflectance, 0 = no data.

A network's input is (time, plane, y, x): the bands of the reflectance first, then what stands beside it in
the cube, each written in 16 bits by a fixed rule of its kind, so that one way of reading, cutting, storing and
normalising serves all::

    kind          stored number            range                     step
    reflectance   value x 10000            0.0001 .. 6.5535          0.0001
    index         (value + 3) x 10000      -2.9999 .. 3.5535         0.0001      NDVI, EVI, and the like
    backscatter   (dB + 100) x 100         -99.99 .. 555.35 dB       0.01 dB     Sentinel-1
    layer         (value - low) x scale    as declared               as declared  elevation, slope, statistics

What lies outside is clipped to the range's end; NaN is 0, no data.

Planes are valid in groups, so that clouds hide no radar and a missing pass no reflectance::

    optical   reflectance, index    all planes of a date, or none
    radar     backscatter           all planes of a date, or none
    static    layer                 each plane by itself, the same on all dates

A date of a pixel counts where its optical or its radar planes are there (of layers alone: where one is).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.values.recipe import Features
    from engine.values.spec import CubeSpec

PlaneKind = Literal["reflectance", "index", "backscatter", "layer"]

Group = Literal["optical", "radar", "static"]
"""What is there, or missing, together."""

_GROUPS: dict[str, Group] = {
    "reflectance": "optical",
    "index": "optical",
    "backscatter": "radar",
    "layer": "static",
}

_RULES: dict[str, tuple[float, float]] = {
    "reflectance": (10_000.0, 0.0),
    "index": (10_000.0, -3.0),
    "backscatter": (100.0, -100.0),
}


class Plane(BaseModel):
    """One plane of a network's input.

    Attributes:
        name: Such as ``red``, ``NDVI``, ``vv``, ``slope``.
        kind: Which rule it is written by.
        scale: Of a layer: stored steps per unit.
        low: Of a layer: the value that would be stored as 0, below every value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    kind: PlaneKind = "reflectance"
    scale: float | None = Field(default=None, gt=0)
    low: float | None = None

    @property
    def rule(self) -> tuple[float, float]:
        """Steps per unit, and the value stored as 0."""
        scale, low = _RULES.get(self.kind, (1.0, 0.0))
        return self.scale or scale, low if self.low is None else self.low

    @property
    def group(self) -> Group:
        """With which other planes it is there or missing."""
        return _GROUPS[self.kind]


def encode(values: NDArray[np.floating], plane: Plane) -> NDArray[np.uint16]:
    """Write values in 16 bits.

    Args:
        values: In the plane's unit (reflectance 0..1, dB), any shape; NaN = no data.
        plane: By which rule.

    Returns:
        uint16 of the same shape; 0 = no data, 1..65535 = values, rounded to even halves, clipped.

    >>> encode(np.array([0.5, np.nan, -9.0], np.float32), Plane(name="NDVI", kind="index")).tolist()
    [35000, 0, 1]
    """
    scale, low = plane.rule
    stored = np.rint((values.astype(np.float64) - low) * scale)
    return np.where(np.isnan(stored), 0, np.clip(stored, 1, 65535)).astype(np.uint16)


def decode(stored: NDArray[np.uint16], plane: Plane) -> NDArray[np.float32]:
    """Read values back, float32, NaN = no data.

    >>> decode(np.array([35000, 0], np.uint16), Plane(name="NDVI", kind="index")).tolist()
    [0.5, nan]
    """
    scale, low = plane.rule
    return np.where(stored == 0, np.nan, stored / scale + low).astype(np.float32)


def reflectance_planes(bands: Sequence[str]) -> tuple[Plane, ...]:
    """Return the planes of a cube's reflectance alone."""
    return tuple(Plane(name=band) for band in bands)


def groups_of(planes: Sequence[Plane]) -> tuple[Group, ...] | None:
    """Return the group of each plane; None where all are optical, which needs no saying.

    >>> groups_of([Plane(name="red"), Plane(name="NDVI", kind="index")])
    >>> groups_of([Plane(name="red"), Plane(name="vv", kind="backscatter")])
    ('optical', 'radar')
    """
    groups = tuple(plane.group for plane in planes)
    return None if set(groups) <= {"optical"} else groups


def planes_of(spec: CubeSpec) -> tuple[Plane, ...]:
    """List all that a network may see of a cube: what its spec names, in this order.

    Bands, indices, polarisations, then what does not change with time: statistics, phenology, position,
    layers. The day of the year is no plane: networks are given the days themselves.

    Args:
        spec: The cube's.

    >>> from engine.values.spec import CubeSpec
    >>> spec = CubeSpec(bands=["red", "nir"], features={"indices": "NDVI"}, sentinel1=True)
    >>> [plane.name for plane in planes_of(spec)]
    ['red', 'nir', 'NDVI', 'vv', 'vh']
    """
    features, radar = spec.features, spec.sentinel1
    return (
        *reflectance_planes(spec.bands),
        *(Plane(name=name, kind="index") for name in (features.indices if features else ())),
        *(Plane(name=name, kind="backscatter") for name in (radar.polarisations if radar else ())),
        *(_static(features) if features else ()),
    )


_UNIT = (10_000.0, -3.0)  # steps per unit and lowest value of what lies about 0..1, as an index
_DAYS = (20.0, -1_000.0)
_STATISTICS = {"count": (1.0, -1.0), "slope": (1_000.0, -30.0)}
_PHENOLOGY = {
    **dict.fromkeys(("start", "peak", "end", "length"), _DAYS),
    **dict.fromkeys(("base", "peak_value", "amplitude"), _UNIT),
    "integral": _DAYS,
    **dict.fromkeys(("greening", "browning"), (100_000.0, -0.2)),
}
_METRES = (5.0, -1_000.0)
_LAYERS = {"slope": (100.0, -1.0), "eastness": _UNIT, "northness": _UNIT}


def _static(features: Features) -> list[Plane]:
    """List what does not change with time, each by a rule that holds its usual range."""
    rules = {name: _STATISTICS.get(name.rpartition("_")[2], _UNIT) for name in features.statistics}
    if features.phenology is not None:
        rules |= {f"phenology_{metric}": rule for metric, rule in _PHENOLOGY.items()}
    if features.position:
        rules |= {f"position_{axis}": _UNIT for axis in "xyz"}
    for layer in features.layers:
        scale, low = _LAYERS.get(layer.derive or "", _METRES)
        rules[layer.name] = (layer.scale or scale, low if layer.low is None else layer.low)
    return [Plane(name=name, kind="layer", scale=scale, low=low) for name, (scale, low) in rules.items()]
