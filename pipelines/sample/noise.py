"""Random fields of the simulated archive: every number comes from the seed and a purpose.

No generator is shared: each purpose (and date, and band) has its own stream, so that neither the
order of the work nor the number of threads can change a pixel.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
WaveField = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the generator of one purpose.

    Args:
        seed: Seed of the archive.
        purpose: What the numbers are for, e.g. ``"clouds"``.
        keys: Further numbers that tell streams of a purpose apart (date, band).

    >>> float(stream(7, "soil").random()) == float(stream(7, "soil").random())
    True
    >>> float(stream(7, "soil").random()) == float(stream(7, "soil", 1).random())
    False
    """
    key = (zlib.crc32(purpose.encode()), *keys)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def power_noise(
    rng: np.random.Generator,
    shape_yx: tuple[int, int],
    pixel_m: float,
    slope: float,
    band_m: tuple[float, float],
) -> Float:
    """Make spatially correlated noise with a power-law spectrum between two wavelengths.

    White noise is filtered in the Fourier domain with amplitude ``k ** (-slope / 2)`` (spectral
    synthesis of fractional Brownian surfaces, e.g. Saupe 1988), smoothly cut at both ends.

    Args:
        rng: Source of the white noise.
        shape_yx: Height and width.
        pixel_m: Pixel size in metres.
        slope: Exponent of the power spectrum; 0 = white, 3 = smooth hills.
        band_m: Shortest and longest wavelength in metres.

    Returns:
        (y, x) float32 with mean 0 and standard deviation 1.
    """
    import scipy.fft

    shortest_m, longest_m = band_m
    # A border of a quarter keeps the opposite edges of the periodic noise from matching.
    padded = tuple(scipy.fft.next_fast_len(n + max(8, n // 4), real=True) for n in shape_yx)
    white = rng.standard_normal(padded, dtype=np.float32)
    ky = scipy.fft.fftfreq(padded[0], pixel_m).astype(np.float32)[:, None]
    kx = scipy.fft.rfftfreq(padded[1], pixel_m).astype(np.float32)[None, :]
    k = np.hypot(ky, kx)
    low = np.float32(1.0 / longest_m)
    gain = np.maximum(k, low) ** np.float32(-slope / 2) * np.exp(-((k * np.float32(shortest_m)) ** 2) / 2)
    gain *= k > 0
    noise = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain, s=padded)[: shape_yx[0], : shape_yx[1]]
    noise = noise - noise.mean()
    return np.ascontiguousarray(noise / max(float(noise.std()), 1e-9), dtype=np.float32)


def wave_field(rng: np.random.Generator, band_m: tuple[float, float], waves: int = 16) -> WaveField:
    """Make a smooth random function of place with unit variance, as a sum of plane waves.

    Unlike `power_noise` it can be asked at any point, so vertices and field centres can use it.

    Args:
        rng: Source of directions, wavelengths and phases.
        band_m: Shortest and longest wavelength in metres.
        waves: Number of waves.

    Returns:
        A function from (n, 2) float64 x, y in metres to (n,) float64.
    """
    angle, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    k = 2 * np.pi / np.exp(rng.uniform(np.log(band_m[0]), np.log(band_m[1]), waves))
    k_xy = np.stack([k * np.cos(angle), k * np.sin(angle)])
    return lambda xy: np.sqrt(2 / waves) * np.cos(xy @ k_xy + phase).sum(axis=-1)


def block_mean(values: Float, factor: int) -> Float:
    """Average whole blocks of ``factor x factor`` pixels.

    >>> block_mean(np.array([[1, 3], [5, 7]], np.float32), 2)
    array([[4.]], dtype=float32)
    """
    if factor == 1:
        return values
    rows, cols = values.shape[0] // factor, values.shape[1] // factor
    by_row = np.add.reduce(values.reshape(rows, factor, cols * factor), axis=1)
    total = by_row[:, ::factor].copy()
    for i in range(1, factor):
        total += by_row[:, i::factor]
    return np.asarray(total / np.float32(factor * factor), np.float32)


def enlarge(coarse: Float, factor: int, shape_yx: tuple[int, int]) -> Float:
    """Interpolate a coarse map bilinearly onto pixels `factor` times smaller.

    Args:
        coarse: (y, x) values at the centres of coarse pixels.
        factor: Fine pixels per coarse pixel.
        shape_yx: Shape wanted, from the upper-left corner.

    Returns:
        (y, x) float32.
    """
    for axis, size in enumerate(shape_yx):
        position = np.clip((np.arange(size) + 0.5) / factor - 0.5, 0, coarse.shape[axis] - 1)
        low = np.minimum(position.astype(np.intp), max(coarse.shape[axis] - 2, 0))
        high = np.minimum(low + 1, coarse.shape[axis] - 1)
        part = (position - low).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        first = np.take(coarse, low, axis)
        coarse = first + (np.take(coarse, high, axis) - first) * part
    return coarse
