"""From simulated land and sky to the numbers in the files: DN per band, and a scene classification.

The work goes in strips of rows, each with its own random stream; a strip fits the processor's cache::

    unit ──► spectra of the day ──► PSF, 10 / 20 / 60 m ──► haze, shadow, cloud ──► noise ──► DN
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.bands import band
from engine.values.grid import Box
from pipelines.sample.noise import Float, block_mean, stream
from pipelines.sample.sky import Scene, Sky, make_sky, seen
from pipelines.sample.spectra import BANDS, CIRRUS, CLOUD, SNOW, DaySpectra, Traits, day_spectra
from pipelines.sample.truth import FOREST, WATER, Landscape

STEP_DN = 8
"""Reflectance is quantised to steps of 0.0008, near the sensor's noise; it halves the files."""

SCL = "SCL"
_STRIP = 120  # rows at 10 m, a multiple of 6
_BLUR = np.float32(0.11)  # weight of each neighbour along one axis in the 10 m bands' point spread
_SCL_BANDS = ("B02", "B03", "B04", "B08", "B11")
_FACTOR = {name: band(name).resolution_m // 10 for name in (*BANDS, SCL)}
# A shadow keeps the sky's light, which is blue: share of the light that full shadow takes, per band.
_DIM = np.interp([band(b).wavelength_um for b in BANDS], [0.44, 0.9, 2.2], [0.50, 0.74, 0.80])
_PATH = np.array([(band(b).wavelength_um / 0.49) ** -1.6 for b in BANDS])


@dataclass(frozen=True)
class Pixels:
    """The arrays of one scene over the canvas, or over a zone's part of it.

    Attributes:
        scene: The datatake.
        arrays: Band name -> (y, x) at the band's own resolution; uint16 DN, SCL uint8; 0 = no data.
    """

    scene: Scene
    arrays: dict[str, NDArray[np.uint8] | NDArray[np.uint16]]


@dataclass(frozen=True)
class _Day:
    """What all strips of a scene share."""

    land: Landscape
    scene: Scene
    spectra: DaySpectra
    vigour: Float
    snow: Float
    sky: dict[int, Sky]
    gain: NDArray[np.float64]
    path: NDArray[np.float64]
    noise: int


@dataclass(frozen=True)
class View:
    """What lies between a piece of land and the sensor.

    Attributes:
        sky: The atmosphere over each pixel.
        valid: (y, x) bool, pixels that the scene saw.
        noise: Number of the sensor noise's stream; zones have their own.
    """

    sky: Sky
    valid: NDArray[np.bool_]
    noise: int = 0


def render_scene(land: Landscape, traits: Traits, scene: Scene, view: View | None = None) -> Pixels:
    """Make all bands of a scene.

    Args:
        land: The truth, on the pixels of the files.
        traits: Traits of its fields.
        scene: The datatake.
        view: Sky and swath; default those of the whole canvas.

    Returns:
        Arrays over the land at 10, 20 and 60 m.
    """
    view = view or View(make_sky(land, scene), seen(land, scene))
    day = _prepare(land, traits, scene, view)
    height, width = land.truth.shape
    shapes = {b: (height // _FACTOR[b], width // _FACTOR[b]) for b in (*BANDS, SCL)}
    arrays = {b: np.zeros(shapes[b], np.uint8 if b == SCL else np.uint16) for b in (*BANDS, SCL)}
    for row in range(0, height, _STRIP):
        rows = slice(row, min(row + _STRIP, height))
        for name, values in _strip(day, rows).items():
            factor = _FACTOR[name]
            arrays[name][rows.start // factor : rows.stop // factor] = values
    for name, values in arrays.items():
        values *= _all_valid(view.valid, _FACTOR[name])
    return Pixels(scene, arrays)


def cut(values: NDArray[np.generic], name: str, outer: Box, tile: Box) -> NDArray[np.generic]:
    """Cut a tile out of a canvas array of any resolution.

    Args:
        values: (y, x) array of band `name` over `outer`.
        name: Band, which tells the resolution.
        outer: Pixels of the whole array at 10 m.
        tile: Pixels of the tile at 10 m, on multiples of 6.
    """
    y, x = tile.slices_in(outer)
    f = _FACTOR[name]
    return values[y.start // f : y.stop // f, x.start // f : x.stop // f]


def factor_of(name: str) -> int:
    """Return how many 10 m pixels a pixel of a band is wide.

    >>> factor_of("B08"), factor_of("SCL"), factor_of("B01")
    (1, 2, 6)
    """
    return _FACTOR[name]


def _prepare(land: Landscape, traits: Traits, scene: Scene, view: View) -> _Day:
    rng = stream(land.seed, "day", scene.index)
    turn = rng.uniform(0, np.pi / 2)
    sky = view.sky
    ground = np.ones(256, np.float32)
    ground[FOREST], ground[WATER] = 0.35, 0.0
    return _Day(
        land=land,
        scene=scene,
        spectra=day_spectra(land, traits, scene.day),
        vigour=np.float32(np.cos(turn)) * land.vigour[0] + np.float32(np.sin(turn)) * land.vigour[1],
        snow=sky.snow * ground[land.truth] if sky.snow.any() else np.zeros((0, 0), np.float32),
        sky={1: sky, 2: sky.coarser(2), 6: sky.coarser(6)},
        gain=1 + 0.018 * rng.normal() + 0.006 * rng.normal(size=len(BANDS)),
        path=_PATH * min(rng.gamma(2.0, 0.0022), 0.016),
        noise=view.noise,
    )


def _strip(day: _Day, rows: slice) -> dict[str, NDArray[np.uint8] | NDArray[np.uint16]]:
    """Make some rows of all bands."""
    rng = stream(day.land.seed, "noise", day.scene.index, rows.start, day.noise)
    height = day.land.truth.shape[0]
    wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, height))
    above, below = rows.start - wide.start, wide.stop - rows.stop
    unit = day.land.unit[wide].astype(np.intp)
    made: dict[str, NDArray[np.uint8] | NDArray[np.uint16]] = {}
    at_20m: dict[str, Float] = {}
    for number, name in enumerate(BANDS):
        factor = _FACTOR[name]
        ground = _surface(day, number, unit, wide)
        if factor == 1:
            ground = _blur(np.pad(ground, ((1 - above, 1 - below), (1, 1)), mode="edge"))
        else:
            ground = block_mean(ground[above : above + rows.stop - rows.start], factor)
        sky = day.sky[factor].rows(slice(rows.start // factor, rows.stop // factor))
        seen_from_above = _through(day, number, ground, sky)
        made[name] = _to_dn(rng, seen_from_above, day.scene.offset_dn)
        if name in _SCL_BANDS:
            at_20m[name] = block_mean(seen_from_above, 2 // factor)
    made[SCL] = _classify(rng, at_20m, day.sky[2].rows(slice(rows.start // 2, rows.stop // 2)))
    return made


def _surface(day: _Day, number: int, unit: NDArray[np.intp], rows: slice) -> Float:
    """Return the surface reflectance of one band at 10 m: (y, x) float32."""
    spectra = day.spectra
    ground = np.take(spectra.mean[number], unit, mode="clip")
    change = np.take(spectra.lush[number], unit, mode="clip")
    change *= day.vigour[rows]
    ground += change
    change = np.take(spectra.bright[number], unit, mode="clip")
    change *= day.land.soil[rows]
    ground += change
    ground += day.land.margin[rows] * (spectra.margin[number] - ground)
    if day.snow.size:
        ground += day.snow[rows] * (np.float32(SNOW[number]) - ground)
    return ground


def _blur(padded: Float) -> Float:
    """Mix each pixel with its neighbours; takes an array one pixel larger on each side."""
    keep = 1 - 2 * _BLUR
    rows = keep * padded[1:-1] + _BLUR * (padded[:-2] + padded[2:])
    return np.asarray(keep * rows[:, 1:-1] + _BLUR * (rows[:, :-2] + rows[:, 2:]), np.float32)


def _through(day: _Day, number: int, ground: Float, sky: Sky) -> Float:
    """Lay haze, shadow and cloud over the ground (in place)."""
    ground *= np.float32(day.gain[number])
    ground += np.float32(day.path[number]) * sky.haze
    if day.scene.cloud:
        ground *= 1 - np.float32(_DIM[number]) * sky.shadow
        ground += sky.cloud * (np.float32(CLOUD[number]) * (0.72 + 0.36 * sky.cloud) - ground)
    if day.scene.cirrus:
        ground += sky.cirrus * (np.float32(CIRRUS[number]) / np.float32(0.3) * sky.cirrus - ground)
    return ground


def _to_dn(rng: np.random.Generator, reflectance: Float, offset_dn: int) -> NDArray[np.uint16]:
    """Add sensor noise and quantise; valid DN stay off 0."""
    noise = rng.standard_normal(reflectance.shape, dtype=np.float32)
    noise *= np.float32(0.0005) + np.float32(0.0015) * reflectance
    noise += reflectance
    noise *= np.float32(10000 / STEP_DN)
    np.rint(noise, out=noise)
    noise *= np.float32(STEP_DN)
    noise += np.float32(offset_dn)
    return np.clip(noise, 1, 65535).astype(np.uint16)


def _classify(rng: np.random.Generator, refl: dict[str, Float], sky: Sky) -> NDArray[np.uint8]:
    """Imitate the scene classification of Sen2Cor at 20 m, its omissions at cloud rims included.

    Values: 2 dark, 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 8 and 9 cloud of
    medium and high probability, 10 thin cirrus, 11 snow.
    """
    rough = rng.standard_normal(sky.cloud.shape, dtype=np.float32)
    red, nir, swir = refl["B04"], refl["B08"], refl["B11"]
    ndvi = (nir - red) / np.maximum(nir + red, 1e-3)
    scl = np.where(ndvi > 0.40 + 0.01 * rough, 4, 5).astype(np.uint8)
    scl[(ndvi > 0.37) & (ndvi <= 0.40) & (rough > 0.8)] = 7
    scl[(nir < 0.115) & (ndvi < 0.4)] = 2
    scl[(nir < 0.075) & (refl["B03"] > nir) & (swir < 0.07)] = 6
    scl[(sky.snow > 0.35) & (refl["B03"] > 0.35) & (swir < 0.2)] = 11
    scl[(refl["B02"] > 0.155) & (swir > 0.25) & (rough > 1.0)] = 8  # bright roofs taken for cloud
    scl[sky.shadow > 0.32 + 0.05 * rough] = 3
    scl[sky.cirrus > 0.07 + 0.005 * rough] = 10
    scl[(sky.cloud > 0.12) & (rough > 0.6)] = 7
    scl[sky.cloud > 0.24 + 0.04 * rough] = 8
    scl[sky.cloud > 0.58 + 0.03 * rough] = 9
    return scl


def _all_valid(valid: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Mark the coarse pixels all of whose 10 m pixels are valid."""
    if factor == 1:
        return valid
    rows, cols = valid.shape[0] // factor, valid.shape[1] // factor
    return np.asarray(valid.reshape(rows, factor, cols, factor).all(axis=(1, 3)))
