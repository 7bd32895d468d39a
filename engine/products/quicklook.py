"""One picture of a map for people: classes, their shares, where the map is sure, how large it is.

The store is read once, block by block: each block gives its share of a majority-reduced picture and of the
class counts, so that the percentages are those of all pixels, not of the picture. Everything is laid out
in whole pixels of the PNG, so that a map pixel never smears::

    ┌ title ─────────────────────────────────┐
    │ subtitle                               │
    │ ┌ map ──────────────┐  classes     %   │
    │ │                   │  ■ wheat    41   │
    │ │                   │  ■ maize    12   │
    │ │                   │  confidence      │
    │ └───────────────────┘  [small map]     │
    │ N  ├──── 10 km ┤           CRS, pixel  │
    └────────────────────────────────────────┘
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.products.amounts import read_steps
from engine.products.reducers import mean_blocks, mode_blocks
from engine.products.styles import CONFIDENCE_COLOURS, LegendEntry, legend
from engine.store.view import MapView, in_flight, open_view
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from shapely.geometry.base import BaseGeometry

_INK, _QUIET, _HAIR, _HOLE = "#1b2327", "#66727a", "#c9d0d4", "#e4e7e9"
_DPI = 100
_MARGIN, _GAP, _COLUMN, _HEAD, _FOOT, _ROW, _NOTE = 44, 44, 400, 132, 104, 46, 96
_MOST_ROWS = 14
_LEAST_PX = 1440


@dataclass(frozen=True)
class Picture:
    """A map reduced for a picture.

    Attributes:
        label: (y, x) uint8, majority (of amounts the step of the mean), 0 = no data.
        confidence: (y, x) uint8 0..250, 255 = no data; None if the map has none.
        counts: Full-resolution pixels per label, 0 included.
        mean_confidence: Over all full-resolution pixels with data, 0..1; None if there is none.
        steps: Whether the labels are steps of an amount.
        factor: Map pixels per side of a picture pixel.
    """

    label: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    counts: dict[int, int]
    mean_confidence: float | None
    factor: int
    steps: bool = False


def read_picture(view: MapView, box: Box, factor: int, block_px: int = 2048) -> Picture:
    """Reduce a map block by block.

    Args:
        view: The map.
        box: Area to show.
        steps: Whether the labels are steps of an amount.
        factor: Map pixels per side of a picture pixel.
        block_px: Side of the blocks that are read, rounded to whole picture pixels.
    """
    height, width = box.shape_yx
    step = max(1, block_px // factor) * factor
    shape = (-(-height // factor), -(-width // factor))
    label = np.zeros(shape, np.uint8)
    confidence = np.full(shape, 255, np.uint8) if "confidence" in view.variables else None
    tally, sure = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def read(block: Box) -> tuple[Box, Any, Any]:
        moved = Box(block.y0 + box.y0, block.x0 + box.x0, block.y1 + box.y0, block.x1 + box.x0)
        return block, view.read("label", moved), _maybe(view, "confidence", moved)

    for block, labels, amounts in in_flight(read, Box(0, 0, height, width).blocks(step), workers=2):
        rows = slice(block.y0 // factor, -(-block.y1 // factor))
        cols = slice(block.x0 // factor, -(-block.x1 // factor))
        label[rows, cols] = mode_blocks(labels, factor)
        tally += np.bincount(labels.ravel(), minlength=256)
        if confidence is not None:
            confidence[rows, cols] = mean_blocks(amounts, factor, 255)
            sure += np.bincount(amounts.ravel(), minlength=256)
    counts = {int(v): int(tally[v]) for v in np.flatnonzero(tally)}
    return Picture(label, confidence, counts, _mean_of(sure[:251]), factor)


def _maybe(view: MapView, variable: str, box: Box) -> NDArray[np.uint8] | None:
    return view.read(variable, box) if variable in view.variables else None


def _mean_of(tally: NDArray[np.int64]) -> float | None:
    total = int(tally.sum())
    return float((tally * np.arange(tally.size)).sum() / total / 250) if total else None


def write_quicklook(
    map_url: str,
    path: str | Path,
    scheme: ClassScheme | str,
    *,
    title: str,
    outline: BaseGeometry | None = None,
    box: Box | None = None,
    max_px: int = 1600,
) -> Path:
    """Draw a map store as a PNG.

    Args:
        map_url: The map store.
        path: Local file to write.
        scheme: The classes of ``label``; or the name of a layer of amounts, shown in ten steps.
        title: First line: the title; what follows a line break: the subtitle (season, source).
        outline: Outline of the area in EPSG:4326; holes inside it are shown grey, the outside white.
        box: Area to show, in the store's global pixels; None takes the whole store.
        max_px: Longest side of the PNG, at least 1440 (a full legend needs it).

    Returns:
        The path.

    Raises:
        InputError: If there is no map, the box reaches outside or `max_px` is too small.
    """
    if max_px < _LEAST_PX:
        raise InputError(
            "the quicklook is too small to be read", where="max_px", found=max_px, limit=_LEAST_PX
        )
    view, path = open_view(map_url), Path(path)
    box = view.crop(box)
    room_yx = (max_px - _HEAD - _FOOT, max_px - 2 * _MARGIN - _GAP - _COLUMN)
    scale = min(room / side for room, side in zip(room_yx, box.shape_yx, strict=True))
    factor = max(1, math.floor(1 / scale))
    if isinstance(scheme, str):
        steps = read_steps(view, scheme, box, factor)
        picture, scheme = Picture(steps.label, None, steps.counts, None, factor, True), steps.scheme
    else:
        picture = read_picture(view, box, factor)
    place = _Place(view.grid, box, scale, outline)
    figure = _draw(picture, place, scheme, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.png")
    figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})
    part.replace(path)
    return path


@dataclass(frozen=True)
class _Place:
    """Where the picture lies on the Earth and on the page.

    Attributes:
        grid: Grid of the map.
        box: Pixels shown.
        scale: Page pixels per map pixel.
        outline: In EPSG:4326, or None.
    """

    grid: Grid
    box: Box
    scale: float
    outline: BaseGeometry | None

    @property
    def size_xy(self) -> tuple[int, int]:
        """Width and height on the page in pixels."""
        height, width = self.box.shape_yx
        return max(1, round(width * self.scale)), max(1, round(height * self.scale))

    def shape(self, scale: float) -> BaseGeometry | None:
        """Return the outline in pixels of the box times `scale`, x to the right, y down."""
        from pyproj import Transformer
        from shapely import transform

        if self.outline is None:
            return None
        to_grid = Transformer.from_crs("EPSG:4326", self.grid.crs, always_xy=True)
        left, _, _, top = self.grid.bounds_of_box(self.box)
        res_y, res_x = self.grid.resolution_yx

        def to_page(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = to_grid.transform(points[:, 0], points[:, 1])
            return np.stack([(x - left) / res_x, (top - y) / res_y], 1) * scale

        shape: BaseGeometry = transform(self.outline, to_page)
        return shape

    def inside(self, shape_yx: tuple[int, int], factor: int) -> NDArray[np.bool_]:
        """Mark the picture's pixels whose centre lies inside the outline; all of them without one."""
        from affine import Affine
        from rasterio.features import geometry_mask

        shape = self.shape(1 / factor)
        if shape is None:
            return np.ones(shape_yx, np.bool_)
        marked: NDArray[np.bool_] = geometry_mask([shape], shape_yx, Affine.identity(), invert=True)
        return marked

    @property
    def metres_per_px(self) -> float:
        """Metres on the ground along x per page pixel, at the middle of the box."""
        from pyproj import CRS

        crs, (_, res_x) = CRS.from_user_input(self.grid.crs), self.grid.resolution_yx
        _, bottom, _, top = self.grid.bounds_of_box(self.box)
        if crs.is_geographic:
            return res_x * 111_320 * math.cos(math.radians((bottom + top) / 2)) / self.scale
        return res_x * float(crs.axis_info[0].unit_conversion_factor) / self.scale


def _draw(picture: Picture, place: _Place, scheme: ClassScheme, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inside = place.inside(picture.label.shape, picture.factor)
    holes = inside & (picture.label == 0)
    found = legend(scheme, picture.counts)
    # Steps of an amount are read from the highest down, classes from the largest.
    entries = _rows(sorted(found, key=lambda e: -e.value) if picture.steps else found)
    if holes.sum() > 0.0005 * inside.sum():
        share = _percent(holes.sum() / inside.sum())
        entries.append(LegendEntry(0, f"no data ({share} of the area)", _HOLE))
    width, height = place.size_xy
    inset_yx = _inset(place) if picture.confidence is not None else (0, 0)
    column_px = _ROW * (len(entries) + 1) + (inset_yx[0] + _NOTE + _GAP if inset_yx[0] else 0)
    page = _Page(_MARGIN * 2 + width + _GAP + _COLUMN, _HEAD + max(height, column_px) + _FOOT)
    page.figure = Figure(figsize=(page.width / _DPI, page.height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(page.figure)
    _write_title(page, title)
    _draw_map(page, _colour(picture.label, holes, scheme), place)
    column = width + _MARGIN + _GAP
    _draw_legend(page, entries, (column, _HEAD))
    if picture.confidence is not None:
        _draw_confidence(page, picture, place, (column, _HEAD + _ROW * (len(entries) + 1) + _GAP))
    _draw_foot(page, place, _HEAD + height)
    return page.figure


@dataclass
class _Page:
    """A figure measured in pixels from its upper-left corner.

    Attributes:
        width: Pixels.
        height: Pixels.
        figure: Set by the one who draws.
    """

    width: int
    height: int
    figure: Any = None

    def axes(self, corner_xy: tuple[float, float], size_xy: tuple[float, float]) -> Axes:
        """Add axes without ticks whose data coordinates are pixels from their upper-left corner."""
        (x, y), (w, h) = corner_xy, size_xy
        axes = self.figure.add_axes(
            (x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height)
        )
        axes.set(xlim=(0, w), ylim=(h, 0), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=False)
        axes.patch.set_visible(False)
        return axes

    def text(self, xy: tuple[float, float], text: str, size_px: float, **style: Any) -> None:
        """Write text with its upper-left corner (or as `style` aligns it) at a pixel."""
        known = {"color": _INK, "va": "top", "ha": "left", "family": "DejaVu Sans"} | style
        at = (xy[0] / self.width, 1 - xy[1] / self.height)
        self.figure.text(*at, text, fontsize=size_px * 72 / _DPI, **known)


def _write_title(page: _Page, title: str) -> None:
    head, _, rest = title.partition("\n")
    page.text((_MARGIN, 36), head, 38, weight="bold")
    if rest:
        page.text((_MARGIN, 86), rest.replace("\n", "  ·  "), 22, color=_QUIET)


def _colour(label: NDArray[np.uint8], holes: NDArray[np.bool_], scheme: ClassScheme) -> NDArray[np.uint8]:
    """Turn labels into an RGB image, (y, x, 3) uint8: no data is white, or grey in a hole."""
    palette = np.full((256, 3), 255, np.uint8)
    for land in scheme.classes:
        palette[land.value] = land.rgb
    image = palette[label]
    image[holes] = int(_HOLE[1:3], 16), int(_HOLE[3:5], 16), int(_HOLE[5:7], 16)
    return image


def _draw_map(page: _Page, image: NDArray[np.uint8], place: _Place) -> None:
    axes = page.axes((_MARGIN, _HEAD), place.size_xy)
    _show(axes, image, place.size_xy)
    _border(axes, place, 1.0, 1.6)


def _show(axes: Axes, image: NDArray[np.uint8], size_xy: tuple[int, int]) -> None:
    """Show an RGB image at exactly `size_xy` pixels: means when it shrinks, whole pixels when it grows."""
    from PIL import Image

    grows = image.shape[1] <= size_xy[0]
    resampling = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    sized = np.asarray(Image.fromarray(image).resize(size_xy, resampling))
    axes.imshow(sized, extent=(0, size_xy[0], size_xy[1], 0), interpolation="none", aspect="auto")


def _border(axes: Axes, place: _Place, shrink: float, width_px: float) -> None:
    """Draw the outline, or a thin frame where there is none."""
    from shapely import get_coordinates, get_parts, get_rings

    shape = place.shape(place.scale * shrink)
    if shape is None:
        for spine in axes.spines.values():
            spine.set(visible=True, color=_HAIR, linewidth=1)
        return
    for ring in get_rings(get_parts(shape)):
        x, y = get_coordinates(ring).T
        axes.plot(x, y, color=_INK, lw=width_px * 72 / _DPI, solid_joinstyle="round", clip_on=False)


def _rows(entries: Sequence[LegendEntry]) -> list[LegendEntry]:
    """Keep the largest classes; gather what would not fit in one row."""
    if len(entries) <= _MOST_ROWS:
        return list(entries)
    kept, rest = entries[: _MOST_ROWS - 1], entries[_MOST_ROWS - 1 :]
    share = sum(e.share or 0 for e in rest)
    return [*kept, LegendEntry(0, f"{len(rest)} more classes", "#ffffff", share)]


def _percent(share: float) -> str:
    """Write a share so that a small one is not called nothing.

    >>> [_percent(s) for s in (0.4127, 0.0312, 0.0004, 1.0)]
    ['41 %', '3.1 %', '< 0.1 %', '100 %']
    """
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _draw_legend(page: _Page, entries: Sequence[LegendEntry], corner_xy: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    x, y = corner_xy
    page.text((x, y - 4), "Share of mapped area", 19, color=_QUIET)
    axes = page.axes((x, y + _ROW), (_COLUMN, _ROW * max(1, len(entries))))
    largest = max([e.share or 0 for e in entries if e.value], default=1)
    for row, entry in enumerate(entries):
        top = row * _ROW
        edge = _HAIR if entry.colour == "#ffffff" else "none"
        corners = "round,pad=0,rounding_size=3"
        axes.add_patch(FancyBboxPatch((0.5, top + 3), 28, 28, boxstyle=corners, fc=entry.colour, ec=edge))
        middle = y + _ROW + top + 14
        if entry.share is None:
            page.text((x + 42, middle), entry.name, 21, va="center", color=_QUIET)
            continue
        page.text((x + 42, middle), _shorten(entry.name), 21, va="center")
        page.text((x + _COLUMN, middle), _percent(entry.share), 21, va="center", ha="right")
        axes.add_patch(
            Rectangle((42, top + 29), (_COLUMN - 42) * min(1, entry.share / largest), 2.5, fc=_HAIR)
        )


def _shorten(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def _inset(place: _Place) -> tuple[int, int]:
    """Return height and width of the small confidence map."""
    width, height = place.size_xy
    scale = min(_COLUMN / width, 320 / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _draw_confidence(page: _Page, picture: Picture, place: _Place, corner_xy: tuple[float, float]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    assert picture.confidence is not None  # asked by _draw
    x, y = corner_xy
    height, width = _inset(place)
    mean = "" if picture.mean_confidence is None else f", mean {picture.mean_confidence:.2f}"
    page.text((x, y - 4), f"Confidence{mean}", 19, color=_QUIET)
    ramp = LinearSegmentedColormap.from_list("sure", CONFIDENCE_COLOURS, 251)
    palette = np.full((256, 3), 255, np.uint8)
    palette[:251] = np.rint(ramp(np.arange(251))[:, :3] * 255)
    axes = page.axes((x, y + 30), (width, height))
    _show(axes, palette[picture.confidence], (width, height))
    _border(axes, place, width / place.size_xy[0], 1.0)
    bar = page.axes((x, y + height + 44), (width, 10))
    _show(bar, palette[None, :251], (width, 10))
    for at, text, side in ((x, "0", "left"), (x + width / 2, "0.5", "center"), (x + width, "1", "right")):
        page.text((at, y + height + 60), text, 16, color=_QUIET, ha=side)


def _draw_foot(page: _Page, place: _Place, top: float) -> None:
    width = place.size_xy[0]
    length_m, label = _scale_bar(place.metres_per_px * width * 0.25)
    bar_px = length_m / place.metres_per_px
    axes = page.axes((_MARGIN, top + 22), (width, 50))
    axes.fill([0, 9, 18, 9], [34, 0, 34, 25], color=_INK, lw=0)
    axes.plot(
        [40, 40, 40 + bar_px, 40 + bar_px], [25, 32, 32, 25], color=_INK, lw=1.6, solid_joinstyle="miter"
    )
    page.text((_MARGIN + 40, top + 22), label, 17, color=_INK)
    page.text((_MARGIN + 9, top + 60), "N", 15, color=_INK, ha="center")
    page.text((_MARGIN + width, top + 30), _caption(place.grid), 16, color=_QUIET, ha="right")


def _scale_bar(most_m: float) -> tuple[float, str]:
    """Return the longest round length (1, 2 or 5 times a power of ten) up to `most_m`, and its label.

    >>> _scale_bar(3400.0), _scale_bar(870.0)
    ((2000.0, '2 km'), (500.0, '500 m'))
    """
    power = 10.0 ** math.floor(math.log10(most_m))
    length = max(n * power for n in (1, 2, 5) if n * power <= most_m * (1 + 1e-9))
    return length, f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def _caption(grid: Grid) -> str:
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    authority = crs.to_authority(min_confidence=100)
    operation = crs.coordinate_operation
    unnamed = crs.name.lower() in ("", "unnamed", "unknown", "undefined")
    name = operation.method_name if unnamed and operation else crs.name
    code = f" ({':'.join(authority)})" if authority else ""
    unit = "°" if crs.is_geographic else " m"
    return f"{name}{code}  ·  {grid.resolution_yx[1]:.4g}{unit} pixels"
