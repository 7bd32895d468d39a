"""What filling gaps and growing masks cost: one core, 12 dates x 10 bands x 1024 x 1024, and a whole tile.

Run: ``python benchmarks/gapfill_speed.py``. Gaps are blobs of 16 px on 35% of the dates. Prints ns per value,
and the ratio to numpy's interpolation of the same pixels (measured on a part); then the time to grow a
10980 x 10980 mask against scipy's maximum filter.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.ndimage import maximum_filter

from engine.cube.gapfill import fill_in_place
from engine.cube.masks import grown
from engine.values.recipe import GapFill

DATES, BANDS, SIDE, PART = 12, 10, 1024, 32
DAYS = np.arange(DATES) * 30.0


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def with_numpy(values: np.ndarray) -> None:
    """Interpolate pixel by pixel."""
    for y, x in np.ndindex(values.shape[2:]):
        seen = values[:, 0, y, x] > 0
        if seen.any():
            for b in range(values.shape[1]):
                np.interp(DAYS, DAYS[seen], values[seen, b, y, x])


def main() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 10_000, (DATES, BANDS, SIDE, SIDE)).astype(np.uint16)
    gone = np.kron(rng.random((DATES, SIDE // 16, SIDE // 16)) < 0.35, np.ones((1, 16, 16), bool))
    values *= ~gone[:, None]
    part = values[:, :, :PART, :PART]
    numpy_ns = seconds(lambda: with_numpy(part)) / part.size * 1e9
    print(f"numpy.interp per pixel: {numpy_ns:.0f} ns per value")
    for method in ("linear", "nearest", "whittaker"):
        how = GapFill(method=method)  # type: ignore[arg-type]
        fill_in_place(part.copy(), DAYS, how)  # compile
        copies = [values.copy() for _ in range(3)]
        taken = min(seconds(lambda c=c, h=how: fill_in_place(c, DAYS, h)) for c in copies)
        ns = taken / values.size * 1e9
        print(f"{method}: {taken:.2f} s, {ns:.1f} ns per value, {numpy_ns / ns:.0f} times numpy's speed")
    clouds = rng.random((10_980, 10_980)) < 1e-4
    for radius in (3, 30):
        ours = seconds(lambda r=radius: grown(clouds, r))
        scipys = seconds(lambda r=radius: maximum_filter(clouds, 2 * r + 1, mode="constant", cval=0))
        print(f"growing a tile by {radius} px: {ours:.2f} s, scipy {scipys:.2f} s: {scipys / ours:.1f} times")


if __name__ == "__main__":
    main()
