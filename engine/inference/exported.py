"""Run a graph that `torch.export.save` wrote. Opening one may run code: only on an explicit word of trust."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.values.errors import DataError, InputError

if TYPE_CHECKING:
    import torch

    from engine.inference.bundle import Bundle


def exported_network(
    bundle: Bundle, device: str, fed: Callable[[torch.Tensor, str], torch.Tensor]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Open a trusted ``.pt2``; a bundle of that kind exists only where `load_bundle` was told to trust it.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        fed: Brings windows (B, T, C, H, W) into the order of the layout.

    Returns:
        ``(x_BTCHW, valid_BTHW) -> outputs_BKHW``, float32, both on the CPU whatever the device is.

    Raises:
        DataError: If the file is damaged or of another version of torch.
    """
    import torch

    try:
        module: Any = torch.export.load(io.BytesIO(bundle.read_weights())).module().to(device)
    except Exception as error:  # torch raises many kinds, and those of the code in the file
        raise DataError(
            "cannot open the graph of torch.export",
            where=str(bundle.weights_path),
            found=str(error)[:300],
            mend=f"this is torch {torch.__version__}; the manifest names the version that wrote it",
        ) from error
    layout, n_classes = bundle.layout, len(bundle.classes.classes)

    def one(x_1TCHW: torch.Tensor) -> torch.Tensor:
        found = module(fed(x_1TCHW, layout.order).contiguous().to(device)).cpu()
        rows = bundle.pixelwise and found.ndim == 2  # (row, K)
        outputs: torch.Tensor = found.T[None, ..., None] if rows else found.movedim(layout.class_axis, 1)
        limit = (1, n_classes, *(side // layout.stride for side in x_1TCHW.shape[3:]))
        if tuple(outputs.shape) != limit:
            raise InputError(
                "the network's output is not what the layout says",
                where="landweave:layout.class_axis",
                found=tuple(outputs.shape),
                limit=f"{limit} (batch, class, y, x)",
            )
        return outputs

    def run(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        # Window by window: a graph may have been written for a batch of one.
        return torch.cat([one(x_1TCHW) for x_1TCHW in x_BTCHW.split(1)])

    return run
