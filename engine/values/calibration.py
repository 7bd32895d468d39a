"""What a bundle carries so that its probabilities hold, and so that it knows what it has not learnt."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class VectorScale(BaseModel):
    """Scale and shift of each class's logit, before the temperature (Guo et al. 2017, arXiv:1706.04599).

    Attributes:
        scale: One factor per class, positive.
        shift: One summand per class, added after scaling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    scale: tuple[float, ...] = Field(min_length=1)
    shift: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> VectorScale:
        if len(self.scale) != len(self.shift):
            raise ValueError(f"one scale and shift per class: got {len(self.scale)} and {len(self.shift)}")
        if min(self.scale) <= 0:
            raise ValueError(f"a scale must be positive, got {min(self.scale)}")
        return self


class FamiliarFields(BaseModel):
    """What a manifest says of the features that the training knew; the numbers lie in a file beside it.

    Attributes:
        n_features: Length of a feature vector.
        distance: Distance that 5% of held-out pixels exceed, where the layer ``unfamiliar`` is one half.
        sha256: Of the file, lower-case hex.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    n_features: int = Field(ge=1)
    distance: float = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
