"""What a sweep tries: the settings of a training that vary, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from optuna import Trial

Metric = Literal["mean_iou", "mean_f1", "accuracy"]
"""By which trials are compared, on the validation part; the test part is never looked at."""


class Numbers(BaseModel):
    """Numbers from low to high.

    Attributes:
        low: Least.
        high: Greatest.
        log: Whether factors count, not differences; low must be positive.
        step: Only ``low + n * step``; whole numbers where all three are whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Numbers:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return self.step is not None and all(x.is_integer() for x in (self.low, self.high, self.step))

    @property
    def example(self) -> float | int:
        """One of the numbers."""
        return int(self.low) if self.whole else self.low

    def drawn(self, trial: Trial, name: str) -> float | int:
        """Let a trial choose."""
        if self.step is not None and self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step))
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


class Choices(BaseModel):
    """One of several values.

    Attributes:
        choices: Words, numbers, true or false, or null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    choices: tuple[bool | int | float | str | None, ...] = Field(min_length=2)

    @property
    def example(self) -> Any:
        """One of the values."""
        return self.choices[0]

    def drawn(self, trial: Trial, name: str) -> Any:
        """Let a trial choose."""
        return trial.suggest_categorical(name, self.choices)


class Sweep(BaseModel):
    """How settings are searched.

    Attributes:
        space: Setting of the training's YAML (``options.learning_rate``) to the numbers or choices it may have.
        trials: Trainings in all, those of earlier calls counted.
        metric: What is best, on the validation part.
        sampler: ``tpe`` learns from the trials before (Bergstra et al. 2011); ``random`` draws.
        prune: End a trial that is worse at a check than half of the others were there.
        seed: Of the draws; with one worker the same seed gives the same trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    space: dict[str, Numbers | Choices] = Field(min_length=1)
    trials: int = Field(default=20, ge=1)
    metric: Metric = "mean_iou"
    sampler: Literal["tpe", "random"] = "tpe"
    prune: bool = True
    seed: int = 0

    def drawn(self, trial: Trial) -> dict[str, Any]:
        """Let a trial choose a value of each setting."""
        return {name: part.drawn(trial, name) for name, part in self.space.items()}
