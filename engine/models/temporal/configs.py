"""Configurations of the networks of series: frozen values that a bundle's manifest carries, no torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

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
