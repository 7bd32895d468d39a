"""Families of lines beside their controls: window borders and tile borders as a whole.

Lines come in pieces (`engine.inference.seam_sums`). For a piece i of a line with n(i) pairs and rate r(i),
c(i) is the mean rate of the same piece of its control lines. Over a family of lines:

    difference = Σ n(i) (r(i) - c(i)) / Σ n(i)

A landscape is no coin toss (a field edge may run along a line for a kilometre), so its error is not taken
from a binomial law but is the largest of five:

- over pieces: the standard error of the weighted mean of ``r(i) - c(i)``. A seam raises all pieces, a
  field edge that happens to lie on a border raises one, and this error with it;
- over lines: the same of the lines' own means: one line along a road, or along the edges of a land cut up
  by rows and columns, is no family (`engine.inference.seam_suspects` looks at single lines);
- within controls: the error if each piece were one more draw from among its own controls;
- over offsets: the same difference as if all borders stood d pixels aside, for each control offset d (its
  own control left out), as a root mean square: how large the statistic gets where there is no border;
- a floor: ``sqrt(expected transitions + 1)`` (Poisson) for labels, one stored step in each pair
  independently for amounts; it keeps a map without any change from dividing by nothing.

``z = difference / error``. The ratio ``(Σ n r + 1) / (Σ n c + 1)`` says how much it matters. A family is
called a seam if ratio and z both pass their thresholds: in a large map a tiny difference becomes certain,
and in a small one a large difference happens by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.seam_sums import Axis, Measure

CONTROL_OFFSETS = tuple(d for d in range(-12, 13) if abs(d) >= 3)
"""Where a line's controls lie, in pixels from it."""

LEAST_CONTROLS = 6
"""A piece with fewer controls tells nothing."""

_KEEP_OFF_PX = 2  # a control stays this far from every border
_LEAST_PIECES = 4  # below that there is no error over pieces to speak of


@dataclass(frozen=True)
class SeamFamily:
    """What was found on one family of lines.

    Attributes:
        family: ``lattice`` (window borders; ``lattice 1``, ``lattice 2`` where there are several) or ``tile``.
        axis: ``y``: lines between rows; ``x``: between columns.
        measure: ``label`` (share of differing pairs), or the name of a layer of amounts (mean absolute step
            as a share of its range, over all its planes).
        lines: Lines with enough controls; 0 means that nothing can be said.
        pairs: Valid pixel pairs across them.
        rate: On the lines.
        control_rate: On their controls, weighted as the lines.
        ratio: The two, with one event added to each.
        z: Difference over its error.
        seam: The verdict.
    """

    family: str
    axis: Axis
    measure: str
    lines: int
    pairs: int
    rate: float
    control_rate: float
    ratio: float
    z: float
    seam: bool


@dataclass(frozen=True)
class _Contrast:
    """Pieces of a family's lines beside their controls.

    Attributes:
        weight: (piece,) float64, valid pairs.
        rate: (piece,) float64, on the line.
        control_rates: (piece, offset) float64, 0 where `is_control` is False.
        is_control: (piece, offset) bool.
        line: (piece,) int64, the line that a piece belongs to.
    """

    weight: NDArray[np.float64]
    rate: NDArray[np.float64]
    control_rates: NDArray[np.float64]
    is_control: NDArray[np.bool_]
    line: NDArray[np.int64]

    @property
    def lines(self) -> int:
        """Number of lines."""
        return np.unique(self.line).size

    @property
    def control(self) -> NDArray[np.float64]:
        """Mean rate of each piece's controls, (piece,)."""
        return self.control_rates.sum(1) / self.count

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of each piece's controls, (piece,)."""
        return self.is_control.sum(1)

    def mean(self, values: NDArray[np.float64]) -> float:
        """Return the weighted mean over pieces."""
        return float((self.weight * values).sum() / self.weight.sum())

    def error_over_pieces(self) -> float:
        """Return the standard error of the weighted mean of paired differences."""
        paired = self.rate - self.control
        n = paired.size
        spread = (self.weight**2 * (paired - self.mean(paired)) ** 2).sum() * n / (n - 1)
        return float(np.sqrt(spread) / self.weight.sum())

    def error_over_lines(self) -> float:
        """Return the standard error from the lines' own differences; with one line, the difference itself."""
        paired = self.rate - self.control
        weight = np.bincount(self.line, self.weight)
        excess = np.bincount(self.line, self.weight * (paired - self.mean(paired)))
        n = self.lines
        if n < 2:
            return abs(self.mean(paired))
        return float(np.sqrt((excess**2).sum() * n / (n - 1)) / weight.sum())

    def error_within_controls(self) -> float:
        """Return the error if each piece were one more draw from among its own controls."""
        squares = (self.control_rates - self.control[:, None]) ** 2
        variance = np.where(self.is_control, squares, 0.0).sum(1) / (self.count - 1) * (1 + 1 / self.count)
        return float(np.sqrt((self.weight**2 * variance).sum()) / self.weight.sum())

    def error_over_offsets(self) -> float:
        """Return the root mean square of the difference as if the borders stood at each offset."""
        others = (self.control_rates.sum(1, keepdims=True) - self.control_rates) / (self.count[:, None] - 1)
        moved = np.where(self.is_control, self.control_rates - others, 0.0)
        shares = np.where(self.is_control, self.weight[:, None], 0.0).sum(0)
        there = shares > 0
        placebo = (self.weight[:, None] * moved).sum(0)[there] / shares[there]
        return float(np.sqrt((placebo**2).mean()))


def near_borders(borders: NDArray[np.int64], n_lines: int) -> NDArray[np.bool_]:
    """Mark the lines too near a border to be a control, (line,) bool."""
    near = (borders[:, None] + np.arange(-_KEEP_OFF_PX, _KEEP_OFF_PX + 1)).ravel()
    marked = np.zeros(n_lines, np.bool_)
    marked[near[(near >= 0) & (near < n_lines)]] = True
    return marked


def _contrast(
    sums: NDArray[Any], lines: NDArray[np.int64], borders: NDArray[np.int64], unit: float
) -> _Contrast:
    """Set the pieces of some lines beside their controls; pieces with too few controls are left out."""
    pairs = sums[0].astype(np.float64)
    rates = np.divide(sums[1] * unit, pairs, out=np.zeros_like(pairs), where=pairs > 0)
    at = lines[:, None] + np.asarray(CONTROL_OFFSETS)
    free = ~near_borders(borders, len(pairs))
    inside = (at >= 0) & (at < len(pairs)) & free[np.clip(at, 0, len(pairs) - 1)]
    at = np.where(inside, at, 0)
    is_control = (inside[:, :, None] & (pairs[at] > 0)).swapaxes(1, 2)  # (line, piece, offset)
    kept = (pairs[lines] > 0) & (is_control.sum(-1) >= LEAST_CONTROLS)
    is_control = is_control[kept]
    return _Contrast(
        weight=pairs[lines][kept],
        rate=rates[lines][kept],
        control_rates=np.where(is_control, rates[at].swapaxes(1, 2)[kept], 0.0),
        is_control=is_control,
        line=np.nonzero(kept)[0],
    )


def compare(
    sums: NDArray[Any], lines: NDArray[np.int64], borders: NDArray[np.int64], measure: Measure
) -> dict[str, Any]:
    """Compare one family of lines with its controls; the module's docstring gives the formulas.

    Args:
        sums: (2, line, piece) whole numbers, pairs and differences of every line of the axis.
        lines: Indices of the family's lines.
        borders: Indices of all families' lines; controls keep off them.
        measure: What was counted.

    Returns:
        The fields of `SeamFamily` from ``lines`` to ``z``.
    """
    pieces = _contrast(sums, lines, borders, measure.unit)
    if pieces.weight.size < _LEAST_PIECES:
        return {"lines": 0, "pairs": 0, "rate": 0.0, "control_rate": 0.0, "ratio": 1.0, "z": 0.0}
    total = float(pieces.weight.sum())
    rate, control_rate = pieces.mean(pieces.rate), pieces.mean(pieces.control)
    floor = np.sqrt(control_rate * total + 1) / total if measure.classes else measure.unit / np.sqrt(total)
    error = max(
        pieces.error_over_pieces(),
        pieces.error_over_lines(),
        pieces.error_within_controls(),
        pieces.error_over_offsets(),
        floor,
    )
    return {
        "lines": pieces.lines,
        "pairs": int(total),
        "rate": rate,
        "control_rate": control_rate,
        "ratio": (rate * total + 1) / (control_rate * total + 1),
        "z": (rate - control_rate) / float(error),
    }
