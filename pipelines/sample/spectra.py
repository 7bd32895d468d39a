"""How each unit of the simulated land reflects on a day: growth curves and mixed endmembers.

A pixel mixes four things: soil, green canopy, straw and flowers. Cover follows double logistic curves
(Zhang et al. 2003) per crop with each field's own dates. The endmember values are rounded typical
magnitudes of surface reflectance for the bands of Sentinel-2, made up for this archive; nothing is
measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sample.noise import Float, stream, wave_field
from pipelines.sample.truth import Landscape

Array = NDArray[np.float64]

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Reflectance bands in the order of all spectral tables."""


def _spectrum(*values: float) -> Array:
    return np.array(values)


#                      B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
GREEN = _spectrum(0.018, 0.022, 0.050, 0.024, 0.080, 0.270, 0.350, 0.380, 0.400, 0.400, 0.195, 0.080)
STRAW = _spectrum(0.070, 0.090, 0.130, 0.175, 0.205, 0.235, 0.255, 0.275, 0.295, 0.300, 0.345, 0.255)
SOIL_DARK = _spectrum(0.045, 0.055, 0.075, 0.095, 0.115, 0.130, 0.145, 0.160, 0.175, 0.180, 0.230, 0.195)
SOIL_PALE = _spectrum(0.080, 0.100, 0.135, 0.180, 0.205, 0.225, 0.240, 0.260, 0.275, 0.285, 0.360, 0.315)
YELLOW = _spectrum(0.030, 0.040, 0.190, 0.165, 0.240, 0.360, 0.410, 0.440, 0.450, 0.450, 0.230, 0.120)
DISC = _spectrum(0.030, 0.038, 0.095, 0.078, 0.145, 0.300, 0.370, 0.400, 0.410, 0.410, 0.215, 0.105)
PALE_BLUE = _spectrum(0.070, 0.090, 0.105, 0.075, 0.135, 0.270, 0.330, 0.360, 0.370, 0.370, 0.210, 0.105)
LEAFY = _spectrum(0.015, 0.018, 0.038, 0.020, 0.068, 0.245, 0.325, 0.355, 0.375, 0.370, 0.175, 0.072)
LEAFLESS = _spectrum(0.030, 0.036, 0.050, 0.058, 0.080, 0.115, 0.135, 0.150, 0.165, 0.168, 0.185, 0.125)
NEEDLES = _spectrum(0.012, 0.015, 0.026, 0.017, 0.046, 0.135, 0.175, 0.195, 0.205, 0.200, 0.098, 0.044)
RIVER = _spectrum(0.045, 0.052, 0.062, 0.046, 0.038, 0.024, 0.021, 0.018, 0.015, 0.013, 0.008, 0.006)
LAKE = _spectrum(0.032, 0.034, 0.034, 0.019, 0.014, 0.010, 0.009, 0.009, 0.008, 0.007, 0.005, 0.004)
ROOFS = _spectrum(0.078, 0.090, 0.105, 0.135, 0.160, 0.175, 0.185, 0.195, 0.205, 0.210, 0.240, 0.215)
ASPHALT = _spectrum(0.064, 0.074, 0.086, 0.096, 0.106, 0.116, 0.124, 0.132, 0.138, 0.141, 0.160, 0.142)
SNOW = _spectrum(0.740, 0.770, 0.770, 0.760, 0.740, 0.730, 0.710, 0.690, 0.670, 0.610, 0.100, 0.080)
CLOUD = _spectrum(0.640, 0.620, 0.600, 0.610, 0.620, 0.630, 0.640, 0.650, 0.650, 0.480, 0.430, 0.340)
CIRRUS = _spectrum(0.220, 0.210, 0.205, 0.205, 0.210, 0.215, 0.220, 0.220, 0.220, 0.160, 0.120, 0.080)


@dataclass(frozen=True)
class Habit:
    """The year of one crop; days are days of the year.

    Attributes:
        cover: Green cover before growth, at its height, and after the end.
        rise: Day of half growth and its steepness in days.
        fall: Day of half decay and its steepness in days.
        harvest: Day of the harvest, 400 = none.
        tint: Factors on the canopy's visible, red edge, near and shortwave infrared reflectance.
        flower: Day, half duration in days, and cover of the bloom.
        bloom: Spectrum of the bloom.
        cuts: Days of mowing.
    """

    cover: tuple[float, float, float]
    rise: tuple[float, float]
    fall: tuple[float, float]
    harvest: float = 400
    tint: tuple[float, float, float, float] = (1, 1, 1, 1)
    flower: tuple[float, float, float] = (0, 1, 0)
    bloom: str = "yellow"
    cuts: tuple[float, ...] = ()


HABITS: tuple[Habit, ...] = (
    Habit((0.34, 0.93, 0), (101, 9), (181, 6), 206, (1.0, 1.0, 0.97, 0.95)),  # winter wheat
    Habit((0.40, 0.92, 0), (95, 9), (166, 6), 187, (1.08, 1.03, 0.96, 0.98)),  # winter barley
    Habit((0.46, 0.95, 0), (88, 9), (182, 9), 203, (1.0, 1.05, 1.08, 0.95), (124, 9, 0.75)),  # rapeseed
    Habit((0.02, 0.88, 0), (172, 8), (262, 9), 274, (0.98, 0.96, 0.95, 0.98)),  # maize
    Habit((0.02, 0.93, 0), (158, 8), (330, 20), 296, (1.05, 1.08, 1.16, 0.96)),  # sugar beet
    Habit((0.02, 0.90, 0), (153, 7), (226, 8), 250, (1.08, 1.04, 1.09, 1.05)),  # potato
    Habit((0.02, 0.89, 0), (165, 7), (240, 7), 260, (0.98, 1.08, 1.02, 0.99), (196, 9, 0.4), "disc"),
    Habit((0.45, 0.90, 0.6), (98, 9), (310, 18), 400, (0.96, 1.05, 1.13, 0.97), cuts=(133, 170, 207, 248)),
    Habit((0.56, 0.82, 0.6), (96, 13), (300, 20), 400, (1.04, 0.97, 0.93, 1.05), cuts=(150, 205, 255)),
    Habit((0.02, 0.85, 0), (128, 8), (194, 7), 207, (1.1, 0.97, 0.92, 1.0), (161, 6, 0.35), "blue"),  # flax
)
"""One habit per crop, in the order of the class values of the fields."""
_BLOOMS = {"yellow": YELLOW, "disc": DISC, "blue": PALE_BLUE}
_TINTED = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])  # band -> visible, red edge, near, shortwave


@dataclass(frozen=True)
class Traits:
    """What tells one field of a crop from another.

    Attributes:
        shift: (n,) days by which it is late.
        harvest_shift: (n,) days.
        lush: (n,) factor on the green cover.
        tint: (n, 12) factor on the canopy's reflectance.
        soil: (n, 12) reflectance of the bare soil.
        stubble_days: (n,) days from harvest to tillage.
        catch_crop: (n,) cover of a crop sown after the harvest, 0 = none.
        cut: (n, 4) bool, which of the mowings take place.
    """

    shift: Array
    harvest_shift: Array
    lush: Array
    tint: Array
    soil: Array
    stubble_days: Array
    catch_crop: Array
    cut: NDArray[np.bool_]


def field_traits(land: Landscape) -> Traits:
    """Draw the traits of all fields of a landscape."""
    import shapely

    rng = stream(land.seed, "traits")
    n = len(land.crop)
    at = shapely.get_coordinates(shapely.centroid(land.parcels.fields))
    pale = np.clip(
        0.35 + 0.2 * wave_field(stream(land.seed, "pale soil"), (3000, 9000))(at) + 0.13 * rng.normal(size=n),
        0,
        1,
    )
    return Traits(
        shift=5.5 * rng.normal(size=n) + 4 * wave_field(stream(land.seed, "climate"), (8000, 20000))(at),
        harvest_shift=6 * rng.normal(size=n),
        lush=np.clip(1 + 0.09 * rng.normal(size=n), 0.6, 1.08),
        tint=1 + 0.06 * rng.normal(size=(n, 1)) + (0.075 * rng.normal(size=(n, 4)))[:, _TINTED],
        soil=SOIL_DARK + pale[:, None] * (SOIL_PALE - SOIL_DARK),
        stubble_days=rng.uniform(3, 45, n),
        catch_crop=np.where(rng.random(n) < 0.35, rng.uniform(0.3, 0.8, n), 0.0),
        cut=rng.random((n, 4)) < np.where(land.crop == 8, 0.93, 0.5)[:, None],
    )


def field_covers(crop: NDArray[np.uint8], traits: Traits, day: float) -> tuple[Array, Array, Array]:
    """Return the shares of green canopy, straw and bloom of each field on a day.

    Args:
        crop: (n,) class values.
        traits: Traits of the n fields.
        day: Day of the year.

    Returns:
        Green, straw, bloom: each (n,) float64; bloom is a share of the green.
    """
    kind = crop.astype(np.intp) - 1
    low, high, end = np.array([h.cover for h in HABITS])[kind].T
    rise, rise_days = np.array([h.rise for h in HABITS])[kind].T
    fall, fall_days = np.array([h.fall for h in HABITS])[kind].T
    harvest = np.array([h.harvest for h in HABITS])[kind] + 0.5 * traits.shift + traits.harvest_shift
    grown = _logistic((day - rise - traits.shift) / rise_days)
    gone = _logistic((day - fall - 0.6 * traits.shift) / fall_days)
    green = (low + (high - low) * grown) * (1 - gone) + end * gone
    green = np.clip(green * traits.lush * _mown(kind, traits, day), 0, 0.98)
    straw = 0.8 * high * grown * gone * (end == 0)
    flower_day, flower_days, flower = np.array([h.flower for h in HABITS])[kind].T
    bloom = flower * np.exp(-(((day - flower_day - traits.shift) / flower_days) ** 2))
    return _after_harvest(green, straw, bloom, day - harvest, traits)


def _after_harvest(
    green: Array, straw: Array, bloom: Array, since: Array, traits: Traits
) -> tuple[Array, Array, Array]:
    """Replace the standing crop by stubble, then bare soil, then a catch crop on some fields."""
    cut = since > 0
    stubble = np.where(since < traits.stubble_days, 0.45, 0.12)
    catch = traits.catch_crop * _logistic((since - traits.stubble_days - 24) / 7)
    return (
        np.where(cut, catch, green),
        np.where(cut, stubble * (1 - catch), np.minimum(straw, 1 - green)),
        np.where(cut, 0.0, bloom),
    )


def _mown(kind: NDArray[np.intp], traits: Traits, day: float) -> Array:
    """Return the factor on the cover after mowing: 0.4 right after it, 1 when grown again (25 days)."""
    factor = np.ones(len(kind))
    for number, habit in enumerate(HABITS):
        of_kind = kind == number
        for i, cut_day in enumerate(habit.cuts):
            since = day - cut_day - traits.shift[of_kind] - 0.7 * traits.harvest_shift[of_kind]
            lost = np.where(since > 0, 0.6 * np.exp(-since.clip(0) / 13), 0.0)
            factor[of_kind] = np.minimum(factor[of_kind], 1 - lost * traits.cut[of_kind, i])
    return factor


@dataclass(frozen=True)
class DaySpectra:
    """Reflectance of all units on one day.

    A pixel of unit u has ``mean[b, u] + vigour * lush[b, u] + soil * bright[b, u]``, the textures
    having unit variance.

    Attributes:
        mean: (12, units) float32.
        lush: (12, units) float32, change with one standard deviation of vigour.
        bright: (12, units) float32, change with one standard deviation of soil brightness.
        margin: (12,) float32, spectrum of grassy margins.
    """

    mean: Float
    lush: Float
    bright: Float
    margin: Float


def day_spectra(land: Landscape, traits: Traits, day: float) -> DaySpectra:
    """Mix the spectra of all units of a landscape for one day of the year."""
    fields = _field_spectra(land.crop, traits, day)
    forest, forest_lush = _forest_spectra(land.seed, len(land.crop), day)
    built, built_lush = _built_spectra(land.seed, len(land.crop), day)
    rng = stream(land.seed, "water day", int(day))
    river, lake = RIVER * rng.uniform(0.85, 1.15), LAKE * rng.uniform(0.85, 1.15)
    single = np.stack([river, lake, ASPHALT, forest[: min(50, len(forest))].mean(axis=0)])
    single_lush = np.stack([0.05 * river, 0.05 * lake, 0.06 * ASPHALT, 0.1 * single[3]])
    zeros = np.zeros((2 * len(land.crop) + 4, len(BANDS)))
    grass = 0.5 + 0.25 * _logistic((day - 100) / 12)
    return DaySpectra(
        mean=_table(fields[0], forest, built, single),
        lush=_table(fields[1], forest_lush, built_lush, single_lush),
        bright=_table(fields[2], zeros),
        margin=(grass * GREEN + (1 - grass) * (0.5 * STRAW + 0.5 * SOIL_DARK)).astype(np.float32),
    )


def _field_spectra(crop: NDArray[np.uint8], traits: Traits, day: float) -> tuple[Array, Array, Array]:
    """Return mean, vigour and soil response (n, 12) of the fields."""
    green, straw, bloom = (c[:, None] for c in field_covers(crop, traits, day))
    kind = crop.astype(np.intp) - 1
    tint = np.array([h.tint for h in HABITS])[:, _TINTED][kind]
    canopy = GREEN * tint * traits.tint
    flowers = np.stack([_BLOOMS[h.bloom] for h in HABITS])[kind]
    bloom = bloom * green
    bare = 1 - green - straw
    mean = (green - bloom) * canopy + bloom * flowers + straw * STRAW + bare * traits.soil
    # Growth varies most where the canopy is neither missing nor closed.
    swing = 0.10 * green * (1.15 - green) + 0.015 * green
    lush = swing * (canopy - traits.soil) + 0.035 * green * canopy + 0.03 * straw * STRAW
    return mean, lush, 0.11 * bare * traits.soil


def _forest_spectra(seed: int, n: int, day: float) -> tuple[Array, Array]:
    """Return mean and vigour response (n, 12) of the forest stands."""
    rng = stream(seed, "stands")
    needles = np.clip(rng.beta(0.7, 0.9, n), 0, 1)[:, None]
    leaf_out, leaf_fall = rng.normal(112, 4, n)[:, None], rng.normal(290, 5, n)[:, None]
    leaves = _logistic((day - leaf_out) / 4) * (1 - _logistic((day - leaf_fall) / 7))
    broad = LEAFLESS + leaves * (LEAFY - LEAFLESS)
    stand = (needles * NEEDLES + (1 - needles) * broad) * (1 + 0.06 * rng.normal(size=(n, 1)))
    return stand, 0.10 * stand


def _built_spectra(seed: int, n: int, day: float) -> tuple[Array, Array]:
    """Return mean and house-pattern response (n, 12) of the built-up quarters: roofs, roads, gardens."""
    rng = stream(seed, "quarters")
    garden, roofs = rng.uniform(0.2, 0.6, n)[:, None], rng.uniform(0.3, 0.9, n)[:, None]
    hard = ASPHALT + roofs * (ROOFS - ASPHALT)
    lawn = 0.45 + 0.3 * _logistic((day - 102) / 9)
    plants = lawn * GREEN + (1 - lawn) * (0.6 * SOIL_DARK + 0.4 * LEAFLESS)
    return garden * plants + (1 - garden) * hard, 0.16 * (hard - plants) + 0.05 * hard


def _table(*parts: Array) -> Float:
    """Stack (units, 12) parts to one (12, units) float32 table."""
    return np.ascontiguousarray(np.concatenate(parts).T, dtype=np.float32)


def _logistic(x: Array | float) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))
