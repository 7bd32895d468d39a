"""Constants of the normalisation, measured on training pixels alone.

Shape suffixes: T date, C band, N pixel, Y X the whole box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.models.normalise import Standard
from engine.values.errors import InputError
from engine.values.planes import Group

MOST_PIXELS = 200_000
"""As many pixels are read at most: their mean is known to a few thousandths of the standard deviation."""


def drawn_pixels(known_YX: NDArray[np.bool_], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the pixels that count, as rows and columns.

    Args:
        known_YX: Annotated training pixels.
        seed: Of the draw, where there are more than `MOST_PIXELS`.
    """
    ys, xs = np.nonzero(known_YX)
    if len(ys) > MOST_PIXELS:
        drawn = np.random.default_rng(seed).choice(len(ys), MOST_PIXELS, replace=False)
        ys, xs = ys[drawn], xs[drawn]
    return ys, xs


def fit_standard(values_TCN: NDArray[np.uint16], groups: tuple[Group, ...] | None = None) -> Standard:
    """Measure mean and standard deviation per plane over the valid dates of pixels.

    Args:
        values_TCN: uint16 planes (reflectance x 10000), 0 = no data; a date of a pixel counts where all planes
            have data, with groups where those of the plane's own group have.
        groups: Of the planes (`engine.values.planes.groups_of`).

    Raises:
        InputError: If no date of any pixel has data, or a group none at all.
    """
    if groups is not None:
        return _by_group(values_TCN, groups)
    valid_TN = (values_TCN != 0).all(axis=1)
    if not valid_TN.any():
        raise InputError(
            "no annotated training pixel has data",
            where="train",
            found=f"{values_TCN.shape[2]} annotated pixels",
            mend="check the labels' place, the split and the cube's gaps",
        )
    values_CM = np.moveaxis(values_TCN.astype(np.float64), 1, 0)[:, valid_TN]
    mean, std = values_CM.mean(axis=1), np.maximum(values_CM.std(axis=1), 1.0)
    return Standard(mean=tuple(mean.round(3).tolist()), std=tuple(std.round(3).tolist()))


def _by_group(values_TCN: NDArray[np.uint16], groups: tuple[Group, ...]) -> Standard:
    """Measure each group where it is there, whatever the others are; layers each by itself."""
    mean, std = [0.0] * len(groups), [1.0] * len(groups)
    sets = [[i for i, g in enumerate(groups) if g == name] for name in ("optical", "radar")]
    for own in (*filter(None, sets), *([i] for i, g in enumerate(groups) if g == "static")):
        try:
            found = fit_standard(values_TCN[:, own])
        except InputError as error:
            raise InputError(
                "no annotated training pixel has data of these planes",
                where="train",
                found=f"{groups[own[0]]} planes, places {own} of {len(groups)}",
                mend="check that they cover the labels, or leave them out of the cube",
            ) from error
        for i, m, s in zip(own, found.mean, found.std, strict=True):
            mean[i], std[i] = m, s
    return Standard(mean=tuple(mean), std=tuple(std), groups=groups)
