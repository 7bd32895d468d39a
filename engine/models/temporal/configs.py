"""Configurations of the networks of series: frozen values that a bundle's manifest carries, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from engine.models.configs import NetworkConfig


class SeriesConfig(NetworkConfig):
    """What every network of series is built from.

    Attributes:
        harmonics: A date is told as sine and cosine of its day of the year, this many times faster each:
            1 = once a year, 2 = also twice a year.
        dropout: Share of the last features dropped in training.
    """

    harmonics: int = Field(default=2, ge=1, le=16)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def date_features(self) -> int:
        """Numbers that say what day it is."""
        return 2 * self.harmonics


class RecurrentConfig(SeriesConfig):
    """What `engine.models.temporal.recurrent.Lstm` and ``Gru`` are built from.

    Attributes:
        width: Length of the hidden state.
        layers: Recurrent layers on top of each other.
        bidirectional: Whether a second state also runs from the last date to the first.
    """

    width: int = Field(default=64, ge=1, le=4096)
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = False

    @property
    def hidden(self) -> int:
        """Length of both directions' states together."""
        return self.width * (2 if self.bidirectional else 1)


class AttentionLstmConfig(RecurrentConfig):
    """What `engine.models.temporal.recurrent.AtLstm` is built from; attributes as of `RecurrentConfig`."""

    bidirectional: bool = True


class Cnn1dConfig(SeriesConfig):
    """What `engine.models.temporal.cnn.Cnn1d` is built from.

    Attributes:
        width: Channels.
        depth: Blocks; each looks twice as far as the one before.
        kernel: Dates that one convolution looks at, an odd number.
    """

    width: int = Field(default=64, ge=1, le=4096)
    depth: int = Field(default=3, ge=1, le=8)
    kernel: int = Field(default=3, ge=1, le=31)

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"the kernel must be an odd number of dates, got {self.kernel}")
        return self


class AttentionConfig(NetworkConfig):
    """What networks with attention heads are built from.

    Attributes:
        width: Features of a date, a multiple of the heads.
        heads: Attention heads.
        dropout: Share of values dropped in training.
    """

    width: int = Field(default=64, ge=2, le=4096)
    heads: int = Field(default=4, ge=1, le=64)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"the width must be a multiple of the heads, got {self.width} and {self.heads}")
        return self


class TransformerConfig(AttentionConfig):
    """What `engine.models.temporal.transformer.Transformer` is built from.

    Attributes:
        depth: Layers.
        hidden: Neurons between the two linear maps of a layer.
    """

    depth: int = Field(default=2, ge=1, le=24)
    hidden: int = Field(default=128, ge=1, le=16384)


class LtaeConfig(AttentionConfig):
    """What `engine.models.temporal.ltae.Ltae` is built from; each head weighs its own share of the features.

    Attributes:
        key: Length of a head's key and query.
    """

    heads: int = Field(default=8, ge=1, le=64)
    key: int = Field(default=8, ge=1, le=256)


class Branch(BaseModel):
    """One network of a hybrid.

    Attributes:
        architecture: Its name in the registry.
        config: Fields of its configuration; dates, bands and classes are those of the hybrid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: str
    config: SerializeAsAny[NetworkConfig]

    @field_validator("config", mode="before")
    @classmethod
    def _of_its_architecture(cls, given: Any, info: ValidationInfo) -> Any:
        from engine.models.registry import check_config
        from engine.values.errors import InputError

        if isinstance(given, NetworkConfig) or "architecture" not in info.data:
            return given
        try:
            return check_config(info.data["architecture"], given)
        except InputError as error:
            raise ValueError(str(error)) from error


_BRANCHES = ("gru", "unet")


class HybridConfig(NetworkConfig):
    """What `engine.models.temporal.hybrid.Hybrid` is built from.

    Attributes:
        branches: Networks that stand beside each other, each with its own configuration; as it is, a GRU along
            time beside a U-Net.
        dropout: Share of the joined features dropped in training.

    >>> branches = [{"architecture": "gru"}, {"architecture": "unet", "config": {"depth": 2}}]
    >>> HybridConfig(n_dates=6, n_bands=4, n_classes=3, branches=branches).window_multiple
    4
    """

    branches: tuple[Branch, ...] = Field(min_length=2, max_length=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, given: Any) -> Any:
        """Give each branch the sizes of the whole."""
        if not isinstance(given, Mapping):
            return given
        branches = given.get("branches", [{"architecture": name} for name in _BRANCHES])
        if not isinstance(branches, (list, tuple)):
            return given
        sizes = {name: given[name] for name in ("n_dates", "n_bands", "n_classes") if name in given}
        return {**given, "branches": tuple(_sized(branch, sizes) for branch in branches)}

    @property
    def window_multiple(self) -> int:
        """Windows must be a multiple of this many pixels: of every branch's."""
        return math.lcm(*(branch.config.window_multiple for branch in self.branches))


def _sized(branch: Any, sizes: dict[str, Any]) -> Any:
    if not isinstance(branch, Mapping):
        return branch
    return {**branch, "config": {**(branch.get("config") or {}), **sizes}}
