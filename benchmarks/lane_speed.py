"""Windows per second of a U-Net on one CPU thread: batch, memory order, folding, normalisation, packing.

Run on a quiet machine: ``python benchmarks/lane_speed.py``. What it showed is why the lane evaluates
one window at a time, channels last, with batch norms folded, and packed (`engine.models.packed`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch

from engine.models.fold import fold_batchnorm
from engine.models.packed import pack
from engine.models.registry import build

_SIDE_PX, _BANDS = 256, 10
_SIZES = {"1.5 M": {"width": 24, "width_max": 128}, "0.5 M": {}}


def _best_s(call: Callable[[], object], repeats: int = 4) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.inference_mode()
def _rate(module: torch.nn.Module, batch: int) -> float:
    x_BTCHW = torch.randn(batch, 1, _BANDS, _SIDE_PX, _SIDE_PX)
    valid_BTHW = torch.ones(batch, 1, _SIDE_PX, _SIDE_PX)
    return batch / _best_s(lambda: module(x_BTCHW, valid_BTHW))


def main() -> None:
    """Print one row per variant."""
    torch.set_num_threads(1)
    print("size   norm   folded  order          windows/s at batch 1, 2, 4, 8")
    for label, sizes in _SIZES.items():
        for norm, folded in (("batch", False), ("batch", True), ("group", False)):
            net = build(
                "unet", {"n_dates": 1, "n_bands": _BANDS, "n_classes": 12, "norm": norm, **sizes}
            ).eval()
            module = fold_batchnorm(net) if folded else net
            for order in (torch.contiguous_format, torch.channels_last):
                placed = copy.deepcopy(module).to(memory_format=order)
                name = "channels last" if order == torch.channels_last else "channels first"
                print(f"{label}  {norm}  {folded!s:6}  {name:14} {_rates(placed)}", flush=True)
            print(f"{label}  {norm}  {folded!s:6}  packed         {_rates(pack(placed))}", flush=True)


def _rates(module: torch.nn.Module) -> str:
    return "  ".join(f"{_rate(module, batch):6.2f}" for batch in (1, 2, 4, 8))


if __name__ == "__main__":
    main()
