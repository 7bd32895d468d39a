"""Move a patch about: flips, quarter turns, shifts, scale and small rotations, the same for all that it holds.

Flips, quarter turns and whole-pixel shifts move values without touching them. Scale and rotation have to
resample: values between valid ones are bilinear, weighted by what is valid, and a pixel stays without data where
the nearest one has none; classes are taken from the nearest pixel. What comes from outside is no data.

Shape suffixes: N planes, H row, W column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


@dataclass(frozen=True)
class Move:
    """One draw, for all dates, sensors and the target of a patch.

    Attributes:
        turn: Symmetry of the square, 0..7; see `dihedral`.
        shift_yx: Whole pixels down and to the right.
        scale: Size after over size before.
        angle_deg: Counter-clockwise rotation in degrees.
    """

    turn: int = 0
    shift_yx: tuple[int, int] = (0, 0)
    scale: float = 1.0
    angle_deg: float = 0.0

    @property
    def resamples(self) -> bool:
        """Whether values are interpolated."""
        return self.scale != 1.0 or self.angle_deg != 0.0


def dihedral(values_HW: NDArray[Any], which: int) -> NDArray[Any]:
    """Return one of the eight symmetries of the square on the last two axes, as a view.

    Args:
        values_HW: (..., y, x), square.
        which: 0..7; 0 is the identity, 4..7 are mirrored.

    >>> dihedral(np.array([[1, 2], [3, 4]]), 1).tolist()
    [[2, 4], [1, 3]]
    """
    turned = np.rot90(values_HW, which % 4, axes=(-2, -1))
    return turned[..., ::-1] if which >= 4 else turned


def moved(values_HW: NDArray[Any], move: Move, fill: float) -> NDArray[Any]:
    """Move values that are not to be mixed: classes, weights; nearest pixel.

    Args:
        values_HW: (..., y, x), square, any dtype whose values float32 holds exactly.
        move: Where to.
        fill: Value of what comes from outside.

    >>> moved(np.array([[1, 2], [3, 4]], np.uint8), Move(shift_yx=(1, 0)), 255).tolist()
    [[255, 255], [1, 2]]
    """
    turned = dihedral(values_HW, move.turn)
    if not move.resamples:
        return _shifted(turned, move.shift_yx, fill)
    inside_HW = _sampled(np.ones((1, *turned.shape[-2:]), np.float32), move, "nearest")[0] > 0
    planes_NHW = turned.reshape(-1, *turned.shape[-2:]).astype(np.float32)
    near = _sampled(planes_NHW, move, "nearest").reshape(turned.shape)
    return np.where(inside_HW, near, np.float32(fill)).astype(values_HW.dtype)


def moved_values(
    values_NHW: NDArray[np.float32], valid_NHW: NDArray[np.bool_], move: Move
) -> NDArray[np.float32]:
    """Move values that may be interpolated.

    Args:
        values_NHW: float32; what is not valid does not count.
        valid_NHW: Which values are data; may be one plane for all (1, y, x).
        move: Where to.

    Returns:
        float32, NaN = no data.
    """
    values = dihedral(np.where(valid_NHW, values_NHW, np.float32(0)), move.turn)
    valid = dihedral(valid_NHW.astype(np.float32), move.turn)
    if not move.resamples:
        values, valid = (_shifted(v, move.shift_yx, 0) for v in (values, valid))
        return np.where(valid > 0, values, np.float32(np.nan))
    share = _sampled(valid, move, "bilinear")
    near = _sampled(valid, move, "nearest")
    mixed = _sampled(values, move, "bilinear")
    there = (near > 0) & (share > 0)
    return np.where(there, mixed / np.where(share > 0, share, 1), np.float32(np.nan)).astype(np.float32)


def _shifted(values: NDArray[Any], shift_yx: tuple[int, int], fill: float) -> NDArray[Any]:
    dy, dx = shift_yx
    if not (dy or dx):
        return values
    found = np.full_like(values, fill)
    height, width = values.shape[-2:]
    to = (..., slice(max(0, dy), max(0, height + dy)), slice(max(0, dx), max(0, width + dx)))
    of = (..., slice(max(0, -dy), max(0, height - dy)), slice(max(0, -dx), max(0, width - dx)))
    found[to] = values[of]
    return found


def _sampled(planes_NHW: NDArray[np.float32], move: Move, mode: str) -> NDArray[np.float32]:
    """Read each plane at the places that land on the patch's pixels; 0 outside."""
    image = torch.from_numpy(np.ascontiguousarray(planes_NHW))[None]
    grid = _grid(move, image.shape[-2:])
    found: NDArray[np.float32] = functional.grid_sample(
        image, grid, mode=mode, padding_mode="zeros", align_corners=False
    )[0].numpy()
    return found


def _grid(move: Move, shape_yx: tuple[int, ...]) -> torch.Tensor:
    """Return where each pixel comes from, in units of half the patch (torch's convention)."""
    height, width = shape_yx
    turn = math.radians(move.angle_deg)
    cos, sin = math.cos(turn) / move.scale, math.sin(turn) / move.scale
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y -= (height - 1) / 2 + move.shift_yx[0]
    x -= (width - 1) / 2 + move.shift_yx[1]
    from_x, from_y = cos * x - sin * y, sin * x + cos * y  # rows point down: this turns counter-clockwise
    grid = np.stack([2 * from_x / width, 2 * from_y / height], axis=-1).astype(np.float32)
    return torch.from_numpy(grid)[None]
