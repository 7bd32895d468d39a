"""From a cube's uint16 values to what a network sees: the one place, for training and for the map.

A (date, pixel) is valid when all its bands are not 0. Whatever is not valid is 0 after normalisation.

Where there are more planes than optical ones (`engine.values.planes`), each group is there or missing by itself: a
date is valid where its optical or its radar planes are. A plane that is missing is 0; one that is there never is,
so a network can tell its groups apart: the mean itself becomes `LEAST`.

Shape suffixes: B batch, T date, C band, H row, W column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from engine.values.errors import InputError
from engine.values.planes import Group

if TYPE_CHECKING:
    import torch


class Standard(BaseModel):
    """``(x - mean) / std`` per plane, in its stored steps (reflectance x 10000).

    Attributes:
        mean: One mean per plane.
        std: One standard deviation per plane, positive.
        groups: With which others each plane is there or missing; None: all together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["standard"] = "standard"
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[float, ...] = Field(min_length=1)
    groups: tuple[Group, ...] | None = Field(default=None, exclude_if=lambda groups: groups is None)

    @model_validator(mode="after")
    def _fits(self) -> Standard:
        _same_length(self.mean, self.std)
        if self.groups is not None and len(self.groups) != len(self.mean):
            raise ValueError(f"one group per plane: got {len(self.groups)} for {len(self.mean)}")
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
        x_BTCHW: uint16, 0 = no data, 1..65535 = reflectance x 10000 or another plane's steps.
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
    if isinstance(normalisation, Standard) and normalisation.groups is not None:
        return _by_group(values_BTCHW, normalisation, normalisation.groups)
    valid_BTHW = (values_BTCHW != 0).all(dim=2)
    # In place: at 10 bands a window's copy costs as much as a layer of a small network.
    values_BTCHW = _apply(values_BTCHW, normalisation)
    values_BTCHW.masked_fill_(~valid_BTHW[:, :, None], 0.0)
    return values_BTCHW, valid_BTHW.to(torch.float32)


LEAST = 2.0**-20
"""What a value at the mean becomes where planes have groups: 0 there is no data."""


def groups_present(there_BTCHW: torch.Tensor, groups: tuple[Group, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell which planes count, and which dates.

    Args:
        there_BTCHW: bool, which planes hold a value.
        groups: Group of each plane.

    Returns:
        bool ``(B, T, C, H, W)``, the planes that are there with all of their group, on valid dates; and bool
        ``(B, T, H, W)``, the valid dates: those with the optical or the radar planes, of layers alone with any.
    """
    import torch

    together = {g: [i for i, name in enumerate(groups) if name == g] for g in ("optical", "radar")}
    whole = {g: there_BTCHW[:, :, own].all(dim=2) for g, own in together.items() if own}
    kept = [whole[g] if g in whole else there_BTCHW[:, :, i] for i, g in enumerate(groups)]
    valid_BTHW = torch.stack(list(whole.values()) or kept).any(dim=0)
    return torch.stack(kept, dim=2) & valid_BTHW[:, :, None], valid_BTHW


def _by_group(
    values_BTCHW: torch.Tensor, normalisation: Standard, groups: tuple[Group, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise planes that are missing group by group, in place."""
    import torch

    kept_BTCHW, valid_BTHW = groups_present(values_BTCHW != 0, groups)
    values_BTCHW = _apply(values_BTCHW, normalisation)
    values_BTCHW.masked_fill_(values_BTCHW == 0, LEAST)
    values_BTCHW.masked_fill_(~kept_BTCHW, 0.0)
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
