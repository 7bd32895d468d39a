"""Run a model over a lazy cube: `map_overlap` on the global window lattice, each window once.

Two lazy layers, which work on any Dask scheduler and give the same bytes on each:

1. `dask.array.map_overlap` with one-sided depth (a block sees W - 1 pixels of its right and lower
   neighbours, nothing is trimmed): each block evaluates the windows that start in it (`blend`).
2. One task per block adds the spills of its left and upper neighbours and takes the decision.

Layer 1 must not be fused into its up to four consumers, or windows would be evaluated again: its
pieces are cut out by tasks of their own, and the tests count evaluations.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from engine.inference.blend import CONFIDENCE_NO_DATA, CONFIDENCE_ONE, Frame, classes_from_sums, window_sums
from engine.values.bands import common_name
from engine.values.errors import InputError, SpecError
from engine.values.georef import georef_coords, georef_of
from engine.values.grid import Box
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle

LaneFor = Callable[[], Any]
"""Gives this process's lane: ``.run``, ``.batch`` and ``.n_classes``; must pickle."""


def predict(
    cube: xr.Dataset,
    bundle: Bundle,
    *,
    core: Box | None = None,
    probability: bool = False,
    device: str = "cpu",
) -> xr.Dataset:
    """Map a cube with a model bundle, lazily.

    Args:
        cube: Dataset with ``reflectance`` (time, band, y, x) uint16, 0 = no data, and optionally
            ``observations`` (time, y, x) uint8, as `engine.open_cube` makes it. Chunks may be anything.
        bundle: The model, from `engine.load_bundle`.
        core: Global pixels for which an answer is wanted; the rest of the cube is halo. Default: the
            whole cube, whose edge is then the border (windows reach beyond it by reflection).
        probability: Also return every class's probability.
        device: ``"cpu"`` or a torch device.

    Returns:
        Lazy Dataset over `core`: ``label`` (y, x) uint8 (0 = no data), ``confidence`` (y, x) uint8
        (0..250 = 0..1, 255 = no data), ``observations`` (y, x) uint8 where the cube has them, and
        ``probability`` (class, y, x) uint8 if asked for.

    Raises:
        SpecError: If the cube is not what the bundle was trained on; names each difference.
    """
    from engine.inference.lane import lane_for

    values = _values_for(cube, bundle)
    grid, outer = georef_of(cube)
    frame = Frame(outer, outer if core is None else core, bundle.lattice)
    if not frame.outer.holds(frame.core) or not frame.core:
        raise InputError("the core must lie in the cube", where="core", found=frame.core, limit=outer)
    labels = np.array(bundle.classes.values, np.uint8)
    packed = predict_array(values, frame, partial(lane_for, bundle, device), labels, probability=probability)
    return _to_dataset(packed, cube, bundle, frame, georef_coords(grid, frame.core))


def predict_array(
    values: da.Array, frame: Frame, lane_for: LaneFor, labels: NDArray[np.uint8], *, probability: bool = False
) -> da.Array:
    """Run a lane over a Dask array on the window lattice.

    Args:
        values: (time, band, y, x) uint16 over ``frame.outer``, 0 = no data.
        frame: Input, wanted pixels and lattice.
        lane_for: Gives the lane of the process that runs the task.
        labels: (K,) uint8, the label of each class.
        probability: Add the class planes.

    Returns:
        (2 or 2 + K, y, x) uint8 over ``frame.core``; planes as in `blend.classes_from_sums`.
    """
    reach = frame.lattice.reach_px
    merged = values.rechunk(
        (-1, -1, _merge_thin(values.chunks[2], reach), _merge_thin(values.chunks[3], reach))
    )
    rows, cols = merged.chunks[2:]
    extended = (len(labels) + 1,), _extend(rows, reach), _extend(cols, reach)
    sums = da.map_overlap(
        _block_sums,
        merged,
        depth={0: 0, 1: 0, **{axis: (0, reach if len(c) > 1 else 0) for axis, c in ((2, rows), (3, cols))}},
        boundary="none",
        trim=False,
        allow_rechunk=False,
        drop_axis=1,
        chunks=extended,
        dtype=np.int32,
        meta=np.empty((0, 0, 0), np.int32),
        frame=frame,
        edges=(_edges(rows, frame.outer.y0), _edges(cols, frame.outer.x0)),
        lane_for=lane_for,
    )
    packed = _gather(sums, frame, (rows, cols), labels, probability)
    return packed[(slice(None), *frame.core.slices_in(frame.outer))]


def _block_sums(
    values: NDArray[np.uint16],
    frame: Frame,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    lane_for: LaneFor,
    block_id: tuple[int, ...] | None = None,
) -> NDArray[np.int32]:
    """Layer 1, one block. The position comes from the block's number (block_info counts overlaps in)."""
    if block_id is None:
        return np.empty((0, 0, 0), np.int32)
    row, col = block_id[-2:]
    block = Box(edges[0][row], edges[1][col], edges[0][row + 1], edges[1][col + 1])
    extent = Box(block.y0, block.x0, block.y0 + values.shape[2], block.x0 + values.shape[3])
    lane = lane_for()
    return window_sums(values, extent, block, frame, (lane.run, lane.batch, lane.n_classes))


def _gather(
    sums: da.Array,
    frame: Frame,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    labels: NDArray[np.uint8],
    probability: bool,
) -> da.Array:
    """Layer 2: add the spills of the left and upper neighbours to each block, then decide."""
    rows, cols = chunks
    token = tokenize(sums.name, frame, labels.tolist(), probability)
    piece, name = f"landweave-spill-{token}", f"landweave-map-{token}"
    graph: dict[Any, Any] = {}
    edges_y, edges_x = _edges(rows, frame.outer.y0), _edges(cols, frame.outer.x0)
    for i, j in itertools.product(range(len(rows)), range(len(cols))):
        spills = []
        for up, left in itertools.product((0, 1), (0, 1)):
            if i >= up and j >= left:
                key = (f"{piece}-{up}{left}", i - up, j - left)
                size = rows[i - up], cols[j - left]
                graph[key] = (_cut_piece, (sums.name, 0, i - up, j - left), size, (up, left))
                spills.append(key)
        block = Box(edges_y[i], edges_x[j], edges_y[i + 1], edges_x[j + 1])
        graph[(name, 0, i, j)] = (_decide_block, spills, block, frame, labels, probability)
    planes = 2 + (len(labels) if probability else 0)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[sums])  # type: ignore[list-item]
    return da.Array(layers, name, chunks=((planes,), rows, cols), dtype=np.uint8)


def _cut_piece(sums: NDArray[np.int32], size: tuple[int, int], side: tuple[int, int]) -> NDArray[np.int32]:
    """Copy out a block's own sums (side 0, 0) or its spill below, right or at the corner."""
    ys = slice(size[0], None) if side[0] else slice(0, size[0])
    xs = slice(size[1], None) if side[1] else slice(0, size[1])
    return np.ascontiguousarray(sums[:, ys, xs])


def _decide_block(
    pieces: list[NDArray[np.int32]], block: Box, frame: Frame, labels: NDArray[np.uint8], probability: bool
) -> NDArray[np.uint8]:
    total = pieces[0].copy()
    for spill in pieces[1:]:  # the last plane, which tells data, is zero in every spill
        height, width = min(spill.shape[1], total.shape[1]), min(spill.shape[2], total.shape[2])
        total[:, :height, :width] += spill[:, :height, :width]
    return classes_from_sums(total, frame.weight_sums(block), labels, probability)


def _merge_thin(chunks: tuple[int, ...], least: int) -> tuple[int, ...]:
    """Merge neighbouring chunks until each has at least `least` pixels (or only one is left).

    >>> _merge_thin((3, 3, 10, 2), 5)
    (6, 12)
    """
    merged: list[int] = []
    for size in chunks:
        if merged and merged[-1] < least:
            merged[-1] += size
        else:
            merged.append(size)
    if len(merged) > 1 and merged[-1] < least:
        merged[-2:] = [merged[-2] + merged[-1]]
    return tuple(merged)


def _edges(chunks: tuple[int, ...], first: int) -> tuple[int, ...]:
    return tuple(itertools.accumulate(chunks, initial=first))


def _extend(chunks: tuple[int, ...], reach: int) -> tuple[int, ...]:
    """Sizes of the blocks with their one-sided overlap; the last one has no neighbour."""
    return (*(size + reach for size in chunks[:-1]), chunks[-1])


def _values_for(cube: xr.Dataset, bundle: Bundle) -> da.Array:
    """Take the bundle's bands in its order, as a Dask array, after checking the cube against its spec."""
    if "reflectance" not in cube:
        raise InputError("the cube has no variable 'reflectance'", found=sorted(map(str, cube.data_vars)))
    reflectance = cube["reflectance"].transpose("time", "band", "y", "x")
    if reflectance.dtype != np.uint16:
        raise SpecError(
            "reflectance must be uint16 (x 10000, 0 = no data)",
            found=reflectance.dtype,
            limit="uint16",
            mend="scale by 10000, clip to 1..65535 and cast",
        )
    have = [common_name(str(b)) for b in reflectance["band"].values]
    missing = [b for b in bundle.spec.bands if b not in have]
    if missing:
        raise SpecError("the cube lacks bands", where="band", found=have, limit=list(bundle.spec.bands))
    wanted = [have.index(b) for b in bundle.spec.bands]
    _check_spec(cube, bundle, reflectance.sizes["time"])
    if wanted != list(range(len(have))):
        reflectance = reflectance.isel(band=wanted)
    return da.asarray(reflectance.data)


def _check_spec(cube: xr.Dataset, bundle: Bundle, n_dates: int) -> None:
    """Compare with the spec that the cube carries; one made by hand carries none but has a pixel size."""
    stated = cube.attrs.get("landweave_spec")
    if stated is not None:
        carried = CubeSpec.model_validate_json(stated) if isinstance(stated, str) else CubeSpec(**stated)
        carried = carried.model_copy(update={"bands": bundle.spec.bands})
        bundle.spec.require(carried, n_dates=bundle.n_dates, other_n_dates=n_dates)
        return
    grid, _ = georef_of(cube)
    differs: dict[str, tuple[Any, Any]] = {}
    if n_dates != bundle.n_dates:
        differs["dates"] = (n_dates, bundle.n_dates)
    if max(abs(r / bundle.spec.resolution_m - 1) for r in grid.resolution_yx) > 0.01:
        differs["resolution_m"] = (grid.resolution_yx, bundle.spec.resolution_m)
    if differs:
        raise SpecError(
            "the cube is not what the bundle was trained on",
            where=", ".join(differs),
            found={k: v[0] for k, v in differs.items()},
            limit={k: v[1] for k, v in differs.items()},
            mend="open the cube with the bundle's own spec (bundle.spec)",
        )


def _to_dataset(
    packed: da.Array, cube: xr.Dataset, bundle: Bundle, frame: Frame, coords: dict[str, Any]
) -> xr.Dataset:
    mapped = {"grid_mapping": "spatial_ref"}
    scaled = {**mapped, "scale": 1 / CONFIDENCE_ONE, "nodata": CONFIDENCE_NO_DATA}
    label = {**mapped, **bundle.classes.flag_attributes(), "nodata": 0, "long_name": "class"}
    variables: dict[str, Any] = {
        "label": (("y", "x"), packed[0], label),
        "confidence": (("y", "x"), packed[1], {**scaled, "long_name": "probability of the class, x 250"}),
    }
    if packed.shape[0] > 2:
        long_name = {"long_name": "probability of each class, x 250"}
        variables["probability"] = (("class", "y", "x"), packed[2:], {**scaled, **long_name})
        coords = {**coords, "class": list(bundle.classes.names)}
    if "observations" in cube:
        ys, xs = frame.core.slices_in(frame.outer)
        counts = cube["observations"].isel(y=ys, x=xs).data
        total = da.minimum(counts.sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)
        attributes = {**mapped, "long_name": "clear observations over all dates, at most 255"}
        variables["observations"] = (("y", "x"), total, attributes)
    return xr.Dataset(variables, coords=coords, attrs={"landweave_bundle": json.dumps(bundle.digest())})
