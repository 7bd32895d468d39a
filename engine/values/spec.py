"""CubeSpec: what a cube is made of, carried unchanged from training to the map.

The same spec stands in the run's YAML, in the cube's attributes and in the model bundle, so that a
network never meets a cube unlike the one it was trained on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.values.errors import InputError, SpecError

ENGINE_FORMAT = 1
"""Raised whenever the same inputs would give other bytes; part of every tile key."""

REFLECTANCE_ONE = 10_000
"""Reflectance 1.0 in the cube's uint16 scale."""

Reducer = Literal["median", "mean", "first"]
Resampling = Literal["nearest", "bilinear", "cubic"]

_ALIASES = {"1M": "1MS", "MS": "1MS", "month": "1MS", "W": "7D", "week": "7D", "Q": "1QS", "quarter": "1QS"}


class SclMask(BaseModel):
    """Mask by the L2A scene classification (SCL, 20 m; ESA Sentinel-2 L2A product definition).

    Attributes:
        classes: SCL values that hide the ground. The default: no data 0, saturated 1, cloud shadow 3,
            cloud medium 8 and high 9 probability, thin cirrus 10. Snow (11) stays.
        dilate_m: Cloud and shadow classes (3, 8, 9, 10) grow by this many metres (square neighbourhood).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["scl"] = "scl"
    classes: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    dilate_m: float = Field(default=60.0, ge=0, le=2000)


class CubeSpec(BaseModel):
    """What one pixel of a cube is.

    Attributes:
        bands: Band names; ``B02``, ``blue`` and ``B02_10m`` all mean the same band.
        resolution_m: Pixel size in metres.
        period: Length of a composite as a pandas offset: ``1MS`` months, ``10D``, ``1QS``; None keeps
            each acquisition.
        reducer: How the clear observations of a period become one value per band; median rounds half up.
        mask: ``"scl"``, an `SclMask`, or None for validity only.
        resampling: How coarser or reprojected bands reach the grid.
        season: ``"MM-DD/MM-DD"``, first and last day of the cube, whatever the year; filled in by
            `engine.open_cube` and compared by a bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bands: tuple[str, ...]
    resolution_m: float = Field(default=10.0, gt=0)
    period: str | None = "1MS"
    reducer: Reducer = "median"
    mask: SclMask | None = Field(default_factory=SclMask)
    resampling: Resampling = "nearest"
    season: str | None = None

    @field_validator("bands", mode="before")
    @classmethod
    def _common_names(cls, value: Any) -> Any:
        from engine.values.bands import common_name

        names = tuple(common_name(v) for v in ([value] if isinstance(value, str) else value))
        if not names or len(set(names)) != len(names):
            raise ValueError(f"bands must be named once each, got {list(value)}")
        return names

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_by_name(cls, value: Any) -> Any:
        return SclMask() if value == "scl" else None if value in ("none", None) else value

    @field_validator("period")
    @classmethod
    def _period_offset(cls, value: str | None) -> str | None:
        if value is None:
            return None
        alias = _ALIASES.get(value, value)
        try:
            pd.tseries.frequencies.to_offset(alias)
        except ValueError as error:
            raise ValueError(f"period {value!r} is not a pandas offset; use e.g. 1MS, 10D, 1QS") from error
        return alias

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON of this spec."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def period_bounds(self, start: dt.date, end: dt.date) -> list[tuple[dt.date, dt.date]]:
        """Split ``start..end`` (both inclusive) into half-open periods.

        Calendar offsets begin on the calendar (a month starts on its first day), others on `start`; the
        first and last period are cut to the range.

        >>> spec = CubeSpec(bands=["red"], period="1MS")
        >>> spec.period_bounds(dt.date(2023, 3, 1), dt.date(2023, 4, 15))[1]
        (datetime.date(2023, 4, 1), datetime.date(2023, 4, 16))
        """
        if end < start:
            raise InputError("the time range is empty", found=f"{start}/{end}", mend="swap start and end")
        if self.period is None:
            raise InputError("period is None: the cube has no composites", where="cube.period")
        offset = pd.tseries.frequencies.to_offset(self.period)
        last = pd.Timestamp(end) + pd.Timedelta(days=1)
        edge = pd.Timestamp(offset.rollback(pd.Timestamp(start)))
        edges = [pd.Timestamp(start)]
        while (edge := pd.Timestamp(edge + offset)) < last:
            if edge > edges[0]:
                edges.append(edge)
        edges.append(last)
        return [(a.date(), b.date()) for a, b in itertools.pairwise(edges)]

    def require(self, other: CubeSpec, *, n_dates: int, other_n_dates: int) -> None:
        """Refuse a cube (`other`) that this spec, a bundle's, was not trained on.

        Raises:
            SpecError: Naming each field that differs.
        """
        mine, theirs = json.loads(self.model_dump_json()), json.loads(other.model_dump_json())
        if self.season is None or other.season is None:
            mine.pop("season"), theirs.pop("season")
        differs = {k: (theirs[k], mine[k]) for k in mine if mine[k] != theirs[k]}
        if n_dates != other_n_dates:
            differs["dates"] = (other_n_dates, n_dates)
        if differs:
            raise SpecError(
                "the cube is not what the bundle was trained on",
                where=", ".join(differs),
                found={k: v[0] for k, v in differs.items()},
                limit={k: v[1] for k, v in differs.items()},
                mend="open the cube with the bundle's own spec (bundle.spec) and season",
            )

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("landweave.CubeSpec", self.digest())
