"""Configurations of the spatio-temporal networks: frozen values, no torch.

All take any number of dates, in any order; ``n_dates`` only records what a bundle was trained on.
The memory of a window follows what was measured (``benchmarks/spacetime_memory.py``), rounded up.
"""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from engine.models.configs import NetworkConfig


class UtaeConfig(NetworkConfig):
    """What `engine.models.spacetime.utae.Utae` is built from.

    Attributes:
        width: Channels at full resolution; each level below has twice as many, up to `width_max`.
        width_max: Largest number of channels of any level.
        depth: Halvings of the resolution; a window must be a multiple of ``2**depth`` pixels.
        heads: Attention heads; each decides about its own share of the channels of each level.
        key: Length of keys and queries of a head.
        model: Features of a date in the attention, over all heads.
        dropout: Share of attention weights and of bottleneck features dropped in training.
    """

    width: int = Field(default=16, ge=1)
    width_max: int = Field(default=32, ge=1)
    depth: int = Field(default=3, ge=1, le=6)
    heads: int = Field(default=8, ge=1, le=64)
    key: int = Field(default=4, ge=1, le=64)
    model: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share(self) -> Self:
        for name, size in (("width", self.width), ("width_max", self.width_max), ("model", self.model)):
            if size % self.heads:
                raise ValueError(f"{name} {size} does not divide into {self.heads} heads")
        return self

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels.

        >>> UtaeConfig(n_bands=4, n_classes=2).window_multiple
        8
        """
        return int(2**self.depth)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, full resolution first.

        >>> UtaeConfig(n_bands=4, n_classes=2).channels
        (16, 32, 32, 32)
        """
        return tuple(min(self.width * 2**level, self.width_max) for level in range(self.depth + 1))

    def channels_at_once(self, n_dates: int) -> int:
        """Return its memory in channels: all dates at the finest level."""
        return math.ceil(0.6 * n_dates * self.width)


class ConvRecurrentConfig(NetworkConfig):
    """What the networks of `engine.models.spacetime.recurrent` are built from.

    Attributes:
        width: Channels of the state, for each direction.
        layers: Recurrent layers, each reading the states of the one before.
        kernel: Side of the convolutions over the state, odd: with each date the network looks further by its half.
        bidirectional: Whether a second pass reads the season backwards.
        dropout: Share of channels dropped before the head in training.
    """

    width: int = Field(default=16, ge=1)
    layers: int = Field(default=1, ge=1, le=8)
    kernel: int = Field(default=3, ge=1, le=9)
    bidirectional: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"the kernel must have an odd side, got {self.kernel}")
        return self

    def channels_at_once(self, n_dates: int) -> int:
        """Return its memory in channels: gates and states of all dates, those of the ConvLSTM."""
        return math.ceil((1.5 if self.bidirectional else 1.0) * n_dates * self.width)


class CalendarConfig(NetworkConfig):
    """What networks with convolutions over time have in common: dates are first brought onto a calendar.

    Attributes:
        steps: Even steps of the calendar, over `years`.
        years: After how many years the calendar begins again; later dates of the same season are averaged.
        dropout: Share of channels dropped before the head in training.
    """

    steps: int = Field(default=12, ge=2, le=366)
    years: int = Field(default=1, ge=1, le=10)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def _channels_of_steps(self, each: float, n_dates: int) -> int:
        """Return the memory in channels: so much for each step, and what the dates take before."""
        return math.ceil(each * self.steps + 0.2 * n_dates * (self.n_bands + 1))

    def _halved(self, times: int) -> None:
        if self.steps % 2**times:
            raise ValueError(f"{self.steps} steps cannot be halved {times} times")


class Cnn3dConfig(CalendarConfig):
    """What `engine.models.spacetime.cnn3d.Cnn3d` is built from.

    Attributes:
        width: Channels of each convolution.
        depth: Convolutions over time, row and column; between two of them time is halved.
        hidden: Features after time has been put side by side.
    """

    width: int = Field(default=16, ge=1)
    depth: int = Field(default=3, ge=1, le=6)
    hidden: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        self._halved(self.depth - 1)
        return self

    def channels_at_once(self, n_dates: int) -> int:
        """Return its memory in channels: all steps."""
        return self._channels_of_steps(0.25 * self.width, n_dates)


class Cnn3d2dConfig(CalendarConfig):
    """What `engine.models.spacetime.cnn3d.Cnn3d2d` is built from.

    Attributes:
        width: Channels of the convolutions over time, row and column.
        depth: How many of them.
        hidden: Channels of the convolutions over row and column that follow.
        depth_2d: How many of those.
    """

    width: int = Field(default=8, ge=1)
    depth: int = Field(default=2, ge=1, le=6)
    hidden: int = Field(default=32, ge=1)
    depth_2d: int = Field(default=2, ge=1, le=6)

    def channels_at_once(self, n_dates: int) -> int:
        """Return its memory in channels: all steps, and those side by side."""
        return self._channels_of_steps(0.4 * self.width, n_dates)


class UNet3dConfig(CalendarConfig):
    """What `engine.models.spacetime.unet3d.AttentionUNet3d` is built from.

    Attributes:
        width: Channels at full resolution; each level below has twice as many, up to `width_max`.
        width_max: Largest number of channels of any level.
        depth: Halvings of rows and columns, and of time while its steps are even; a window must be a multiple
            of ``2**depth`` pixels.
        heads: Heads of the attention over time that ends the network.
    """

    width: int = Field(default=8, ge=1)
    width_max: int = Field(default=32, ge=1)
    depth: int = Field(default=3, ge=1, le=6)
    heads: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _heads_share(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        return self

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels.

        >>> UNet3dConfig(n_bands=4, n_classes=2).window_multiple
        8
        """
        return int(2**self.depth)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, full resolution first.

        >>> UNet3dConfig(n_bands=4, n_classes=2).channels
        (8, 16, 32, 32)
        """
        return tuple(min(self.width * 2**level, self.width_max) for level in range(self.depth + 1))

    def channels_at_once(self, n_dates: int) -> int:
        """Return its memory in channels: all steps of skip, gate and what they are joined to."""
        return self._channels_of_steps(1.4 * self.width, n_dates)
