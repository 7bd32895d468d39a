"""The parts of a cube's spec beyond bands, periods and masks: reducers, filling, features, radar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Resampling = Literal["nearest", "bilinear", "cubic"]

REDUCERS = ("median", "mean", "first", "medoid", "geomedian", "max_ndvi")
"""Reducers that go by name alone; percentiles (``p10``) and `BestPixel` come beside them."""


def _reducer(value: str) -> str:
    percentile = re.fullmatch(r"p(\d{1,2}|100)", value)
    if value not in REDUCERS and not percentile:
        raise ValueError(f"unknown reducer {value!r}; one of {', '.join(REDUCERS)}, best, p0..p100")
    return f"p{int(percentile[1])}" if percentile else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BestPixel(_Part):
    """Take each pixel from its best date: far from clouds, near the middle of the period.

    After Griffiths et al. 2013 (IEEE JSTARS 6:2088, pixel-based composites) and White et al. 2014
    (Can. J. Remote Sens. 40:192). Of the clear dates of a pixel the one with the highest score is taken,
    the earliest of equal ones::

        score = w / (1 + exp(-10 (d / cap - 1/2)))  +  (1 - w) exp(-1/2 (t / sigma)^2)

    d: distance to the nearest pixel of that overpass that it saw but a mask hides, in whole pixels rounded
    down, at most the cap; t: days between the middle of its day and the middle of the period. The slope 10
    is 0.2 per pixel where the cap is 50 pixels. Both terms are rounded to 1e-8 before they are added.

    Attributes:
        cloud_distance_m: Beyond this distance from a hidden pixel, clouds no longer matter (the cap; to
            the nearest whole pixel).
        date_sigma_days: Standard deviation of the date score in days (sigma).
        cloud_weight: Weight of the cloud distance, 0..1 (w); the date has the rest.
    """

    kind: Literal["best"] = "best"
    cloud_distance_m: float = Field(default=1000.0, ge=20, le=5000)
    date_sigma_days: float = Field(default=10.0, gt=0)
    cloud_weight: float = Field(default=0.5, ge=0, le=1)


Reducer = Annotated[str, AfterValidator(_reducer)] | BestPixel


class Sharpen(_Part):
    """Bring 20 m and 60 m bands to 10 m with the detail of the 10 m bands.

    Attributes:
        method: ``ratio``: band x pan / smoothed pan (Brovey type); ``high_pass``: band + weight x detail of
            pan (high-pass filter additive).
        weight: Weight of the detail, ``high_pass`` only.
    """

    method: Literal["ratio", "high_pass"] = "ratio"
    weight: float = Field(default=0.5, ge=0, le=2)


class GapFill(_Part):
    """Fill time steps without a clear observation from the others, pixel by pixel.

    Attributes:
        method: ``linear`` in time; ``nearest`` in time; ``whittaker``, a smoother (Eilers 2003, Anal. Chem.
            75:3631) that also replaces observed values.
        max_gap_days: Longer gaps stay empty; None fills all.
        smoothness: Whittaker's lambda; at its limit a series is nearly a straight line.
    """

    method: Literal["linear", "nearest", "whittaker"] = "linear"
    max_gap_days: int | None = Field(default=None, ge=1)
    smoothness: float = Field(default=10.0, gt=0, le=1e5)


Terrain = Literal["slope", "eastness", "northness"]


class Layer(_Part):
    """A raster that does not change with time: elevation, slope, distance to water.

    Attributes:
        name: Name within the cube.
        file: Raster file or address, any CRS.
        band: Number of its band, from 1.
        resampling: How it reaches the grid.
        derive: From elevation in metres: ``slope`` in degrees (Horn 1981), ``eastness`` and ``northness``,
            sine and cosine of the aspect; None takes the raster as it is.
        scale: What a network sees is stored in 16 bits: steps per unit. Default 5 (0.2 m of elevation), of a
            slope 100, of eastness and northness 10000.
        low: The value below all values, stored as 0. Default -1000, of a slope -1, of the others -3.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    file: str
    band: int = Field(default=1, ge=1)
    resampling: Resampling = "bilinear"
    derive: Terrain | None = None
    scale: float | None = Field(default=None, gt=0, exclude_if=lambda scale: scale is None)
    low: float | None = Field(default=None, exclude_if=lambda low: low is None)

    def means(self) -> tuple[Any, ...]:
        """Return what it is, wherever its file lies: two with the same answer may stand for each other."""
        return self.name, self.derive, self.scale, self.low


class Features(_Part):
    """What is computed from the cube or laid beside it; each kind is a variable of its own.

    Attributes:
        indices: Spectral indices per time step, by their usual names: NDVI, EVI, NDWI, PSRI.
        statistics: Over time, of an index or band: ``NDVI_mean``, ``red_p90``, ``EVI_std``; also min, max,
            range, median, count, slope (per year), amplitude (of the annual sine).
        phenology: Index whose season is described (start, peak, end, length, amplitude), or None.
        day_of_year: Sine and cosine of each step's middle day.
        position: Longitude and latitude as x, y, z on the unit sphere.
        layers: Static rasters.
    """

    indices: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    phenology: str | None = None
    day_of_year: bool = False
    position: bool = False
    layers: tuple[Layer, ...] = ()

    @field_validator("indices", "statistics", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def gives(self, wanted: Features) -> bool:
        """Tell whether all that other features name is here too; files of layers may be others.

        >>> Features(indices=("NDVI", "EVI")).gives(Features(indices="NDVI"))
        True
        """
        switches = (wanted.day_of_year <= self.day_of_year) and (wanted.position <= self.position)
        return (
            switches
            and set(wanted.indices) <= set(self.indices)
            and set(wanted.statistics) <= set(self.statistics)
            and wanted.phenology in (None, self.phenology)
            and {layer.means() for layer in wanted.layers} <= {layer.means() for layer in self.layers}
        )


def joined_features(several: Sequence[Features | None]) -> Features | None:
    """Join features that do not contradict each other; None where all are None.

    >>> joined_features([Features(indices="NDVI"), None, Features(indices="EVI", position=True)]).indices
    ('NDVI', 'EVI')
    """
    known = [features for features in several if features is not None]
    if not known:
        return None
    return Features(
        indices=tuple(dict.fromkeys(name for f in known for name in f.indices)),
        statistics=tuple(dict.fromkeys(name for f in known for name in f.statistics)),
        phenology=next((f.phenology for f in known if f.phenology), None),
        day_of_year=any(f.day_of_year for f in known),
        position=any(f.position for f in known),
        layers=tuple(dict.fromkeys(layer for f in known for layer in f.layers)),
    )


class Sentinel1(_Part):
    """Backscatter beside the reflectance, composited per relative orbit in linear power, given in dB.

    Attributes:
        polarisations: ``vv``, ``vh``.
        direction: Orbits taken.
        reducer: Over the dates of one relative orbit, in linear power.
        combine: Over relative orbits: their ``mean`` in linear power, or the orbit ``most`` observed.
        resampling: How backscatter reaches the grid.
    """

    polarisations: tuple[Literal["vv", "vh"], ...] = ("vv", "vh")
    direction: Literal["both", "ascending", "descending"] = "both"
    reducer: Literal["mean", "median"] = "mean"
    combine: Literal["mean", "most"] = "mean"
    resampling: Resampling = "bilinear"
