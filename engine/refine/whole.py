"""Refine a map in memory, or lazily: `refine_map`.

Lazily each block of the answer is a task of its own, that takes the block grown by the reach of all steps out of the
lazy map::

    map (Dask) ──► block + reach ──► steps ──► block of label, confidence, changed
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.refine.around import Around
from engine.refine.chain import CHANGED, Chain, RefineSpec, finished
from engine.refine.source import LAYERS, ArraySource, require_layers
from engine.refine.steps import Layers
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.grid import Box

_BLOCK_PX = 2048


def refine_map(
    dataset: xr.Dataset, spec: RefineSpec, scheme: ClassScheme, *, block_px: int = _BLOCK_PX
) -> xr.Dataset:
    """Refine a map.

    Args:
        dataset: ``label`` (y, x) uint8, 0 = no data; ``confidence`` (y, x) and ``probability`` (class, y, x) uint8,
            0..250 = 0..1, 255 = no data, where it has them; ``spatial_ref``. What `engine.predict` gives, or
            `xarray.open_zarr` of a run's ``map.zarr``. Lazy in, lazy out.
        spec: The steps, or the sieve; a lazy map is computed for the sieve, which needs it whole.
        scheme: The map's classes.
        block_px: Side of the blocks that are made at once; changes no value.

    Returns:
        The dataset without ``probability``; ``label`` and ``confidence`` refined; ``changed`` (y, x) uint8: number of
        the last step that changed the class, 0 = none, 255 = no data before and after.

    Raises:
        InputError: If a layer is missing, or a step names a class that the scheme has not.
    """
    require_layers("dataset", spec.reads, map(str, dataset.data_vars))
    grid, box = georef_of(dataset)
    names = [n for n in LAYERS if n in spec.reads and n in dataset]
    arrays: dict[str, Any] = {n: dataset[n].transpose(..., "y", "x").data for n in names}
    if arrays["label"].dtype != np.uint8:
        raise InputError(
            "labels are uint8, 0 = no data", found=arrays["label"].dtype, mend="label.astype('uint8')"
        )
    around = Around.of(scheme, grid, box)
    if spec.sieve is not None:
        found: dict[str, Any] = _sieved(arrays, spec, around)
    elif any(hasattr(a, "dask") for a in arrays.values()):
        found = _lazily(arrays, spec.made(around), box, block_px)
    else:
        found = _at_once({n: np.asarray(a) for n, a in arrays.items()}, spec.made(around), box, block_px)
    attrs = {n: dataset[n].attrs for n in names} | {CHANGED: {**spec.changed_attributes(), "nodata": 255}}
    made = {n: (("y", "x"), a, attrs[n]) for n, a in found.items()}
    return dataset.drop_vars("probability", errors="ignore").assign(made)


def _stored(layers: Layers) -> dict[str, NDArray[Any]]:
    return {n: a for n, a in finished(layers).items() if n != "probability"}


def _sieved(arrays: dict[str, Any], spec: RefineSpec, around: Around) -> dict[str, NDArray[Any]]:
    assert spec.sieve is not None  # who calls has looked
    label, out = np.asarray(arrays["label"]), np.empty(arrays["label"].shape, np.uint8)

    def write(y0: int, rows: NDArray[np.uint8]) -> None:
        out[y0 : y0 + len(rows)] = rows

    spec.sieve.made(around).run(lambda y0, y1: label[y0:y1], write, label.shape)
    confidence = {n: np.asarray(a) for n, a in arrays.items() if n == "confidence"}
    return _stored({"label": out, **confidence, CHANGED: (out != label).astype(np.uint8)})


def _at_once(arrays: Layers, steps: Chain, box: Box, block_px: int) -> dict[str, NDArray[Any]]:
    refined, found = steps.over(ArraySource(arrays, box)), dict[str, NDArray[Any]]()
    for block in box.blocks(block_px):
        for name, values in _stored(refined(block)).items():
            whole = found.setdefault(name, np.empty(box.shape_yx, values.dtype))
            whole[block.slices_in(box)] = values
    return found


def _lazily(arrays: dict[str, Any], steps: Chain, box: Box, block_px: int) -> dict[str, Any]:
    import dask.array as da
    from dask.delayed import delayed

    names = [n for n in ("label", "confidence", CHANGED) if n in arrays or n == CHANGED]
    rows: dict[int, list[dict[str, Any]]] = {}
    for block in box.blocks(block_px):
        wanted = block.pad(steps.reach_px) & box
        at = wanted.slices_in(box)
        given = {n: da.asarray(a)[(..., *at)] for n, a in arrays.items()}
        made = delayed(functools.partial(_block, steps, wanted, block), pure=True)(given)
        parts = {n: da.from_delayed(made[n], block.shape_yx, np.uint8) for n in names}
        rows.setdefault(block.y0, []).append(parts)
    return {n: da.block([[part[n] for part in row] for row in rows.values()]) for n in names}


def _block(steps: Chain, wanted: Box, block: Box, given: Layers) -> dict[str, NDArray[Any]]:
    """Refine one block of a map of which the wanted pixels are given."""
    return _stored(steps.apply(ArraySource(given, wanted), block))
