"""How long a run takes, from a few of its tiles: arrays in, numbers out; no Dask, no files.

The model of a tile's seconds on its worker, with numbers that cannot be negative::

    seconds = (fixed + per_byte x bytes read + per_window x windows) x noise

Reading and windows are all that grows with a tile; `fixed` is what opening, writing and recording cost.
The coefficients come from the probe's tiles by least squares with weights 1 / expected squared: the noise is
a share of a tile's time, and so weighted the sum over tiles is met without bias (as in a gamma regression;
McCullagh and Nelder 1989, Generalized Linear Models, ch. 8). The run's time is::

    startup + sum of all tiles / slots + tail

A slot is a place where a tile can run; the tail is the half tile, about, that slots wait for the last one.
The interval is meant to hold the truth `LEVEL` of the times. Five things widen it: the scatter of the
probe's tiles through the coefficients; the scatter of the tiles to come, which averages out; the tail;
`DRIFT`, by which a whole run is faster or slower than its probe (network, other users); and startup, which
was measured once. The scatter is shrunk towards `PRIOR_SCATTER`, which counts as much as `PRIOR_TILES`
tiles: three tiles that agree by luck promise nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError

LEVEL = 0.8
"""Share of runs that the interval is meant to hold."""

DRIFT = 0.10
"""Standard deviation of a run's speed against its probe's, as a share."""

STARTUP_DRIFT = 0.30
"""Standard deviation of a startup against the one that was measured, as a share."""

PRIOR_SCATTER, PRIOR_TILES = 0.15, 3

Way = Literal["fused", "staged"]


@dataclass(frozen=True)
class Load:
    """What a tile has to do.

    Attributes:
        read_bytes: Bytes of the archive.
        windows: Windows that the model evaluates.
    """

    read_bytes: float
    windows: float


@dataclass(frozen=True)
class Interval:
    """A figure that is not known exactly.

    Attributes:
        low: Lower end; the truth lies between the ends `LEVEL` of the times.
        middle: Best guess.
        high: Upper end.

    >>> Interval(1.0, 2.0, 4.0).times(3)
    Interval(low=3.0, middle=6.0, high=12.0)
    """

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the interval of a multiple: seconds to money."""
        return Interval(self.low * factor, self.middle * factor, self.high * factor)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class TileTimes:
    """The fitted model; `fit` makes it.

    Attributes:
        coefficients: Seconds: fixed, per byte, per window; none negative.
        covariance: (3, 3) of the coefficients, for a scatter of 1.
        scatter: Standard deviation of a tile's noise, as a share of its time.
        freedom: Degrees of freedom of the scatter.
        tiles: Tiles it was fitted to.
    """

    coefficients: tuple[float, float, float]
    covariance: tuple[tuple[float, ...], ...]
    scatter: float
    freedom: int
    tiles: int

    def seconds(self, loads: Sequence[Load]) -> NDArray[np.float64]:
        """Return the expected seconds of each tile, (tile,) float64."""
        return np.asarray(_features(loads) @ np.array(self.coefficients))

    @property
    def reading_s_per_byte(self) -> float:
        """Seconds for each byte of the archive."""
        return self.coefficients[1]


@dataclass(frozen=True)
class Workers:
    """Where the tiles run.

    Attributes:
        slots: Tiles made at once.
        startup_s: From asking for workers until the first of them is as fast as it will be.
    """

    slots: int
    startup_s: float = 0.0


def _features(loads: Sequence[Load]) -> NDArray[np.float64]:
    return np.array([(1.0, load.read_bytes, load.windows) for load in loads], np.float64).reshape(-1, 3)


def spread(costs: Sequence[float], count: int) -> list[int]:
    """Pick tiles for a probe: the middle one of each of `count` classes of cost, equal in number.

    Args:
        costs: Any figure that grows with a tile's cost, in the order of the walk.
        count: How many; all of them if there are no more.

    Returns:
        Positions, in order of the walk.

    >>> spread([5, 1, 9, 7, 3, 8], 3)
    [2, 3, 4]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], i))
    count = min(count, len(order))
    return sorted(order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count))


def fit(loads: Sequence[Load], seconds: Sequence[float]) -> TileTimes:
    """Fit the model to tiles that were measured.

    Args:
        loads: What each had to do.
        seconds: How long each took.

    Raises:
        InputError: If there is no tile, or one took no time.
    """
    from scipy.optimize import nnls

    x, y = _features(loads), np.asarray(seconds, np.float64)
    if not len(y) or len(x) != len(y) or not (y > 0).all():
        raise InputError("a probe needs tiles with their seconds", found=len(y), limit="at least one tile")
    scale = np.maximum(x.max(axis=0), 1e-300)
    expected = np.full(len(y), y.mean())
    for _ in range(20):
        weighted = x / scale / expected[:, None]
        solution, _ = nnls(weighted, y / expected)
        expected = np.maximum(x / scale @ solution, 1e-3 * y.mean())
    used = solution > 0
    parameters = max(1, int(used.sum()))
    residuals = (y - expected) / expected
    freedom = max(0, len(y) - parameters) + PRIOR_TILES
    variance = (float((residuals**2).sum()) + PRIOR_TILES * PRIOR_SCATTER**2) / freedom
    spread_of = np.zeros((3, 3))
    inner = (x / scale / expected[:, None])[:, used]
    spread_of[np.ix_(used, used)] = np.linalg.pinv(inner.T @ inner)
    covariance = spread_of / np.outer(scale, scale)
    fixed, per_byte, per_window = (float(c) for c in solution / scale)
    return TileTimes(
        coefficients=(fixed, per_byte, per_window),
        covariance=tuple(tuple(float(v) for v in row) for row in covariance),
        scatter=math.sqrt(variance),
        freedom=freedom,
        tiles=len(y),
    )


def run_seconds(
    times: TileTimes, loads: Sequence[Load], workers: Workers, *, tiles: int | None = None
) -> Interval:
    """Estimate the wall-clock seconds of a run.

    Args:
        times: The fitted model.
        loads: The tiles to make, or a sample of them.
        workers: Where they run.
        tiles: How many there are, if `loads` is a sample.

    Returns:
        From asking for workers to the last record. No tiles take no time.
    """
    if not loads:
        return Interval(0.0, 0.0, 0.0)
    n = len(loads) if tiles is None else tiles
    expected, x = times.seconds(loads), _features(loads)
    slots = max(1, min(workers.slots, n))
    mean = float(expected.mean())
    work = mean * n / slots
    tail = 0.5 * mean * (1 - 1 / slots)
    middle = workers.startup_s + work + tail
    mean_x = x.mean(axis=0)
    of_fit = times.scatter**2 * float(mean_x @ np.array(times.covariance) @ mean_x) / mean**2
    of_tiles = times.scatter**2 * float((expected**2).mean()) / mean**2 / n
    of_sample = float(expected.var()) / mean**2 / len(loads) if n > len(loads) else 0.0
    of_tail = (tail / math.sqrt(3) / (work + tail)) ** 2
    of_work = math.sqrt(of_fit + of_tiles + of_sample + of_tail + DRIFT**2) * (work + tail)
    sd = math.hypot(of_work, STARTUP_DRIFT * workers.startup_s) / middle
    reach = math.exp(_student(times.freedom) * sd)
    return Interval(middle / reach, middle, middle * reach)


def _student(freedom: int) -> float:
    """Return the two-sided quantile of Student's t for `LEVEL`."""
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, freedom))


@dataclass(frozen=True)
class WayCost:
    """What one way through the kernels costs.

    Attributes:
        archive_bytes: Read from the archive.
        store_bytes: Written to cube.zarr, and read from it again.
        seconds: Of the whole run; None where nothing was measured.
    """

    archive_bytes: float
    store_bytes: float
    seconds: float | None = None


GAIN = 0.10
"""Staging must save this share to be worth a store of its own."""


def choose_way(fused: WayCost, staged: WayCost) -> Way:
    """Choose between reading the archive again in each halo, and staging the cube once.

    By seconds where both are known, else by bytes moved. Staging must save more than `GAIN`.

    >>> choose_way(WayCost(156, 0), WayCost(100, 20)), choose_way(WayCost(156, 0), WayCost(100, 50))
    ('staged', 'fused')
    """
    if fused.seconds is not None and staged.seconds is not None:
        return "staged" if staged.seconds < fused.seconds * (1 - GAIN) else "fused"
    moved = staged.archive_bytes + staged.store_bytes
    return "staged" if moved < (fused.archive_bytes + fused.store_bytes) * (1 - GAIN) else "fused"


def reason_of(fused: WayCost, staged: WayCost) -> str:
    """Say in a few words why a way was chosen."""
    if fused.seconds is not None and staged.seconds is not None:
        return f"staging takes {staged.seconds / max(fused.seconds, 1e-9):.2f} times as long"
    moved = (staged.archive_bytes + staged.store_bytes) / max(fused.archive_bytes + fused.store_bytes, 1.0)
    return f"staging moves {moved:.2f} times as many bytes"


@dataclass(frozen=True)
class TileSize:
    """What a size of tile would mean.

    Attributes:
        tile_px: Side of a tile.
        tiles: How many there would be, about.
        archive_bytes: Read from the archive, halos included.
        memory_bytes: Projected for a worker.
        seconds: Of the whole run; None where nothing was measured.
    """

    tile_px: int
    tiles: int
    archive_bytes: float
    memory_bytes: int
    seconds: float | None = None


NEARLY = 0.10
"""A smaller tile may cost this share more: less is lost with a tile, and slots end together."""


def propose_size(sizes: Sequence[TileSize], memory_limit: int | None, slots: int) -> tuple[TileSize, str]:
    """Choose a tile size: the smallest that costs nearly the least, of those that fit into a worker.

    Cost is seconds, or, where nothing was measured, bytes read. Sizes that leave less than two tiles to a
    slot come last, for slots would stand idle.

    Args:
        sizes: What there is to choose from.
        memory_limit: Bytes of the smallest worker, None if not known.
        slots: Tiles made at once.

    Returns:
        The size, and the reason in a few words.

    Raises:
        InputError: If there is nothing to choose from.
    """
    if not sizes:
        raise InputError("no tile sizes to choose from", where="tile_px")
    fit_in = [s for s in sizes if memory_limit is None or s.memory_bytes <= memory_limit]
    if not fit_in:
        return min(sizes, key=lambda s: s.memory_bytes), "the least memory; none fits into a worker"
    busy = [s for s in fit_in if s.tiles >= 2 * slots] or [min(fit_in, key=lambda s: s.tile_px)]
    timed = [(s, s.seconds) for s in busy if s.seconds is not None]
    costs, what = (
        (timed, "time") if len(timed) == len(busy) else ([(s, s.archive_bytes) for s in busy], "bytes")
    )
    least = min(cost for _, cost in costs)
    chosen = min((s for s, cost in costs if cost <= least * (1 + NEARLY)), key=lambda s: s.tile_px)
    return chosen, f"the smallest that fits within {NEARLY:.0%} of the least {what}"
