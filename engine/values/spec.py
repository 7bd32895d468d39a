"""CubeSpec: what a cube is made of, carried unchanged from training to the map.

The same spec stands in the run's YAML, in the cube's attributes and in the model bundle, so that a
network never meets a cube unlike the one it was trained on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.values.errors import InputError, SpecError
from engine.values.masking import CloudProbabilityMask, Mask, ModelMask, SclMask, masks_by_name
from engine.values.periods import BeforeHarvest, Calendar, Period, Windows, spans_of
from engine.values.recipe import (
    BestPixel,
    Features,
    GapFill,
    Layer,
    Reducer,
    Resampling,
    Sentinel1,
    Sharpen,
)

__all__ = [
    "ENGINE_FORMAT",
    "REFLECTANCE_ONE",
    "BeforeHarvest",
    "BestPixel",
    "Calendar",
    "CloudProbabilityMask",
    "CubeSpec",
    "Features",
    "GapFill",
    "Layer",
    "Mask",
    "ModelMask",
    "Period",
    "Reducer",
    "Resampling",
    "SclMask",
    "Sentinel1",
    "Sharpen",
    "Windows",
]

ENGINE_FORMAT = 4
"""Raised whenever the same inputs would give other bytes; part of every tile key."""

REFLECTANCE_ONE = 10_000
"""Reflectance 1.0 in the cube's uint16 scale."""


class CubeSpec(BaseModel):
    """What one pixel of a cube is.

    Attributes:
        bands: Band names; ``B02``, ``blue`` and ``B02_10m`` all mean the same band. None at all: a cube that was
            made elsewhere and holds other planes; `engine.open_cube` needs one.
        resolution_m: Pixel size in metres.
        period: A pandas offset (``1MS`` months, ``10D``, ``1QS``), `Windows`, `BeforeHarvest` or a
            `Calendar`; None keeps each acquisition.
        reducer: How the clear observations of a period become one value per band: ``median``, ``mean``,
            ``first``, ``medoid``, ``geomedian``, ``max_ndvi``, ``best`` (or a `BestPixel`), ``p10``.
            Halves are rounded up.
        variability: Also give the temporal median absolute deviations from the geometric median (Roberts
            et al. 2018, IGARSS: edev, sdev, bcdev), as a variable of its own.
        mask: What hides the ground: ``"scl"``, other masks or several; ``"none"`` for validity only.
        resampling: How coarser or reprojected bands reach the grid.
        sharpen: ``"ratio"`` or ``"high_pass"``, or None: bands coarser than 10 m keep their own detail.
        gap_fill: ``"linear"``, ``"nearest"``, ``"whittaker"`` or None: empty time steps stay empty.
        features: Indices, statistics, phenology, positions, static layers; None for none.
        sentinel1: Backscatter beside the reflectance; None for none.
        season: ``"MM-DD/MM-DD"``, first and last day of the cube, whatever the year; filled in by
            `engine.open_cube` and compared by a bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bands: tuple[str, ...]
    resolution_m: float = Field(default=10.0, gt=0)
    period: Period | None = "1MS"
    reducer: Reducer = "median"
    variability: bool = False
    mask: tuple[Mask, ...] = (SclMask(),)
    resampling: Resampling = "nearest"
    sharpen: Sharpen | None = None
    gap_fill: GapFill | None = None
    features: Features | None = None
    sentinel1: Sentinel1 | None = None
    season: str | None = None

    @field_validator("bands", mode="before")
    @classmethod
    def _common_names(cls, value: Any) -> Any:
        from engine.values.bands import common_name

        names = tuple(common_name(v) for v in ([value] if isinstance(value, str) else value))
        if len(set(names)) != len(names):
            raise ValueError(f"bands must be named once each, got {list(value)}")
        return names

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_by_name(cls, value: Any) -> Any:
        return masks_by_name(value)

    @field_validator("reducer", mode="before")
    @classmethod
    def _reducer_by_name(cls, value: Any) -> Any:
        return BestPixel() if value == "best" else value

    @field_validator("sharpen", "gap_fill", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @field_validator("sentinel1", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON of this spec."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def period_bounds(self, start: dt.date, end: dt.date) -> list[tuple[dt.date, dt.date]]:
        """Split ``start..end`` (both inclusive) into half-open periods; see `engine.values.periods`.

        >>> spec = CubeSpec(bands=["red"], period="1MS")
        >>> spec.period_bounds(dt.date(2023, 3, 1), dt.date(2023, 4, 15))[1]
        (datetime.date(2023, 4, 1), datetime.date(2023, 4, 16))

        Raises:
            InputError: If there are no composites, the range is empty, or the periods lie outside it.
        """
        if self.period is None:
            raise InputError("period is None: the cube has no composites", where="cube.period")
        return spans_of(self.period, start, end)

    def require(self, other: CubeSpec, *, n_dates: int | None, other_n_dates: int) -> None:
        """Refuse a cube (`other`) that this spec, a bundle's, was not trained on; `n_dates` None takes any.

        A cube may have more features than asked for, its layers from other files, and radar that is not asked for.

        Raises:
            SpecError: Naming each field that differs.
        """
        mine, theirs = json.loads(self.model_dump_json()), json.loads(other.model_dump_json())
        if self.season is None or other.season is None:
            mine.pop("season"), theirs.pop("season")
        if self.features is None or (other.features is not None and other.features.gives(self.features)):
            mine.pop("features"), theirs.pop("features")
        if self.sentinel1 is None:
            mine.pop("sentinel1"), theirs.pop("sentinel1")
        for own, found in zip(mine["mask"], theirs["mask"], strict=False):
            if own.get("sha256") is None:  # a bundle written by hand names the mask's model, not its bytes
                own.pop("sha256", None), found.pop("sha256", None)
        differs = {k: (theirs[k], mine[k]) for k in mine if mine[k] != theirs[k]}
        if n_dates not in (None, other_n_dates):
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
