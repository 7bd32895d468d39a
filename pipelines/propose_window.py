"""A larger window, for a network that gives the same answers in it: measured, chosen, told.

A window's rim is seen better by its neighbour, so every pixel is evaluated ``(window / stride) ** 2`` times,
and windows across the line between two tiles are evaluated for both::

    window 256, overlap 96, blended             window 1120, overlap 96, trimmed: stride 1024
    tile of 2048: 14.4 x 14.4 windows           tile of 2048: 2 x 2 windows, none shared with a neighbour
    3.2 evaluations of each pixel               1.2 evaluations of each pixel

Other windows than the trained one are therefore trimmed, their stride divides the tile, and the overlap
stays. Which is fastest is measured here and now, with as many at once as tiles will be made at once, for a
large window may cost more per pixel than it saves (its activations leave the caches, and fresh memory must be
cleared by the system). The choice is frozen in the plan: it is part of what every tile is made of.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cluster.size import ClusterSize
from engine.inference.blend import ROWS
from engine.inference.bundle import Bundle
from engine.inference.decide import CONFIDENCE_ONE
from engine.inference.lane import Lane
from engine.inference.predict import predict
from engine.inference.receptive import SOME_DATES, simulated
from engine.values.budget import GIB, TileShape, tile_bytes
from engine.values.grid import Box, TileKey
from engine.values.head import Classes, Extra
from engine.values.lattice import Lattice
from pipelines.map_job import MapJob
from pipelines.plan_area import (
    require_bundle,
    require_free,
    tile_shape,
    trimmed_overlap,
    window_step,
    windowed,
)

LARGEST_PX = 2304
"""Windows beyond this are not tried: a float32 plane of one channel fills 20 MiB."""

GROWS = 1.3
"""Each stride that is tried is at least this many times the one before."""

LEAST_GAIN = 0.05
"""A window that saves less than this share of the time is not proposed: every change costs trust."""

TILES = 24
"""Tiles on which windows are counted."""

TIMED_S, ROUNDS = 2.0, 2
"""A window is timed for so many seconds, and at least so many times."""

PROBE_PX = 512
"""Side of the box on which answers are compared."""


Labels = NDArray[np.uint8]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class WindowTrial:
    """What one window would mean.

    Attributes:
        lattice: The windows.
        evaluations: How often a pixel of the map is evaluated.
        memory_bytes: Projected bytes of a worker.
        window_s: Seconds a window takes, over the windows made at once; None where it was not tried.
        km2_s: Seconds a square kilometre takes.
        peak_bytes: What this process had grown by when it was timed, over the windows made at once.
    """

    lattice: Lattice
    evaluations: float
    memory_bytes: int
    window_s: float | None = None
    km2_s: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Difference:
    """What another window changes in the map, on one box of it: around a crossing of the new window's lines.

    Attributes:
        pixels: Pixels compared, those with data.
        labels: Pixels with another label; None for networks without classes.
        most: Greatest change of a stored value, as a share of its range.
    """

    pixels: int
    labels: int | None
    most: float

    def line(self) -> str:
        """Say it to a person.

        >>> Difference(250_000, 20, 0.031).line()
        'another label on 20 of 250000 pixels (0.0080%, 80 a megapixel); values change by at most 0.031'
        """
        values = f"values change by at most {self.most:.3f}"
        if self.labels is None or not self.pixels:
            return f"{values}, on {self.pixels} pixels"
        share = self.labels / self.pixels
        return (
            f"another label on {self.labels} of {self.pixels} pixels ({share:.4%}, {share * 1e6:.0f} a megapixel);"
            f" {values}"
        )


@dataclass(frozen=True)
class WindowChoice:
    """The window that was chosen, and among which.

    Attributes:
        trials: All windows; the trained one first.
        chosen: Position of the choice.
        reason: Why, for people.
        at_once: Windows timed at the same time.
        difference: What it changes against the trained window; None where nothing was compared.
    """

    trials: tuple[WindowTrial, ...]
    chosen: int
    reason: str
    at_once: int
    difference: Difference | None = None

    @property
    def window_px(self) -> int:
        """Side of the chosen window."""
        return self.trials[self.chosen].lattice.window_px

    def as_dict(self) -> dict[str, Any]:
        """Return figures for programs."""
        return {
            "window_px": self.window_px,
            "reason": self.reason,
            "at_once": self.at_once,
            "trials": [asdict(t) for t in self.trials],
            "difference": asdict(self.difference) if self.difference else None,
        }

    def lines(self) -> dict[str, str]:
        """Return a line for each window, the reason and the difference."""
        told = {}
        for n, trial in enumerate(self.trials):
            name = f"window {trial.lattice.window_px}" + (" *" if n == self.chosen else "")
            told[name] = _trial_line(trial)
        changed = self.difference.line() if self.difference else "not compared: no pixel was read"
        return told | {"window": f"{self.window_px} px: {self.reason}", "against the trained one": changed}


def _trial_line(trial: WindowTrial) -> str:
    seconds = (
        f"{trial.window_s:.2f} s a window, {trial.km2_s:.3f} s a km2, " if trial.window_s else "not timed, "
    )
    lattice = trial.lattice
    return (
        f"overlap {lattice.overlap_px}, {lattice.kernel}: {seconds}{trial.evaluations:.2f} evaluations a pixel,"
        f" {trial.memory_bytes / GIB:.2f} GiB a worker"
    )


def propose_window(job: MapJob, steps: tuple[int, int], cluster: ClusterSize | None) -> WindowChoice:
    """Try windows on this machine and choose one.

    Args:
        job: The map with its trained window.
        steps: Time steps, and most overpasses in one, as of `pipelines.plan_area.check_fit`.
        cluster: Where it will run; None where only its scheduler knows: then one window is timed at a time.

    Raises:
        InputError: If the bundle does not say that its network is free of the window's size.
    """
    bundle = require_bundle(job.bundle)
    require_free(bundle)
    at_once = max(1, min(cluster.slots, os.cpu_count() or 1)) if cluster else 1
    limit = cluster.memory_limit if cluster else None
    tiles = _some_tiles(job)
    together = max(1, cluster.slots // cluster.workers) if cluster else 1
    trials: list[WindowTrial] = []
    before_bytes = resident_bytes()
    for lattice in candidates(bundle, job.tile_px * job.stride):
        changed = replace(job, bundle=replace(bundle, lattice=lattice))
        trial = _counted(changed, tiles, tile_shape(changed, steps, together))
        if not trials or limit is None or trial.memory_bytes <= limit:
            trial = _timed(changed, trial, at_once, before_bytes)
        trials.append(trial)
    chosen, reason = choose(trials, limit)
    return WindowChoice(tuple(trials), chosen, reason, at_once)


def candidates(bundle: Bundle, tile_px: int) -> list[Lattice]:
    """List the trained lattice and larger ones, whose stride divides a tile and whose window the network takes.

    Args:
        bundle: The model.
        tile_px: Side of a tile in pixels of the cube.
    """
    found, step = [bundle.lattice], window_step(bundle)
    if bundle.pixelwise:
        return found
    for stride in sorted(n for n in range(step, tile_px + 1, step) if tile_px % n == 0):
        if stride < GROWS * found[-1].stride_px:
            continue
        lattice = windowed(bundle, stride + trimmed_overlap(bundle)).lattice
        if lattice.window_px > LARGEST_PX:
            break
        found.append(lattice)
    return found


def choose(trials: Sequence[WindowTrial], limit_bytes: int | None) -> tuple[int, str]:
    """Choose the window that takes least time among those that fit, the trained one where little is gained.

    Args:
        trials: The trained window first.
        limit_bytes: Of a worker; None without a limit.

    Returns:
        Position of the choice, and the reason.
    """
    timed = [n for n, t in enumerate(trials) if t.km2_s is not None]
    fitting = [n for n in timed if limit_bytes is None or trials[n].memory_bytes <= limit_bytes]
    left_out = len(trials) - len(fitting)
    beyond = f"; {left_out} do not fit into {(limit_bytes or 0) / GIB:.2f} GiB" if left_out else ""
    best = min(fitting, key=lambda n: trials[n].km2_s or math.inf, default=0)
    before, after = trials[0].km2_s or 0.0, trials[best].km2_s or 0.0
    if best == 0 or after > (1 - LEAST_GAIN) * before:
        return 0, f"no other window is faster by {LEAST_GAIN:.0%}{beyond}"
    return best, f"{after / before:.2f} times the time of the trained window{beyond}"


def label_difference(job: MapJob, lattice: Lattice) -> Difference | None:
    """Compare the job's windows with other ones on a box of the map; reads that box once.

    Args:
        job: The map, with either lattice.
        lattice: The other windows.

    Returns:
        None where no tile has a scene.
    """
    first = require_bundle(job.bundle)
    second = replace(first, lattice=lattice)
    step = max((first, second), key=lambda b: b.lattice.stride_px).lattice.stride_px // job.stride
    core = _at_a_crossing(job, step)
    scenes = job.scenes_near(core)
    if scenes is None or not len(scenes):
        return None
    outers = [bundle.outer(job.fine(core)) for bundle in (first, second)]
    ys, xs = ([getattr(o, k) for o in outers for k in sides] for sides in (("y0", "y1"), ("x0", "x1")))
    cube = job.open(scenes, Box(min(ys), min(xs), max(ys), max(xs))).load()
    return _compared(*(_answers(cube, bundle, job.fine(core)) for bundle in (first, second)))


def _answers(cube: xr.Dataset, bundle: Bundle, core: Box) -> tuple[Labels | None, Shares]:
    """Return labels (y, x), None without classes, and outputs (K, y, x) as shares of their range, NaN = no data."""
    extras: tuple[Extra, ...] = ("probability",) if isinstance(bundle.head, Classes) else ()
    layers = bundle.layers(extras)
    name = "probability" if "probability" in layers.slices else next(iter(layers.slices))
    mapped = predict(cube, bundle, core=core, layers=extras).load()
    stored = mapped[name].values
    span = CONFIDENCE_ONE if stored.dtype == np.uint8 else 2 * np.iinfo(stored.dtype).max
    shares = np.where(stored == layers.no_data(name), np.nan, stored / span)
    return (mapped["label"].values if "label" in mapped else None), shares


def _compared(first: tuple[Labels | None, Shares], second: tuple[Labels | None, Shares]) -> Difference:
    gaps = np.abs(first[1] - second[1])
    known = ~np.isnan(gaps).all(axis=0)
    labels = None
    if first[0] is not None and second[0] is not None:
        labels = int((first[0] != second[0])[known].sum())
    return Difference(int(known.sum()), labels, float(np.nanmax(gaps, initial=0.0)))


def _at_a_crossing(job: MapJob, stride: int) -> Box:
    """Return a box around a crossing of lines ``stride`` pixels apart, in the tile that holds most of it."""
    half = PROBE_PX // 2

    def around(tile: TileKey) -> Box:
        core = job.core(tile)
        y, x = (round((lo + hi) / 2 / stride) * stride for lo, hi in ((core.y0, core.y1), (core.x0, core.x1)))
        return Box(y - half, x - half, y + half, x + half) & core

    boxes = [around(tile) for tile in _some_tiles(job)]
    with_scenes = [b for b in boxes if b and (scenes := job.scenes_near(b)) is not None and len(scenes)]
    return max(with_scenes, key=lambda box: box.area_px, default=Box(0, 0, 0, 0))


def _some_tiles(job: MapJob) -> list[TileKey]:
    """Return tiles evenly along the walk, those that are wanted."""
    walk = job.tiles()
    every = max(1, len(walk) // TILES)
    return [tile for n, tile in enumerate(walk) if n % every == 0 and job.core(tile)]


def _wanted_px(job: MapJob, tiles: Sequence[TileKey]) -> float:
    """Return the pixels of the map that tiles are wanted for."""
    height, width = job.grid.resolution_yx
    return float(sum(job.tiles().part(tile).area for tile in tiles)) / (height * width)


def _counted(job: MapJob, tiles: Sequence[TileKey], shape: TileShape) -> WindowTrial:
    """Say what a window would mean, without trying it."""
    bundle = require_bundle(job.bundle)
    lattice = bundle.lattice
    per_window = ROWS if bundle.pixelwise else (lattice.window_px // job.stride) ** 2
    windows = sum(job.windows(tile) for tile in tiles)
    evaluations = windows * per_window / max(1.0, _wanted_px(job, tiles))
    return WindowTrial(lattice, evaluations, tile_bytes(shape)["total"])


def _timed(job: MapJob, trial: WindowTrial, at_once: int, before_bytes: int) -> WindowTrial:
    """Time a window, as many at once as tiles will be."""
    bundle, lattice = require_bundle(job.bundle), trial.lattice
    window_s, peak = time_window(bundle, at_once, before_bytes)
    per_window = ROWS if bundle.pixelwise else (lattice.window_px // job.stride) ** 2
    pixel_km2 = math.prod(job.grid.resolution_yx) / 1e6
    km2_s = window_s * trial.evaluations / (per_window * pixel_km2)
    return replace(trial, window_s=window_s, km2_s=km2_s, peak_bytes=peak)


def time_window(bundle: Bundle, at_once: int, before_bytes: int | None = None) -> tuple[float, int]:
    """Time one window of a bundle on this machine's processor, on simulated values.

    Processor time is taken, of the fastest round: what else runs on the machine lengthens it little.

    Args:
        bundle: The model with its lattice.
        at_once: Threads that run one window each, on a core each.
        before_bytes: Resident memory before any window was tried; default: now.

    Returns:
        Seconds from one window to the next, and the bytes that the process grew by, over the windows made at
        once.
    """
    n_dates = bundle.n_dates or SOME_DATES
    days = tuple(1 + 365 * n // n_dates for n in range(n_dates)) if bundle.takes_days else ()
    lane, side = Lane(bundle, days=days), bundle.lattice.window_px
    values = simulated(n_dates, len(bundle.planes), 64 if bundle.pixelwise else side, 0)
    windows = values.reshape(*values.shape[:2], ROWS, 1)[None] if bundle.pixelwise else values[None]
    batch = np.concatenate([windows] * lane.batch)

    def one_round() -> float:
        begun = time.process_time()
        list(pool.map(lambda _: lane.run(batch), range(at_once)))
        return time.process_time() - begun

    with ThreadPoolExecutor(at_once) as pool, _growth(before_bytes or resident_bytes()) as grown:
        one_round()
        rounds, begun = [one_round()], time.perf_counter()
        while len(rounds) < ROUNDS or time.perf_counter() - begun < TIMED_S:
            rounds.append(one_round())
    cores, made = at_once, at_once * lane.batch
    return min(rounds) / cores / made, grown[0] // at_once


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


@contextmanager
def _growth(before_bytes: int) -> Iterator[list[int]]:
    """Watch the resident memory of this process; the list holds by how much it grew at most."""
    ended, grown = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.02):
            grown[0] = max(grown[0], resident_bytes() - before_bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield grown
    finally:
        ended.set()
        watcher.join()
