"""Show what a search found: tables and a small map in the terminal, a picture of the coverage."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.coverage import Coverage, coverage
from engine.archive.summary import summarise
from engine.values.area import Area
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, search_scenes

_SHADES = " ░▒▓█"
_WIDE, _HIGH = 60, 24  # characters of the small map; one is twice as high as wide


def search_summary(
    config: RunConfig, out: Path | None = None, picture: Path | None = None
) -> tuple[dict[str, Any], Coverage]:
    """Search a run's scenes and count them; write scenes and picture where asked."""
    area = area_of(config.area)
    table = search_scenes(config, area)
    seen = coverage(table, area)
    if out is not None:
        table.to_parquet(out)
    if picture is not None:
        draw(seen, area, f"{area.name}, {config.time}: {len(table)} scenes", picture)
    return summarise(table, seen), seen


def show(summary: dict[str, Any], seen: Coverage) -> None:
    """Print the summary as tables and a small map."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _lines(summary).items():
        facts.add_row(name, text)
    console.print(facts)
    months = Table("month", "scenes", "", box=None, pad_edge=False)
    most = max(summary["months"].values())
    for month, count in summary["months"].items():
        months.add_row(month, str(count), "█" * max(1, round(30 * count / most)))
    console.print(months)
    console.print(small_map(seen), markup=False)


def _lines(summary: dict[str, Any]) -> dict[str, str]:
    """Say the summary in words, a line each."""
    cover, seen = summary["coverage"], summary["coverage"]["observations"]
    shares = [f"{100 * s:.1f}% {n}+" for n, s in cover["share_seen_at_least"].items()]
    cloud = summary["cloud_percent"]
    clouds = (
        f"p10 {cloud['p10']}%, median {cloud['median']}%, p90 {cloud['p90']}%" if "p10" in cloud else "untold"
    )
    clear = f"; {cloud['below_20_percent']} scenes below 20%" if "p10" in cloud else ""
    named = ("orbits", "directions", "tiles", "platforms", "crs", "baselines")
    return {
        "scenes": f"{summary['scenes']} of {summary['overpasses']} overpasses, "
        f"{summary['first']} .. {summary['last']}; {summary['superseded']} superseded",
        "area": f"{cover['area_km2']:,.0f} km2, counted on cells of {cover['cell_m']:g} m",
        "seen": ", ".join(shares) + " times",
        "per place": f"least {seen['least']}, p10 {seen['p10']}, median {seen['median']}, most {seen['most']}",
        "cloud": clouds + clear,
        **{name: _few(summary[name]) for name in named},
        "offset (DN)": _few(summary["offsets_dn"]),
        "because": "; ".join(f"{r} ({n})" for r, n in summary["offset_reasons"].items()),
        "pixels say": _few(summary["probe"]),
    }


def _few(counts: dict[str, int], most: int = 12) -> str:
    """List counts, the most frequent first, and how many more there are."""
    ranked = sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    rest = f", and {len(ranked) - most} more" if len(ranked) > most else ""
    return ", ".join(f"{name}: {count}" for name, count in ranked[:most]) + rest


def small_map(seen: Coverage) -> str:
    """Draw the coverage with characters: darker is seen more often, ``!`` never, ``.`` outside."""
    height, width = seen.box.shape_yx
    scale = max(width / _WIDE, height / (2 * _HIGH))
    rows = (np.arange(max(1, int(height / (2 * scale)))) * 2 * scale + scale).astype(int).clip(0, height - 1)
    cols = (np.arange(max(1, int(width / scale))) * scale + scale / 2).astype(int).clip(0, width - 1)
    counts, inside = seen.observations[np.ix_(rows, cols)], seen.inside[np.ix_(rows, cols)]
    most = max(1, int(seen.observations[seen.inside].max()))
    lines = [
        "".join(_sign(c, i, most) for c, i in zip(*row, strict=True))
        for row in zip(counts, inside, strict=True)
    ]
    return "\n".join([*lines, f"░ seen rarely .. █ seen {most} times, ! never, . outside"])


def _sign(count: int, inside: bool, most: int) -> str:
    if not inside:
        return "."
    return _SHADES[1 + int(3 * (int(count) - 1) / max(1, most - 1))] if count else "!"


def draw(seen: Coverage, area: Area, title: str, path: Path) -> None:
    """Write a picture of the coverage: observations as colours, the outline, a scale."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure

    left, bottom, right, top = seen.grid.bounds_of_box(seen.box)
    aspect = (top - bottom) / (right - left)
    figure = Figure(figsize=(8, min(max(8 * aspect, 3.5), 12)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = _edges(int(seen.observations[seen.inside].max()))
    seen_often = colormaps["viridis"](np.linspace(0.15, 1, len(edges) - 2))
    colours = ListedColormap([(0.8, 0.1, 0.1, 1.0), *seen_often])  # a hole is red
    shown = np.ma.masked_array(seen.observations, ~seen.inside)
    image = axes.imshow(
        shown,
        extent=(left / 1e3, right / 1e3, bottom / 1e3, top / 1e3),
        norm=BoundaryNorm(edges, len(edges) - 1),
        cmap=colours,
    )
    for ring in _rings(area, seen.grid.crs):
        axes.plot(ring[:, 0] / 1e3, ring[:, 1] / 1e3, color="black", linewidth=0.9)
    centres = (edges[:-1] + edges[1:] - 1) / 2
    bar = figure.colorbar(
        image, ax=axes, ticks=centres + 0.5, shrink=0.85, label="overpasses that see a place"
    )
    bar.ax.set_yticklabels([_span(a, b - 1) for a, b in itertools.pairwise(edges)])
    bar.ax.minorticks_off()
    share = f"{100 * seen.share(1):.1f}% of the area seen, cells of {seen.cell_m:g} m"
    axes.set(
        title=f"{title}\n{share}",
        xlabel="km east of the middle",
        ylabel="km north of the middle",
        aspect="equal",
    )
    figure.savefig(path, dpi=120)


def _edges(most: int) -> NDArray[np.int64]:
    """Return whole-number class edges, at most nine classes, of which 0 is one.

    >>> _edges(3).tolist(), _edges(30).tolist()
    ([0, 1, 2, 3, 4], [0, 1, 5, 9, 13, 17, 21, 25, 29, 33])
    """
    step = max(1, -(-most // 8))
    return np.array([0, *range(1, most + step + 1, step)], np.int64)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _rings(area: Area, crs: str) -> list[Any]:
    import shapely

    outline = shapely.get_parts(area.to_crs(crs).boundary)
    return [shapely.get_coordinates(line) for line in outline]
