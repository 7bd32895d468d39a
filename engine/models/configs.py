"""Configurations of the network architectures: frozen values that a bundle's manifest carries, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class NetworkConfig(BaseModel):
    """What every network of the registry is built from.

    Attributes:
        n_dates: Dates (T) of the input; None: any number.
        n_bands: Bands (C) of each date.
        n_classes: Outputs (K).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    n_dates: int | None = Field(default=None, ge=1, le=366)
    n_bands: int = Field(ge=1, le=512)
    n_classes: int = Field(ge=1, le=4096)

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels."""
        return 1

    def channels_at_once(self, n_dates: int) -> int | None:
        """Return how many channels of a U-Net's finest level take as much memory as a pixel here; None: not known."""
        return None


class UNetConfig(NetworkConfig):
    """What `engine.models.unet.UNet` is built from.

    Attributes:
        n_dates: Dates (T) of the input.
        stem: Channels of the pixel-wise first layer, which mixes all dates and bands before the
            network looks at neighbours.
        width: Channels at full resolution; each level below has twice as many, up to `width_max`.
        width_max: Largest number of channels of any level.
        depth: Number of poolings, and of skips; a window must be a multiple of ``2**depth`` pixels.
        norm: ``batch`` (running statistics, folded into the convolutions for prediction) or ``group``.
        decoder: How a level is brought to the next finer one: ``bilinear`` or ``transposed``.
        dropout: Share of bottleneck channels dropped in training.
    """

    n_dates: int = Field(ge=1, le=366)
    stem: int = Field(default=32, ge=1)
    width: int = Field(default=16, ge=1)
    width_max: int = Field(default=64, ge=1)
    depth: int = Field(default=4, ge=1, le=7)
    norm: Literal["batch", "group"] = "batch"
    decoder: Literal["bilinear", "transposed"] = "bilinear"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels.

        >>> UNetConfig(n_dates=1, n_bands=4, n_classes=2).window_multiple
        16
        """
        return int(2**self.depth)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, full resolution first, the bottleneck last.

        >>> UNetConfig(n_dates=1, n_bands=4, n_classes=2).channels
        (16, 32, 64, 64, 64)
        """
        return tuple(min(self.width * 2**level, self.width_max) for level in range(self.depth + 1))


class MlpConfig(NetworkConfig):
    """What `engine.models.pixel.Mlp` is built from.

    Attributes:
        n_dates: Dates (T) of the input.
        width: Neurons of each hidden layer.
        depth: Hidden layers.
        dropout: Share of neurons dropped in training.
    """

    n_dates: int = Field(ge=1, le=366)
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=2, ge=1, le=16)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TempCnnConfig(NetworkConfig):
    """What `engine.models.pixel.TempCnn` is built from.

    Attributes:
        width: Channels of each convolution.
        depth: Convolutions.
        kernel: Dates that one convolution looks at, an odd number.
        dropout: Share of values dropped in training.
    """

    width: int = Field(default=64, ge=1)
    depth: int = Field(default=3, ge=1, le=16)
    kernel: int = Field(default=5, ge=1, le=31)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must be an odd number of dates, got {kernel}")
        return kernel
