"""Small cubes of chance with gaps, in memory and as stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from engine.cube.stored import STAGED_ATTR, Stage, Staged, dataset_attrs, store_spec
from engine.store.layout import create, update_attrs
from engine.store.regions import write_region
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec
from training.labels import LabelRaster

GRID = Grid("EPSG:32633", (10.0, 10.0))
BANDS = ("blue", "red", "nir")


BOX = Box(-500, 300, -340, 500)


@dataclass(frozen=True)
class Made:
    box: Box = BOX
    n_dates: int = 3
    bands: tuple[str, ...] = BANDS
    radar: bool = False
    layers: bool = False
    seed: int = 0


def cube_of(made: Made) -> xr.Dataset:
    """Random reflectance; one date is empty in the left half, single pixels are missing."""
    rng = np.random.default_rng(made.seed)
    shape = (made.n_dates, len(made.bands), *made.box.shape_yx)
    values = rng.integers(1, 9000, shape).astype(np.uint16)
    values[0, :, :, : shape[3] // 2] = 0
    values[(rng.random((shape[0], 1, *shape[2:])) < 0.05).repeat(shape[1], 1)] = 0
    months = np.array([f"2023-{3 + i:02d}-01" for i in range(made.n_dates)], "datetime64[ns]")
    variables = {
        "reflectance": (("time", "band", "y", "x"), values, {"grid_mapping": "spatial_ref", "nodata": 0}),
        "observations": (("time", "y", "x"), (values[:, 0] > 0).astype(np.uint8)),
    }
    if made.radar:
        power = rng.normal(-12, 3, (made.n_dates, 2, *shape[2:])).astype(np.float32)
        power[1, :, :9] = np.nan
        variables["backscatter"] = (("time", "polarisation", "y", "x"), power, {"units": "dB"})
    if made.layers:
        height = rng.normal(400, 90, (1, *shape[2:])).astype(np.float32)
        variables["layers"] = (("layer", "y", "x"), height, {"units": "m"})
    coords = {"time": months, "band": list(made.bands), **georef_coords(GRID, made.box)}
    if made.radar:
        coords["polarisation"] = ["vv", "vh"]
    if made.layers:
        coords["layer"] = ["height"]
    spec = CubeSpec(bands=made.bands)
    return xr.Dataset(variables, coords=coords, attrs={"landweave_spec": spec.model_dump_json()})


def put(cube: xr.Dataset, made: Made, folder: Path, shard_px: int = 64, chunk_px: int = 32) -> str:
    """Write a cube as a store; returns its path."""
    url = str(folder / "cube.zarr")
    layout = replace(store_spec(cube, GRID, made.box, shard_px, "a cube"), chunk_px=chunk_px)
    create(url, layout)
    arrays = {}
    for v in layout.variables:
        values = np.asarray(cube[v.name].values)
        arrays[v.name] = np.full((*values.shape[:-2], *layout.box.shape_yx), v.no_data, v.dtype)
        arrays[v.name][(..., *made.box.slices_in(layout.box))] = values
    write_region(url, layout.box, arrays)
    attrs = dataset_attrs(cube)
    stage = Stage("cube", (0, made.n_dates), ("2023-03-01", "2023-05-31"), "2023-03-01", "complete")
    update_attrs(url, attrs | {STAGED_ATTR: Staged(made.box, tuple(attrs), (stage,)).to_dict()})
    return url


def labels_of(made: Made, n_classes: int = 4, known: float = 0.5, seed: int = 1) -> LabelRaster:
    """Squares of 8 pixels of chance; the last class is rare, half is not annotated."""
    rng = np.random.default_rng(seed)
    height, width = made.box.shape_yx
    shares = np.r_[np.full(n_classes - 1, 1.0), 0.05]
    small = rng.choice(n_classes, (-(-height // 8), -(-width // 8)), p=shares / shares.sum()) + 1
    small[rng.random(small.shape) > known] = 0
    values = small.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    classes = ClassScheme.from_names([f"class {k}" for k in range(n_classes)])
    return LabelRaster(values, made.box, classes)
