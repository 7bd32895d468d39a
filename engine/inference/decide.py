"""From exact sums to the layers of a map, in exact integers.

Planes are packed one above the other in the order of `Layers.slices`. Shapes: K outputs, arrays (…, y, x).

==============  =======================================================  ================
Layer           Value                                                    No data
==============  =======================================================  ================
label           value of the most probable class; ties to the lowest     0
confidence      its probability, 0..250                                  255
probability     of each class, 0..250                                    255
entropy         ``-sum(p ln p) / ln K``, 0..250                          255
margin          most probable less second, 0..250                        255
disagreement    of ensemble members or turned windows, 0..250            255
unfamiliar      distance from what was learnt (`unfamiliar`), 0..250      255
values          `engine.values.head.Values`: int16, -32767..32767        -32768
==============  =======================================================  ================
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.head import VALUE_NO_DATA, Classes, Extra, MultiLabel, Values
from engine.values.lattice import PROBABILITY_ONE

CONFIDENCE_ONE = 250
"""Value of probability 1 in the uint8 outputs."""

CONFIDENCE_NO_DATA = 255

_EXTRAS: tuple[Extra, ...] = ("probability", "entropy", "margin", "disagreement", "unfamiliar")
_ALLOWED: dict[str, tuple[Extra, ...]] = {
    "classes": _EXTRAS,
    "multilabel": ("probability", "disagreement", "unfamiliar"),
    "values": (),
}
_MEANS = {"classes": "one class a pixel", "multilabel": "many classes a pixel", "values": "values"}
_ENTROPY_BITS = 24


@dataclass(frozen=True)
class Layers:
    """The layers of a map and where they lie in the packed planes.

    Attributes:
        head: What the outputs mean.
        labels: Value of each output's class, (K,).
        extras: Layers on wish; only for classes.

    Raises:
        InputError: If an extra is unknown or the head has no such layer.
    """

    head: Classes | MultiLabel | Values
    labels: tuple[int, ...]
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        strange = [e for e in self.extras if e not in _ALLOWED[self.head.kind]]
        if strange:
            raise InputError(
                f"the model gives {_MEANS[self.head.kind]}, and no such layer",
                where="layers",
                found=strange,
                limit=", ".join(_ALLOWED[self.head.kind]) or "none",
            )

    @property
    def n_outputs(self) -> int:
        """Planes that the sums hold beside the last, which tells data: outputs, disagreement, unfamiliarity."""
        return len(self.labels) + ("disagreement" in self.extras) + ("unfamiliar" in self.extras)

    @functools.cached_property
    def slices(self) -> dict[str, slice]:
        """Return the packed planes of each layer, in order."""
        sizes = self._sizes()
        starts = np.cumsum([0, *sizes.values()])
        return {n: slice(int(a), int(a) + size) for (n, size), a in zip(sizes.items(), starts, strict=False)}

    def _sizes(self) -> dict[str, int]:
        n = len(self.labels)
        if isinstance(self.head, Values):
            found = {self.head.variable: n}
        elif isinstance(self.head, MultiLabel):
            found = {"probability": n}
        else:
            found = {"label": 1, "confidence": 1}
        wanted = [e for e in _EXTRAS if e in self.extras and e not in found]
        return found | {e: n if e == "probability" else 1 for e in wanted}

    @property
    def n_planes(self) -> int:
        """Number of packed planes."""
        return sum(self._sizes().values())

    @property
    def dtype(self) -> Any:
        """Type of the packed planes; int16 for values, else uint8."""
        return np.dtype(np.int16 if isinstance(self.head, Values) else np.uint8)

    def no_data(self, name: str) -> int:
        """Return what stands for no data in a layer."""
        if isinstance(self.head, Values):
            return VALUE_NO_DATA
        return 0 if name == "label" else CONFIDENCE_NO_DATA


def decide(sums: NDArray[np.int32], weight_sums: NDArray[np.int32], layers: Layers) -> NDArray[Any]:
    """Turn sums into layers.

    Args:
        sums: (`Layers.n_outputs` + 1, y, x) int32 from `window_sums`, spills added; the last plane tells data.
        weight_sums: (y, x) int32, the summed weights (`Frame.weight_sums`); 0 = not answered.
        layers: What to make.

    Returns:
        (`Layers.n_planes`, y, x) uint8 or int16; shares 0..250 are rounded half up.
    """
    out = np.empty((layers.n_planes, *sums.shape[1:]), layers.dtype)
    n_outputs = len(layers.labels)
    if isinstance(layers.head, Values):
        _decide_values(sums, weight_sums, out)
        return out
    extras = np.array([e in layers.extras for e in _EXTRAS], np.bool_)
    if isinstance(layers.head, MultiLabel):
        _decide_shares(sums, weight_sums, out)
    else:
        labels = np.array(layers.labels, np.uint8)
        _decide_classes(sums, weight_sums, (labels, extras, *_entropy_table(n_outputs)), out)
    return out


@functools.lru_cache(maxsize=8)
def _entropy_table(n_outputs: int) -> tuple[NDArray[np.int32], int]:
    """Return ``-p ln p`` of each fixed-point p, in units of ``2**-24``, and ln K in the same units."""
    p = np.arange(PROBABILITY_ONE + 1) / PROBABILITY_ONE
    terms = -p * np.log(np.where(p > 0, p, 1.0))
    table = np.rint(terms * 2**_ENTROPY_BITS).astype(np.int32)
    return table, round(math.log(max(2, n_outputs)) * 2**_ENTROPY_BITS)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _decide_classes(sums, weight_sums, how, out):  # type: ignore[no-untyped-def]
    labels, extras, table, entropy_one = how
    n_classes, has_data, width = len(labels), sums.shape[0] - 1, sums.shape[2]
    any_extra = extras.any()
    most, best = np.empty(width, np.int32), np.empty(width, np.int32)
    for y in range(sums.shape[1]):
        _most_probable(sums, n_classes, y, most, best)
        data, weights, label, confidence = sums[has_data, y], weight_sums[y], out[0, y], out[1, y]
        for x in range(width):
            answered = (data[x] != 0) & (weights[x] != 0)
            share = _to_uint8(np.int64(most[x]), np.int64(max(weights[x], 1)) * PROBABILITY_ONE)
            confidence[x] = share if answered else np.uint8(CONFIDENCE_NO_DATA)
        for x in range(width):
            answered = (data[x] != 0) & (weights[x] != 0)
            label[x] = labels[best[x]] if answered else np.uint8(0)
        if not any_extra:
            continue
        for x in range(width):
            if sums[has_data, y, x] == 0 or weight_sums[y, x] == 0:
                out[2:, y, x] = CONFIDENCE_NO_DATA
                continue
            weight = np.int64(weight_sums[y, x])
            scale = weight * PROBABILITY_ONE
            at = 2
            if extras[0]:
                for k in range(n_classes):
                    out[at + k, y, x] = _to_uint8(np.int64(sums[k, y, x]), scale)
                at += n_classes
            if extras[1]:
                total = np.int64(0)
                for k in range(n_classes):
                    part = (2 * np.int64(sums[k, y, x]) + weight) // (2 * weight)
                    total += table[min(part, PROBABILITY_ONE)]
                out[at, y, x] = _to_uint8(total, np.int64(entropy_one))
                at += 1
            if extras[2]:
                second = np.int64(0)
                for k in range(n_classes):
                    if k != best[x] and sums[k, y, x] > second:
                        second = np.int64(sums[k, y, x])
                out[at, y, x] = _to_uint8(np.int64(most[x]) - second, scale)
                at += 1
            if extras[3]:
                out[at, y, x] = _to_uint8(np.int64(sums[n_classes, y, x]), scale)
                at += 1
            if extras[4]:  # the last plane before the one that tells data
                out[at, y, x] = _to_uint8(np.int64(sums[has_data - 1, y, x]), scale)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _most_probable(sums, n_classes, y, most, best):  # type: ignore[no-untyped-def]
    """Find the largest sum of each pixel of a row, and its class, ties to the lowest.

    Class by class, types and rows written out: so the compiler makes vectors of it, 15 times faster.
    """
    most[:] = sums[0, y]
    best[:] = 0
    for k in range(1, n_classes):
        row, this = sums[k, y], np.int32(k)
        for x in range(len(row)):
            value, before = row[x], most[x]
            more = value > before
            most[x] = value if more else before
            best[x] = this if more else best[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _decide_shares(sums, weight_sums, out):  # type: ignore[no-untyped-def]
    has_data = sums.shape[0] - 1
    for k in range(out.shape[0]):
        for y in range(sums.shape[1]):
            for x in range(sums.shape[2]):
                if sums[has_data, y, x] == 0 or weight_sums[y, x] == 0:
                    out[k, y, x] = CONFIDENCE_NO_DATA
                else:
                    scale = np.int64(weight_sums[y, x]) * PROBABILITY_ONE
                    out[k, y, x] = _to_uint8(np.int64(sums[k, y, x]), scale)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _decide_values(sums, weight_sums, out):  # type: ignore[no-untyped-def]
    has_data = sums.shape[0] - 1
    for k in range(out.shape[0]):
        for y in range(sums.shape[1]):
            for x in range(sums.shape[2]):
                weight = np.int64(weight_sums[y, x])
                if sums[has_data, y, x] == 0 or weight == 0:
                    out[k, y, x] = VALUE_NO_DATA
                else:
                    out[k, y, x] = (2 * np.int64(sums[k, y, x]) + weight) // (2 * weight) - 32767


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")  # pragma: no cover - compiled
def _to_uint8(value, scale):  # type: ignore[no-untyped-def]
    """``250 * value / scale`` rounded half up, at most 250.

    Exact in float64, which divides faster than integers: both sides of the fraction are whole numbers below
    2**53, and a quotient of at most 250 that is not whole is further from a whole one (1 / (2 * scale) > 1e-10)
    than float64 rounds (3e-14).
    """
    scaled = np.floor(np.float64(2 * CONFIDENCE_ONE * value + scale) / np.float64(2 * scale))
    return np.uint8(min(scaled, np.float64(CONFIDENCE_ONE)))
