"""What lies between the simulated land and the sensor on each date: orbit, sun, cloud, shadow, haze."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from pipelines.sample.noise import Float, block_mean, enlarge, power_noise, stream
from pipelines.sample.truth import Landscape

Points = NDArray[np.float64]

YEAR = 2023
OFFSET_DN = 1000
"""Added to all reflectances from processing baseline 04.00 on (BOA_ADD_OFFSET is its negative)."""
_FIRST_DAY, _LAST_DAY = 72, 288
_ORBITS = ((22, 2), (122, 4))  # relative orbit; its days of the year modulo the five-day revisit
_COVER = (0.03, 0.32, 0.0, 0.14, 0.48, 0.04, 0.0, 0.62, 0.05, 0.10, 0.27, 0.0, 0.40, 0.02, 0.18)
_CIRRUS = (0.0, 0.0, 0.0, 0.35, 0.0, 0.0, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.25)
_COARSE = 4  # clouds are made at 40 m
_LATITUDE_DEG = 47.9
_TRACK = math.tan(math.radians(12.0))  # eastward run of the swath edge per metre to the north


@dataclass(frozen=True)
class Scene:
    """One datatake over the territory.

    Attributes:
        index: Number of the scene in the season.
        day: Day of the year.
        orbit: Relative orbit.
        platform: ``"sentinel-2a"`` or ``"sentinel-2b"``.
        baseline: Processing baseline.
        cloud: Wanted share of cloud.
        cirrus: Strength of thin high cloud, 0 = none.
    """

    index: int
    day: int
    orbit: int
    platform: str
    baseline: str
    cloud: float
    cirrus: float

    @property
    def time(self) -> dt.datetime:
        """Sensing time, UTC."""
        minute = 2 if self.orbit == _ORBITS[0][0] else 12
        start = dt.datetime(YEAR, 1, 1, 10, minute, 31, tzinfo=dt.UTC)
        return start + dt.timedelta(days=self.day - 1, seconds=self.index % 7)

    @property
    def offset_dn(self) -> int:
        """What the files carry on top of reflectance x 10000."""
        return OFFSET_DN if self.baseline >= "04.00" else 0

    @property
    def datatake(self) -> str:
        """Datatake identifier in the form of the real ones; the orbit number is made up."""
        letter = self.platform[-1].upper()
        return f"GS2{letter}_{self.time:%Y%m%dT%H%M%S}_{90000 + self.day:06d}_N{self.baseline}"

    @property
    def sun(self) -> tuple[float, float]:
        """Azimuth and elevation of the sun in degrees (declination after Cooper 1969)."""
        declination = math.radians(23.45 * math.sin(2 * math.pi * (284 + self.day) / 365))
        latitude = math.radians(_LATITUDE_DEG)
        hour = math.radians(15.0 * (self.time.hour + self.time.minute / 60 + 1.0 - 12.0))
        up = math.sin(latitude) * math.sin(declination)
        up += math.cos(latitude) * math.cos(declination) * math.cos(hour)
        east = -math.cos(declination) * math.sin(hour)
        north = math.cos(latitude) * math.sin(declination)
        north -= math.sin(latitude) * math.cos(declination) * math.cos(hour)
        return math.degrees(math.atan2(east, north)) % 360, math.degrees(math.asin(up))


def schedule(n_dates: int) -> tuple[Scene, ...]:
    """Plan the season: alternating orbits, five-day revisits, baseline 04.00 and later in the second half.

    >>> [(s.time.strftime("%m-%d"), s.orbit, s.baseline) for s in schedule(3)]
    [('03-13', 22, '03.01'), ('06-28', 122, '04.00'), ('10-14', 22, '05.09')]

    Raises:
        InputError: If there are fewer than 2 dates or more than the revisits allow.
    """
    if not 2 <= n_dates <= 40:
        raise InputError("cannot plan the season", where="n_dates", found=n_dates, limit="2..40")
    scenes = []
    for i, wanted in enumerate(np.linspace(_FIRST_DAY, _LAST_DAY, n_dates)):
        orbit, phase = _ORBITS[i % 2]
        day = round((float(wanted) - phase) / 5) * 5 + phase
        baseline = "03.01" if i < n_dates // 2 else "04.00" if i < (3 * n_dates) // 4 else "05.09"
        platform = "sentinel-2" + "ab"[day // 5 % 2]
        k = i % len(_COVER)
        scenes.append(Scene(i, day, orbit, platform, baseline, _COVER[k], _CIRRUS[k]))
    return tuple(scenes)


def swath(seed: int, scene: Scene, bounds_xyxy: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Return the part of a rectangle that the scene saw, as the corners of a polygon.

    The orbit 22 ends in the east of the territory and orbit 122 begins in its west; both edges run
    from north-east to south-west as those of descending passes do.

    Returns:
        (4, 2) float64, x and y in CRS metres, going round.
    """
    left, bottom, right, top = bounds_xyxy
    side = right - left
    jitter = stream(seed, "swath", scene.index).uniform(-0.02, 0.02)
    west_edge_seen = scene.orbit == _ORBITS[1][0]
    middle = left + side * (0.5 + (-0.33 if west_edge_seen else 0.30) + jitter)
    edge_top, edge_bottom = middle + _TRACK * side / 2, middle - _TRACK * side / 2
    if west_edge_seen:
        return np.array([[edge_bottom, bottom], [right, bottom], [right, top], [edge_top, top]])
    return np.array([[left, bottom], [edge_bottom, bottom], [edge_top, top], [left, top]])


def seen(land: Landscape, scene: Scene) -> NDArray[np.bool_]:
    """Mark the 10 m pixels whose centre lies in the swath: (y, x) bool."""
    y, x = land.grid.centres(land.box)
    return in_swath(land, scene, y[:, None], x[None, :])


def in_swath(canvas: Landscape, scene: Scene, y: Points, x: Points) -> NDArray[np.bool_]:
    """Mark the points of the canvas that the scene saw; `y` and `x` in its metres, broadcast together."""
    corners = swath(canvas.seed, scene, canvas.bounds)
    bottom, top = canvas.bounds[1], canvas.bounds[3]
    west_edge_seen = scene.orbit == _ORBITS[1][0]
    low, high = (corners[0, 0], corners[3, 0]) if west_edge_seen else (corners[1, 0], corners[2, 0])
    edge = low + (high - low) * (y - bottom) / (top - bottom)
    return np.asarray(x > edge if west_edge_seen else x < edge)


@dataclass(frozen=True)
class Sky:
    """The atmosphere of one scene at one resolution; all (y, x) float32.

    Attributes:
        cloud: Opacity of the water clouds, 0..1.
        shadow: Share of direct sunlight that clouds take away, 0..1.
        cirrus: Opacity of thin high cloud, 0..0.3.
        haze: Factor on the scene's path reflectance, about 1.
        snow: Share of the ground under snow, 0..1.
    """

    cloud: Float
    shadow: Float
    cirrus: Float
    haze: Float
    snow: Float

    def coarser(self, factor: int) -> Sky:
        """Average whole blocks of pixels."""
        return Sky(*(block_mean(getattr(self, f), factor) for f in self.__dataclass_fields__))

    def rows(self, rows: slice) -> Sky:
        """Return some rows of all maps."""
        return Sky(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))


def make_sky(land: Landscape, scene: Scene) -> Sky:
    """Make the 10 m sky of a scene.

    Cloud is made on a rectangle that reaches beyond the territory, so that shadows of clouds outside
    fall into it. The shadow is the cloud, moved away from the sun by height / tan(elevation).
    """
    shape = land.truth.shape
    coarse = (-(-shape[0] // _COARSE), -(-shape[1] // _COARSE))
    pad = 100
    pixel_m = 10.0 * _COARSE
    cloud = _cloud(land.seed, scene, coarse, pad, pixel_m)
    down, right = _shadow_shift(land.seed, scene, pixel_m)
    inner = tuple(slice(pad, pad + n) for n in coarse)
    moved = tuple(slice(pad - s, pad - s + n) for s, n in zip((down, right), coarse, strict=True))
    maps = (
        cloud[inner],
        cloud[moved],
        _cirrus(land.seed, scene, coarse, pixel_m),
        1 + 0.35 * power_noise(stream(land.seed, "haze", scene.index), coarse, pixel_m, 3.0, (1500, 15000)),
        _snow(land.seed, scene, coarse, pixel_m),
    )
    return Sky(*(enlarge(np.asarray(m, np.float32), _COARSE, (shape[0], shape[1])) for m in maps))


def _cloud(seed: int, scene: Scene, shape_yx: tuple[int, int], pad: int, pixel_m: float) -> Float:
    """Make cloud opacity on the coarse pixels, `pad` wider on each side."""
    full = (shape_yx[0] + 2 * pad, shape_yx[1] + 2 * pad)
    if scene.cloud == 0:
        return np.zeros(full, np.float32)
    rng = stream(seed, "cloud", scene.index)
    noise = power_noise(rng, full, pixel_m, 2.7, (130, rng.uniform(2500, 7000)))
    inner = noise[pad:-pad, pad:-pad]
    depth = np.maximum(noise - np.quantile(inner, 1 - scene.cloud), 0)
    return np.asarray(1 - np.exp(-3.4 * depth), np.float32)


def _shadow_shift(seed: int, scene: Scene, pixel_m: float) -> tuple[int, int]:
    """Return how many coarse pixels the shadow lies below and to the right of its cloud."""
    azimuth, elevation = (math.radians(a) for a in scene.sun)
    height_m = stream(seed, "cloud height", scene.index).uniform(900, 2300)
    length = height_m / math.tan(elevation) / pixel_m
    return round(math.cos(azimuth) * length), round(-math.sin(azimuth) * length)


def _cirrus(seed: int, scene: Scene, shape_yx: tuple[int, int], pixel_m: float) -> Float:
    """Make streaks of thin high cloud."""
    if scene.cirrus == 0:
        return np.zeros(shape_yx, np.float32)
    noise = power_noise(stream(seed, "cirrus", scene.index), shape_yx, pixel_m, 3.0, (600, 12000))
    return np.asarray(scene.cirrus * np.clip(noise - 0.55, 0, 1.2) / 1.2, np.float32)


def _snow(seed: int, scene: Scene, shape_yx: tuple[int, int], pixel_m: float) -> Float:
    """Leave patches of snow on the ground in the first scene of the season."""
    if scene.index > 0:
        return np.zeros(shape_yx, np.float32)
    noise = power_noise(stream(seed, "snow"), shape_yx, pixel_m, 2.6, (150, 9000))
    return np.asarray(np.clip(2.2 * (noise - np.quantile(noise, 0.955)), 0, 1), np.float32)
