"""Show training data before training: a table, a map of labels and parts, sample sheets, the numbers behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from pipelines.train_model import TrainConfig, prepare_training
from training.inspection import PARTS, ClassView, Inspection, InspectOptions, Sample, inspect_training
from training.splits import LEFT_OUT, TEST, TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PART_COLOURS = {TRAIN: "#2f6f73", VAL: "#d98e32", TEST: "#8a4f7d", LEFT_OUT: "#c9d0d4"}
_INK, _QUIET = "#1b2327", "#66727a"
_DPI = 110


def inspect_data(
    config: TrainConfig, out: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Inspection, dict[str, Any], list[Path]]:
    """Look at what a training's configuration would train on, and write pictures and numbers.

    Args:
        config: The training.
        out: Folder, made if missing: ``map.png``, ``samples.png``, ``inspect.json``.
        progress: Called with blocks read and blocks in all.

    Returns:
        What was seen, where the labels come from and how far the parts lie apart, and the files.

    Raises:
        InputError: If scenes, labels or split do not fit together, or the parts of the split leak.
    """
    ready = prepare_training(config)
    options = InspectOptions(seed=config.options.seed)
    seen = inspect_training(ready.cube, ready.labels, ready.split, options, progress)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / name for name in ("map.png", "samples.png", "inspect.json")]
    draw_map(seen, ready.labels.classes, paths[0])
    draw_samples(seen, ready.labels.classes, paths[1])
    paths[2].write_text(json.dumps(ready.lines() | seen.as_dict(), indent=2))
    return seen, ready.lines(), paths


def show(seen: Inspection) -> None:
    """Print classes, parts and the normalisation as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("class", box=None, pad_edge=False)
    for name in (*PARTS, "hectares", "areas"):
        table.add_column(name, justify="right")
    for c in seen.classes:
        table.add_row(c.name, *(f"{n:,}" for n in c.pixels.values()), f"{c.hectares:,.1f}", f"{c.areas:,}")
    total = [sum(c.pixels[part] for c in seen.classes) for part in PARTS]
    table.add_row("all", *(f"{n:,}" for n in total), f"{sum(c.hectares for c in seen.classes):,.1f}", "")
    console.print("annotated pixels of each part")
    console.print(table)
    mean, std = seen.normalisation.mean, seen.normalisation.std
    console.print(
        f"\nnormalisation, of the training part alone: mean {_few(mean)}; standard deviation {_few(std)}"
    )
    for line in warnings_of(seen):
        console.print(f"[yellow]note:[/] {line}")


def warnings_of(seen: Inspection) -> list[str]:
    """Say what a training would stumble over."""
    lines = []
    for c in seen.classes:
        if not c.pixels["train"]:
            lines.append(f"{c.name}: nothing annotated in the training part; the network cannot learn it")
        elif not c.pixels["val"]:
            lines.append(f"{c.name}: nothing annotated in the validation part; its score will be missing")
    left, total = (sum(c.pixels[p] for c in seen.classes) for p in ("left out", "train"))
    if left > total:
        lines.append(
            f"the buffer between the parts leaves out {left:,} annotated pixels, more than the {total:,} that train: "
            "a smaller options.split.buffer_px or larger options.split.block_px keeps more"
        )
    return lines


def draw_map(seen: Inspection, classes: ClassScheme, path: Path) -> None:
    """Draw the scene with its labels, and the parts of the split beside it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    height, width = seen.label.shape
    high = min(9.0, 6.5 * height / width) + 1.1
    figure = Figure(figsize=(13.5, max(4.0, high)), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(_grey(seen.rgb), interpolation="nearest")
    left.imshow(_painted(seen.label, {c.value: c.colour for c in classes.classes}), interpolation="nearest")
    right.imshow(_painted(np.where(seen.label != 0, seen.parts, 255), _PART_COLOURS), interpolation="nearest")
    right.imshow(_painted(seen.parts, _PART_COLOURS, alpha=0.22), interpolation="nearest")
    for axes, title in (
        (left, "labels"),
        (right, "parts of the split: annotated pixels strong, all others pale"),
    ):
        axes.set_title(title, loc="left", color=_INK, fontsize=11)
        axes.set_axis_off()
    drawn = [c for c in seen.classes if sum(c.pixels.values())]
    left.legend(
        handles=[Patch(color=c.colour, label=f"{c.name}  {c.hectares:,.0f} ha") for c in drawn],
        **_below(len(drawn)),
    )
    share = {n: sum(c.pixels[n] for c in seen.classes) for n in PARTS}
    handles = [Patch(color=_PART_COLOURS[p], label=f"{n}  {share[n]:,} px") for n, p in PARTS.items()]
    right.legend(handles=handles, **_below(len(handles)))
    figure.savefig(path, facecolor="white")


def _below(n: int) -> dict[str, Any]:
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "frameon": False, "fontsize": 9}
    return {**place, "ncols": min(4, max(1, n))}


def draw_samples(seen: Inspection, classes: ClassScheme, path: Path) -> None:
    """Draw a sheet: a row for each class, its patches in colour with the labels' outlines, and its season."""
    from matplotlib.figure import Figure

    rows = [c for c in seen.classes if any(s.name == c.name for s in seen.samples)]
    wide = max(sum(s.name == c.name for s in seen.samples) for c in rows)
    figure = Figure(figsize=(2.1 * wide + 4.6, 2.3 * len(rows) + 0.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(rows), wide + 1, squeeze=False, width_ratios=[1] * wide + [2])
    for row, view in zip(grid, rows, strict=True):
        mine = [s for s in seen.samples if s.name == view.name]
        value = classes.values[classes.names.index(view.name)]
        for axes, sample in zip(row[:-1], [*mine, *[None] * wide], strict=False):
            _draw_patch(axes, sample, value, view.colour)
        row[0].set_title(view.name, loc="left", color=_INK, fontsize=10)
        _draw_series(row[-1], seen, view, mine)
    figure.savefig(path, facecolor="white")


def _draw_patch(axes: Axes, sample: Sample | None, value: int, colour: str) -> None:
    axes.set_axis_off()
    if sample is None:
        return
    axes.imshow(_stretched(sample.rgb), interpolation="nearest")
    for other, edge in (
        (sample.label == value, colour),
        ((sample.label != value) & (sample.label != 0), "#ffffff"),
    ):
        if other.any() and not other.all():
            axes.contour(other, levels=[0.5], colors=[edge], linewidths=1.4 if edge == colour else 0.6)
    axes.text(0.02, 0.02, sample.date, transform=axes.transAxes, color="white", fontsize=7, weight="bold")


def _draw_series(axes: Axes, seen: Inspection, view: ClassView, samples: list[Sample]) -> None:
    steps = np.arange(len(seen.dates))
    known = np.isfinite(view.series[:, 1])  # lines go on over dates that are hidden everywhere
    low, middle, high = view.series[known].T
    axes.fill_between(steps[known], low, high, color=view.colour, alpha=0.3, linewidth=0)
    for sample in samples:
        seen_here = np.isfinite(sample.series)
        axes.plot(steps[seen_here], sample.series[seen_here], color=_QUIET, linewidth=0.6)
    axes.plot(steps[known], middle, color=view.colour, linewidth=2.2, marker="o", markersize=3)
    shown = steps[:: max(1, len(steps) // 6)]
    axes.set_xticks(shown, [seen.dates[t][2:] for t in shown], fontsize=7, color=_QUIET)
    axes.tick_params(axis="y", labelsize=7, colors=_QUIET)
    axes.set_ylim(*_limits(seen))
    axes.set_title(
        f"{seen.index}: median, 10..90%; grey the pixels in the middle", loc="left", fontsize=8, color=_QUIET
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _limits(seen: Inspection) -> tuple[float, float]:
    """Take one scale for all classes, so that they can be compared."""
    values = np.concatenate([c.series.ravel() for c in seen.classes] + [s.series for s in seen.samples])
    known = values[np.isfinite(values)]
    return (float(known.min()) - 0.03, float(known.max()) + 0.03) if len(known) else (0.0, 1.0)


def _stretched(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring reflectance to 0..1 between its second and ninety-eighth percentile; no data is light grey."""
    known = np.isfinite(rgb)
    if not known.any():
        return np.full(rgb.shape, 0.9, np.float32)
    low, high = np.percentile(rgb[known], (2, 98))
    return np.where(known, np.clip((rgb - low) / max(high - low, 1e-6), 0, 1), 0.9).astype(np.float32)


def _grey(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a pale grey picture that colours can lie on."""
    light = _stretched(rgb).mean(axis=-1, keepdims=True) * 0.5 + 0.5
    return np.repeat(light, 3, axis=-1)


def _painted(values: NDArray[np.uint8], colours: dict[int, str], alpha: float = 1.0) -> NDArray[np.float32]:
    """Return RGBA, transparent where a value has no colour."""
    from matplotlib.colors import to_rgb

    found = np.zeros((*values.shape, 4), np.float32)
    for value, colour in colours.items():
        found[values == value] = (*to_rgb(colour), alpha)
    return found


def _few(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.0f}" for v in values)
