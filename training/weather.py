"""Make a season poorer, as seasons are: missing dates, clouds, a late spring, a missing band.

Shape suffixes: T date, C band, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CLOUD_REFLECTANCE = (0.3, 0.9)
"""Range of a cloud's reflectance from thin to thick; a choice, wide on purpose."""


def drop_dates(x_TCHW: NDArray[np.uint16], share: float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Blank whole dates, as a cloudy month would; at least one stays.

    Args:
        x_TCHW: uint16, 0 = no data.
        share: Probability of each date to go.
        rng: Source of chance.

    Returns:
        A copy when a date goes, else the array itself.
    """
    gone = rng.random(len(x_TCHW)) < share
    gone[rng.integers(len(gone))] = False
    if not gone.any():
        return x_TCHW
    return np.where(gone[:, None, None, None], np.uint16(0), x_TCHW)


def shift_dates(dates_T: NDArray[np.int16], days: int) -> NDArray[np.int16]:
    """Move all dates by as many days, as in an early or a late year.

    Args:
        dates_T: Day of the year 1..366, 0 where there is none.
        days: To add; the year is a ring of 366 days.

    >>> shift_dates(np.array([0, 1, 360, 366], np.int16), 10).tolist()
    [0, 11, 4, 10]
    """
    moved = (dates_T.astype(np.int64) - 1 + days) % 366 + 1
    return np.where(dates_T == 0, 0, moved).astype(np.int16)


@dataclass(frozen=True)
class Clouds:
    """How clouds are drawn.

    Attributes:
        dates: Probability of each date to have some.
        cover: Largest share of the patch that they cover.
        missed: Share of clouded dates whose mask missed them: bright instead of no data.
    """

    dates: float = 0.0
    cover: float = 0.6
    missed: float = 0.1


def with_clouds(x_TCHW: NDArray[np.uint16], clouds: Clouds, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Draw clouds over some dates.

    Most are what a good mask leaves: no data in all bands. A few are missed by the mask: the reflectance goes
    toward that of a cloud, most in their middle.

    Returns:
        A copy when a date is clouded, else the array itself.
    """
    cloudy = np.flatnonzero(rng.random(len(x_TCHW)) < clouds.dates)
    if not len(cloudy):
        return x_TCHW
    found = x_TCHW.copy()
    for t in cloudy:
        field = _smooth(x_TCHW.shape[-2:], rng)
        cover = rng.uniform(0, clouds.cover)
        edge = np.quantile(field, 1 - cover)
        inside = field > edge
        if rng.random() < clouds.missed:
            thick = np.clip((field - edge) / max(float(np.ptp(field)) / 4, 1e-6), 0, 1)
            found[t] = _brightened(found[t], thick, rng)
        else:
            found[t][:, inside] = 0
    return found


def _brightened(
    x_CHW: NDArray[np.uint16], thick_HW: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint16]:
    cloud = np.float32(rng.uniform(*_CLOUD_REFLECTANCE) * 10_000)
    mixed = (1 - thick_HW) * x_CHW + thick_HW * cloud
    return np.where(x_CHW == 0, 0, np.clip(np.rint(mixed), 1, 65535)).astype(np.uint16)


def _smooth(shape_yx: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a field of soft blobs: random values on a few knots, cubic between them."""
    from scipy.ndimage import zoom

    knots = int(rng.integers(3, 8))
    coarse = rng.normal(size=(knots, knots)).astype(np.float32)
    height, width = shape_yx
    fine: NDArray[np.float32] = zoom(
        coarse, (height / knots, width / knots), order=3, grid_mode=True, mode="nearest"
    )
    return fine


def drop_bands(
    x_TCHW: NDArray[np.uint16],
    share: float,
    rng: np.random.Generator,
    fill_C: NDArray[np.uint16] | None = None,
) -> NDArray[np.uint16]:
    """Take the information out of whole bands, for all dates; at least one stays.

    No data in one band would make the pixel no data; a band without information holds its mean instead, which
    a `Standard` normalisation turns into 0.

    Args:
        x_TCHW: uint16, 0 = no data.
        share: Probability of each band to go.
        rng: Source of chance.
        fill_C: Mean of each band over the training pixels, uint16; None takes that of the patch.
    """
    gone: NDArray[np.bool_] = rng.random((x_TCHW.shape[1],)) < share
    gone[rng.integers(len(gone))] = False
    if not gone.any():
        return x_TCHW
    found = x_TCHW.copy()
    for c in np.flatnonzero(gone):
        band = found[:, c]
        valid = band != 0
        if valid.any():
            band[valid] = fill_C[c] if fill_C is not None else max(1, round(float(band[valid].mean())))
    return found
