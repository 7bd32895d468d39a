"""Look at training data before training: what is annotated, where, in which part, and what it looks like.

The cube is read once, block by block, so that a country can be looked at; of its pixels only a picture, the drawn
pixels of each class and a few patches are kept.

Shape suffixes: T date, C band, N pixel, H row, W column, Y X the whole box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.models.normalise import Standard
from engine.values.errors import InputError
from engine.values.grid import Box
from training.labels import LabelRaster
from training.splits import LEFT_OUT, TEST, TRAIN, VAL, Split
from training.statistics import drawn_pixels, fit_standard

if TYPE_CHECKING:
    import xarray as xr

PARTS = {"train": TRAIN, "val": VAL, "test": TEST, "left out": LEFT_OUT}
_BLOCK_PX = 1024
_PICTURE_PX = 900
_SERIES_PIXELS = 2000


@dataclass(frozen=True)
class InspectOptions:
    """What is looked at.

    Attributes:
        patches: Sample patches of each class.
        patch_px: Their side in pixels.
        seed: Of the draws.
    """

    patches: int = 4
    patch_px: int = 64
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ClassView:
    """What is known of one class.

    Attributes:
        name: Of the scheme.
        colour: ``#rrggbb``.
        pixels: Annotated pixels of each part, ``left out`` included.
        hectares: Of all its annotated pixels.
        areas: Connected areas; about its fields.
        series: (T, 3) float32 tenth percentile, median and ninetieth of the index over training pixels, NaN where no
            pixel has data; all NaN without training pixels.
    """

    name: str
    colour: str
    pixels: dict[str, int]
    hectares: float
    areas: int
    series: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """A patch as a person sees it.

    Attributes:
        name: Class of the pixel in its middle.
        box: Its global pixels.
        rgb: (y, x, 3) float32 reflectance of the date with most data, NaN = no data.
        date: That date, ISO.
        label: (y, x) uint8 class values, 0 = not annotated.
        series: (T) float32 index of the pixel in its middle, NaN = no data.
    """

    name: str
    box: Box
    rgb: NDArray[np.float32]
    date: str
    label: NDArray[np.uint8]
    series: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inspection:
    """Training data, looked at.

    Attributes:
        classes: One view per class of the scheme.
        samples: Patches, class by class.
        normalisation: Measured on the training part alone; what training itself would use.
        index: Name of the index of the series.
        dates: Of the cube, ISO.
        rgb: (y, x, 3) float32 median reflectance over time, reduced by `factor`; NaN = no data.
        label: (y, x) uint8 class values, reduced likewise.
        parts: (y, x) uint8 parts of the split, reduced likewise.
        factor: Pixels of the grid per pixel of the picture.
        box: The labels' box.
    """

    classes: tuple[ClassView, ...]
    samples: tuple[Sample, ...]
    normalisation: Standard
    index: str
    dates: tuple[str, ...]
    rgb: NDArray[np.float32]
    label: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    factor: int
    box: Box

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, for programs."""
        return {
            "classes": {
                c.name: {
                    "pixels": c.pixels,
                    "hectares": round(c.hectares, 2),
                    "areas": c.areas,
                    self.index: [[_short(v) for v in row] for row in c.series],
                }
                for c in self.classes
            },
            "dates": list(self.dates),
            "normalisation": self.normalisation.model_dump(),
            "samples": [
                {"class": s.name, "box": [s.box.y0, s.box.x0, s.box.y1, s.box.x1]} for s in self.samples
            ],
        }


def inspect_training(
    cube: xr.Dataset,
    labels: LabelRaster,
    split: Split,
    options: InspectOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Look at a cube with its labels and split.

    Args:
        cube: ``reflectance`` (time, band, y, x) uint16 on the labels' box; lazy is well.
        labels: What is annotated.
        split: Its parts.
        options: What is looked at.
        progress: Called with blocks read and blocks in all.

    Raises:
        InputError: If the cube does not lie on the labels' box, or no training pixel has data.
    """
    options = options or InspectOptions()
    if cube["reflectance"].shape[2:] != labels.box.shape_yx:
        raise InputError(
            "cube and labels do not cover the same pixels",
            where="train",
            found=dict(cube["reflectance"].sizes),
            limit=f"{labels.box.shape_yx} px",
        )
    parts_YX = split.parts(labels.box)
    bands = _bands(cube)
    draws = _draws(labels, parts_YX, options.seed)
    read = _read(
        cube, draws, -(-max(labels.box.shape_yx) // _PICTURE_PX), bands, progress or (lambda a, b: None)
    )
    statistics = read.values[draws.names.index("")]
    factor = read.factor
    return Inspection(
        classes=tuple(_class_views(cube, labels, parts_YX, draws, read, bands)),
        samples=tuple(_samples(cube, labels, parts_YX, options, bands)),
        normalisation=fit_standard(statistics),
        index=bands.index,
        dates=_dates(cube),
        rgb=read.rgb,
        label=labels.values[::factor, ::factor],
        parts=parts_YX[::factor, ::factor],
        factor=factor,
        box=labels.box,
    )


@dataclass(frozen=True)
class _Bands:
    """Positions of the bands that a person looks at, and the index made of two of them."""

    rgb: tuple[int, int, int]
    index: str
    pair: tuple[int, int]

    def index_of(self, x_TCN: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return the normalised difference (T, N), NaN = no data."""
        valid = (x_TCN != 0).all(axis=1)
        first, second = (x_TCN[:, k].astype(np.float32) for k in self.pair)
        both = first + second
        return np.where(valid, (first - second) / np.where(both > 0, both, 1), np.float32(np.nan))


def _bands(cube: xr.Dataset) -> _Bands:
    """Take true colour and NDVI where the bands are there, else the first bands there are."""
    names = [str(b) for b in cube["band"].values] if "band" in cube.coords else []
    known = {name: k for k, name in enumerate(names)}
    count = cube["reflectance"].shape[1]
    if {"red", "green", "blue"} <= known.keys():
        rgb = (known["red"], known["green"], known["blue"])
    else:
        rgb = (0, min(1, count - 1), min(2, count - 1))
    if {"nir", "red"} <= known.keys():
        return _Bands(rgb, "NDVI", (known["nir"], known["red"]))
    last = names[-1] if names else f"band {count}"
    return _Bands(rgb, f"({last} - {names[0] if names else 'band 1'}) / sum", (count - 1, 0))


@dataclass(frozen=True, eq=False)
class _Draws:
    """Drawn training pixels: of each class, and under the empty name those of the statistics."""

    names: list[str]
    rows: list[NDArray[np.int64]]
    cols: list[NDArray[np.int64]]


def _draws(labels: LabelRaster, parts_YX: NDArray[np.uint8], seed: int) -> _Draws:
    training = parts_YX == TRAIN
    ys, xs = drawn_pixels(training & (labels.values != 0), seed)
    names, rows, cols = [""], [ys], [xs]
    rng = np.random.default_rng(seed)
    for c in labels.classes.classes:
        flat = np.flatnonzero(training & (labels.values == c.value))
        if len(flat) > _SERIES_PIXELS:
            flat = rng.choice(flat, _SERIES_PIXELS, replace=False)
        y, x = np.unravel_index(flat, labels.values.shape)
        names.append(c.name)
        rows.append(y)
        cols.append(x)
    return _Draws(names, rows, cols)


@dataclass(frozen=True, eq=False)
class _Read:
    """What is kept of the cube: for each draw its values (T, C, N), and a picture."""

    values: list[NDArray[np.uint16]]
    rgb: NDArray[np.float32]
    factor: int


def _read(
    cube: xr.Dataset, draws: _Draws, factor: int, bands: _Bands, progress: Callable[[int, int], None]
) -> _Read:
    """Read the cube once, block by block."""
    reflectance = cube["reflectance"]
    n_dates, n_bands, height, width = reflectance.shape
    values = [np.zeros((n_dates, n_bands, len(rows)), np.uint16) for rows in draws.rows]
    rgb = np.full((-(-height // factor), -(-width // factor), 3), np.nan, np.float32)
    step = max(factor, _BLOCK_PX // factor * factor)  # whole picture pixels
    blocks = list(Box(0, 0, height, width).blocks(step))
    for done, block in enumerate(blocks):
        where = (slice(block.y0, block.y1), slice(block.x0, block.x1))
        x_TCHW = reflectance[(slice(None), slice(None), *where)].compute(scheduler="threads").values
        for kept, rows, cols in zip(values, draws.rows, draws.cols, strict=True):
            inside = np.flatnonzero(
                (rows >= block.y0) & (rows < block.y1) & (cols >= block.x0) & (cols < block.x1)
            )
            kept[:, :, inside] = x_TCHW[:, :, rows[inside] - block.y0, cols[inside] - block.x0]
        small = _median(x_TCHW[:, list(bands.rgb), ::factor, ::factor])
        to = (slice(block.y0 // factor, block.y0 // factor + small.shape[0]), slice(block.x0 // factor, None))
        rgb[to][:, : small.shape[1]] = small
        progress(done + 1, len(blocks))
    return _Read(values, rgb, factor)


def _median(x_TCHW: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the median over dates with data as reflectance (y, x, band), NaN where there is none."""
    import warnings

    values = np.where(x_TCHW == 0, np.nan, x_TCHW).astype(np.float32) / np.float32(10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pixels without any date
        middle: NDArray[np.float32] = np.nanmedian(values, axis=0)
    return np.moveaxis(middle, 0, -1)


def _class_views(
    cube: xr.Dataset,
    labels: LabelRaster,
    parts_YX: NDArray[np.uint8],
    draws: _Draws,
    read: _Read,
    bands: _Bands,
) -> list[ClassView]:
    from scipy.ndimage import label

    ys, xs = cube["y"].values, cube["x"].values
    hectare = abs(float(ys[1] - ys[0]) * float(xs[1] - xs[0])) / 1e4
    views = []
    for c, values in zip(labels.classes.classes, read.values[1:], strict=True):
        mine = labels.values == c.value
        found = np.bincount(parts_YX[mine], minlength=4)
        views.append(
            ClassView(
                name=c.name,
                colour=c.colour,
                pixels={name: int(found[part]) for name, part in PARTS.items()},
                hectares=float(mine.sum()) * hectare,
                areas=int(label(mine)[1]),
                series=_spread(bands.index_of(values)),
            )
        )
    return views


def _spread(index_TN: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return tenth percentile, median and ninetieth of each date, (T, 3)."""
    found = np.full((len(index_TN), 3), np.nan, np.float32)
    for t, row in enumerate(index_TN):
        known = row[np.isfinite(row)]
        if len(known):
            found[t] = np.percentile(known, (10, 50, 90))
    return found


def _samples(
    cube: xr.Dataset,
    labels: LabelRaster,
    parts_YX: NDArray[np.uint8],
    options: InspectOptions,
    bands: _Bands,
) -> list[Sample]:
    """Cut patches around drawn training pixels of each class."""
    rng = np.random.default_rng(options.seed)
    found = []
    for c in labels.classes.classes:
        flat = np.flatnonzero((labels.values == c.value) & (parts_YX == TRAIN))
        for at in rng.choice(flat, min(options.patches, len(flat)), replace=False):
            y, x = (int(v) for v in np.unravel_index(at, labels.values.shape))
            found.append(_sample(cube, labels, (y, x), c.name, options.patch_px, bands))
    return found


def _sample(
    cube: xr.Dataset, labels: LabelRaster, at_yx: tuple[int, int], name: str, side: int, bands: _Bands
) -> Sample:
    height, width = labels.values.shape
    y0, x0 = (max(0, min(v - side // 2, n - side)) for v, n in zip(at_yx, (height, width), strict=True))
    where = (slice(y0, min(y0 + side, height)), slice(x0, min(x0 + side, width)))
    x_TCHW = cube["reflectance"][(slice(None), slice(None), *where)].compute(scheduler="threads").values
    best = int((x_TCHW != 0).all(axis=1).sum(axis=(1, 2)).argmax())
    shown = x_TCHW[best, list(bands.rgb)]
    rgb = np.where(shown == 0, np.nan, shown).astype(np.float32) / np.float32(10_000)
    middle = x_TCHW[:, :, at_yx[0] - y0, at_yx[1] - x0][:, :, None]
    origin = labels.box
    return Sample(
        name=name,
        box=Box(*(origin.y0 + y0, origin.x0 + x0, origin.y0 + where[0].stop, origin.x0 + where[1].stop)),
        rgb=np.moveaxis(rgb, 0, -1),
        date=_dates(cube)[best],
        label=labels.values[where],
        series=bands.index_of(middle)[:, 0],
    )


def _dates(cube: xr.Dataset) -> tuple[str, ...]:
    if "time" not in cube.coords:
        return tuple(f"step {t + 1}" for t in range(cube["reflectance"].shape[0]))
    return tuple(str(t)[:10] for t in cube["time"].values)


def _short(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
