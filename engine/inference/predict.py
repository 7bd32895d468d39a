"""Map a cube with a model: from a cube as people hold it to the layers of a map; the work is in `blocks`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.inference.allocator import keep_freed_memory
from engine.inference.augment import augmented_lane
from engine.inference.blend import Frame
from engine.inference.blocks import LaneFor, Voice, predict_array, predict_mean
from engine.inference.decide import CONFIDENCE_ONE, Layers
from engine.inference.planes import plane_array
from engine.values.days import running_days
from engine.values.errors import InputError, SpecError
from engine.values.georef import georef_coords, georef_of
from engine.values.grid import Box
from engine.values.head import Augment, Extra, Values
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle
    from engine.inference.ensemble import Ensemble


def predict(
    cube: xr.Dataset,
    bundle: Bundle | Ensemble,
    *,
    core: Box | None = None,
    layers: Sequence[Extra] = (),
    wanted: NDArray[np.bool_] | None = None,
    device: str = "cpu",
    augment: Augment = "none",
) -> xr.Dataset:
    """Map a cube with a model bundle or an ensemble, lazily.

    Args:
        cube: Dataset with ``reflectance`` (time, band, y, x) uint16, 0 = no data, what else the model sees
            (`engine.inference.planes`), and optionally ``observations`` (time, y, x) uint8, as `engine.open_cube`
            makes it. A cube of planes alone will do for a model that needs no more. Chunks may be anything.
        bundle: The model, from `engine.load_model`.
        core: Global pixels for which an answer is wanted; the rest of the cube is halo. Default: the
            whole cube, whose edge is then the border (windows reach beyond it by the bundle's rule).
        layers: What a map of classes has beside label and confidence: ``probability``, ``entropy``,
            ``margin``, ``disagreement`` (between the members of an ensemble, else between the views),
            ``unfamiliar`` (how far from what was learnt, `engine.inference.unfamiliar`; of an ensemble the mean).
        wanted: (y, x) bool over the core's output pixels: those asked for. Default: all. Windows without one
            that has data are not evaluated.
        device: ``"cpu"`` or a torch device.
        augment: Views in which the network sees each window; answers are averaged: ``flips`` four, ``turns``
            eight, at as many times the cost.

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
    from engine.inference.ensemble import layers_for

    keep_freed_memory()  # before the scheduler starts its threads
    values = _values_for(cube, bundle)
    _, extent = georef_of(cube)
    asked = layers_for(bundle, tuple(layers), augment)
    frame = _frame_of(bundle, extent, extent if core is None else core, wanted)
    values = values[(..., *frame.outer.slices_in(extent))]
    voices = _voices(bundle, frame, (device, days_of(cube), augment), asked)
    if len(voices) == 1:
        packed = predict_array(values, voices[0].frame, voices[0].lane_for, asked)
    else:
        packed = predict_mean(values, voices, asked)
    return to_dataset(packed, cube, bundle, frame, asked)


def _voices(
    model: Bundle | Ensemble, frame: Frame, how: tuple[str, tuple[int, ...], Augment], layers: Layers
) -> tuple[Voice, ...]:
    """Say how each bundle of a model answers; `how`: device, days of the dates, views."""
    from engine.inference.ensemble import Ensemble

    device, days, augment = how

    def lane_of(bundle: Bundle, *, disagreement: bool) -> LaneFor:
        own = days if bundle.takes_days else ()
        strange = "unfamiliar" in layers.extras
        return partial(
            augmented_lane, bundle, device, own, augment, disagreement=disagreement, unfamiliar=strange
        )

    if not isinstance(model, Ensemble):
        lane, every = lane_of(model, disagreement="disagreement" in layers.extras), len(model.planes)
        return (Voice(frame, lane, tuple(range(every)), tuple(range(len(layers.labels)))),)
    return tuple(
        Voice(
            replace(
                frame,
                lattice=m.bundle.lattice,
                border=m.bundle.border,
                groups=getattr(m.bundle.normalisation, "groups", None),
            ),
            lane_of(m.bundle, disagreement=False),
            tuple(model.planes.index(plane) for plane in m.bundle.planes),
            model.order(m),
            m.weight,
        )
        for m in model.members
    )


def _frame_of(model: Bundle | Ensemble, extent: Box, core: Box, wanted: NDArray[np.bool_] | None) -> Frame:
    """Say what is known and wanted, with the lattice of the first bundle."""
    from engine.inference.ensemble import bundles_of

    if not extent.holds(core) or not core:
        raise InputError("the core must lie in the cube", where="core", found=core, limit=extent)
    stride = model.stride
    frame = bundles_of(model)[0].frame(_whole(extent, stride), _whole(core, stride), wanted)
    if not frame.core:
        raise InputError(
            "the core holds no whole output pixel", where="core", found=core, limit=f"{stride} px"
        )
    return frame


def _whole(box: Box, factor: int) -> Box:
    """Shrink a box to whole multiples of a factor; one that holds none comes back empty."""
    y0, x0 = -(-box.y0 // factor) * factor, -(-box.x0 // factor) * factor
    return Box(y0, x0, max(y0, box.y1 // factor * factor), max(x0, box.x1 // factor * factor))


def days_of(cube: xr.Dataset) -> tuple[int, ...]:
    """Return the running day of each date (`engine.values.days`); nothing for a cube whose dates are no dates."""
    times = cube["time"] if "time" in cube.coords else None
    if times is None or not np.issubdtype(times.dtype, np.datetime64):
        return ()
    return tuple(int(d) for d in running_days(times.values))


def _values_for(cube: xr.Dataset, bundle: Bundle | Ensemble) -> da.Array:
    """Take the model's planes in its order, as a Dask array, after checking the cube against its spec."""
    values = plane_array(cube, bundle.planes)
    _check_spec(cube, bundle, values.shape[0])
    return values


def _check_spec(cube: xr.Dataset, bundle: Bundle | Ensemble, n_dates: int) -> None:
    """Compare with the spec that the cube carries; one made by hand carries none but has a pixel size."""
    stated = cube.attrs.get("landweave_spec")
    if stated is not None:
        carried = CubeSpec.model_validate_json(stated) if isinstance(stated, str) else CubeSpec(**stated)
        carried = carried.model_copy(update={"bands": bundle.spec.bands})  # the planes are all there
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
    "unfamiliar": "distance d of the features from those of the training, d / (d + d95) x 250",
}


def layer_attributes(bundle: Bundle | Ensemble, name: str) -> dict[str, Any]:
    """Return a layer's attributes: no-data, scale, meaning; for labels the CF flags."""
    if isinstance(head := bundle.head, Values):
        return {"scale": head.step, "offset": head.offset, "units": head.unit, "long_name": head.variable}
    if name == "label":
        return {**bundle.classes.flag_attributes(), "long_name": _LONG_NAMES[name]}
    return {"scale": 1 / CONFIDENCE_ONE, "units": "1", "long_name": _LONG_NAMES[name]}


def stacked(bundle: Bundle | Ensemble, name: str) -> str | None:
    """Return the dimension along which a layer has a plane for each output, None for a flat layer."""
    if isinstance(bundle.head, Values):
        return "output" if len(bundle.classes.names) > 1 else None
    return "class" if name == "probability" else None


def to_dataset(
    packed: da.Array, cube: xr.Dataset, bundle: Bundle | Ensemble, frame: Frame, layers: Layers
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
