"""What windows and blending change: real maps against ONE forward pass over the whole scene.

    python benchmarks/real_untiled.py [--data FOLDER] [--only NAME]

Scenes and models:

- ``33UUU``: 768 x 1536 px, nine bands, Dynamic World; and a U-Net trained here on Dynamic World's labels.
- ``worldcereal``: 100 x 100 px of August 2021, Dynamic World (trained on L1C; this is L2A).
- ``austria``: 379 x 578 px, two dates of four bands. Dynamic World needs nine, so a U-Net is trained on
  clusters of the smoothed bands (no field mask of this place exists).
- ``bahia``: 680 x 1000 px, 23 dates of NDVI and EVI, stored as 10000 (index + 1) so that values below zero
  survive in uint16 (their bands are called red and nir, because a cube's bands are reflectances); a U-Net
  trained on 7 x 7 px around the 55 reference points of the scene.

The one pass sees the scene continued by reflection for a window's overlap on all sides, as the windows do.
Its first pixel is a multiple of 32 on the grid, as the windows' are: a network that pools answers otherwise when
its pooling falls otherwise, which is no matter of windows. Stored probabilities have steps of 0.004.

Per layout: share of equal labels off the scene's edge (32 px), more than 8 px from window borders, within 8 px
of one, and at the edge; the largest and the mean step of the probabilities; changed labels in 10,000 by
distance from the nearest border; and the seam statistic of the map.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.inference.bundle import Bundle, save_bundle
from engine.inference.foreign import dynamic_world
from engine.inference.heads import fixed_point
from engine.inference.lane import network_of
from engine.inference.predict import predict
from engine.inference.seams import SeamSums, seam_lines
from engine.models.normalise import prepare
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from training.labels import LabelRaster
from training.loop import TrainOptions, train
from training.splits import Split

DATA = Path(__file__).parents[2] / "shared" / "data"
DISTANCES = (0, 2, 4, 8, 16, 32, 1 << 20)
NEAR_PX, EDGE_PX = 8, 32


# --- scenes -------------------------------------------------------------------------------------------


def cube_of(values: NDArray[np.uint16], grid: Grid, box: Box, bands: tuple[str, ...]) -> xr.Dataset:
    """Put (date, band, y, x) values on a grid, as `open_cube` gives them."""
    coords = {**georef_coords(grid, box), "band": list(bands)}
    return xr.Dataset({"reflectance": (("time", "band", "y", "x"), values)}, coords=coords)


def box_of(cube: xr.Dataset) -> Box:
    """Return the global pixels of a scene."""
    from engine.values.georef import georef_of

    return georef_of(cube)[1]


def scene_33uuu(data: Path) -> xr.Dataset:
    """Read the winter scene; coarser bands are repeated."""
    import rasterio

    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    planes = []
    for band in bands:
        with rasterio.open(next((data / "s2_l1c_33UUU").glob(f"*_{band}.jp2"))) as source:
            plane, crs, transform = source.read(1), source.crs, source.transform
        step = 768 // plane.shape[0]
        if step == 1:
            grid, box = Grid.of_transform(crs.to_wkt(), transform, plane.shape)
        planes.append(plane.repeat(step, 0).repeat(step, 1))
    return cube_of(np.stack(planes)[None], grid, box, bands)


def scene_worldcereal(data: Path) -> xr.Dataset:
    """Read August 2021 of the Belgian cube."""
    names = [f"S2-L2A-B{b}" for b in ("02", "03", "04", "05", "06", "07", "08", "11", "12")]
    path = data / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    with xr.open_dataset(path, engine="netcdf4", mask_and_scale=False) as source:
        values = np.stack([source[n].isel(t=9).values for n in names])  # August 2021
        x, y = source.x.values, source.y.values
    grid = Grid("EPSG:32631", (10.0, 10.0))
    box = grid.box_of_bounds((x.min() - 5, y.min() - 5, x.max() + 5, y.max() + 5))
    values = np.where(values == 65535, 0, values).astype(np.uint16)
    values = values if y[0] > y[-1] else values[:, ::-1]
    return cube_of(values[None], grid, box, tuple(n[-3:] for n in names))


def scene_austria(data: Path) -> xr.Dataset:
    """Read the image of two dates and four bands."""
    import rasterio

    with rasterio.open(data / "s2_ftw_austria" / "inference-img.tif") as source:
        grid, box = Grid.of_transform(source.crs.to_wkt(), source.transform, source.shape)
        values = source.read().reshape(2, 4, *source.shape)
    return cube_of(values, grid, box, ("red", "green", "blue", "nir"))


def scene_bahia(data: Path) -> xr.Dataset:
    """Read 23 dates of NDVI and EVI."""
    import rasterio

    planes = []
    for name in ("NDVI", "EVI"):
        paths = sorted((data / "cbers4_bahia").glob(f"*_{name}.tif"))
        dates = []
        for path in paths:
            with rasterio.open(path) as source:
                dates.append(source.read(1).astype(np.int32) + 10_000)
                grid, box = Grid.of_transform(source.crs.to_wkt(), source.transform, source.shape)
        planes.append(np.stack(dates))
    values = np.clip(np.stack(planes, axis=1), 1, 65535).astype(np.uint16)
    return cube_of(values, grid, box, ("red", "nir"))


# --- models -------------------------------------------------------------------------------------------


def world(data: Path, folder: Path, lattice: Lattice) -> Bundle:
    """Wrap Dynamic World as a bundle."""
    weights = data / "weights"
    return dynamic_world(
        folder, weights / "dynamicworld_forward.onnx", weights / "dynamicworld_normalisation.json", lattice
    )


def trained(folder: Path, cube: xr.Dataset, label: NDArray[np.uint8], lattice: Lattice, steps: int) -> Bundle:
    """Train a small U-Net of four poolings on a map of labels, 0 = not annotated."""
    classes = ClassScheme.from_names([f"class {k}" for k in range(1, int(label.max()) + 1)])
    height, width = label.shape
    options = TrainOptions(
        config={"stem": 16, "width": 12, "width_max": 48, "depth": 4},
        split=Split(block_px=64, buffer_px=4, val=0.2),
        steps=steps,
        batch=4,
        crop_px=64,
        balance=0.5,
        date_dropout=0.0,
        checks=2,
    )
    made = train(cube.drop_vars(["y", "x"]), LabelRaster(label, Box(0, 0, height, width), classes), options)
    resolution = float(abs(cube.x[1] - cube.x[0]))
    bands = tuple(str(b) for b in cube.band.values)
    spec = CubeSpec(bands=bands, resolution_m=resolution, period=None, reducer="first", mask=())
    return save_bundle(folder, made.module, "unet", made.bundle_fields("trained", spec, lattice, "other"))


def clusters(cube: xr.Dataset, n: int = 5) -> NDArray[np.uint8]:
    """Cluster the bands, smoothed over 5 x 5 px: labels that ask for context."""
    from scipy.cluster.vq import kmeans2
    from scipy.ndimage import uniform_filter

    planes = cube.reflectance.values.reshape(-1, *cube.reflectance.shape[2:]).astype(np.float64)
    smooth = np.stack([uniform_filter(p, 5) for p in planes], -1)
    scaled = (smooth - smooth.mean((0, 1))) / smooth.std((0, 1))
    centres, _ = kmeans2(scaled.reshape(-1, len(planes))[::7], n, minit="++", seed=0)
    distance = ((scaled[:, :, None] - centres) ** 2).sum(-1)
    return (distance.argmin(-1) + 1).astype(np.uint8)


def reference_points(data: Path, cube: xr.Dataset) -> NDArray[np.uint8]:
    """Label 7 x 7 px around each of Bahia's samples on the scene: 1 cropland, 2 pasture."""
    import pandas as pd
    from pyproj import Transformer

    table = pd.read_csv(data / "cbers4_bahia" / "cbers4_bahia_samples.csv")
    to_map = Transformer.from_crs(4326, cube.spatial_ref.attrs["crs_wkt"], always_xy=True)
    x, y = to_map.transform(table.longitude, table.latitude)
    cols = np.round((x - float(cube.x[0])) / float(cube.x[1] - cube.x[0])).astype(int)
    rows = np.round((y - float(cube.y[0])) / float(cube.y[1] - cube.y[0])).astype(int)
    label = np.zeros((cube.sizes["y"], cube.sizes["x"]), np.uint8)
    for row, col, name in zip(rows, cols, table.label, strict=True):
        if 3 <= row < label.shape[0] - 3 and 3 <= col < label.shape[1] - 3:
            label[row - 3 : row + 4, col - 3 : col + 4] = {"Cropland": 1, "Pasture": 2}[name]
    return label


# --- one pass against windows -------------------------------------------------------------------------


def one_pass(bundle: Bundle, cube: xr.Dataset, pad: int, multiple: int = 32) -> NDArray[np.int32]:
    """Evaluate the whole scene at once.

    Args:
        bundle: The model.
        cube: The scene, (date, band, y, x) uint16.
        pad: Pixels by which it is continued by reflection, at least.
        multiple: First pixel and sides of what is evaluated are multiples of this many pixels.

    Returns:
        (class, y, x) int32 probabilities, 0..65535.
    """
    import torch

    values, box = cube.reflectance.values, box_of(cube)
    before = [pad + (at - pad) % multiple for at in (box.y0, box.x0)]
    sides = [(b, pad + -(n + b + pad) % multiple) for n, b in zip(values.shape[2:], before, strict=True)]
    padded = np.pad(values, ((0, 0), (0, 0), *sides), mode="reflect")
    with torch.inference_mode():
        x_BTCHW, valid_BTHW = prepare(torch.tensor(padded)[None], bundle.normalisation)
        logits = _open(bundle)(x_BTCHW, valid_BTHW)[0]
        found = fixed_point(logits, bundle.temperature, bundle.layout.output).numpy()
    y, x = before
    return np.asarray(found[:, y : y + values.shape[2], x : x + values.shape[3]])


def _open(bundle: Bundle) -> Callable[[Any, Any], Any]:
    """Return the network for any input size; an ONNX one is opened anew, with all of the machine's cores."""
    if bundle.kind != "onnx":
        return network_of(bundle, "cpu")
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(bundle.weights_path), options)
    name = session.get_inputs()[0].name

    def run(x_BTCHW: Any, valid_BTHW: Any) -> Any:
        (found,) = session.run(None, {name: x_BTCHW.flatten(1, 2).permute(0, 2, 3, 1).contiguous().numpy()})
        return torch.from_numpy(np.moveaxis(found, bundle.layout.class_axis, 1))

    return run


def border_distance(lattice: Lattice, box: Box) -> NDArray[np.int64]:
    """Return each pixel's distance to the nearest window border, along rows or columns, (y, x); 0 beside it."""
    along = []
    for lo, hi in ((box.y0, box.y1), (box.x0, box.x1)):
        lines = np.concatenate(list(seam_lines(lattice, 1 << 30, lo - 512, hi + 512).values()))
        pixels = np.arange(lo, hi)[:, None]
        along.append(np.minimum(np.abs(pixels - lines), np.abs(pixels + 1 - lines)).min(1))
    return np.minimum.outer(along[0], along[1])


@dataclass(frozen=True)
class Difference:
    """A map of windows against one pass; shares of pixels.

    Attributes:
        equal: Equal labels, all pixels but those near the scene's edge.
        far: The same, more than 8 px from a window border.
        near: The same, within 8 px of one.
        edge: Within 32 px of the scene's edge.
        by_distance: Changed labels by distance from the nearest border, as in `DISTANCES`.
        largest: Largest step of a probability, 0..1, off the edge.
        mean: Mean step.
        seam: What the seam statistic says.
    """

    equal: float
    far: float
    near: float
    edge: float
    by_distance: tuple[float, ...]
    largest: float
    mean: float
    seam: str


def compare(
    bundle: Bundle, cube: xr.Dataset, single: NDArray[np.int32], edge_px: int = EDGE_PX
) -> Difference:
    """Map a scene with windows and compare it with one pass.

    Args:
        bundle: The model.
        cube: The scene.
        single: (class, y, x) int32, what `one_pass` gives.
        edge_px: How far from the scene's edge pixels are counted by themselves.
    """
    box = box_of(cube)
    chunked = cube.chunk({"y": 512, "x": 512})
    out = predict(chunked, bundle, layers=("probability",)).compute(scheduler="threads", num_workers=2)
    label = np.array(bundle.classes.values, np.uint8)[single.argmax(0)]
    valid = out.label.values > 0
    same = out.label.values == label
    step = np.abs(out.probability.values / 250 - single / 65535).max(0)
    inner = np.zeros(valid.shape, bool)
    inner[edge_px : label.shape[0] - edge_px, edge_px : label.shape[1] - edge_px] = True
    inner, rim, distance = inner & valid, ~inner & valid, border_distance(bundle.lattice, box)
    sums = SeamSums(box, 1 << 20)
    sums.add(box, {n: out[n].values for n in ("label", "confidence", "probability")})

    def share(where: NDArray[np.bool_]) -> float:
        return float(same[where].mean()) if where.any() else float("nan")

    return Difference(
        equal=share(inner),
        far=share(inner & (distance > NEAR_PX)),
        near=share(inner & (distance <= NEAR_PX)),
        edge=share(rim),
        by_distance=tuple(
            1 - share(inner & (distance >= lo) & (distance < hi)) for lo, hi in itertools.pairwise(DISTANCES)
        ),
        largest=float(step[inner].max()),
        mean=float(step[inner].mean()),
        seam=sums.report(bundle.lattice).told(),
    )


# --- the table ----------------------------------------------------------------------------------------

LAYOUTS = (Lattice(256, 96), Lattice(256, 32), Lattice(256, 96, "trim"), Lattice(256, 0, "trim"))
SMALL = (Lattice(64, 24), Lattice(64, 24, "trim"), Lattice(64, 0, "trim"))


def cases(data: Path, folder: Path) -> Iterator[tuple[str, xr.Dataset, Bundle, tuple[Lattice, ...]]]:
    """Yield name, scene, model and layouts."""
    scene = scene_33uuu(data)
    model = world(data, folder / "world", LAYOUTS[0])
    yield "33UUU, Dynamic World", scene, model, LAYOUTS
    label = (one_pass(model, scene, 64).argmax(0) + 1).astype(np.uint8)
    label = (np.searchsorted(np.unique(label), label) + 1).astype(np.uint8)
    yield "33UUU, U-Net", scene, trained(folder / "unet", scene, label, LAYOUTS[0], 400), LAYOUTS
    yield "worldcereal, Dynamic World", scene_worldcereal(data), model, SMALL
    scene = scene_austria(data)
    label = clusters(scene)
    yield "austria, U-Net", scene, trained(folder / "austria", scene, label, LAYOUTS[0], 400), LAYOUTS
    scene = scene_bahia(data)
    label = reference_points(data, scene)
    yield "bahia, U-Net", scene, trained(folder / "bahia", scene, label, LAYOUTS[0], 200), LAYOUTS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    titles = (
        "equal %",
        "far %",
        "near %",
        "edge %",
        "max dp",
        "mean dp",
        *(f"{lo}+ px" for lo in DISTANCES[:-1]),
    )
    print(f"{'scene, model':28}{'windows':>14}" + "".join(f"{title:>9}" for title in titles))
    with tempfile.TemporaryDirectory() as folder:
        for name, cube, bundle, layouts in cases(options.data, Path(folder)):
            if options.only not in name:
                continue
            begun = time.perf_counter()
            single = one_pass(bundle, cube, max(lattice.overlap_px for lattice in layouts))
            for lattice in layouts:
                d = compare(replace(bundle, lattice=lattice), cube, single)
                windows = f"{lattice.window_px}/{lattice.overlap_px} {lattice.kernel}"
                shares = "".join(f"{100 * s:9.3f}" for s in (d.equal, d.far, d.near, d.edge))
                steps = f"{d.largest:9.3f}{d.mean:9.5f}"
                bins = "".join(f"{1e4 * r:9.1f}" for r in d.by_distance)
                print(f"{name:28}{windows:>14}{shares}{steps}{bins}\n{'':28}{d.seam}", flush=True)
            print(f"{'':28}{time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
