"""Other ways to run the same network over the same Zarr, each with its best settings, in one run.

Same network (batch norms folded, channels last), same memory settings, two threads: MONAI's and terratorch's
sliding windows and torchgeo's grid sampler on two torch threads with the batch that was fastest; plain
`map_overlap` over whole chunks with depth 48, and landweave, on two workers of one torch thread. All read the
Zarr, normalise and write labels as Zarr (torchgeo reads a GeoTIFF of the same pixels). Printed beside
each: processor and clock time over the floor's (`predict_overhead.py`), the peak memory, and the share of labels
that change when the area is cut in another way: chunks of another size (`map_overlap`, landweave), or four
quarters instead of one whole (the others, which know no chunks).

The peers are not among landweave's requirements; those that cannot be imported are left out and named:

    pip install --target PEERS --no-deps monai terratorch torchgeo torchvision ...
    PYTHONPATH=.:PEERS python benchmarks/predict_peers.py --size 4096
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

from benchmarks.predict_overhead import (
    BANDS,
    forward,
    make_bundle,
    make_cube,
    measured,
    plain,
    ready,
    require_equal_bytes,
)
from engine.inference.lane import Lane, Network, lane_for
from engine.inference.predict import predict
from engine.store.layout import codec_of
from engine.values.georef import georef_of
from engine.values.lattice import Lattice

Label = Callable[[xr.Dataset, int], np.ndarray]
"""``(cube, chunk) -> (y, x) uint8``"""

_DEPTH = 48


def logits(lane: Lane, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Run the network on normalised values without no-data, as peers call it."""
    with torch.no_grad():  # some peers write into what the network gives
        x_BTCHW = x_BCHW.contiguous(memory_format=torch.channels_last)[:, None]
        return _network(lane)(x_BTCHW, torch.ones_like(x_BTCHW[:, :, 0]))


@functools.cache
def _network(lane: Lane) -> Network:
    """Open the network as a user of a peer has it; landweave alone packs it."""
    return plain(lane.bundle)


def normal(values: np.ndarray) -> torch.Tensor:
    """Normalise (1, C, y, x) uint16 as the network wants it; the constants of `make_bundle`."""
    return torch.from_numpy(values.astype(np.float32)).sub_(2000.0).div_(1000.0)


def landweave(lane: Lane, cube: xr.Dataset, chunk: int) -> np.ndarray:
    torch.set_num_threads(1)
    cut = cube.chunk({"y": chunk, "x": chunk})
    label: np.ndarray = predict(cut, lane.bundle).label.data.compute(scheduler="threads", num_workers=2)
    return label


def map_overlap(lane: Lane, cube: xr.Dataset, chunk: int) -> np.ndarray:
    def one(values: np.ndarray) -> np.ndarray:
        torch.set_num_threads(1)
        height, width = values.shape[2:]
        pads = [(0, 0), (0, 0), (0, -height % 16), (0, -width % 16)]
        found = logits(lane, normal(np.pad(values, pads, mode="reflect")))
        label: np.ndarray = found[0, :, :height, :width].max(0).indices.to(torch.uint8).numpy()[None] + 1
        return label

    data = cube.reflectance.data.rechunk((1, len(BANDS), chunk, chunk))
    label = data.map_overlap(
        one, depth={2: _DEPTH, 3: _DEPTH}, boundary="reflect", trim=False, drop_axis=1, dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8), chunks=None,
    )  # fmt: skip
    trimmed = dask.array.overlap.trim_internal(label, {1: _DEPTH, 2: _DEPTH}, boundary="reflect")
    found: np.ndarray = trimmed[0].compute(scheduler="threads", num_workers=2)
    return found


def monai(lane: Lane, cube: xr.Dataset, chunk: int) -> np.ndarray:
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(2)
    x_BCHW = normal(cube.reflectance.values)
    found = sliding_window_inference(
        x_BCHW, 256, 4, functools.partial(logits, lane), overlap=96 / 256, mode="gaussian"
    )
    return _labels(found)


def terratorch(lane: Lane, cube: xr.Dataset, chunk: int) -> np.ndarray:
    _bare("terratorch", "models", "tasks", "registry")
    sys.modules["terratorch.registry"].BACKBONE_REGISTRY = None  # type: ignore[attr-defined]
    from terratorch.tasks.tiled_inference import tiled_inference

    torch.set_num_threads(2)
    # A delta of 0 gives an empty answer.
    found = tiled_inference(
        lambda x, **_: logits(lane, x), normal(cube.reflectance.values), crop=256, stride=160, delta=8,
        batch_size=4,
    )  # fmt: skip
    return _labels(found)


def _bare(package: str, *parts: str) -> None:
    """Let single modules be imported without all that the package itself imports (training, augmentation)."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {package}")
    for part in ("", *parts):
        name, tail = (f"{package}.{part}", part) if part else (package, "")
        module = types.ModuleType(name)
        module.__path__ = [str(Path(place) / tail) for place in spec.submodule_search_locations]
        sys.modules.setdefault(name, module)


def torchgeo(lane: Lane, cube: xr.Dataset, chunk: int) -> np.ndarray:
    """Windows of its grid sampler; the middle of each is kept, as its users do."""
    import rasterio
    from rasterio.transform import from_origin
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    path = Path(cube.attrs["tif"])
    dataset = RasterDataset(paths=[str(path)])
    torch.set_num_threads(2)
    with rasterio.open(path) as file:
        transform = file.transform
    left, top = float(cube.x[0]) - 5, float(cube.y[0]) + 5
    height, width = cube.sizes["y"], cube.sizes["x"]
    assert transform == from_origin(transform.c, transform.f, 10, 10)
    from shapely.geometry import box

    roi = box(left, top - 10 * height, left + 10 * width, top)
    sampler = GridGeoSampler(dataset, size=256, stride=160, roi=roi)
    loader = DataLoader(dataset, sampler=sampler, batch_size=4, collate_fn=stack_samples)
    label = np.zeros((height, width), np.uint8)
    for batch in loader:
        found = logits(lane, batch["image"].float().sub_(2000.0).div_(1000.0)).max(1).indices.to(torch.uint8)
        for bounds, window in zip(batch["bounds"], found.numpy(), strict=True):
            col, row = round((bounds[0].start - left) / 10), round((top - bounds[1].stop) / 10)
            up, side = (_DEPTH if row > 0 else 0), (_DEPTH if col > 0 else 0)
            y0, x0 = max(row + up, 0), max(col + side, 0)  # windows may stick out of the area
            keep = window[y0 - row : height - row, x0 - col : width - col]
            label[y0 : y0 + keep.shape[0], x0 : x0 + keep.shape[1]] = keep + 1
    return label


def _labels(logits_BKHW: Any) -> np.ndarray:
    label: np.ndarray = logits_BKHW[0].max(0).indices.to(torch.uint8).numpy() + 1
    return label


PEERS: dict[str, Callable[[Lane, xr.Dataset, int], np.ndarray]] = {
    "landweave": landweave,
    "map_overlap, depth 48": map_overlap,
    "monai": monai,
    "terratorch": terratorch,
    "torchgeo": torchgeo,
}
_CHUNKED = ("landweave", "map_overlap, depth 48")


def write(label: np.ndarray, folder: Path) -> None:
    """Write labels as landweave does."""
    data = xr.Dataset({"label": (("y", "x"), label)})
    how = {"chunks": (256, 256), "compressors": codec_of("", np.dtype("uint8"))}
    data.to_zarr(folder / "peer.zarr", mode="w", encoding={"label": how}, consolidated=False)


def changed(name: str, lane: Lane, cube: xr.Dataset, chunk: int, label: np.ndarray) -> float:
    """Return the share of labels that another cut of the same area changes."""
    call, side = PEERS[name], cube.sizes["y"]
    if name in _CHUNKED:
        return float((call(lane, cube, chunk * 3 // 4) != label).mean())
    again = np.empty_like(label)
    for ys in (slice(0, side // 2), slice(side // 2, side)):
        for xs in (slice(0, side // 2), slice(side // 2, side)):
            again[ys, xs] = call(lane, cube.isel(y=ys, x=xs), chunk)
    return float((again != label).mean())


def write_tif(cube: xr.Dataset, path: Path) -> None:
    """Write the same pixels as an uncompressed tiled GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    grid, box = georef_of(cube)
    left, _, _, top = grid.bounds_of_box(box)
    values = cube.reflectance.values[0]
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(values), "crs": grid.crs, "tiled": True}
    profile |= {
        "height": values.shape[1],
        "width": values.shape[2],
        "transform": from_origin(left, top, 10, 10),
    }
    with rasterio.open(path, "w", blockxsize=256, blockysize=256, **profile) as file:
        file.write(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for name in (
        "nms",
        "qnms",
    ):  # torchvision's own are not in its build for another torch; nobody calls them
        try:
            torch.library.define(f"torchvision::{name}", "(Tensor d, Tensor s, float t) -> Tensor")
        except RuntimeError:
            break
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    """Measure floor and peers, round by round."""
    lattice = Lattice(256, 96)
    cube = make_cube(folder, args.size, args.chunk, 300 * lattice.stride_px)
    write_tif(cube, folder / "cube.tif")
    cube.attrs["tif"] = str(folder / "cube.tif")
    bundle, _ = make_bundle(folder, "unet", lattice)
    lane = lane_for(bundle)
    print("landweave:", require_equal_bytes(cube, bundle), flush=True)
    packed = ready(lane, cube.reflectance.values, 96)
    labels = warm_up(lane, cube, args)
    ratios: dict[str, list[tuple[float, float, float]]] = {peer: [] for peer in labels}
    for _ in range(args.rounds):
        torch.set_num_threads(1)
        floor = measured(lambda: forward(_network(lane), packed, 2))
        for peer in labels:
            cost = measured(lambda p=peer: write(PEERS[p](lane, cube, args.chunk), folder))  # type: ignore[misc]
            ratios[peer].append((cost.cpu_s / floor.cpu_s, cost.wall_s / floor.wall_s, cost.peak_mib))
    print(f"{args.size} px; each over the floor ({len(packed)} windows), medians of {args.rounds}")
    for peer in labels:
        cpu, wall, peak = np.median(ratios[peer], axis=0)
        share = changed(peer, lane, cube, args.chunk, labels[peer])
        print(
            f"{peer:22} processor {cpu:.3f}  clock {wall:.3f}  +{peak:.0f} MiB  "
            f"labels changed by another cut {100 * share:.4f}%",
            flush=True,
        )


def warm_up(lane: Lane, cube: xr.Dataset, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Run each once; name those that cannot be imported."""
    labels = {}
    for peer, call in PEERS.items():
        try:
            labels[peer] = call(lane, cube, args.chunk)
        except ImportError as error:
            print(f"{peer}: left out, {error}")
    return labels


if __name__ == "__main__":
    main()
