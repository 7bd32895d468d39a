"""From a cube's uint16 values to what a network sees: the one place, for training and for the map.

A (date, pixel) is valid when all its bands are not 0. Whatever is not valid is 0 after normalisation.

Shape suffixes: B batch, T date, C band, H row, W column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from engine.values.errors import InputError

if TYPE_CHECKING:
    import torch


class Standard(BaseModel):
    """``(x - mean) / std`` per band, in reflectance x 10000.

    Attributes:
        mean: One mean per band.
        std: One standard deviation per band, positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["standard"] = "standard"
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Standard:
        _same_length(self.mean, self.std)
        return self

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.mean)


class LogSigmoid(BaseModel):
    """The normalisation of Dynamic World (Brown et al. 2022, doi:10.1038/s41597-022-01307-4).

    ``x = (ln(0.005 x + 1) - centre) / scale``, then the sigmoid of ``5 x - 1``.

    Attributes:
        centre: One centre per band, in log units.
        scale: One scale per band, positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["log_sigmoid"] = "log_sigmoid"
    centre: tuple[float, ...] = Field(min_length=1)
    scale: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> LogSigmoid:
        _same_length(self.centre, self.scale)
        return self

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.centre)

    @classmethod
    def from_file(cls, path: str | Path) -> LogSigmoid:
        """Read ``centre`` and ``scale`` from a JSON file.

        Raises:
            InputError: If the file cannot be read or lacks them.
        """
        try:
            fields: dict[str, Any] = json.loads(Path(path).read_text())
            return cls(centre=tuple(fields["centre"]), scale=tuple(fields["scale"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("cannot read the normalisation", where=str(path), mend=repr(error)) from error


Normalisation = Annotated[Standard | LogSigmoid, Field(discriminator="kind")]
"""Either kind; the field ``kind`` tells which."""

_ADAPTER: TypeAdapter[Standard | LogSigmoid] = TypeAdapter(Normalisation)


def read_normalisation(fields: Any) -> Standard | LogSigmoid:
    """Read a normalisation from what `model_dump` wrote; pydantic's ValidationError when it is none.

    >>> read_normalisation({"kind": "standard", "mean": [500.0], "std": [250.0]}).n_bands
    1
    """
    return _ADAPTER.validate_python(fields)


def prepare(x_BTCHW: torch.Tensor, normalisation: Standard | LogSigmoid) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise a block of a cube.

    Args:
        x_BTCHW: uint16, 0 = no data, 1..65535 = reflectance x 10000.
        normalisation: One pair of constants per band.

    Returns:
        ``x_BTCHW`` float32 with 0 where not valid, and ``valid_BTHW`` float32, 1 = valid.

    Raises:
        InputError: If the number of bands differs from the normalisation's.
    """
    import torch

    if x_BTCHW.shape[2] != normalisation.n_bands:
        raise InputError(
            "the normalisation is for another number of bands",
            where="normalisation",
            found=f"{x_BTCHW.shape[2]} bands",
            limit=f"{normalisation.n_bands} bands",
        )
    values_BTCHW = x_BTCHW.to(torch.float32)
    valid_BTHW = (values_BTCHW != 0).all(dim=2)
    # In place: at 10 bands a window's copy costs as much as a layer of a small network.
    values_BTCHW = _apply(values_BTCHW, normalisation)
    values_BTCHW.masked_fill_(~valid_BTHW[:, :, None], 0.0)
    return values_BTCHW, valid_BTHW.to(torch.float32)


def _apply(values_BTCHW: torch.Tensor, normalisation: Standard | LogSigmoid) -> torch.Tensor:
    """Normalise in place."""
    import torch

    def per_band(constants: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(constants, dtype=torch.float32, device=values_BTCHW.device)[:, None, None]

    if isinstance(normalisation, Standard):
        return values_BTCHW.sub_(per_band(normalisation.mean)).div_(per_band(normalisation.std))
    values_BTCHW.mul_(0.005).add_(1.0).log_()
    values_BTCHW.sub_(per_band(normalisation.centre)).div_(per_band(normalisation.scale))
    values_BTCHW.mul_(5.0).sub_(1.0).exp_()
    return values_BTCHW.div_(values_BTCHW + 1.0)


def _same_length(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    if len(first) != len(second):
        raise ValueError(f"one value per band and constant: got {len(first)} and {len(second)}")
    if min(second) <= 0:
        raise ValueError(f"the divisor must be positive in every band, got {second}")
