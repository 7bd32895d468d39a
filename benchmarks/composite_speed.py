"""Composites against xarray and plain numpy: time, equality and memory, in one run.

Run: ``python benchmarks/composite_speed.py [--size 2048] [--dates 36] [--bands 10] [--threads 2]``. Random
uint16 of size x size pixels, four dates in ten hidden. The masked median is compared with
``median(skipna=True)`` of xarray on the same values as float with NaN, the others with what one would write
in xarray or numpy. The plain versions run on the first rows only (``--rows``) and their time is scaled by
the number of pixels; values are compared on those rows. Ratios are of seconds on the clock, and of CPU
seconds, which other programs on the machine move less. Where values differ: numpy interpolates percentiles
in floats and misses some exact halves, geometric medians end within a tolerance, deviations are float32.
Memory is the peak of the whole process until the median is there, input and libraries included.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import xarray as xr

from engine.cube.composites import Evidence, composite
from engine.cube.geomedian import TOLERANCE, geometric_median, rounded
from engine.cube.variability import variability
from engine.values.recipe import BestPixel

RED, NIR = 0, 1
Plain = Callable[[np.ndarray], np.ndarray]


def make(size: int, dates: int, bands: int) -> np.ndarray:
    """Make (time, band, y, x) uint16 date by date, so that the input itself is the peak so far."""
    rng = np.random.default_rng(0)
    values = np.empty((dates, bands, size, size), np.uint16)
    for date in values:
        clear = rng.random((size, size), np.float32) > 0.4
        for band in date:
            band[:] = rng.integers(1, 10_001, (size, size), np.uint16) * clear
    return values


def peak_bytes() -> int:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Took:
    """Seconds: on the clock, and of the CPU in all threads."""

    wall_s: float
    cpu_s: float

    def times(self, factor: float) -> Took:
        """Scale to more pixels."""
        return Took(self.wall_s * factor, self.cpu_s * factor)


def clock(work: Callable[[], np.ndarray], rounds: int = 1) -> tuple[Took, np.ndarray]:
    """Return the best seconds of several rounds, and the result."""
    took = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        took.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Took(*(min(t) for t in zip(*took, strict=True))), found


def with_nan(values: np.ndarray) -> xr.DataArray:
    """Give the values as xarray users have them: float32 with NaN."""
    cube = xr.DataArray(values, dims=("time", "band", "y", "x"))
    return cube.where((cube > 0).all("band"))


def half_up(values: np.ndarray) -> np.ndarray:
    """Round half up to uint16, NaN to 0."""
    return np.floor(np.nan_to_num(values).astype(np.float64) + 0.5).astype(np.uint16)


def at_date(values: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Take the date of the highest score (time, y, x)."""
    score = np.where((values > 0).all(axis=1), score, -np.inf)
    return np.take_along_axis(values, score.argmax(axis=0)[None, None], 0)[0]


def first(values: np.ndarray) -> np.ndarray:
    """Take the earliest clear date."""
    return at_date(values, -np.arange(len(values), dtype=float)[:, None, None] * np.ones(values.shape[2:]))


def max_ndvi(values: np.ndarray) -> np.ndarray:
    """Take the greenest date."""
    red, nir = values[:, RED].astype(float), values[:, NIR].astype(float)
    return at_date(values, (nir - red) / np.maximum(nir + red, 1))


def best(values: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Take the date of the highest score."""
    days, away = np.array(evidence.days), evidence.cloud_distance_px[:, :, : values.shape[3]] / 100
    cloud = 0.5 / (1 + np.exp(-10 * (away[:, : values.shape[2]] - 0.5)))
    date = 0.5 * np.exp(-0.5 * (days / 10) ** 2)[:, None, None]
    return at_date(values, np.rint(cloud * 1e8) + np.rint(date * 1e8))


def medoid(values: np.ndarray) -> np.ndarray:
    """Take the date nearest to all others."""
    clear = (values > 0).all(axis=1)
    points = values.astype(float)
    sums = np.zeros(clear.shape)
    for t in range(len(values)):
        away = np.sqrt(((points - points[t]) ** 2).sum(axis=1))
        sums[t] = np.where(clear, away, 0).sum(axis=0)
    return at_date(values, -sums)


def geomedian_float(values: np.ndarray) -> np.ndarray:
    """Run Weiszfeld's iteration on whole arrays."""
    clear = (values > 0).all(axis=1)
    points = values.astype(float)
    counts = np.maximum(clear.sum(axis=0), 1)
    middle = (points * clear[:, None]).sum(axis=0) / counts
    for _ in range(1000):
        away = np.sqrt(((points - middle) ** 2).sum(axis=1))
        weight = clear / np.maximum(away, TOLERANCE)
        moved = (points * weight[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
        step = np.sqrt(((moved - middle) ** 2).sum(axis=0)).max()
        middle = moved
        if step < TOLERANCE:
            break
    return middle


def deviations(values: np.ndarray) -> np.ndarray:
    """Measure the three median deviations (given the median of our own)."""
    clear = (values > 0).all(axis=1)
    x, m = values.astype(float), geometric_median(values)[0].astype(float)
    cosine = (x * m).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (m * m).sum(axis=0)).clip(1e-9)
    away = [np.sqrt(((x - m) ** 2).sum(axis=1)) / 1e4, 1 - cosine]
    away.append(np.abs(x - m).sum(axis=1) / (x + m).sum(axis=1))
    return np.stack([np.nanmedian(np.where(clear, a, np.nan), axis=0) for a in away])


def compare(
    name: str, ours: Callable[[np.ndarray], np.ndarray], plain: Plain, values: np.ndarray, rows: int
) -> None:
    """Print one line: our time, the plain version's scaled time, their ratio, how far the values differ."""
    ours(values[:, :, :2])  # compile
    took, found = clock(lambda: ours(values), 2)
    part = np.ascontiguousarray(values[:, :, :rows])
    plain_took, expected = clock(lambda: plain(part))
    scaled = plain_took.times(values.shape[2] / rows)
    apart = np.nan_to_num(np.abs(found[:, :rows].astype(float) - expected.astype(float)))
    share = (apart > 0).mean()
    print(
        f"{name:12} {took.wall_s:7.2f} s  plain {scaled.wall_s:8.1f} s  {scaled.wall_s / took.wall_s:6.1f} x"
        f"  (CPU {scaled.cpu_s / took.cpu_s:6.1f} x)  equal {share == 0}"
        f"  (differ {share:.1e}, at most {apart.max():.2g})"
    )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=512)
    options.add_argument("--dates", type=int, default=36)
    options.add_argument("--bands", type=int, default=10)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument(
        "--rows", type=int, default=0, help="rows for the plain versions; default 2**18 pixels"
    )
    options.add_argument("--only-median", action="store_true")
    o = options.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    composite(np.ones((o.dates, o.bands, 2, 512), np.uint16), "median")  # compile
    values = make(o.size, o.dates, o.bands)
    rows = min(o.rows or max(1, 2**18 // o.size), o.size)
    before = peak_bytes()
    took, median = clock(lambda: composite(values, "median", threads=o.threads)[0])
    after = peak_bytes()
    again, _ = clock(lambda: composite(values, "median", threads=o.threads)[0], 2)
    took = min(took, again, key=lambda t: t.wall_s)
    alone, _ = clock(lambda: composite(values, "median")[0], 3)
    print(f"{o.dates} dates x {o.bands} bands x {o.size} x {o.size}: {values.nbytes / 2**30:.2f} GiB")
    print(f"peak memory {before / 2**30:.2f} GiB before the median, {after / 2**30:.2f} GiB with it:")
    print(f"  {after / values.nbytes:.3f} of the input, libraries included")
    part = with_nan(values[:, :, :rows])
    xarray_took, expected = clock(lambda: part.median("time", skipna=True).values)
    scaled = xarray_took.times(o.size / rows)
    same = np.array_equal(half_up(expected), median[:, :rows])
    print(
        f"xarray median(skipna=True): {xarray_took.wall_s:.2f} s for {rows} of {o.size} rows, scaled"
        f" {scaled.wall_s:.1f} s, CPU {scaled.cpu_s:.1f} s"
    )
    for label, own in ((f"{o.threads} threads", took), ("1 thread", alone)):
        print(
            f"median, {label}: {own.wall_s:.3f} s, CPU {own.cpu_s:.3f} s   {scaled.wall_s / own.wall_s:.0f} x"
            f"   (CPU {scaled.cpu_s / own.cpu_s:.0f} x)   equal {same}"
        )
    if not o.only_median:
        others(values, rows, o.threads)


def others(values: np.ndarray, rows: int, threads: int) -> None:
    """Measure the other reducers; the slow plain versions on fewer rows."""
    n_dates, _, height, width = values.shape
    away = np.random.default_rng(1).integers(0, 101, (n_dates, height, width), np.uint16)
    evidence = Evidence(RED, NIR, tuple(np.linspace(-15, 15, n_dates)), away)

    def ours(reducer: str | BestPixel) -> Plain:
        def run(v: np.ndarray) -> np.ndarray:
            own = Evidence(RED, NIR, evidence.days, away[:, : v.shape[2]])
            return composite(v, reducer, own, threads=threads)[0]

        return run

    few = max(1, rows // 8)
    print(f"others, {threads} threads; plain numpy or xarray on {rows} or {few} rows, scaled:")
    compare(
        "mean", ours("mean"), lambda v: half_up(with_nan(v).astype(float).mean("time").values), values, rows
    )
    compare(
        "p90",
        ours("p90"),
        lambda v: half_up(with_nan(v).astype(float).quantile(0.9, "time").values),
        values,
        few,
    )
    compare("first", ours("first"), first, values, rows)
    compare("max_ndvi", ours("max_ndvi"), max_ndvi, values, rows)
    compare("best", ours(BestPixel()), lambda v: best(v, evidence), values, rows)
    compare("medoid", ours("medoid"), medoid, values, few)
    compare("geomedian", ours("geomedian"), lambda v: rounded(geomedian_float(v)), values, few)
    medians = geometric_median(values, threads)[0]
    run = lambda v: variability(v, medians[:, : v.shape[2]], threads=threads)  # noqa: E731
    compare("variability", run, deviations, values, few)
    if find_spec("hdstats"):
        import hdstats

        def theirs(v: np.ndarray) -> np.ndarray:
            x = np.where(v > 0, v, np.nan).astype(np.float32).transpose(2, 3, 1, 0)
            found = hdstats.nangeomedian_pcm(x, eps=1e-3, maxiters=1000, num_threads=threads)
            return half_up(found.transpose(2, 0, 1))

        compare("vs hdstats", ours("geomedian"), theirs, values, few)


if __name__ == "__main__":
    main()
