"""Kernels that smooth class probabilities: Gaussian, bilateral, Bayesian.

Shapes: K classes; `p` (K, Y, X) uint8 probabilities 0..250 with the window's reach on each side, 255 in all planes = no
data; outputs (y, x) without that margin. Sums are whole numbers, so no order of additions decides; a class wins by its
exact sum, before it is rounded to 0..250, and ties go to the lowest class, as in `engine.inference.decide`.
"""

from __future__ import annotations

import numba
import numpy as np

NO_DATA = 255
LOGIT_BITS = 16  # logits are whole multiples of 2**-16


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def gaussian(p, weights, labels, out):  # type: ignore[no-untyped-def]
    """Average with separable weights.

    Args:
        p: Probabilities.
        weights: Of rows (2 ry + 1,) and of columns (2 rx + 1,), int32; ``250 * rows.sum() * columns.sum()`` must be
            below 2**31.
        labels: (K,) uint8, value of each class.
        out: label (y, x), confidence (y, x), probability (K, y, x), uint8; filled where the map has data.
    """
    rows, columns = weights
    n_classes, _, wide = p.shape
    height, width = out[0].shape
    down, across = len(rows) // 2, len(columns) // 2
    acc = np.empty(wide, np.int32)
    sums, total = np.empty((n_classes, width), np.int32), np.empty(width, np.int32)
    for y in range(height):
        for k in range(n_classes + 1):  # the last round counts the weights
            plane, counts = p[min(k, n_classes - 1)], k == n_classes
            acc[:] = 0
            for dy in range(len(rows)):
                row, w = plane[y + dy], rows[dy]
                if counts:
                    for x in range(wide):
                        acc[x] += w if row[x] != NO_DATA else np.int32(0)
                else:
                    for x in range(wide):
                        acc[x] += w * np.int32(row[x]) if row[x] != NO_DATA else np.int32(0)
            line = total if counts else sums[k]
            line[:] = 0
            for dx in range(len(columns)):
                w = columns[dx]
                for x in range(width):
                    line[x] += w * acc[x + dx]
        _decide(sums, total, p[0, y + down, across : across + width], labels, out, y)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def bilateral(p, offsets, tables, labels, out):  # type: ignore[no-untyped-def]
    """Average with weights that fall with the distance and with the difference of the probabilities.

    Args:
        p: Probabilities.
        offsets: (n, 3) int64: row and column of a neighbour, from the corner of the margin; its weight 0..4096.
        tables: int32 0..4096: weight of a squared difference of probabilities, for each 16 of it; and (ry, rx).
        labels: (K,) uint8, value of each class.
        out: As in `gaussian`.
    """
    similar, reach_yx = tables
    n_classes = p.shape[0]
    height, width = out[0].shape
    sums, total = np.empty((n_classes, width), np.int32), np.empty(width, np.int32)
    squares, last = np.empty(width, np.int32), len(similar) - 1
    for y in range(height):
        own_row, own_col = y + reach_yx[0], reach_yx[1]
        sums[:], total[:] = 0, 0
        for i in range(len(offsets)):
            row, col, near = offsets[i]
            squares[:] = 0
            for k in range(n_classes):
                own = p[k, own_row, own_col : own_col + width]
                other = p[k, y + row, col : col + width]
                for x in range(width):
                    gap = np.int32(own[x]) - np.int32(other[x])
                    squares[x] += gap * gap
            other = p[0, y + row, col : col + width]
            for x in range(width):
                w = (np.int32(near) * similar[min(squares[x] >> 4, last)]) >> 12
                squares[x] = w if other[x] != NO_DATA else np.int32(0)  # the weight from here on
                total[x] += squares[x]
            for k in range(n_classes):
                other, line = p[k, y + row, col : col + width], sums[k]
                for x in range(width):
                    line[x] += squares[x] * np.int32(other[x])
        _decide(sums, total, p[0, own_row, own_col : own_col + width], labels, out, y)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _decide(sums, total, own, labels, out, y):  # type: ignore[no-untyped-def]
    """Write one row: shares rounded half up; exact in float64, for all numbers are below 2**53."""
    label, confidence, probability = out
    n_classes, width = sums.shape
    most, best = sums[0].copy(), np.zeros(width, np.int32)
    for k in range(n_classes):
        row, line = probability[k, y], sums[k]
        for x in range(width):
            share = np.floor(
                np.float64(2 * np.int64(line[x]) + total[x]) / np.float64(2 * np.int64(total[x]))
            )
            row[x] = np.uint8(share) if own[x] != NO_DATA else row[x]
        for x in range(width):
            more = line[x] > most[x]
            most[x] = line[x] if more else most[x]
            best[x] = np.int32(k) if more else best[x]
    for x in range(width):
        if own[x] != NO_DATA:
            label[y, x] = labels[best[x]]
            confidence[y, x] = probability[best[x], y, x]


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def bayes(p, halves, how, labels, out):  # type: ignore[no-untyped-def]
    """Take the posterior mean of each class's logit, its neighbours' highest logits being the prior.

    Args:
        p: Probabilities.
        halves: (rows,) int64, the window's spans.
        how: logit of each probability in multiples of 2**-16 and its square, (256,) int64 each, 0 for no data;
            smoothness of each class (K,) float64; millionths of the neighbours that make the prior.
        labels: (K,) uint8, value of each class.
        out: As in `gaussian`.
    """
    logits, smoothness, fraction = how
    n_classes = p.shape[0]
    height, width = out[0].shape
    down, across = len(halves) // 2, halves.max()
    posterior = np.empty((n_classes, width), np.float64)
    for y in range(height):
        own = p[:, y + down, across : across + width]
        for k in range(n_classes):
            _posteriors(p[k], y, halves, (logits, smoothness[k], fraction), posterior[k])
        for x in range(width):
            if own[0, x] != NO_DATA:
                _decide_posterior(posterior, labels, out, y, x)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _posteriors(plane, y, halves, how, posterior):  # type: ignore[no-untyped-def]
    """Slide a histogram of the window along a row of one class, and with it a mark under its highest values.

    Of what lies above the mark, number, sum and sum of squares are known; after each step along the row the mark
    moves until the next value below it would be one too many (as Huang et al. 1979 find medians, IEEE Trans. ASSP
    27:13).
    """
    (logits, squares), smoothness, fraction = how
    down, across = len(halves) // 2, halves.max()
    counts, size = np.zeros(256, np.int64), np.int64(0)
    for dy in range(len(halves)):
        size += 2 * halves[dy] + 1
        for x in range(across - halves[dy], across + halves[dy] + 1):
            counts[plane[y + dy, x]] += 1
    mark, above, total, square = np.int64(254), counts[NO_DATA], np.int64(0), np.int64(0)
    mean, variance, stale = 0.0, 0.0, True
    for x in range(len(posterior)):
        if x:
            for dy in range(len(halves)):
                new = np.int64(plane[y + dy, x + across + halves[dy]])
                old = np.int64(plane[y + dy, x + across - halves[dy] - 1])
                if new != old:
                    counts[new] += 1
                    counts[old] -= 1
                    comes, goes = np.int64(new > mark), np.int64(old > mark)
                    above += comes - goes
                    total += comes * logits[new] - goes * logits[old]
                    square += comes * squares[new] - goes * squares[old]
                    stale = True
        own = plane[y + down, x + across]
        if own == NO_DATA:
            continue
        if stale:
            n = size - counts[NO_DATA]
            wanted = (n * fraction + 999_999) // 1_000_000
            left = wanted + counts[NO_DATA] - above  # no data counts as above the mark, with logit 0
            while left < 0:
                mark += 1
                left += counts[mark]
                total -= counts[mark] * logits[mark]
                square -= counts[mark] * squares[mark]
            while mark >= 0 and counts[mark] <= left:
                left -= counts[mark]
                total += counts[mark] * logits[mark]
                square += counts[mark] * squares[mark]
                mark -= 1
            above = wanted + counts[NO_DATA] - left
            at = max(mark, 0)
            mean, variance = _moments(wanted, total + left * logits[at], square + left * squares[at])
            stale = False
        weight = variance / (variance + smoothness)
        posterior[x] = weight * (logits[own] / 2.0**LOGIT_BITS) + (1.0 - weight) * mean


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _moments(n, total, square):  # type: ignore[no-untyped-def]
    """Return mean and sample variance from exact sums, rounded once at the end."""
    mean = total / np.float64(n) / 2.0**LOGIT_BITS
    if n < 2:
        return mean, 0.0
    return mean, np.float64(n * square - total * total) / np.float64(n * (n - 1)) / 4.0**LOGIT_BITS


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _decide_posterior(posterior, labels, out, y, x):  # type: ignore[no-untyped-def]
    label, confidence, probability = out
    best, total = 0, 0.0
    for k in range(len(posterior)):
        if posterior[k, x] > posterior[best, x]:
            best = k
        total += 1.0 / (1.0 + np.exp(-posterior[k, x]))
    for k in range(len(posterior)):
        share = 1.0 / (1.0 + np.exp(-posterior[k, x])) / total
        probability[k, y, x] = np.uint8(min(np.floor(250.0 * share + 0.5), 250.0))
    label[y, x] = labels[best]
    confidence[y, x] = probability[best, y, x]
