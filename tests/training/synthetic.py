"""A made-up season of fields: each class has its curve, each field its own tint, each date its gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from engine.values.classes import ClassScheme
from engine.values.grid import Box
from training.labels import LabelRaster


@dataclass(frozen=True)
class Season:
    side_px: int = 512
    n_dates: int = 6
    n_bands: int = 6
    n_classes: int = 6
    fields: int = 500
    noise: float = 150.0
    gaps: float = 0.25
    seed: int = 0


def season(made: Season, origin_yx: tuple[int, int] = (0, 0)) -> tuple[xr.Dataset, LabelRaster]:
    """Return a cube and its full truth; the last class is rare, field edges are not annotated."""
    rng = np.random.default_rng(made.seed)
    side = made.side_px
    field, edge = _fields(made, rng)
    shares = np.r_[np.ones(made.n_classes - 1), 0.12]
    of_field = rng.choice(made.n_classes, made.fields, p=shares / shares.sum())
    of_field[: made.n_classes] = np.arange(made.n_classes)
    index = of_field[field]
    reflectance = np.zeros((made.n_dates, made.n_bands, side, side), np.uint16)
    curves = rng.uniform(400, 4000, (made.n_classes, made.n_dates, made.n_bands))
    tint = rng.normal(1, 0.1, made.fields)[field]
    for t in range(made.n_dates):
        sky = gaussian_filter(rng.normal(size=(side, side)), 20)
        hidden = sky > np.quantile(sky, 1 - made.gaps)
        for b in range(made.n_bands):
            values = curves[index, t, b] * tint + rng.normal(0, made.noise, (side, side))
            reflectance[t, b] = np.where(hidden, 0, np.clip(np.rint(values), 1, 65535))
    cube = xr.Dataset({"reflectance": (("time", "band", "y", "x"), reflectance)})
    classes = ClassScheme.from_names([f"class {k}" for k in range(made.n_classes)])
    truth: NDArray[np.uint8] = np.where(edge, 0, index + 1).astype(np.uint8)
    y0, x0 = origin_yx
    return cube, LabelRaster(truth, Box(y0, x0, y0 + side, x0 + side), classes)


def _fields(made: Season, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Voronoi cells, and the pixels where two of them meet."""
    seeds = rng.uniform(0, made.side_px, (made.fields, 2))
    at = np.stack(np.mgrid[: made.side_px, : made.side_px], axis=-1).reshape(-1, 2)
    field = cKDTree(seeds).query(at)[1].reshape(made.side_px, made.side_px)
    edge = np.zeros(field.shape, bool)
    edge[:, 1:] |= field[:, 1:] != field[:, :-1]
    edge[1:] |= field[1:] != field[:-1]
    return field, edge
