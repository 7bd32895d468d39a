"""What travels from a loader through augmentation to a network: patches of a cube with their targets.

The values are the cube's own; they become floats after augmentation, in `Batch.prepared`, which is what
prediction calls.

Shape suffixes: B batch, T date, C band, P polarisation, L layer, H row, W column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from engine.models.normalise import prepare
from training.losses import IGNORE

if TYPE_CHECKING:
    from engine.models.normalise import LogSigmoid, Standard

__all__ = ["IGNORE", "Batch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of one size. Tensors, so that worker processes hand them over in shared memory.

    Attributes:
        x: (B, T, C, H, W) uint16, the cube's reflectance x 10000, 0 = no data.
        dates: (B, T) int16, running day of each date (`engine.values.days`); 0 where there is none.
        present: (B, T) bool, False where a patch has fewer dates than others of its batch; `x` is 0 there.
        target: (B, H, W) uint8, index of the class in the network's order, `IGNORE` = not annotated.
        weight: (B, H, W) float32, weight of each label, 0..1; 0 where not annotated.
        place: (B, 2) int64, global row and column of the upper left pixel on the cube's grid.
        radar: (B, T, P, H, W) float32 backscatter in dB of the dates in `dates`, NaN = no data, or None.
        layers: (B, L, H, W) float32 static layers, NaN = no data, or None.
    """

    x: torch.Tensor
    dates: torch.Tensor
    present: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    place: torch.Tensor
    radar: torch.Tensor | None = None
    layers: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def n_dates(self) -> int:
        """Length T of the date axis."""
        return int(self.x.shape[1])

    def prepared(self, normalisation: Standard | LogSigmoid) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise as prediction does: ``x_BTCHW`` float32 and ``valid_BTHW`` float32, both 0 where not valid."""
        return prepare(self.x, normalisation)

    def to(self, device: str | torch.device) -> Batch:
        """Move all tensors to a device; from pinned memory while the processor goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Put all tensors into memory that a GPU copies from directly; torch's DataLoader calls it."""
        return self._each(torch.Tensor.pin_memory)

    def annotated(self) -> Batch:
        """Return the annotated pixels alone, each as a patch of one pixel: all that a pixel-wise network learns from.

        The batch as it is where fewer than two are annotated, which are too few for a batch norm.
        """
        known_BHW = self.target != IGNORE
        b, row, col = known_BHW.nonzero(as_tuple=True)
        if len(b) < 2 or self.target.shape[1:] == (1, 1):
            return self

        def taken(patches: torch.Tensor) -> torch.Tensor:
            return patches.movedim((-2, -1), (1, 2))[known_BHW][..., None, None]

        return Batch(
            x=taken(self.x.view(torch.int16)).view(torch.uint16),
            dates=self.dates[b],
            present=self.present[b],
            target=taken(self.target),
            weight=taken(self.weight),
            place=self.place[b] + torch.stack([row, col], dim=1),
            radar=None if self.radar is None else taken(self.radar),
            layers=None if self.layers is None else taken(self.layers),
        )

    def padded(self, n_dates: int) -> Batch:
        """Append dates that are not present, up to `n_dates`."""
        more = n_dates - self.n_dates
        if more <= 0:
            return self
        radar = self.radar
        if radar is not None:
            radar = functional.pad(radar, (0, 0, 0, 0, 0, 0, 0, more), value=float("nan"))
        return replace(
            self,
            x=torch.cat([self.x, self.x.new_zeros((len(self), more, *self.x.shape[2:]))], dim=1),
            dates=functional.pad(self.dates, (0, more)),
            present=functional.pad(self.present, (0, more)),
            radar=radar,
        )

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Join batches of one patch size; shorter date axes are padded to the longest.

        Args:
            batches: At least one; all with radar and layers, or all without.
        """
        longest = max(batch.n_dates for batch in batches)
        alike = [batch.padded(longest) for batch in batches]
        named: dict[str, Any] = {}
        for field in fields(cls):
            parts = [getattr(batch, field.name) for batch in alike]
            named[field.name] = None if parts[0] is None else torch.cat(parts)
        return cls(**named)

    def __getstate__(self) -> dict[str, torch.Tensor | None]:
        """Pass `x` on as int16: torch 2 cannot pickle uint16, whichever way a tensor travels."""
        return vars(self) | {"x": self.x.view(torch.int16)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"x": state["x"].view(torch.uint16)})

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        named: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: None if t is None else change(t) for name, t in named.items()}
        return Batch(**moved)
