"""What a network's outputs mean, and how they are written.

Three heads; all of them are blended in the same exact integers (`engine.inference.blend`)::

    head           lane: fixed point 0..65535       map
    Classes        softmax                          label, confidence; probability, entropy, margin on wish
    MultiLabel     sigmoid of each output           probability of each class, of its own
    Values         linear between low and high      one int16 plane an output: regression, embeddings
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VALUE_NO_DATA = -32768
"""No data in the int16 planes of `Values`."""

VALUE_ONE = 65534
"""Steps of the int16 planes between `low` (-32767) and `high` (32767)."""

Extra = Literal["probability", "entropy", "margin", "disagreement", "unfamiliar"]
"""A layer that a map of classes has on wish."""

Augment = Literal["none", "flips", "turns"]
"""Views in which a network sees each window: as it is; the four mirror images; all eight turns of the square."""


class Classes(BaseModel):
    """One class a pixel: probabilities add up to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["classes"] = "classes"


class MultiLabel(BaseModel):
    """Any number of classes a pixel: each output is a probability of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["multilabel"] = "multilabel"


class Values(BaseModel):
    """Quantities instead of classes: tree height, yield, or the features of an encoder.

    Stored as int16: ``value = (stored + 32767) * step + low``; beyond the range values are clipped.

    Attributes:
        variable: Name of the layer, e.g. ``tree_height`` or ``embedding``.
        low: Value stored as -32767.
        high: Value stored as 32767.
        unit: UDUNITS symbol; ``1`` for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["values"] = "values"
    variable: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    unit: str = "1"

    @model_validator(mode="after")
    def _ordered(self) -> Values:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.variable in (
            "label",
            "confidence",
            "probability",
            "entropy",
            "margin",
            "unfamiliar",
            "observations",
        ):
            raise ValueError(f"{self.variable!r} is the name of another layer")
        return self

    @property
    def step(self) -> float:
        """What one stored step is worth.

        >>> Values(variable="height", low=0, high=65.534, unit="m").step
        0.001
        """
        return (self.high - self.low) / VALUE_ONE

    @property
    def offset(self) -> float:
        """The value that is stored as 0."""
        return self.low + 32767 * self.step


ONE_CLASS = Classes()
"""The head of most maps."""

Head = Annotated[Classes | MultiLabel | Values, Field(discriminator="kind")]
