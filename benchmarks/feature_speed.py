"""Indices, statistics and phenology of one chunk, beside plain numpy in float32.

Run on a quiet machine: ``python benchmarks/feature_speed.py``. A chunk is 12 dates x 10 bands x 1024 x 1024
uint16 with a tenth of its pixels missing; all on one thread. The peak is what numpy and the kernels
allocate beside the chunk itself (tracemalloc).
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import spyndex
from numpy.typing import NDArray

from engine.cube.features import indices, statistics
from engine.cube.phenology import phenology

_BANDS = (
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "swir16",
    "swir22",
)


def _plain(cube: NDArray[np.uint16]) -> NDArray[np.float32]:
    blue, red, nir = (cube[:, _BANDS.index(b)] / np.float32(10000) for b in ("blue", "red", "nir"))
    gone = (cube[:, 0] == 0) | (red == 0) | (nir == 0)
    ndvi = (nir - red) / (nir + red)
    evi = 2.5 * (nir - red) / (nir + 6 * red - 7.5 * blue + 1)
    both = np.stack([ndvi, evi], axis=1)
    both[np.broadcast_to(gone[:, None], both.shape)] = np.nan
    return both


def _by_spyndex(cube: NDArray[np.uint16]) -> NDArray[np.float32]:
    scaled = {
        k: cube[:, _BANDS.index(b)] / np.float32(10000)
        for k, b in zip("BRN", ("blue", "red", "nir"), strict=True)
    }
    found = spyndex.computeIndex(["NDVI", "EVI"], {**scaled, "g": 2.5, "C1": 6.0, "C2": 7.5, "L": 1.0})
    found[:, cube[:, 0] == 0] = np.nan
    return found


def _measured(call: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Return the best time in seconds and the peak of new memory in MiB."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), peak / 2**20


def main() -> None:
    """Print one row per way."""
    rng = np.random.default_rng(0)
    cube = rng.integers(200, 6000, (12, len(_BANDS), 1024, 1024), np.uint16)
    cube[np.broadcast_to(rng.random((12, 1, 1024, 1024)) < 0.1, cube.shape)] = 0
    days = np.arange(15.0, 365, 30.4)
    ndvi = indices(cube, _BANDS, ["NDVI"])[:, 0]
    rows: dict[str, Callable[[], object]] = {
        "NDVI and EVI, landweave": lambda: indices(cube, _BANDS, ["NDVI", "EVI"]),
        "NDVI and EVI, plain numpy float32": lambda: _plain(cube),
        "NDVI and EVI, spyndex": lambda: _by_spyndex(cube),
        "mean, std, p10, p90 over time, landweave": lambda: statistics(
            ndvi, days, ["mean", "std", "p10", "p90"]
        ),
        "mean, std over time, numpy nan functions": lambda: (np.nanmean(ndvi, 0), np.nanstd(ndvi, 0)),
        "phenology, landweave": lambda: phenology(ndvi, days),
    }
    megapixels = cube.shape[0] * cube.shape[2] * cube.shape[3] / 1e6
    for name, call in rows.items():
        seconds, peak = _measured(call)
        print(
            f"{name:42} {seconds:6.2f} s  {megapixels / seconds:6.1f} M date-pixels/s  peak {peak:6.0f} MiB"
        )


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
