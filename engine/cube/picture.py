"""Pictures of a cube: three bands stretched to bytes, with holes left transparent."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that a notebook shows by itself.

    Attributes:
        array: (y, x, rgb) uint8 with the coordinates of its pixels.
        valid: (y, x) bool, False where there are no data.
        title: What it shows.
    """

    array: xr.DataArray
    valid: NDArray[np.bool_]
    title: str

    @property
    def rgba(self) -> NDArray[np.uint8]:
        """(y, x, 4) uint8; no data is transparent."""
        alpha = np.where(self.valid, 255, 0).astype(np.uint8)
        return np.concatenate([self.array.values, alpha[..., None]], axis=-1)

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.rgba).save(buffer, format="PNG")
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the picture as a PNG file."""
        path = Path(path)
        path.write_bytes(self.png())
        return path

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the picture on axes in CRS units, no data light grey, and return the axes."""
        if ax is None:
            from matplotlib import pyplot

            height, width = self.valid.shape
            size = 7.0, min(max(7.0 * height / width, 2.0), 9.0) + 0.6
            _, ax = pyplot.subplots(figsize=size, layout="constrained")
        ax.imshow(self.rgba, extent=_extent(self.array), interpolation="nearest")
        ax.set(title=self.title, facecolor="#e4e7e9", aspect="equal")
        ax.ticklabel_format(style="plain", useOffset=False)
        ax.tick_params(labelsize=8)
        return ax

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        height, width = self.valid.shape
        return f"<Picture {width} x {height} px: {self.title}>"


def stretched(
    values: NDArray[np.uint16], valid: NDArray[np.bool_], percentiles: tuple[float, float]
) -> NDArray[np.uint8]:
    """Stretch each band between two percentiles of its valid pixels.

    Args:
        values: (band, y, x) uint16.
        valid: (y, x) bool.
        percentiles: What becomes 0 and 255, 0..100.

    Returns:
        (y, x, band) uint8, 0 where not valid.

    >>> stretched(np.arange(5, dtype=np.uint16).reshape(1, 1, 5), np.ones((1, 5), bool), (0, 100))[0, :, 0]
    array([  0,  64, 128, 191, 255], dtype=uint8)
    """
    out = np.zeros((*valid.shape, len(values)), np.uint8)
    if not valid.any():
        return out
    for layer, plane in enumerate(values):
        low, high = np.percentile(plane[valid], percentiles)
        scaled = (plane.astype(np.float64) - low) / max(high - low, 1.0)
        out[..., layer] = np.where(valid, np.rint(scaled.clip(0, 1) * 255), 0)
    return out


def _extent(array: xr.DataArray) -> tuple[float, float, float, float]:
    """Return left, right, bottom, top of the pixels' edges."""
    sides: list[Any] = []
    for axis in ("x", "y"):
        centres = array[axis].values
        half = (centres[-1] - centres[0]) / (2 * (centres.size - 1)) if centres.size > 1 else 0.5
        sides.append((float(centres[0] - half), float(centres[-1] + half)))
    (left, right), (top, bottom) = sides
    return left, right, bottom, top
