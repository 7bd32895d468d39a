"""Which dates a network with attention looks at, for each class.

Attention says where a network looks, not what its answer rests on (Jain and Wallace 2019, arXiv:1902.10186):
read it beside the occlusion of dates.

Shape suffixes: N example, B batch, A head, T date, S step, K class, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.errors import DataError
from training.explain.attribution import class_means
from training.explain.examples import Examples
from training.explain.lens import Lens, fitted
from training.explain.season import Season


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of examples, the mean over the pixels of their class.

    Attributes:
        values: (N, A, S) float64, weight of each head on each step.
        even: (N, S) float64, what a network would give that looks at all valid dates alike.
        of: (N,) int64, class of each example.
    """

    values: NDArray[np.float64]
    even: NDArray[np.float64]
    of: NDArray[np.int64]

    def by_class(self, n_classes: int) -> NDArray[np.float64]:
        """Mean over the examples of each class, (K, A, S); NaN without any."""
        return class_means(self.values, self.of, n_classes)


@torch.no_grad()
def attention(lens: Lens, examples: Examples, season: Season) -> Attention:
    """Read the attention weights that a network offers.

    Args:
        lens: A network with ``attention(x, valid[, days]) -> (B, heads, T, H, W)``.
        examples: What it looks at.
        season: Steps of their dates.

    Raises:
        DataError: If the weights do not fit the dates.
    """
    found, even = [], []
    for inputs in lens.pieces(examples):
        weight_BATHW = lens.call(lens.module.attention, inputs)  # type: ignore[arg-type]
        if weight_BATHW.shape[2] != inputs.x.shape[1]:
            raise DataError(
                "the attention does not fit the dates",
                where=type(lens.module).__name__,
                found=f"{weight_BATHW.shape[2]} weights",
                limit=f"{inputs.x.shape[1]} dates",
            )
        mine_BHW = examples.mine[inputs.which]
        found.append(_mean_over(weight_BATHW, fitted(mine_BHW, weight_BATHW.shape[3:])))
        share = inputs.valid / inputs.valid.sum(dim=1, keepdim=True).clamp_min(1)
        even.append(_mean_over(share[:, None], mine_BHW)[:, 0])
    values_NTA = torch.cat(found).permute(0, 2, 1).double().numpy()
    even_NT = torch.cat(even).double().numpy()
    return Attention(season.summed(values_NTA).transpose(0, 2, 1), season.summed(even_NT), examples.of)


def _mean_over(values_BATHW: torch.Tensor, mine_BHW: torch.Tensor) -> torch.Tensor:
    weight = mine_BHW[:, None, None].to(values_BATHW.dtype)
    return (values_BATHW * weight).sum(dim=(3, 4)) / weight.sum(dim=(3, 4)).clamp_min(1)
