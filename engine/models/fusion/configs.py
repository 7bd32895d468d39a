"""Configurations of the networks that join sensors: frozen values that a bundle's manifest carries, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.models.configs import NetworkConfig
from engine.values.planes import Group


class FusionConfig(NetworkConfig):
    """What every network that joins sensors is built from.

    Attributes:
        groups: Group of each band (`engine.values.planes.groups_of`); None: all are optical. Training fills it in.
    """

    groups: tuple[Group, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> FusionConfig:
        if self.groups is not None and len(self.groups) != self.n_bands:
            raise ValueError(f"one group per band: got {len(self.groups)} for {self.n_bands} bands")
        if self.groups is not None and set(self.groups) == {"static"}:
            raise ValueError("there must be optical or radar planes beside what does not change with time")
        return self

    def bands(self, group: Group) -> tuple[int, ...]:
        """Return the places of a group's bands.

        >>> config = FusionConfig(n_bands=3, n_classes=2, groups=("optical", "radar", "optical"))
        >>> config.bands("optical"), config.bands("static")
        ((0, 2), ())
        """
        groups = self.groups or ("optical",) * self.n_bands
        return tuple(i for i, name in enumerate(groups) if name == group)


class FusionUNetConfig(FusionConfig):
    """What `engine.models.fusion.unet.FusionUNet` is built from.

    Attributes:
        fusion: Where sensors meet: ``early``, before one U-Net; ``late``, after a U-Net for each.
        weights: Whether the sensors' branches are ``separate`` or have ``shared`` weights beyond the first layer.
        series: Channels of the branches, which look at neighbours in time and space.
        series_depth: Convolutions of a branch over 3 dates x 3 x 3 pixels.
        heads: Ways in which a branch's dates are weighed when they are pooled.
        width: Channels of the U-Net at full resolution; each level below has twice as many, up to `width_max`.
        width_max: Largest number of channels of any level.
        depth: Poolings; a window must be a multiple of ``2**depth`` pixels.
        norm: ``batch`` (folded into the convolutions for prediction) or ``group``.
        decoder: How a level is brought to the next finer one.
        dropout: Share of bottleneck channels dropped in training.
    """

    fusion: Literal["early", "late"] = "early"
    weights: Literal["separate", "shared"] = "separate"
    series: int = Field(default=8, ge=1)
    series_depth: int = Field(default=2, ge=1, le=8)
    heads: int = Field(default=4, ge=1, le=64)
    width: int = Field(default=16, ge=1)
    width_max: int = Field(default=64, ge=1)
    depth: int = Field(default=3, ge=1, le=7)
    norm: Literal["batch", "group"] = "batch"
    decoder: Literal["bilinear", "transposed"] = "bilinear"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels."""
        return int(2**self.depth)


class FusionTransformerConfig(FusionConfig):
    """What `engine.models.fusion.transformer.FusionTransformer` is built from.

    Attributes:
        width: Features of a token, a multiple of the heads.
        heads: Attention heads.
        depth: Layers of each branch over its dates.
        dropout: Share of features dropped in training.
    """

    width: int = Field(default=32, ge=1)
    heads: int = Field(default=4, ge=1)
    depth: int = Field(default=1, ge=1, le=12)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> FusionTransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.width} features do not divide by {self.heads} heads")
        return self
