"""Configurations of the spatial networks: frozen values, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.models.configs import NetworkConfig

ResNetName = Literal["resnet18", "resnet50"]


class ResNetUNetConfig(NetworkConfig):
    """What `engine.models.spatial.unet_resnet.ResNetUNet` is built from.

    Attributes:
        n_dates: Dates (T) of the input.
        encoder: Which ResNet.
        width: Channels of the encoder's first stage; published weights have 64.
        stem: Channels of the skip at full resolution, which mixes bands within each pixel.
        decoder: How a level is brought to the next finer one: ``bilinear`` or ``transposed``.
        dropout: Share of bottleneck channels dropped in training.
    """

    n_dates: int = Field(ge=1, le=366)
    encoder: ResNetName = "resnet18"
    width: int = Field(default=64, ge=4)
    stem: int = Field(default=32, ge=1)
    decoder: Literal["bilinear", "transposed"] = "bilinear"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels: the encoder halves five times."""
        return 32

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the skips and the bottleneck, full resolution first.

        >>> ResNetUNetConfig(n_dates=1, n_bands=13, n_classes=2, encoder="resnet50").channels
        (32, 64, 256, 512, 1024, 2048)
        """
        wide = 4 if self.encoder == "resnet50" else 1
        return (self.stem, self.width, *(self.width * 2**stage * wide for stage in range(4)))

    @property
    def decoded(self) -> tuple[int, ...]:
        """Channels of the decoder's levels, full resolution first.

        >>> ResNetUNetConfig(n_dates=1, n_bands=13, n_classes=2).decoded
        (32, 32, 64, 128, 256)
        """
        return (self.stem, *(max(self.stem, self.width * 2**level // 2) for level in range(4)))


class SeasonUNetConfig(ResNetUNetConfig):
    """What `engine.models.spatial.unet_resnet.SeasonUNet` is built from.

    Attributes:
        n_dates: Dates (T) of the input; None: any number.
        heads: Groups of channels, each with its own weights of the dates.
    """

    n_dates: int | None = Field(default=None, ge=1, le=366)  # type: ignore[assignment]
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> SeasonUNetConfig:
        if self.stem % self.heads or self.width % self.heads:
            raise ValueError(f"stem {self.stem} and width {self.width} must divide by {self.heads} heads")
        return self
