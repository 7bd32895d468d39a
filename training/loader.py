"""Batches for torch straight from a cube: each block read once for many patches, well mixed, resumable.

::

    from training.loader import LoaderOptions, loader

    batches = loader("run/cube.zarr", labels, LoaderOptions(batch=16), split=Split())
    print(batches)                            # patches, reuse of blocks, mixing, memory
    for epoch in range(10):
        for batch in batches:                 # training.batch.Batch
            values, valid = batch.prepared(normalisation)

Which patches there are follows from the sampler, the seed and the epoch (`training.samples`); their order from
these, the buffer and the streams (`training.plan`). It does not depend on the number of worker processes or
threads, or on who reads the blocks. `Loader.state_dict` in the middle of an epoch, and `load_state_dict` later,
give exactly the batches that were left.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engine.inference.allocator import keep_freed_memory
from engine.values.bands import common_name
from engine.values.budget import GIB, MIB
from engine.values.errors import BudgetError, ConflictError, InputError, SpecError
from engine.values.planes import Plane
from training.augment import AugmentOptions, augment
from training.batch import Batch
from training.feed import Background, Cutter, stream_batches
from training.memory import Memory
from training.mixing import Mixing, mixing
from training.plan import Blocks, EpochPlan, Mix, StreamPlan, plan_epoch
from training.samples import Patches, Pixels, places_of
from training.sources import Block, Source, source_of
from training.splits import TRAIN, Split
from training.targets import Targets, targets_of

if TYPE_CHECKING:
    import xarray as xr

    from training.labels import LabelRaster


class LoaderOptions(BaseModel):
    """How batches are drawn, mixed and read.

    Attributes:
        draw: Which patches, or single pixels.
        batch: Patches a batch, about: an epoch is shared out evenly.
        bands: Bands in this order; None takes the cube's.
        planes: What a network sees, all in `x`; none: reflectance, with radar and layers beside it.
        drop_empty_dates: Leave out dates of which a patch has no pixel; for cubes that keep each acquisition.
        seed: Of patches and order.
        buffer_bytes: Of the blocks held by all streams of a rank together, such as ``4GiB``.
        places: Parts of the area that a stream draws from at a time, at least, if the buffer allows: more mix
            better, fewer read blocks twice less often.
        streams: Parts of an epoch that are read apart; each batch comes from one of them. As many as there are
            workers, or a multiple.
        workers: Processes that cut and read; 0: threads alone, which do as well unless augmentation is slow.
        threads: That read and decompress blocks, in each process.
        ahead: Batches made before they are asked for, in each process.
        pin_memory: Put batches where a GPU copies them from directly.
        augment: What is drawn for each patch, in the process that cuts it; by seed, epoch and the patch's number.
            `training.augment.AugmentOptions.paste` also hangs on the patch's neighbour in its batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    draw: Patches | Pixels = Field(default_factory=Patches)
    batch: int = Field(default=8, ge=1)
    bands: tuple[str, ...] | None = None
    planes: tuple[Plane, ...] = ()
    drop_empty_dates: bool = False
    seed: int = 0
    buffer_bytes: int = Field(default=GIB, ge=1)
    places: int = Field(default=16, ge=1)
    streams: int = Field(default=1, ge=1)
    workers: int = Field(default=0, ge=0)
    threads: int = Field(default_factory=lambda: min(8, os.cpu_count() or 1), ge=1)
    ahead: int = Field(default=2, ge=1)
    pin_memory: bool = False
    augment: AugmentOptions | None = None

    @model_validator(mode="after")
    def _of_patches(self) -> LoaderOptions:
        if self.augment is not None and isinstance(self.draw, Pixels):
            raise ValueError("augment is for patches; single pixels have nothing to turn")
        return self

    @field_validator("buffer_bytes", mode="before")
    @classmethod
    def _amount(cls, value: Any) -> Any:
        if isinstance(value, str):
            from dask.utils import parse_bytes

            return parse_bytes(value)
        return value

    @field_validator("bands", mode="before")
    @classmethod
    def _common(cls, value: Any) -> Any:
        return value if value is None else tuple(common_name(v) for v in value)


@dataclass(frozen=True)
class Rank:
    """Which part of each epoch this process takes.

    Attributes:
        number: 0..count - 1.
        count: Processes that train together.
    """

    number: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Rank:
        """Ask torch.distributed, where it is initialised."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()


class CubeDataset(IterableDataset[Batch]):
    """Batches of one rank; for a DataLoader with ``batch_size=None``, or to be iterated over as it is.

    Worker processes share the streams out. `loader` puts it together and adds resuming.

    Args:
        source: The cube.
        targets: What is learnt.
        options: How.
        rank: Which part of each epoch.
        client: A `distributed.Client` whose workers read the blocks; None reads here.

    Raises:
        SpecError: If the cube lacks a band.
        InputError: If the labels reach beyond the cube, or nothing can be drawn.
        BudgetError: If the buffer cannot hold the blocks of one patch.
    """

    def __init__(
        self,
        source: Source,
        targets: Targets,
        options: LoaderOptions,
        rank: Rank | None = None,
        client: Any = None,
    ) -> None:
        super().__init__()
        keep_freed_memory()  # batches are as large as windows of prediction; before threads start
        self.source, self.targets, self.options = source, targets, options
        self.rank, self.client = rank or Rank(), client
        if not source.shape.box.holds(targets.box):
            raise InputError(
                "the labels reach beyond the cube", where="labels", found=targets.box, limit=source.shape.box
            )
        self.bands = _numbers(source.shape.bands, options.bands)
        self.memory = Memory()
        # Shared with worker processes: epoch, and the first batch of it that is asked for.
        self.position = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return 1 if isinstance(self.options.draw, Pixels) else self.options.draw.patch_px

    @property
    def blocks_a_stream(self) -> int:
        """Blocks that one stream may hold."""
        return max(1, self.options.buffer_bytes // self.source.shape.block_bytes // self.options.streams)

    def plan(self, epoch: int) -> EpochPlan:
        """Plan an epoch of all ranks."""
        return _plan(self, epoch)

    def own(self, plan: EpochPlan) -> EpochPlan:
        """Return this rank's streams of a plan."""
        n, first = self.options.streams, self.rank.number * self.options.streams
        return EpochPlan(plan.streams[first : first + n], plan.corners)

    def __len__(self) -> int:
        return self.own(self.plan(int(self.position[0]))).n_batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = (int(v) for v in self.position)
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        n_streams = self.options.streams
        _require_even(n_streams, count)
        # torch asks worker 0 first, wherever in the epoch that is
        mine = [s for s in range(n_streams) if s % count == (number + start) % count]
        mine.sort(key=lambda s: (s - start) % n_streams)
        return self._batches(self.own(self.plan(epoch)), mine, start, epoch)

    def _batches(self, plan: EpochPlan, mine: list[int], start: int, epoch: int) -> Iterator[Batch]:
        cutter = self._cutter(plan)
        n_streams, most = self.options.streams, self.blocks_a_stream
        with _Reader(self.source, self.client, self.options.threads) as read:
            streams = []
            for s in mine:
                first = -(-max(0, start - s) // n_streams)
                stream = stream_batches(plan.streams[s], cutter, read, most, first)
                streams.append(self._augmented(stream, plan.streams[s], first, epoch))
            waiting = True
            while waiting:
                waiting = False
                for stream in streams:
                    for batch in stream:
                        waiting = True
                        yield batch
                        break

    def _augmented(
        self, stream: Iterator[Batch], plan: StreamPlan, first: int, epoch: int
    ) -> Iterator[Batch]:
        """Augment a stream's batches, each patch by its number in the epoch."""
        options = self.options
        for number, batch in enumerate(stream, first):
            if options.augment is None:
                yield batch
            else:
                keys = np.array([[options.seed, epoch, patch] for patch in plan.batch(number)])
                yield augment(batch, options.augment, keys, planes=self.source.shape.planes)

    def _cutter(self, plan: EpochPlan) -> Cutter:
        shape = self.source.shape
        spans = Blocks(shape.edges_y, shape.edges_x, self.patch_px).spans(plan.corners)
        drop_empty, memory = self.options.drop_empty_dates, self.memory
        return Cutter(shape, self.targets, plan.corners, spans, self.patch_px, self.bands, drop_empty, memory)


@functools.lru_cache(maxsize=2)
def _plan(dataset: CubeDataset, epoch: int) -> EpochPlan:
    options, shape = dataset.options, dataset.source.shape
    corners = places_of(options.draw, dataset.targets, shape.box, options.seed, epoch)
    mix = Mix(
        batch=options.batch,
        streams=options.streams * dataset.rank.count,
        blocks=dataset.blocks_a_stream,
        places=options.places,
        together=dataset.patch_px == 1,
    )
    blocks = Blocks(shape.edges_y, shape.edges_x, dataset.patch_px)
    return plan_epoch(corners, blocks, mix, options.seed, epoch)


class _Reader:
    """Reads blocks in threads; with a client each thread waits for a worker, so that few are under way."""

    def __init__(self, source: Source, client: Any, threads: int) -> None:
        self._source, self._client = source, client
        self._pool = ThreadPoolExecutor(threads, "landweave-read")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, row: int, col: int) -> Future[Block]:
        return self._pool.submit(self._read, row, col)

    def release(self, block: Block) -> None:
        self._source.release(block)

    def _read(self, row: int, col: int) -> Block:
        if self._client is None:
            return self._source.read(row, col)
        block: Block = self._source.submit(self._client, row, col).result()
        return block


@dataclass
class Loader:
    """Iterates over batches, epoch after epoch; knows where it stands.

    Each ``iter`` goes on from where the last one stopped: a loop that breaks goes on with the next batch; a
    whole epoch is followed by the next one.

    Attributes:
        dataset: What it iterates over.
        epoch: Of the next batch.
        done: Batches of the epoch that were given.
    """

    dataset: CubeDataset
    epoch: int = 0
    done: int = 0
    _torch: DataLoader[Batch] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.plan().n_batches

    def plan(self) -> EpochPlan:
        """Return what is planned for this rank in the epoch."""
        return self.dataset.own(self.dataset.plan(self.epoch))

    def __iter__(self) -> Iterator[Batch]:
        if self.done >= len(self):
            self.set_epoch(self.epoch + 1)
        self.dataset.position.copy_(torch.tensor([self.epoch, self.done]))
        n_batches, batches = len(self), self._source()
        try:
            for batch in batches:
                self.done += 1
                yield batch
            if self.done == n_batches:
                self.set_epoch(self.epoch + 1)
        finally:
            if isinstance(batches, Background):
                batches.close()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.done = epoch, 0

    def skip(self, batches: int) -> None:
        """Go on by as many batches, over the ends of epochs, without reading them."""
        self.done += batches
        while self.done >= (n_batches := len(self)):
            self.epoch, self.done = self.epoch + 1, self.done - n_batches

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON values; batches that wait in workers do not count as given."""
        return {"epoch": self.epoch, "done": self.done, "plan": self.plan().digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader over the same cube, labels and options stood.

        Raises:
            ConflictError: If this one would go on with other batches.
        """
        self.epoch, self.done = int(state["epoch"]), int(state["done"])
        if (own := self.plan().digest()) != state["plan"]:
            raise ConflictError(
                "the loader would go on with other batches than before",
                where="loader",
                found=own[:12],
                limit=str(state["plan"])[:12],
                mend="use the cube, labels, split, options and number of ranks of the first run",
            )

    def mixing(self) -> Mixing:
        """Measure how well mixed this rank's epoch is."""
        plan = self.plan()
        batches = [plan.batch(i) for i in range(plan.n_batches)]
        bounds = np.cumsum([0, *map(len, batches)])
        return mixing(plan.corners[np.concatenate(batches)], bounds)

    @property
    def reuse(self) -> float:
        """Pixels of patches per pixel of blocks read, in this epoch."""
        plan, shape = self.plan(), self.dataset.source.shape
        heights, widths = np.diff(shape.edges_y), np.diff(shape.edges_x)
        read = sum(int((heights[s.reads[:, 0]] * widths[s.reads[:, 1]]).sum()) for s in plan.streams)
        return sum(len(s.order) for s in plan.streams) * self.dataset.patch_px**2 / read

    def memory(self) -> dict[str, int]:
        """Project the bytes of this rank: blocks held, batches made ahead, labels."""
        data, plan = self.dataset, self.plan()
        blocks = (
            sum(min(len(s.reads), data.blocks_a_stream) for s in plan.streams) * data.source.shape.block_bytes
        )
        patch = data.patch_px**2 * (data.source.shape.pixel_bytes + 5)
        batches = (data.options.ahead + 2) * max(1, data.options.workers) * data.options.batch * patch
        copies = (1 + data.options.workers) * (1 if data.targets.weight is None else 2)
        labels = data.targets.index.nbytes * copies
        return {"blocks": blocks, "batches": batches, "labels": labels, "total": blocks + batches + labels}

    def __str__(self) -> str:
        plan, memory = self.plan(), self.memory()
        told = ", ".join(f"{k} {v / MIB:.0f} MiB" for k, v in memory.items())
        return (
            f"epoch {self.epoch}: {sum(len(s.order) for s in plan.streams)} patches in {plan.n_batches} batches, "
            f"{plan.n_reads} blocks read, reuse {self.reuse:.2f}, mixing {self.mixing().quality:.2f}; {told}"
        )

    def _source(self) -> Any:
        options = self.dataset.options
        if not options.workers:
            return Background(iter(self.dataset), options.ahead)
        if self._torch is None:
            self._torch = DataLoader(
                self.dataset,
                batch_size=None,
                num_workers=options.workers,
                prefetch_factor=options.ahead,
                pin_memory=options.pin_memory,
                persistent_workers=True,
                multiprocessing_context=_fresh_processes(),
            )
        return self._torch


def _fresh_processes() -> Any:
    """Return how workers start: not as a fork of this process, whose threads and locks would be half there."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])  # torch is imported once for all workers
    return context


def loader(
    cube: xr.Dataset | str | Path,
    labels: LabelRaster,
    options: LoaderOptions | None = None,
    *,
    split: Split | None = None,
    part: int = TRAIN,
    rank: Rank | None = None,
    client: Any = None,
) -> Loader:
    """Make a loader of a cube's patches with their labels.

    Args:
        cube: A run folder or ``cube.zarr``, path or URL: its inner chunks are read past Dask. Or a Dataset, lazy
            or loaded: its Dask chunks are computed.
        labels: On the cube's grid, within its box.
        options: How.
        split: How the area is split; None learns from all labels.
        part: Whose labels are given: TRAIN, VAL or TEST.
        rank: Part of each epoch for this process; None asks torch.distributed.
        client: A `distributed.Client` whose workers read the blocks, instead of threads here.

    Raises:
        InputError: If cube and labels do not fit together, or nothing can be drawn.
        SpecError: If the cube lacks a band.
        BudgetError: If the buffer cannot hold the blocks of one patch; with the numbers.
    """
    options = options or LoaderOptions()
    _require_even(options.streams, max(1, options.workers))
    source = source_of(cube, labels.box, planes=options.planes)
    _require_buffer(options, source)
    targets = targets_of(labels, split, part)
    if client is not None and options.workers:
        raise InputError(
            "blocks are read by the cluster or by workers here, not both", where="loader.workers"
        )
    return Loader(CubeDataset(source, targets, options, rank or Rank.here(), client))


def _require_buffer(options: LoaderOptions, source: Source) -> None:
    """Refuse a buffer that holds less than one block a stream, or more than there is memory."""
    import psutil

    block, free = source.shape.block_bytes, psutil.virtual_memory().available
    if options.buffer_bytes < block * options.streams:
        raise BudgetError(
            "the buffer cannot hold a block for each stream",
            where="loader.buffer_bytes",
            found=f"{options.buffer_bytes / MIB:.0f} MiB for {options.streams} streams",
            limit=f"{block / MIB:.0f} MiB a block",
            mend=f'set buffer_bytes to "{-(-9 * block * options.streams // MIB)}MiB" or more',
        )
    if options.buffer_bytes > free:
        raise BudgetError(
            "the buffer is larger than the free memory",
            where="loader.buffer_bytes",
            found=f"{options.buffer_bytes / GIB:.2f} GiB",
            limit=f"{free / GIB:.2f} GiB",
        )


def _require_even(n_streams: int, n_workers: int) -> None:
    if n_streams % n_workers:
        raise InputError(
            "workers must share the streams out evenly",
            where="loader.workers",
            found=f"{n_workers} workers",
            limit=f"a divisor of {n_streams} streams",
            mend="set streams to the number of workers or a multiple of it",
        )


def _numbers(have: tuple[str, ...], wanted: tuple[str, ...] | None) -> tuple[int, ...] | None:
    if wanted is None or wanted == have:
        return None
    missing = [band for band in wanted if band not in have]
    if missing:
        raise SpecError("the cube lacks bands", where="loader.bands", found=list(have), limit=list(wanted))
    return tuple(have.index(band) for band in wanted)
