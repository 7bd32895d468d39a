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
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

PlaneKind = Literal["reflectance", "index", "backscatter", "layer"]

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
