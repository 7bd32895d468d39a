"""A context-sensitive stand-in for a network, in exact integers, that counts its evaluations.

A pixel-wise model would pass any tiling test. This one blurs within the window, knows where in the
window a pixel lies and answers badly near the window's rim, as real networks do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.inference.blend import Frame
from engine.values.grid import Box
from engine.values.lattice import Lattice

N_CLASSES = 4


def probabilities(x_TCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
    """(T, C, W, W) -> (K, W, W) int32 in 0..65535; depends on the whole window."""
    size = x_TCHW.shape[-1]
    plane = x_TCHW.astype(np.int64).sum(axis=(0, 1))
    padded = np.pad(plane, 2)
    blurred = sum(padded[dy : dy + size, dx : dx + size] for dy in range(5) for dx in range(5))
    total = int(plane.sum())
    rim = np.minimum.outer(np.arange(size), np.arange(size)) * 37
    scores = [(blurred * (k + 3) + rim * k + total * (2 * k + 1)) % 9973 + 1 for k in range(N_CLASSES)]
    stack = np.stack(scores)
    return (stack * 65535 // stack.sum(axis=0)).astype(np.int32)


@dataclass
class FakeLane:
    """A lane of batch 3; every evaluated window is one byte in a file, so processes are counted too."""

    log: str
    batch: int = 3
    n_classes: int = N_CLASSES
    seen: list[int] = field(default_factory=list)

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        assert len(x_BTCHW) <= self.batch
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b"." * len(x_BTCHW))
        os.close(handle)
        return np.stack([probabilities(x) for x in x_BTCHW])


def evaluations(log: str | Path) -> int:
    return Path(log).stat().st_size if Path(log).exists() else 0


def mirror(lo: int, hi: int, first: int, last: int) -> NDArray[np.int64]:
    """Indices of lo..hi-1 folded into first..last-1 as between two mirrors (edge pixel not repeated)."""
    size = last - first
    if size == 1:
        return np.full(hi - lo, first)
    wave = (np.arange(lo, hi) - first) % (2 * size - 2)
    return first + np.where(wave < size, wave, 2 * size - 2 - wave)


def used(core: tuple[int, int], outer: tuple[int, int], lattice: Lattice) -> list[int]:
    """Windows of one axis, pixel by pixel: those that show the core something no neighbour shows better."""
    size, stride, half = lattice.window_px, lattice.stride_px, lattice.overlap_px // 2
    windows = {}
    first = -half if lattice.kernel == "trim" else 0  # centres are anchored where only centres answer
    for k in range(core[0] // stride - size, core[1] // stride + 2):
        pixels = range(first + k * stride, first + k * stride + size)
        centre = pixels[half : half + stride] if lattice.kernel == "trim" else pixels
        if set(centre) & set(range(*core)):
            windows[k] = len(set(pixels) & set(range(*outer)))
    if lattice.kernel == "trim":
        return sorted(windows)
    most = max(windows.values())
    return sorted(k for k, n in windows.items() if n > lattice.overlap_px or n == most <= lattice.overlap_px)


def oracle(values: NDArray[np.uint16], frame: Frame) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Untiled answer in plain int64: (K, y, x) sums, (y, x) weights over the core, windows evaluated.

    Windows without a pixel of the core that is wanted and has data are not evaluated.

    The border rule: what lies of a window inside `outer` is mirrored to fill the window.
    """
    lattice, outer, core = frame.lattice, frame.outer, frame.core
    size, weights = lattice.window_px, lattice.weights().astype(np.int64)
    asked = asked_for(values, frame)
    sums = np.zeros((N_CLASSES, *outer.shape_yx), np.int64)
    sum_w = np.zeros(outer.shape_yx, np.int64)
    count = 0
    for ky in used((core.y0, core.y1), (outer.y0, outer.y1), lattice):
        for kx in used((core.x0, core.x1), (outer.x0, outer.x1), lattice):
            first = -(lattice.overlap_px // 2) if lattice.kernel == "trim" else 0
            y, x = first + ky * lattice.stride_px, first + kx * lattice.stride_px
            window = Box(y, x, y + size, x + size)
            inside = window & outer
            rows = mirror(y, y + size, inside.y0, inside.y1) - outer.y0
            cols = mirror(x, x + size, inside.x0, inside.x1) - outer.x0
            at, cut = inside.slices_in(outer), inside.slices_in(window)
            sum_w[at] += weights[cut]
            if asked[at][weights[cut] > 0].any():
                count += 1
                p_KHW = probabilities(values[:, :, rows[:, None], cols])
                sums[(slice(None), *at)] += (p_KHW * weights)[(slice(None), *cut)]
    wanted = core.slices_in(outer)
    return sums[(slice(None), *wanted)], sum_w[wanted], count


def asked_for(values: NDArray[np.uint16], frame: Frame) -> NDArray[np.bool_]:
    """(y, x) bool over `outer`: pixels of the core that are wanted and have data."""
    asked = np.zeros(frame.outer.shape_yx, np.bool_)
    at = frame.core.slices_in(frame.outer)
    asked[at] = values.all(axis=1).any(axis=0)[at]
    if frame.wanted is not None:
        asked[at] &= frame.wanted
    return asked


def oracle_map(values: NDArray[np.uint16], frame: Frame) -> tuple[NDArray[np.uint8], int]:
    """Untiled (2 + K, y, x) uint8 planes as `decide` lays them out, and windows evaluated."""
    sums, weights, count = oracle(values, frame)
    valid = asked_for(values, frame)[frame.core.slices_in(frame.outer)]
    share = np.floor(250 * sums / (weights * 65535.0) + 0.5).astype(np.int64)
    planes = [sums.argmax(axis=0) + 1, share.max(axis=0), *share]
    out = np.stack([np.where(valid, p, 0 if i == 0 else 255) for i, p in enumerate(planes)])
    return out.astype(np.uint8), count


def random_cube(seed: int, box: Box, *, holes: bool = True) -> NDArray[np.uint16]:
    """(2, 3, y, x) uint16 with smooth structure and, if wanted, a no-data disc, strip and speckle."""
    rng = np.random.default_rng(seed)
    height, width = box.shape_yx
    values = rng.integers(1, 4000, (2, 3, height, width)).astype(np.uint16)
    if holes:
        values[:, :, rng.random((height, width)) < 0.05] = 0
        values[:, :, : height // 5, width // 2 :] = 0
        values[0, 1, height // 2 :, :] = 0
    return values
