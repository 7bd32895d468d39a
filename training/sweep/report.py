"""What a sweep leaves behind: a table of its trials, how much each setting matters, and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.sweep.space import Numbers, Sweep
from training.sweep.study import TrialRow, open_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEWEST_FOR_IMPORTANCE = 4


def best_of(rows: Sequence[TrialRow]) -> TrialRow:
    """Return the complete trial with the greatest value, the first of equals."""
    return max((r for r in rows if r.state == "complete"), key=lambda r: (r.value or 0.0, -r.number))


def write_report(sweep: Sweep, rows: Sequence[TrialRow], folder: Path) -> list[Path]:
    """Write ``trials.csv``, ``trials.json`` and the plots ``history``, ``parallel`` and ``importance`` (PNG).

    Args:
        sweep: What was searched.
        rows: Its trials.
        folder: Of the study.

    Returns:
        The files; no importance of fewer than four complete trials, or of one setting.
    """
    shares = importances(sweep, rows, folder)
    _write_csv(sweep, rows, folder / "trials.csv")
    told = {"metric": sweep.metric, "importance": shares, "trials": [vars(r) for r in rows]}
    (folder / "trials.json").write_text(json.dumps(told, indent=1))
    paths = [folder / "trials.csv", folder / "trials.json"]
    drawn = {"history": _history(sweep, rows), "parallel": _parallel(sweep, rows)}
    if shares:
        drawn["importance"] = _importance(sweep, shares)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
        paths.append(folder / f"{name}.png")
    return paths


def importances(sweep: Sweep, rows: Sequence[TrialRow], folder: Path) -> dict[str, float]:
    """Return which share of the metric's variance each setting explains (fANOVA, Hutter et al. 2014)."""
    complete = [r for r in rows if r.state == "complete"]
    differ = len({r.value for r in complete}) > 1
    if len(complete) < _FEWEST_FOR_IMPORTANCE or len(sweep.space) < 2 or not differ:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = open_study(folder)
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: round(float(share), 4) for name, share in found.items()}


def _write_csv(sweep: Sweep, rows: Sequence[TrialRow], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", sweep.metric, "seconds", *sweep.space, "note"])
        for row in rows:
            values = [row.values.get(name, "") for name in sweep.space]
            shown = "" if row.value is None else row.value
            writer.writerow([row.number, row.state, shown, row.seconds, *values, row.note])


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _history(sweep: Sweep, rows: Sequence[TrialRow]) -> Figure:
    """Draw each trial's value in the order of beginning, and the best so far."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for state, colour, marker in (("complete", "tab:blue", "o"), ("pruned", "0.6", "x")):
        shown = [r for r in rows if r.state == state and r.value is not None]
        axes.scatter(
            [r.number for r in shown], [r.value or 0 for r in shown], c=colour, marker=marker, label=state
        )
    complete = [r for r in rows if r.state == "complete"]
    best = np.maximum.accumulate([r.value or 0.0 for r in complete])
    axes.step([r.number for r in complete], best, where="post", color="tab:red", label="best so far")
    axes.set(xlabel="trial", ylabel=f"{sweep.metric} (validation)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _importance(sweep: Sweep, shares: dict[str, float]) -> Figure:
    figure = _figure(7, 0.8 + 0.45 * len(shares))
    axes = figure.add_subplot()
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[n] for n in names], color="tab:blue")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(xlabel=f"share of the variance of {sweep.metric}", xlim=(0, 1.08))
    return figure


def _parallel(sweep: Sweep, rows: Sequence[TrialRow]) -> Figure:
    """Draw each complete trial as a line through its settings, coloured by its value."""
    from matplotlib import colormaps

    complete = sorted((r for r in rows if r.state == "complete"), key=lambda r: r.value or 0.0)
    figure = _figure(2.2 + 1.9 * len(sweep.space), 4.5)
    axes = figure.add_subplot()
    values = np.array([r.value or 0.0 for r in complete])
    spread = np.ptp(values) or 1.0
    columns = [*(_column(sweep, name, complete, axes, i) for i, name in enumerate(sweep.space))]
    columns.append((values - values.min()) / spread)
    for i, line in enumerate(np.array(columns).T):
        colour = colormaps["viridis"]((values[i] - values.min()) / spread)
        axes.plot(range(len(columns)), line, color=colour, alpha=0.85)
    at = len(sweep.space)
    _ticks(axes, at, [(0.0, f"{values.min():.3f}"), (1.0, f"{values.max():.3f}")])
    axes.set_xticks(range(len(columns)), [*(n.removeprefix("options.") for n in sweep.space), sweep.metric])
    axes.tick_params(axis="x", labelrotation=12, labelsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.3, at + 0.5), ylim=(-0.06, 1.06))
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def _column(sweep: Sweep, name: str, rows: Sequence[TrialRow], axes: Axes, at: int) -> NDArray[np.float64]:
    """Scale one setting to 0..1 and write what its ends are."""
    part, found = sweep.space[name], [row.values[name] for row in rows]
    if isinstance(part, Numbers):
        low, high = part.low, part.high
        values = np.array(found, np.float64)
        if part.log:
            low, high, values = np.log(low), np.log(high), np.log(values)
        _ticks(axes, at, [(0.0, f"{part.low:g}"), (1.0, f"{part.high:g}")])
        return np.asarray((values - low) / (high - low))
    places = np.linspace(0, 1, len(part.choices))
    _ticks(axes, at, [(float(p), _word(c)) for p, c in zip(places, part.choices, strict=True)])
    return np.array([places[part.choices.index(value)] for value in found])


def _ticks(axes: Axes, at: int, marks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(at, color="0.7", linewidth=1, zorder=0)
    for height, text in marks:
        axes.annotate(text, (at, height), xytext=(3, 3), textcoords="offset points", fontsize=7)


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
