"""From a plan to batches: blocks are read ahead in threads, patches are cut out of them, blocks are given back.

Shape suffixes: B batch, T date, C band, P polarisation, L layer, H row, W column.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.grid import Box
from training.batch import Batch
from training.memory import Memory
from training.plan import StreamPlan
from training.sources import Block, Shape
from training.targets import Targets


class Read(Protocol):
    """Reads blocks."""

    def __call__(self, row: int, col: int) -> Future[Block]:
        """Begin to read a block."""
        ...

    def release(self, block: Block) -> None:
        """Take the memory of a block back, for the next one."""
        ...


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cuts patches out of blocks.

    Attributes:
        shape: Of the cube.
        targets: Of the part that is learnt.
        corners: (n, 2) int64, global row and column of each patch of the epoch.
        spans: (n, 4) int64, the blocks each needs, as `training.plan.Blocks.spans` tells.
        patch_px: Side of a patch.
        bands: Which bands, in which order; None takes all.
        drop_empty: Leave out the dates of which a patch has no pixel.
        memory: Of the batches.
    """

    shape: Shape
    targets: Targets
    corners: NDArray[np.int64]
    spans: NDArray[np.int64]
    patch_px: int
    bands: tuple[int, ...] | None = None
    drop_empty: bool = False
    memory: Memory = field(default_factory=Memory)

    def empty(self, n: int) -> Batch:
        """Make a batch of `n` patches to be filled in."""
        shape, side = self.shape, self.patch_px
        n_dates = len(shape.days)
        n_bands = len(shape.bands) if self.bands is None else len(self.bands)
        sides = (side, side)
        lead = {"radar": (n_dates, shape.polarisations), "layers": (shape.layers,)}
        more = {
            name: torch.from_numpy(self.memory.lend((n, *dims, *sides), np.float32)) if dims[-1] else None
            for name, dims in lead.items()
        }
        return Batch(
            x=torch.from_numpy(self.memory.lend((n, n_dates, n_bands, *sides), np.uint16)),
            dates=torch.from_numpy(shape.days).repeat(n, 1),
            present=torch.ones((n, n_dates), dtype=torch.bool),
            target=torch.empty((n, *sides), dtype=torch.uint8),
            weight=torch.empty((n, *sides)),
            place=torch.empty((n, 2), dtype=torch.int64),
            **more,
        )

    def box(self, patch: int) -> Box:
        """Return the global pixels of a patch."""
        y, x = (int(v) for v in self.corners[patch])
        return Box(y, x, y + self.patch_px, x + self.patch_px)

    def paste(self, batch: Batch, at: int, box: Box, block: Block) -> None:
        """Copy what a block has of a patch into a batch."""
        both = box & block.box
        here, there = both.slices_in(box), both.slices_in(block.box)
        out_TCHW, own_TCHW = batch.x[at].numpy(), block.x
        if self.bands is None:
            out_TCHW[(..., *here)] = own_TCHW[(..., *there)]
        else:
            for i, band in enumerate(self.bands):
                out_TCHW[(slice(None), i, *here)] = own_TCHW[(slice(None), band, *there)]
        for out, own in ((batch.radar, block.radar), (batch.layers, block.layers)):
            if out is not None and own is not None:
                out[at].numpy()[(..., *here)] = own[(..., *there)]

    def paste_pixels(
        self, batch: Batch, at: NDArray[np.int64], patches: NDArray[np.int64], block: Block
    ) -> None:
        """Copy single pixels out of a block into a batch, all at once."""
        ys, xs = (self.corners[patches] - (block.box.y0, block.box.x0)).T
        x_BTC = np.moveaxis(block.x[:, :, ys, xs], 2, 0)
        batch.x.numpy()[at, ..., 0, 0] = x_BTC if self.bands is None else x_BTC[:, :, list(self.bands)]
        for out, own in ((batch.radar, block.radar), (batch.layers, block.layers)):
            if out is not None and own is not None:
                out.numpy()[at, ..., 0, 0] = np.moveaxis(own[..., ys, xs], -1, 0)

    def label(self, batch: Batch, at: int, box: Box) -> None:
        """Fill in target, weight and place of a patch."""
        # By numpy: torch would share such small copies out over threads that have better to do.
        batch.target.numpy()[at], batch.weight.numpy()[at] = self.targets.patch(box)
        batch.place.numpy()[at] = box.y0, box.x0

    def label_pixels(self, batch: Batch, patches: NDArray[np.int64]) -> None:
        """Fill in target, weight and place of single pixels, which lie on the targets' box."""
        place, box = self.corners[patches], self.targets.box
        ys, xs = (place - (box.y0, box.x0)).T
        batch.target.numpy()[:, 0, 0], batch.weight.numpy()[:, 0, 0] = self.targets.pixels(ys, xs)
        batch.place.numpy()[:] = place

    def finished(self, batch: Batch) -> Batch:
        """Leave out empty dates, if asked to."""
        return without_empty_dates(batch) if self.drop_empty else batch


def without_empty_dates(batch: Batch) -> Batch:
    """Leave out of each patch the dates without any value; those that stay move to the front."""
    seen_BT = batch.x.view(torch.int16).flatten(2).ne(0).any(dim=2)
    if batch.radar is not None:
        seen_BT |= ~batch.radar.flatten(2).isnan().all(dim=2)
    longest = max(1, int(seen_BT.sum(dim=1).max()))
    order_BT = torch.argsort(seen_BT.logical_not().to(torch.uint8), dim=1, stable=True)[:, :longest]
    present_BT = seen_BT.gather(1, order_BT)
    rows = torch.arange(len(batch))[:, None]
    x = batch.x.view(torch.int16)[rows, order_BT].view(torch.uint16)
    return replace(
        batch,
        x=x,
        dates=torch.where(present_BT, batch.dates[rows, order_BT], 0),
        present=present_BT,
        radar=None if batch.radar is None else batch.radar[rows, order_BT],
    )


class Held:
    """The blocks of a stream that are being read or used, never more than allowed.

    Args:
        plan: The stream's epoch.
        read: Begins to read a block.
        most: Blocks at a time; at least the plan's peak.
        start: Position in the plan's order that is asked for first.
    """

    def __init__(self, plan: StreamPlan, read: Read, most: int, start: int = 0) -> None:
        self._plan, self._read, self._most = plan, read, max(most, plan.peak)
        wanted = np.flatnonzero(plan.last >= start)
        self._next, self._todo = 0, wanted
        self._ending, self._ended = wanted[np.argsort(plan.last[wanted], kind="stable")], 0
        self._futures: dict[tuple[int, int], Future[Block]] = {}
        self._users: dict[tuple[int, int], int] = {}

    def move_to(self, position: int) -> None:
        """Give back what is used no more at a position, and read ahead as far as there is room."""
        plan = self._plan
        while self._ended < len(self._ending) and plan.last[self._ending[self._ended]] < position:
            key = self._key(self._ending[self._ended])
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._read.release(self._futures.pop(key).result())
            self._ended += 1
        while self._next < len(self._todo):
            key = self._key(self._todo[self._next])
            if key not in self._users and len(self._users) >= self._most:
                break
            if key not in self._users:
                self._futures[key] = self._read(*key)
            self._users[key] = self._users.get(key, 0) + 1
            self._next += 1

    def block(self, row: int, col: int) -> Block:
        """Return a block that is used at the position moved to; waits until it is read."""
        return self._futures[row, col].result()

    def _key(self, read: Any) -> tuple[int, int]:
        row, col = self._plan.reads[read]
        return int(row), int(col)


def stream_batches(
    plan: StreamPlan, cutter: Cutter, read: Read, most: int, start: int = 0
) -> Iterator[Batch]:
    """Yield a stream's batches from one on.

    Args:
        plan: The stream's epoch.
        cutter: Cuts its patches.
        read: Begins to read a block.
        most: Blocks held at a time.
        start: Number of the first batch.
    """
    held = Held(plan, read, most, int(plan.bounds[start]))
    fill = _fill_pixels if cutter.patch_px == 1 else _fill_patches
    for number in range(start, plan.n_batches):
        patches = plan.batch(number)
        batch = cutter.empty(len(patches))
        fill(batch, cutter, patches, held, int(plan.bounds[number]))
        yield cutter.finished(batch)
    held.move_to(len(plan.order))


def _fill_patches(
    batch: Batch, cutter: Cutter, patches: NDArray[np.int64], held: Held, position: int
) -> None:
    for at, patch in enumerate(patches):
        held.move_to(position + at)
        box = cutter.box(patch)
        row, last_row, col, last_col = (int(v) for v in cutter.spans[patch])
        for r, c in itertools.product(range(row, last_row + 1), range(col, last_col + 1)):
            cutter.paste(batch, at, box, held.block(r, c))
        cutter.label(batch, at, box)


def _fill_pixels(batch: Batch, cutter: Cutter, pixels: NDArray[np.int64], held: Held, position: int) -> None:
    held.move_to(position)
    blocks, of = np.unique(cutter.spans[pixels][:, [0, 2]], axis=0, return_inverse=True)
    for number, (row, col) in enumerate(blocks):
        at = np.flatnonzero(of.reshape(-1) == number)
        cutter.paste_pixels(batch, at, pixels[at], held.block(int(row), int(col)))
    cutter.label_pixels(batch, pixels)


class Background:
    """Runs an iterator in a thread of its own, at most some items ahead; its errors come out here.

    Args:
        items: What to iterate over.
        ahead: Items that may wait.
    """

    def __init__(self, items: Iterator[Any], ahead: int) -> None:
        self._items, self._stop = items, threading.Event()
        self._waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(max(1, ahead))
        self._thread = threading.Thread(target=self._run, name="landweave-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        try:
            while True:
                item, error = self._waiting.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self._stop.is_set():
                    break
            else:
                self._put(None, StopIteration())
        except BaseException as error:  # told in the thread that asked
            self._put(None, error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()

    def _put(self, item: Any, error: BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._waiting.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return
