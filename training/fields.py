"""Fields as samples: the mean series of each, from a cube that is read once, block by block.

Shape suffixes: N field, T date, C band, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box

if TYPE_CHECKING:
    from training.sources import Source


@dataclass(frozen=True, eq=False)
class FieldSeries:
    """Mean series of fields.

    Attributes:
        ids: (field) int64, the fields that have pixels in the cube, in rising order.
        values: (field, time, band) float32, mean reflectance x 10000 over the pixels that are valid on a date (all
            bands there), NaN where none is.
        pixels: (field) int64, pixels of the field.
        valid: (field, time) int64, valid ones of them.
        place: (field, 2) float64, global row and column of the field's middle.
        days: (time) int16 day of the year.
        bands: Common names.
    """

    ids: NDArray[np.int64]
    values: NDArray[np.float32]
    pixels: NDArray[np.int64]
    valid: NDArray[np.int64]
    place: NDArray[np.float64]
    days: NDArray[np.int16]
    bands: tuple[str, ...]


def field_series(source: Source, fields: NDArray[np.int32], box: Box) -> FieldSeries:
    """Average a cube over fields; each block with a field is read once, and one block is held.

    Sums are of whole numbers, so that the blocks' size moves no bit.

    Args:
        source: The cube, from `training.sources.source_of`.
        fields: (y, x) int32, number of the field, 0 = none; shrunk fields leave mixed pixels out.
        box: Its global pixels, inside the cube.

    Raises:
        InputError: If there is no field, or the fields reach beyond the cube.
    """
    shape = source.shape
    ids: NDArray[np.int64] = np.unique(fields[fields > 0]).astype(np.int64)
    if not len(ids) or fields.shape != box.shape_yx or not shape.box.holds(box):
        raise InputError(
            "no fields over the cube",
            where="fields",
            found=f"{len(ids)} fields, {fields.shape} px in {box}",
            limit=f"a box of that size in {shape.box}",
        )
    n, n_dates, n_bands = len(ids), len(shape.days), len(shape.bands)
    sums_TCN = np.zeros((n_dates, n_bands, n))
    valid_TN, pixels_N, place_2N = np.zeros((n_dates, n)), np.zeros(n), np.zeros((2, n))
    for row in range(len(shape.edges_y) - 1):
        for col in range(len(shape.edges_x) - 1):
            both = shape.block(row, col) & box
            if not both or not fields[both.slices_in(box)].any():
                continue
            block = source.read(row, col)
            ys, xs = np.nonzero(fields[both.slices_in(box)])
            at = np.searchsorted(ids, fields[both.slices_in(box)][ys, xs])
            ys, xs = ys + both.y0, xs + both.x0
            x_TCP = block.x[:, :, ys - block.box.y0, xs - block.box.x0]
            pixels_N += np.bincount(at, minlength=n)
            place_2N += [np.bincount(at, v, minlength=n) for v in (ys, xs)]
            for t, x_CP in enumerate(x_TCP):
                ok = x_CP.all(axis=0)
                valid_TN[t] += np.bincount(at[ok], minlength=n)
                sums_TCN[t] += [np.bincount(at[ok], x_P[ok], minlength=n) for x_P in x_CP]
            source.release(block)
    means_TCN = np.divide(
        sums_TCN, valid_TN[:, None], out=np.full_like(sums_TCN, np.nan), where=valid_TN[:, None] > 0
    )
    values_NTC = np.moveaxis(means_TCN, 2, 0).astype(np.float32)
    valid_NT = valid_TN.T.astype(np.int64)
    place = (place_2N / pixels_N).T
    return FieldSeries(ids, values_NTC, pixels_N.astype(np.int64), valid_NT, place, shape.days, shape.bands)


def pixels_of_fields(
    fields: NDArray[np.int32], known: NDArray[np.bool_], per_field: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw pixels of each field, so that large fields count no more than small ones.

    Args:
        fields: (y, x) int32, number of the field, 0 = none.
        known: (y, x) bool, pixels that may be drawn.
        per_field: Pixels of each field; all of those that have fewer.
        rng: Source of chance.

    Returns:
        Flat indices, int64, in rising order.
    """
    flat = np.flatnonzero((fields.ravel() > 0) & known.ravel())
    own = fields.ravel()[flat]
    order = np.lexsort((rng.random(len(flat)), own))
    first = np.searchsorted(own[order], own[order])  # where each pixel's field begins
    kept = order[np.arange(len(order)) - first < per_field]
    found: NDArray[np.int64] = np.sort(flat[kept])
    return found
