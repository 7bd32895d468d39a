"""Configuration of networks of segmentation-models-pytorch: a frozen value, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.models.configs import NetworkConfig


class SmpConfig(NetworkConfig):
    """What `engine.models.smp.SegmentationModel` is built from.

    Attributes:
        n_dates: Dates (T) of the input; they are merged with the bands into the channels.
        arch: Name of the decoder as segmentation-models-pytorch knows it, e.g. ``unet``, ``fpn``.
        encoder: Name of the encoder there, e.g. ``resnet18``, ``resnet50``.
        encoder_depth: Halvings of the encoder.
    """

    n_dates: int = Field(ge=1, le=366)
    arch: Literal["unet", "unetplusplus", "fpn", "linknet", "manet", "deeplabv3plus"] = "unet"
    encoder: str = Field(default="resnet18", pattern=r"^[a-z0-9_\-]+$")
    encoder_depth: int = Field(default=5, ge=3, le=5)

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels.

        >>> SmpConfig(n_dates=1, n_bands=4, n_classes=2).window_multiple
        32
        """
        return int(2**self.encoder_depth)
