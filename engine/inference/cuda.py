"""A CUDA device's places: each with a stream and pinned memory, so that copies run beside the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

PLACES = 2
"""Batches under way at a time: one is copied while the other is computed."""


class Places:
    """The places of one device.

    Args:
        device: ``cuda`` or ``cuda:n``.
    """

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        torch.cuda.synchronize(device)  # the weights are there before another stream reads them
        self._streams = [torch.cuda.Stream(device) for _ in range(PLACES)]
        self._pinned: list[dict[str, torch.Tensor]] = [{} for _ in range(PLACES)]

    def run(
        self, place: int, x_BTCHW: NDArray[np.uint16], compute: Callable[[torch.Tensor], torch.Tensor]
    ) -> NDArray[np.int32]:
        """Copy a batch to the device, compute, and copy the answer back.

        Args:
            place: 0 to `PLACES` - 1; never used by two threads at a time.
            x_BTCHW: The batch.
            compute: From the batch to (B, K, H, W) int32, both on the device.
        """
        import torch

        stream = self._streams[place]
        try:
            with torch.cuda.stream(stream):
                sent = self._pin(place, "sent", x_BTCHW.shape, torch.uint16)
                sent.numpy()[...] = x_BTCHW
                found = compute(sent.to(self.device, non_blocking=True))
                back = self._pin(place, "back", tuple(found.shape), found.dtype)
                back.copy_(found, non_blocking=True)
                stream.synchronize()
                return np.array(back.numpy())
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise

    def _pin(self, place: int, name: str, shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
        import torch

        held = self._pinned[place].get(name)
        if held is None or tuple(held.shape) != shape:
            held = self._pinned[place][name] = torch.empty(shape, dtype=dtype, pin_memory=True)
        return held
