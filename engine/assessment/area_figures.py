"""Pictures of areas: mapped bars in the classes' colours, and the adjusted figures with their intervals on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.assessment.area_report import AreaReport, UnitAreas
from engine.assessment.unit_areas import ClassArea

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_UNITS, MOST_CLASSES = 30, 12
_INK, _QUIET = "#1b2327", "#66727a"
_DPI = 120
_ROW_IN = 0.21
_OTHER = "#888888"
_BY_UNIT = "adjusted by points of the unit, with interval"


def draw_whole(path: str | Path, report: AreaReport, title: str) -> Path:
    """Draw hectares of each class in the whole map, the largest first.

    Args:
        path: PNG to write.
        report: What was measured.
        title: Above all.
    """
    from matplotlib.figure import Figure

    there = [own for own in report.whole.classes if own.mapped or (own.adjusted and own.adjusted.value)]
    there.sort(key=lambda own: -own.mapped)
    figure = Figure(figsize=(7.0, 1.3 + 0.3 * max(1, len(there))), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    colours = _colours(report)
    for row, own in enumerate(there):
        _bar(axes, row, own, colours.get(own.value, _OTHER))
    _dress(axes, size=8)
    axes.set_yticks(range(len(there)), [_short(report.name_of(own.value)) for own in there])
    axes.set_ylim(len(there) - 0.4, -0.6)
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    if report.adjusted:
        _legend(figure, report, f"adjusted by the sample, {report.level:.0%} interval")
    figure.savefig(path)
    return Path(path)


def draw_units(path: str | Path, report: AreaReport, title: str) -> Path:
    """Draw hectares of each class in each unit: mapped bars, adjusted figures with their intervals.

    The largest units and classes are shown, as many as a page has room for; the title says so.

    Args:
        path: PNG to write.
        report: With one unit at least.
        title: Above all.
    """
    from matplotlib.figure import Figure

    units = sorted(report.units, key=lambda u: -u.area.mapped)[:MOST_UNITS]
    classes = sorted((own for own in report.whole.classes if own.mapped), key=lambda own: -own.mapped)
    classes = classes[:MOST_CLASSES]
    columns = min(3, max(1, len(classes)))
    rows = -(-max(1, len(classes)) // columns)
    longest = max(len(_short(u.area.name)) for u in units)
    size = (3.0 * columns + 0.08 * longest, 1.1 + rows * (0.75 + _ROW_IN * (len(units) + 1)))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colours = _colours(report)
    for axes, own in zip(panels.flat, classes, strict=False):
        _panel(axes, units, own.value, colours.get(own.value, _OTHER))
        axes.set_title(report.name_of(own.value), loc="left", fontsize=9, color=_INK)
    for axes in panels.flat[len(classes) :]:
        axes.set_visible(False)
    panels[0, 0].set_yticks(range(len(units)), [_short(u.area.name) for u in units])
    panels[0, 0].set_ylim(len(units) - 0.4, -0.6)
    figure.suptitle(
        _title(title, report, len(units), len(classes)), x=0.01, ha="left", fontsize=10, color=_INK
    )
    if report.adjusted:
        _legend(figure, report, _BY_UNIT)
    figure.savefig(path)
    return Path(path)


def _colours(report: AreaReport) -> dict[int, str]:
    return {c.value: c.colour for c in report.scheme.classes}


def _panel(axes: Axes, units: list[UnitAreas], value: int, colour: str) -> None:
    for row, unit in enumerate(units):
        own = next((c for c in unit.classes if c.value == value), None)
        if own is not None:
            _bar(axes, row, own, colour)
    _dress(axes, size=7)
    axes.locator_params(axis="x", nbins=4)


def _bar(axes: Axes, row: int, own: ClassArea, colour: str) -> None:
    axes.barh(row, own.mapped, height=0.72, color=colour, alpha=0.6, linewidth=0)
    _estimate(axes, row, own)


def _dress(axes: Axes, size: int) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=size, colors=_INK)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}" if 0 < v < 10 else f"{v:,.0f}")
    axes.set_xlabel("hectares", fontsize=size, color=_QUIET)


def _estimate(axes: Axes, row: int, own: ClassArea) -> None:
    told = own.adjusted
    if told is None or told.value is None:
        return
    if told.low is not None and told.high is not None:
        axes.hlines(row, told.low, told.high, color=_INK, linewidth=1.3)
    face = "white" if own.method == "synthetic" else _INK
    axes.plot([told.value], [row], "o", markersize=3.6, markerfacecolor=face, markeredgecolor=_INK)


def _legend(figure: Figure, report: AreaReport, adjusted: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"marker": "o", "linestyle": "-", "color": _INK, "markersize": 3.6}
    handles: list[Any] = [
        Patch(facecolor="#9aa5a9", alpha=0.6, label="mapped (pixels counted)"),
        Line2D([], [], label=adjusted, **dot),
    ]
    if adjusted == _BY_UNIT and any(own.method == "synthetic" for u in report.units for own in u.classes):
        handles.append(
            Line2D(
                [], [], markerfacecolor="white", label="synthetic: as if the map erred as everywhere", **dot
            )
        )
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=7, frameon=False)


def _title(title: str, report: AreaReport, n_units: int, n_classes: int) -> str:
    there = sum(1 for own in report.whole.classes if own.mapped)
    left_out = [
        f"the largest {n} of {total} {what}"
        for n, total, what in ((n_units, len(report.units), "units"), (n_classes, there, "classes"))
        if n < total
    ]
    return title + (f" ({', '.join(left_out)})" if left_out else "")


def _short(name: str, most: int = 28) -> str:
    """Shorten a name.

    >>> _short("a very long name of a municipality", 12)
    'a very long…'
    """
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"
