"""From a network's outputs to fixed point, by what they mean; window by window.

Shape suffixes: K output, H row, W column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from engine.inference.loops import softmax
from engine.values.calibration import VectorScale
from engine.values.errors import DataError
from engine.values.head import VALUE_ONE, Classes, MultiLabel, Values
from engine.values.lattice import PROBABILITY_ONE

if TYPE_CHECKING:
    import torch

Given = Literal["logits", "probabilities"]

_TINY = 1e-12


def fixed_point(
    outputs_KHW: torch.Tensor,
    temperature: float = 1.0,
    given: Given = "logits",
    head: Classes | MultiLabel | Values | None = None,
) -> torch.Tensor:
    """Turn one window's outputs into fixed point.

    One window at a time: a softmax over a batch may take another path through memory for each batch size.

    Args:
        outputs_KHW: float32 (or bfloat16, float16: computed in float32); for `Values` in their own unit.
        temperature: Divides the logits of classes; calibration.
        given: Whether classes come as logits or probabilities.
        head: What the outputs mean; None: classes.

    Returns:
        (K, H, W) int32, 0..65535: ``round(p * 65535)``, for values ``round((v - low) / step)``, 0..65534.

    Raises:
        DataError: If an output is not finite.
    """
    import torch

    if given == "logits" and isinstance(head, Classes | None) and outputs_KHW.device.type == "cpu":
        fixed_KHW = torch.empty(outputs_KHW.shape, dtype=torch.int32)
        fill_fixed_point(outputs_KHW, fixed_KHW.numpy(), temperature)
        return fixed_KHW
    _require_finite(bool(torch.isfinite(outputs_KHW).all()))
    scores_KHW = outputs_KHW.float().contiguous()
    if isinstance(head, Values):
        steps_KHW = (scores_KHW.clamp(head.low, head.high) - head.low) * (VALUE_ONE / (head.high - head.low))
        return torch.round(steps_KHW).to(torch.int32)
    if given == "probabilities" and temperature == 1.0:
        return torch.round(scores_KHW.clamp(0, 1) * PROBABILITY_ONE).to(torch.int32)
    if isinstance(head, MultiLabel):
        if given == "probabilities":
            scores_KHW = torch.logit(scores_KHW, eps=_TINY)
        p_KHW = torch.sigmoid(scores_KHW / temperature)
    else:
        if given == "probabilities":
            scores_KHW = torch.log(scores_KHW.clamp_min(_TINY))
        p_KHW = torch.softmax(scores_KHW / temperature, dim=0)
    return torch.round(p_KHW * PROBABILITY_ONE).to(torch.int32)


def fill_fixed_point(
    outputs_KHW: torch.Tensor,
    out_KHW: NDArray[np.int32],
    temperature: float = 1.0,
    given: Given = "logits",
    head: Classes | MultiLabel | Values | None = None,
) -> None:
    """As `fixed_point` on a CPU, into an array that is there: the usual case writes it once.

    Raises:
        DataError: If an output is not finite.
    """
    if given != "logits" or not isinstance(head, Classes | None):
        np.copyto(out_KHW, fixed_point(outputs_KHW, temperature, given, head).numpy())
        return
    scores_KHW = outputs_KHW.float().numpy()
    if outputs_KHW.shape[2] == 1:  # a column of pixels: as one row, along which the loop is fast
        scores_KHW, out_KHW = scores_KHW.swapaxes(1, 2), out_KHW.swapaxes(1, 2)
    _require_finite(softmax(scores_KHW.transpose(1, 2, 0), np.float32(temperature), out_KHW))


def scaled(outputs_BKHW: torch.Tensor, vector: VectorScale) -> torch.Tensor:
    """Scale and shift the logits of each class."""
    import torch

    def per_class(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=outputs_BKHW.device)[:, None, None]

    return outputs_BKHW.float() * per_class(vector.scale) + per_class(vector.shift)


def _require_finite(finite: bool) -> None:
    if not finite:
        raise DataError(
            "the network gave values that are not finite",
            where="lane",
            mend="check the bundle's normalisation and the cube's values",
        )
