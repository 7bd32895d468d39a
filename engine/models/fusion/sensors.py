"""A block of planes taken apart into its sensors, each with its own validity.

`engine.models.normalise.prepare` leaves 0 where a plane has no data and nowhere else, so each sensor's validity is
read off its planes: a date on which only the radar passed is valid for the radar alone.

Shape suffixes: B batch, T date, C band, H row, W column, L layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from engine.models.fusion.configs import FusionConfig
from engine.values.errors import InputError
from engine.values.planes import Group

DATED: tuple[Group, ...] = ("optical", "radar")
"""Groups that have a series."""


class Sensor(NamedTuple):
    """The series of one sensor.

    Attributes:
        x: (B, T, C, H, W) float32, 0 where not valid.
        valid: (B, T, H, W) float32, 1 where this sensor has data.
    """

    x: torch.Tensor
    valid: torch.Tensor


def sensors_of(config: FusionConfig) -> tuple[Group, ...]:
    """Name the sensors with a series that a network sees."""
    return tuple(group for group in DATED if config.bands(group))


def sensor(config: FusionConfig, group: Group, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> Sensor:
    """Take the series of one sensor out of a block.

    Raises:
        InputError: If the block has another number of bands.
    """
    _check(config, x_BTCHW)
    if config.groups is None:
        return Sensor(x_BTCHW, valid_BTHW)
    own_BTCHW = x_BTCHW[:, :, list(config.bands(group))]
    return Sensor(own_BTCHW, valid_BTHW * (own_BTCHW != 0).any(dim=2))


def layers(config: FusionConfig, x_BTCHW: torch.Tensor) -> torch.Tensor:
    """Return what does not change with time, (B, 2 L, H, W): the layers (0 = no data), then where they are there."""
    own_BTLHW = x_BTCHW[:, :, list(config.bands("static"))]
    times_BLHW = (own_BTLHW != 0).to(x_BTCHW.dtype).sum(dim=1)
    return torch.cat([own_BTLHW.sum(dim=1) / times_BLHW.clamp_min(1.0), times_BLHW.clamp_max(1.0)], dim=1)


def _check(config: FusionConfig, x_BTCHW: torch.Tensor) -> None:
    dates, bands = x_BTCHW.shape[1:3]
    if bands != config.n_bands or config.n_dates not in (None, dates):
        raise InputError(
            "the network has another number of dates or bands",
            where="fusion",
            found=f"{dates} dates x {bands} bands",
            limit=f"{config.n_dates or 'any'} dates x {config.n_bands} bands",
            mend="build the cube from the bundle's own spec",
        )
