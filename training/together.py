"""Processes that train together (torchrun): each learns its own batches, all make the same steps.

::

    torchrun --nproc-per-node 4 -m pipelines train train.yaml

Each step averages the gradients of all; N processes are as N accumulated batches in one, but for running statistics of
batch normalisation, which are those of the first process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from training.loader import Rank


@dataclass(frozen=True)
class Group:
    """The processes that train together; one alone is a group of one.

    Attributes:
        rank: This one.
        device: Where this one computes.
    """

    rank: Rank
    device: torch.device

    @classmethod
    def here(cls, device: str) -> Group:
        """Ask torch.distributed, where it is initialised."""
        return cls(Rank.here(), torch.device(device))

    @property
    def first(self) -> bool:
        """Whether this one writes and tells."""
        return self.rank.number == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.rank.count == 1

    def wrapped(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return a module whose backward pass averages gradients over the group."""
        if self.alone or not any(p.requires_grad for p in module.parameters()):
            return module
        ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def silent(self, wrapped: torch.nn.Module) -> AbstractContextManager[Any]:
        """Do not average in this backward pass: more batches of the same step follow."""
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            quiet: AbstractContextManager[Any] = wrapped.no_sync()
            return quiet
        return nullcontext()

    def mean(self, value: float) -> float:
        """Return the mean over the group."""
        return value if self.alone else float(self.total(np.array([value]))[0]) / self.rank.count

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum over the group, of the same dtype."""
        if self.alone:
            return values
        tensor = torch.from_numpy(values.copy()).to(self.device)
        dist.all_reduce(tensor)
        summed: NDArray[Any] = tensor.cpu().numpy()
        return summed

    def same_buffers(self, module: torch.nn.Module) -> None:
        """Give all the first one's buffers, such as running statistics."""
        if not self.alone:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def together(device: str) -> Iterator[Group]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Args:
        device: ``cpu`` or ``cuda``; of several GPUs each process takes the one of its number on its machine.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if started:
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Group.here(device)
        if started:
            dist.barrier()  # who leaves early closes connections that the others still use, which ends them
    finally:
        if started:
            dist.destroy_process_group()
