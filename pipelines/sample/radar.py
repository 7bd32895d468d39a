"""Sentinel-1 over the simulated land: terrain-corrected backscatter of two relative orbits, with speckle.

The ground is a sum of soil, dimmed by what grows on it, and the canopy itself (the water cloud model: Attema
& Ulaby 1978, Radio Science 13:357)::

    power = soil x exp(-dimming x green) + canopy x green

with typical magnitudes of C-band gamma nought per crop, made up for this archive. Speckle multiplies it by
a Gamma variate of mean 1 and `LOOKS` looks. One orbit is brighter by a known amount.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.grid import Box, Grid
from pipelines.sample.noise import Float, block_mean, stream
from pipelines.sample.sky import YEAR
from pipelines.sample.spectra import Traits, field_covers
from pipelines.sample.truth import Landscape
from pipelines.sample.zones import HOME, Place, place_of, sheet_box

POLARISATIONS = ("vv", "vh")
PIXEL_M = 20
LOOKS = 12.0
"""Looks of a 20 m pixel: the mean of four of the ground range product's 10 m pixels of 4.4, which overlap."""
RADAR_NODATA = -32768.0
_KEPT_BITS = 5  # of the mantissa: steps of 3 %, errors of 1 %, where speckle makes 29 %; it halves the files
_REPEAT_DAYS, _FIRST_DAY, _LAST_DAY = 12, 68, 296
_TRACK = math.tan(math.radians(12.0))
_SLICE_OVERLAP = 0.03  # of the height, to each side of the middle

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RadarOrbit:
    """One relative orbit over the territory.

    Attributes:
        number: Relative orbit.
        state: ``ascending`` (in the evening) or ``descending`` (in the morning).
        bias_db: How much brighter it sees everything, for its steeper incidence.
        zone: UTM zone in which its scenes are delivered, that of their centre.
        time: Hour and minute, UTC.
        edge: Where its swath ends on the canvas, as a share of the width; ascending passes see the east.
        phase: Its days of the year modulo the repeat cycle.
    """

    number: int
    state: str
    bias_db: float
    zone: int
    time: tuple[int, int]
    edge: float
    phase: int


RADAR_ORBITS = (
    RadarOrbit(117, "ascending", 0.0, HOME, (17, 5), 0.12, 7),
    RadarOrbit(168, "descending", 0.7, 32, (5, 26), 0.86, 3),
)


@dataclass(frozen=True)
class Pass:
    """One pass of Sentinel-1A.

    Attributes:
        day: Day of the year.
        orbit: The relative orbit.
    """

    day: int
    orbit: RadarOrbit

    @property
    def time(self) -> dt.datetime:
        """Start of sensing, UTC."""
        hour, minute = self.orbit.time
        return dt.datetime(YEAR, 1, 1, hour, minute, 12, tzinfo=dt.UTC) + dt.timedelta(days=self.day - 1)

    @property
    def absolute_orbit(self) -> int:
        """Orbit since launch, made up but of the right relative orbit: (absolute - 73) mod 175 + 1."""
        return 72 + self.orbit.number + 175 * (270 + self.day // _REPEAT_DAYS)


@dataclass(frozen=True)
class Frame:
    """The pixels on which the scenes of an orbit lie.

    Attributes:
        grid: 20 m grid of the orbit's zone.
        box: Pixels over the whole canvas.
        place: Where they lie on the canvas, in canvas pixels of 20 m; None for the canvas's own zone.
    """

    grid: Grid
    box: Box
    place: Place | None

    @property
    def slices(self) -> tuple[Box, Box]:
        """Northern and southern slice; they overlap a little."""
        height = self.box.y1 - self.box.y0
        middle, reach = self.box.y0 + height // 2, max(2, round(_SLICE_OVERLAP * height))
        north = Box(self.box.y0, self.box.x0, middle + reach, self.box.x1)
        return north, Box(middle - reach, self.box.x0, self.box.y1, self.box.x1)


def radar_schedule(n_dates: int) -> tuple[Pass, ...]:
    """Plan the passes of a season in order of time: `n_dates` of each orbit, at most 20, on the 12-day repeat.

    >>> [(p.day, p.orbit.number) for p in radar_schedule(2)]
    [(63, 168), (67, 117), (291, 168), (295, 117)]
    """
    wanted = np.linspace(_FIRST_DAY, _LAST_DAY, min(n_dates, 20))
    passes = [
        Pass(round((float(day) - orbit.phase) / _REPEAT_DAYS) * _REPEAT_DAYS + orbit.phase, orbit)
        for orbit in RADAR_ORBITS
        for day in wanted
    ]
    return tuple(sorted(passes, key=lambda p: p.time))


def frame_of_orbit(canvas: Landscape, orbit: RadarOrbit, zones: tuple[int, ...]) -> Frame:
    """Lay an orbit's pixels over the canvas, in its own zone if the archive has it."""
    zone = orbit.zone if orbit.zone in zones else HOME
    fine, box = sheet_box(canvas, zone, whole=True)
    grid, box = Grid.make(fine.crs, PIXEL_M), Box(*(edge // 2 for edge in (box.y0, box.x0, box.y1, box.x1)))
    if zone == HOME:
        return Frame(grid, box, None)
    place = place_of(canvas, grid, box)
    return Frame(grid, box, Place(place.rows / np.float32(2), place.cols / np.float32(2)))


def radar_swath(canvas: Landscape, orbit: RadarOrbit) -> Array:
    """Return the part of the canvas that an orbit sees, always the same: (4, 2) corners, x and y in metres."""
    left, bottom, right, top = canvas.bounds
    middle, lean = left + orbit.edge * (right - left), _TRACK * (top - bottom) / 2
    if orbit.state == "ascending":  # flies to the north-north-west
        return np.array([[middle + lean, bottom], [right, bottom], [right, top], [middle - lean, top]])
    return np.array([[left, bottom], [middle - lean, bottom], [middle + lean, top], [left, top]])


def ground_power(land: Landscape, traits: Traits, day: int) -> Float:
    """Return the land's backscatter on a day, without speckle and orbit: (2, y, x) float32 at 20 m, VV and VH."""
    power = _unit_power(land, traits, day)
    texture = np.exp(np.float32(0.06) * land.vigour[0])
    return np.stack([block_mean(p[land.unit] * texture, 2) for p in power])


def render_pass(land: Landscape, ground: Float, frame: Frame, one: Pass) -> Float:
    """Make the scenes of a pass over the whole canvas.

    Args:
        land: The truth.
        ground: (2, y, x) what `ground_power` gives for the day.
        frame: The orbit's pixels.
        one: The pass.

    Returns:
        (2, y, x) float32 linear gamma nought, VV and VH; `RADAR_NODATA` outside the swath.
    """
    rng = stream(land.seed, "speckle", one.day, one.orbit.number)
    seen = _seen(land, frame, one.orbit)
    out = np.empty((2, *frame.box.shape_yx), np.float32)
    for plane, clean in zip(out, ground, strict=True):
        power = clean if frame.place is None else frame.place.bilinear(clean)
        speckle = rng.standard_gamma(LOOKS, power.shape, np.float32)
        gain = np.float32(10 ** (one.orbit.bias_db / 10) / LOOKS)
        plane[:] = np.where(seen, _rounded(power * speckle * gain), np.float32(RADAR_NODATA))
    return out


def _seen(land: Landscape, frame: Frame, orbit: RadarOrbit) -> NDArray[np.bool_]:
    """Mark the pixels on the canvas whose centre an orbit sees."""
    left, bottom, _, top = land.bounds
    if frame.place is None:
        y, x = frame.grid.centres(frame.box)
        y, x, inside = y[:, None], x[None, :], np.ones(frame.box.shape_yx, np.bool_)
    else:
        y = top - PIXEL_M * frame.place.rows.astype(float)
        x = left + PIXEL_M * frame.place.cols.astype(float)
        inside = frame.place.inside((land.truth.shape[0] // 2, land.truth.shape[1] // 2))
    corners = radar_swath(land, orbit)
    low, high = (corners[0, 0], corners[3, 0]) if orbit.state == "ascending" else corners[1:3, 0]
    edge = low + (high - low) * (y - bottom) / (top - bottom)
    return np.asarray((x > edge if orbit.state == "ascending" else x < edge) & inside)


def _rounded(values: Float) -> Float:
    """Round float32 to a few bits of mantissa, to the nearest; positive values stay positive."""
    cut = np.uint32(23 - _KEPT_BITS)
    bits = values.view(np.uint32) + (np.uint32(1) << (cut - np.uint32(1)))
    return ((bits >> cut) << cut).view(np.float32)


#                 canopy VV, VH in dB; dimming of the soil in VV, VH
_CANOPY: tuple[tuple[float, float, float, float], ...] = (
    (-17.5, -22.5, 1.7, 0.9),  # winter wheat: upright stalks take vertical polarisation away
    (-16.0, -19.5, 1.6, 0.8),  # winter barley
    (-9.6, -14.2, 1.2, 1.1),  # winter rapeseed: a thick tangle
    (-9.4, -15.3, 0.9, 0.9),  # maize
    (-9.0, -14.6, 0.9, 0.9),  # sugar beet
    (-8.4, -14.0, 0.8, 0.8),  # potato
    (-8.8, -15.6, 0.8, 1.0),  # sunflower
    (-11.4, -17.6, 1.0, 0.9),  # alfalfa
    (-13.0, -19.2, 1.1, 0.9),  # grassland
    (-13.4, -18.0, 1.3, 0.8),  # flax
)
_SOIL_DB = np.array([-10.8, -19.2])
_FOREST_DB, _BUILT_DB = np.array([-8.3, -13.7]), np.array([-4.8, -11.6])
_ROAD_DB, _WATER_DB = np.array([-13.0, -20.5]), np.array([-19.0, -26.0])


def _unit_power(land: Landscape, traits: Traits, day: int) -> Float:
    """Return the backscatter of all units on a day: (2, units) float32 linear; the order of `Landscape`."""
    n = len(land.crop)
    today, fixed = stream(land.seed, "radar day", day), stream(land.seed, "radar")
    moist_db, wind_db = 1.1 * today.normal(), 2.0 * today.normal()
    rough_db, plants_db, stand_db, built_db = fixed.normal(size=(4, n, 1)) * [
        [[0.9]],
        [[0.5]],
        [[0.4]],
        [[1.3]],
    ]
    green = field_covers(land.crop, traits, day)[0][:, None]
    canopy = np.array(_CANOPY)[land.crop.astype(np.intp) - 1]
    soil = _linear(_SOIL_DB + rough_db + moist_db) * np.exp(-canopy[:, 2:] * green)
    fields = soil + _linear(canopy[:, :2] + plants_db) * green
    leaves = 0.5 * math.sin(2 * math.pi * (day - 110) / 365)
    forest = _linear(_FOREST_DB + stand_db + leaves * np.array([-1.0, 1.0]))
    single = np.stack([_WATER_DB + wind_db, _WATER_DB - 1 + wind_db, _ROAD_DB, _FOREST_DB])
    parts = (fields, forest, _linear(_BUILT_DB + built_db), _linear(single))
    return np.ascontiguousarray(np.concatenate(parts).T, dtype=np.float32)


def _linear(db: Array) -> Array:
    return np.asarray(10 ** (db / 10))
