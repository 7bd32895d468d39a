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
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from engine.inference.blend import Frame, window_sums
from engine.inference.decide import CONFIDENCE_ONE, Layers, decide
from engine.values.bands import common_name
from engine.values.errors import InputError, SpecError
from engine.values.georef import georef_coords, georef_of
from engine.values.grid import Box
from engine.values.head import Extra, Values
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle

_STRIP_PX = 64  # rows decided at a time: their sums stay in the cache

LaneFor = Callable[[], Any]
"""Gives this process's lane: ``.run``, ``.batch`` and ``.n_classes``; must pickle."""


def predict(
    cube: xr.Dataset,
    bundle: Bundle,
    *,
    core: Box | None = None,
    layers: Sequence[Extra] = (),
    wanted: NDArray[np.bool_] | None = None,
    device: str = "cpu",
) -> xr.Dataset:
    """Map a cube with a model bundle, lazily.

    Args:
        cube: Dataset with ``reflectance`` (time, band, y, x) uint16, 0 = no data, and optionally
            ``observations`` (time, y, x) uint8, as `engine.open_cube` makes it. Chunks may be anything.
        bundle: The model, from `engine.load_bundle`.
        core: Global pixels for which an answer is wanted; the rest of the cube is halo. Default: the
            whole cube, whose edge is then the border (windows reach beyond it by the bundle's rule).
        layers: What a map of classes has beside label and confidence: ``probability``, ``entropy``,
            ``margin``, ``disagreement``.
        wanted: (y, x) bool over the core's output pixels: those asked for. Default: all. Windows without one
            that has data are not evaluated.
        device: ``"cpu"`` or a torch device.

    Returns:
        Lazy Dataset over `core`; for classes ``label`` (y, x) uint8 (0 = no data), ``confidence`` (y, x) uint8
        (0..250 = 0..1, 255 = no data) and the layers asked for, ``probability`` (class, y, x); for many classes
        a pixel ``probability`` alone; for values one variable (output, y, x) int16 (-32768 = no data). And
        ``observations`` (y, x) uint8 where the cube has them. Where the network's output is coarser than
        its input, so is the grid, and edges that do not fill an output pixel are left out.

    Raises:
        SpecError: If the cube is not what the bundle was trained on; names each difference.
        InputError: If the core lies outside the cube, or the model has no such layer.
    """
    from engine.inference.lane import lane_for

    values = _values_for(cube, bundle)
    _, extent = georef_of(cube)
    frame = _frame_of(bundle, extent, extent if core is None else core, wanted)
    values = values[(..., *frame.outer.slices_in(extent))]
    asked = bundle.layers(tuple(layers))
    packed = predict_array(
        values, frame, partial(lane_for, bundle, device, _days_of(cube) if bundle.takes_days else ()), asked
    )
    return to_dataset(packed, cube, bundle, frame, asked)


def _frame_of(bundle: Bundle, extent: Box, core: Box, wanted: NDArray[np.bool_] | None) -> Frame:
    if not extent.holds(core) or not core:
        raise InputError("the core must lie in the cube", where="core", found=core, limit=extent)
    stride = bundle.layout.stride
    frame = bundle.frame(_whole(extent, stride), _whole(core, stride), wanted)
    if not frame.core:
        raise InputError(
            "the core holds no whole output pixel", where="core", found=core, limit=f"{stride} px"
        )
    return frame


def _whole(box: Box, factor: int) -> Box:
    """Shrink a box to whole multiples of a factor; one that holds none comes back empty."""
    y0, x0 = -(-box.y0 // factor) * factor, -(-box.x0 // factor) * factor
    return Box(y0, x0, max(y0, box.y1 // factor * factor), max(x0, box.x1 // factor * factor))


def _days_of(cube: xr.Dataset) -> tuple[int, ...]:
    """Return the day of the year of each date; nothing for a cube whose dates are no dates."""
    times = cube["time"] if "time" in cube.coords else None
    if times is None or not np.issubdtype(times.dtype, np.datetime64):
        return ()
    return tuple(int(d) for d in times.dt.dayofyear.values)


def predict_array(values: da.Array, frame: Frame, lane_for: LaneFor, layers: Layers) -> da.Array:
    """Run a lane over a Dask array on the window lattice and decide.

    Args:
        values: (time, band, y, x) uint16 over ``frame.outer``, 0 = no data.
        frame: Input, wanted pixels and lattice.
        lane_for: Gives the lane of the process that runs the task.
        layers: What to make.

    Returns:
        (`Layers.n_planes`, y, x) uint8 or int16 over the output pixels of ``frame.core``.
    """
    sums, chunks = _lazy_sums(values, frame, lane_for, layers.n_outputs)
    packed = _gather(sums, frame, chunks, layers)
    small = frame.small
    return packed[(slice(None), *small.core.slices_in(small.outer))]


def _lazy_sums(
    values: da.Array, frame: Frame, lane_for: LaneFor, n_outputs: int
) -> tuple[da.Array, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Layer 1: the sums of each block with its spill, and the blocks' sides in input pixels."""
    reach, factor = frame.reach_px, frame.factor
    rows, cols = (_merge_thin(_even(c, factor), reach) for c in values.chunks[2:])
    merged = values.rechunk((-1, -1, rows, cols))
    extended = (n_outputs + 1,), _extend(rows, reach, factor), _extend(cols, reach, factor)
    depth = {0: 0, 1: 0, **{axis: (0, reach if len(c) > 1 else 0) for axis, c in ((2, rows), (3, cols))}}
    sums = da.map_overlap(
        _block_sums,
        merged,
        depth=depth,
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
        n_outputs=n_outputs,
    )
    return sums, (rows, cols)


def _block_sums(
    values: NDArray[np.uint16],
    frame: Frame,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    lane_for: LaneFor,
    n_outputs: int,
    block_id: tuple[int, ...] | None = None,
) -> NDArray[np.int32]:
    """Layer 1, one block. The position comes from the block's number (block_info counts overlaps in)."""
    if block_id is None:
        return np.empty((0, 0, 0), np.int32)
    row, col = block_id[-2:]
    block = Box(edges[0][row], edges[1][col], edges[0][row + 1], edges[1][col + 1])
    extent = Box(block.y0, block.x0, block.y0 + values.shape[2], block.x0 + values.shape[3])
    lane = lane_for()
    return window_sums(values, extent, block, frame, (lane.run, lane.batch, n_outputs))


def _gather(
    sums: da.Array, frame: Frame, chunks: tuple[tuple[int, ...], tuple[int, ...]], layers: Layers
) -> da.Array:
    """Layer 2: add the spills of the left and upper neighbours to each block, then decide."""
    small = frame.small
    rows, cols = (tuple(size // frame.factor for size in sizes) for sizes in chunks)
    token = tokenize(sums.name, frame, layers)
    piece, name = f"landweave-spill-{token}", f"landweave-map-{token}"
    graph: dict[Any, Any] = {}
    edges_y, edges_x = _edges(rows, small.outer.y0), _edges(cols, small.outer.x0)
    sides = (0, 1) if frame.reach_px else (0,)
    for i, j in itertools.product(range(len(rows)), range(len(cols))):
        spills = []
        for up, left in itertools.product(sides, sides):
            if i >= up and j >= left:
                key = (f"{piece}-{up}{left}", i - up, j - left)
                size = rows[i - up], cols[j - left]
                graph[key] = (_cut_piece, (sums.name, 0, i - up, j - left), size, (up, left))
                spills.append(key)
        block = Box(edges_y[i], edges_x[j], edges_y[i + 1], edges_x[j + 1])
        graph[(name, 0, i, j)] = (_decide_block, spills, block, small, layers)
    graphs = HighLevelGraph.from_collections(name, graph, dependencies=[sums])  # type: ignore[list-item]
    return da.Array(graphs, name, chunks=((layers.n_planes,), rows, cols), dtype=layers.dtype)


def _cut_piece(sums: NDArray[np.int32], size: tuple[int, int], side: tuple[int, int]) -> NDArray[np.int32]:
    """Cut out a block's own sums (side 0, 0; not copied, they go nowhere else) or copy a spill to be sent."""
    ys = slice(size[0], None) if side[0] else slice(0, size[0])
    xs = slice(size[1], None) if side[1] else slice(0, size[1])
    piece = sums[:, ys, xs]
    return piece.copy() if any(side) else piece


def _decide_block(pieces: list[NDArray[np.int32]], block: Box, frame: Frame, layers: Layers) -> NDArray[Any]:
    own, *spills = pieces
    weight_sums = frame.weight_sums(block)
    out = np.empty((layers.n_planes, *own.shape[1:]), layers.dtype)
    for top in range(0, own.shape[1], _STRIP_PX):
        strip = slice(top, top + _STRIP_PX)
        total = own[:, strip].copy()
        for spill in spills:  # the last plane, which tells data, is zero in every spill
            part = spill[:, strip, : total.shape[2]]
            total[:, : part.shape[1], : part.shape[2]] += part
        out[:, strip] = decide(total, weight_sums[strip], layers)
    return out


def _even(chunks: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Move the borders between chunks down to multiples of a factor; chunks that vanish are left out.

    >>> _even((3, 3, 6), 4), _even((3, 3, 6), 1)
    ((4, 8), (3, 3, 6))
    """
    edges = [0, *(edge // factor * factor for edge in itertools.accumulate(chunks))]
    return tuple(b - a for a, b in itertools.pairwise(edges) if b > a)


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


def _extend(chunks: tuple[int, ...], reach: int, factor: int) -> tuple[int, ...]:
    """Output sizes of the blocks with their one-sided overlap; the last one has no neighbour."""
    return tuple(size // factor for size in (*(size + reach for size in chunks[:-1]), chunks[-1]))


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
    if bundle.n_dates not in (None, n_dates):
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


_LONG_NAMES = {
    "label": "class",
    "confidence": "probability of the class, x 250",
    "probability": "probability of each class, x 250",
    "entropy": "entropy of the classes' probabilities over its maximum, x 250",
    "margin": "probability of the class less that of the second, x 250",
    "disagreement": "disagreement of the predictions that were averaged, x 250",
}


def layer_attributes(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return a layer's attributes: no-data, scale, meaning; for labels the CF flags."""
    if isinstance(head := bundle.head, Values):
        return {"scale": head.step, "offset": head.offset, "units": head.unit, "long_name": head.variable}
    if name == "label":
        return {**bundle.classes.flag_attributes(), "long_name": _LONG_NAMES[name]}
    return {"scale": 1 / CONFIDENCE_ONE, "units": "1", "long_name": _LONG_NAMES[name]}


def stacked(bundle: Bundle, name: str) -> str | None:
    """Return the dimension along which a layer has a plane for each output, None for a flat layer."""
    if isinstance(bundle.head, Values):
        return "output" if len(bundle.classes.names) > 1 else None
    return "class" if name == "probability" else None


def to_dataset(
    packed: da.Array, cube: xr.Dataset, bundle: Bundle, frame: Frame, layers: Layers
) -> xr.Dataset:
    """Name the packed planes, and put the cube's observations beside them."""
    grid, extent = georef_of(cube)
    grid = grid.coarser(frame.factor)
    coords: dict[str, Any] = georef_coords(grid, frame.small.core)
    variables: dict[str, Any] = {}
    for name, planes in layers.slices.items():
        attributes = {
            "grid_mapping": "spatial_ref",
            **layer_attributes(bundle, name),
            "nodata": layers.no_data(name),
        }
        if dim := stacked(bundle, name):
            coords[dim] = list(bundle.classes.names)
            variables[name] = ((dim, "y", "x"), packed[planes], attributes)
        else:
            variables[name] = (("y", "x"), packed[planes.start], attributes)
    if "observations" in cube:
        counts = cube["observations"].isel(dict(zip("yx", frame.core.slices_in(extent), strict=True))).data
        total = da.minimum(da.asarray(counts).sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)
        if frame.factor > 1:
            total = da.coarsen(np.max, total, {0: frame.factor, 1: frame.factor})
        attributes = {
            "grid_mapping": "spatial_ref",
            "long_name": "clear observations over all dates, at most 255",
        }
        variables["observations"] = (("y", "x"), total, attributes)
    return xr.Dataset(variables, coords=coords, attrs={"landweave_bundle": json.dumps(bundle.digest())})
