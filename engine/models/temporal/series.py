"""What all networks of series share: from windows to rows of pixels and back, in pieces of bounded memory.

::

    windows (B, T, C, H, W) ─ dates in order ─ pixels as rows (N, T, C) ─ pieces ─ encode ─ (N, F) ─ head ─ logits

Shape suffixes: B batch, T date, C band, H row, W column, N pixel, F feature, A attention head, K output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from engine.models.configs import NetworkConfig
from engine.models.temporal.dates import Ordered, as_given, in_order, tracing
from engine.values.errors import InputError

_CPU_ROWS = 512  # pixels at a time: their features stay in the cache
_GPU_ROWS = 16384
_TRAINED_ROWS = 8192  # a transformer keeps some 20 KiB of each date for its derivatives
_TRACED_ROWS = 1024  # each piece is a copy of the network in an exported graph


class Series(NamedTuple):
    """Series of single pixels, in order of time.

    Attributes:
        x: (N, T, C) float32, 0 where not valid.
        valid: (N, T) bool.
        days: (N, T) float32 running days, 0 = absent; (1, T) where all pixels have the same.
    """

    x: torch.Tensor
    valid: torch.Tensor
    days: torch.Tensor


class SeriesNetwork(nn.Module):
    """A network that sees one pixel's series at a time; a child gives `encode`.

    A pixel without any valid date has features 0.

    Args:
        config: Sizes.
        n_features: Length of what `encode` gives.
    """

    def __init__(self, config: NetworkConfig, n_features: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(n_features, config.n_classes)

    def encode(self, series: Series) -> torch.Tensor:
        """Return the features (N, F) of each pixel, finite also where no date is valid."""
        raise NotImplementedError

    def known(self, series: Series) -> torch.Tensor:
        """Return the features (N, F), 0 where no date is valid."""
        return self.encode(series) * series.valid.any(dim=1, keepdim=True).to(series.x.dtype)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits of each pixel by itself, whatever the order of its dates.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.
            days: float32 (T,) or (B, T), running days (`engine.values.days`), 0 = no such date.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates, bands or days do not fit.
        """
        dates = self._dates(x_BTCHW, valid_BTHW, days)
        return self._per_pixel(dates, lambda series: self.head(self.known(series)))

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return what the head sees, (B, F, H, W); arguments as of `forward`."""
        return self._per_pixel(self._dates(x_BTCHW, valid_BTHW, days), self.known)

    def _dates(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> Ordered:
        found, config = tuple(x_BTCHW.shape[1:3]), self.config
        limit = (config.n_dates or found[0], config.n_bands)
        if found != limit:
            raise InputError(
                "the network has another number of dates or bands",
                where="network of series",
                found=f"{found[0]} dates x {found[1]} bands",
                limit=f"{limit[0]} dates x {limit[1]} bands",
                mend="build the cube from the bundle's own spec",
            )
        return in_order(x_BTCHW, valid_BTHW, days)

    def _per_pixel(self, dates: Ordered, compute: Callable[[Series], torch.Tensor]) -> torch.Tensor:
        """Apply a function of rows of pixels to windows: (B, F, H, W)."""
        batch, n_dates, bands, height, width = dates.x.shape
        x_NTC = dates.x.permute(0, 3, 4, 1, 2).reshape(-1, n_dates, bands)
        valid_NT = dates.valid.permute(0, 2, 3, 1).reshape(-1, n_dates) > 0
        days_NT = dates.days if len(dates.days) == 1 else dates.days.repeat_interleave(height * width, 0)
        found_NF = self._computed(Series(x_NTC, valid_NT, days_NT), compute)
        return found_NF[: len(x_NTC)].view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _computed(self, whole: Series, compute: Callable[[Series], torch.Tensor]) -> torch.Tensor:
        """Apply it piece by piece; in training what derivatives need is computed again, not kept."""
        if not self.training:
            rows = _CPU_ROWS if whole.x.device.type == "cpu" else _GPU_ROWS
            return torch.cat(
                [compute(piece) for piece in _pieces(whole, _TRACED_ROWS if tracing() else rows)]
            )
        if len(whole.x) <= _TRAINED_ROWS or any(isinstance(part, _BatchNorm) for part in self.modules()):
            return compute(whole)  # batch norms in training look at all pixels of the batch
        pieces = _pieces(whole, _TRAINED_ROWS)
        return torch.cat([checkpoint(compute, piece, use_reentrant=False) for piece in pieces])


class AttentiveNetwork(SeriesNetwork):
    """A network that can say how much each date counted; a child also gives `attend`."""

    def attend(self, series: Series) -> torch.Tensor:
        """Return the weight of each date, (N, A, T): 0 where not valid, 1 in sum."""
        raise NotImplementedError

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the weight of each date as given, (B, A, T, H, W); arguments as of `forward`.

        A pixel without any valid date has weights without a meaning.
        """
        dates = self._dates(x_BTCHW, valid_BTHW, days)
        flat_BFHW = self._per_pixel(dates, lambda series: self.attend(series).flatten(1))
        return as_given(flat_BFHW.unflatten(1, (-1, x_BTCHW.shape[1])), dates.order)


def masked_mean(x_NTF: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
    """Return the mean over the valid dates, (N, F); 0 without any."""
    weight_NT1 = valid_NT[..., None].to(x_NTF.dtype)
    return (x_NTF * weight_NT1).sum(1) / weight_NT1.sum(1).clamp_min(1.0)


def masked_softmax(scores_NAT: torch.Tensor, valid_NAT: torch.Tensor) -> torch.Tensor:
    """Return weights over the valid dates, 1 in sum; alike over all dates where none is valid."""
    lowest = torch.finfo(scores_NAT.dtype).min  # finite, so that no valid date gives no NaN
    return torch.softmax(scores_NAT.masked_fill(~valid_NAT, lowest), dim=-1)


def _pieces(whole: Series, rows: int) -> Iterator[Series]:
    """Cut rows into pieces of one fixed size, the last filled up: odd row counts change the last bits."""
    missing = -len(whole.x) % rows
    x_NTC = functional.pad(whole.x, (0, 0, 0, 0, 0, missing))
    valid_NT = functional.pad(whole.valid, (0, 0, 0, missing))
    alike = len(whole.days) == 1
    days_NT = whole.days if alike else functional.pad(whole.days, (0, 0, 0, missing))
    for at in range(0, len(x_NTC), rows):
        piece = slice(at, at + rows)
        yield Series(x_NTC[piece], valid_NT[piece], days_NT if alike else days_NT[piece])
