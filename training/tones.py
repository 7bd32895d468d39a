"""Change the light of a patch: brightness, contrast, gamma and noise, in reflectance, one draw for all dates.

No data stays no data, and data stays data: values are held at 1..65535.

Shape suffixes: T date, C band, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCALE = 10_000.0
"""Reflectance 1 in the cube's numbers."""


@dataclass(frozen=True)
class Tone:
    """One draw.

    Attributes:
        brightness: Added reflectance.
        contrast: Factor on the distance from a band's mean over the patch.
        gamma: Exponent on the reflectance.
        noise: Standard deviation of what is added to each value, reflectance.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0


def toned(x_TCHW: NDArray[np.uint16], tone: Tone, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Change the light.

    Args:
        x_TCHW: uint16 reflectance x 10000, 0 = no data.
        tone: How.
        rng: Of the noise alone.

    Returns:
        uint16, no data exactly where it was.

    >>> toned(np.array([[[[0, 1000]]]], np.uint16), Tone(brightness=0.01), np.random.default_rng(0)).tolist()
    [[[[0, 1100]]]]
    """
    if tone == Tone():
        return x_TCHW
    valid = x_TCHW != 0
    values = x_TCHW.astype(np.float32)
    if tone.gamma != 1:
        values = SCALE * (values / SCALE) ** np.float32(tone.gamma)
    if tone.contrast != 1:
        mean_C = values.mean(axis=(0, 2, 3), where=valid) if valid.any(axis=(0, 2, 3)).all() else None
        if mean_C is not None:
            middle = mean_C[:, None, None]
            values = middle + np.float32(tone.contrast) * (values - middle)
    values += np.float32(tone.brightness * SCALE)
    if tone.noise:
        drawn = rng.standard_normal(values.shape, dtype=np.float32)
        values += np.float32(tone.noise * SCALE) * drawn
    return np.where(valid, np.clip(np.rint(values), 1, 65535), 0).astype(np.uint16)
