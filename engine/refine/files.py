"""Refine a raster of classes that no run made: a GeoTIFF or a map's Zarr in, one of the two out, block by block.

::

    MAP.tif ──► block + reach ──► steps ──► OUT.tif, OUT.changed.tif        (or OUT.zarr with both)

Memory holds a block with its surroundings; a sieve holds what `engine.refine.sieve` says. The result stands under its
name when it is whole.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.refine.around import Around
from engine.refine.chain import CHANGED, CHANGED_NO_DATA, RefineSpec, finished
from engine.refine.source import ArraySource, StoreSource, beside, require_layers, rows_of
from engine.refine.steps import Layers, Source
from engine.store.layout import StoreSpec, Variable, create
from engine.store.regions import write_region
from engine.values.classes import NO_DATA_LABEL, ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

BLOCK_PX = 2048
_TIFF_TILE_PX = 512

Progress = Callable[[int, int, str], None]
"""Called with blocks done, blocks in all, and what is done."""


class TiffRaster:
    """Classes of a raster file that GDAL reads; the first band.

    Inside a refinement 0 means no data. Where a file declares another value as no data, its 0 is a class: the two
    change places on the way in, and again on the way out.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, has no CRS, is not north-up, or holds no bytes.
    """

    names = ("label",)

    def __init__(self, path: str) -> None:
        import rasterio
        from rasterio.errors import RasterioIOError

        try:
            self.file = rasterio.open(path)
        except RasterioIOError as error:
            raise InputError("cannot read the raster", where=path, mend=str(error)) from error
        if self.file.dtypes[0] != "uint8":
            raise InputError(
                "classes are bytes",
                where=path,
                found=self.file.dtypes[0],
                limit="uint8",
                mend="gdal_translate -ot Byte",
            )
        if self.file.crs is None:
            raise InputError("the raster has no CRS", where=path, mend="gdal_edit.py -a_srs EPSG:...")
        self.grid, self.box = Grid.of_transform(self.file.crs.to_wkt(), self.file.transform, self.file.shape)
        declared = self.file.nodata
        self.no_data = NO_DATA_LABEL if declared is None or math.isnan(declared) else int(declared)

    def __call__(self, box: Box) -> Layers:
        """Return the classes over a box."""
        from rasterio.windows import Window

        label, inner = np.zeros(box.shape_yx, np.uint8), box & self.box
        if inner:
            window = Window(inner.x0 - self.box.x0, inner.y0 - self.box.y0, *inner.shape_yx[::-1])
            label[inner.slices_in(box)] = self.swapped(self.file.read(1, window=window))
        return {"label": label}

    def swapped(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return classes with 0 and the file's no-data value in each other's place."""
        if self.no_data == NO_DATA_LABEL:
            return label
        table = np.arange(256, dtype=np.uint8)
        table[[NO_DATA_LABEL, self.no_data]] = self.no_data, NO_DATA_LABEL
        swapped: NDArray[np.uint8] = table[label]
        return swapped

    def scheme(self) -> ClassScheme:
        """Return the classes as the file tells them: names of its tags (as we write them), colours of its table.

        Classes without a name are called by their value.
        """
        tags = self.file.tags(1)
        colours = self._colours()
        rows = []
        for value in range(256):
            here = int(self.swapped(np.array([value], np.uint8))[0])
            if here == NO_DATA_LABEL:
                continue
            red, green, blue = colours.get(value, (here, here, here))
            name = tags.get(f"class_{value}", str(value))
            rows.append(
                LandClass(value=here, name=name, colour=f"#{red:02x}{green:02x}{blue:02x}", codes=(value,))
            )
        return ClassScheme(classes=tuple({row.name: row for row in rows}.values()))

    def _colours(self) -> dict[int, tuple[int, int, int]]:
        try:
            return {k: v[:3] for k, v in self.file.colormap(1).items()}
        except ValueError:  # it has none
            return {}


class ZarrRaster(StoreSource):
    """A map's Zarr.

    Raises:
        InputError: If there is none, or it lacks a layer that the steps need.
    """

    @property
    def grid(self) -> Grid:
        """Where pixels lie."""
        return self.view.grid


def open_raster(path: str, spec: RefineSpec) -> TiffRaster | ZarrRaster:
    """Open a raster of classes for a refinement.

    Raises:
        InputError: If it is none, or lacks a layer that the steps need.
    """
    if path.rstrip("/").endswith(".zarr"):
        return ZarrRaster(path, spec.reads)
    raster = TiffRaster(path)
    require_layers(path, spec.reads, raster.names)
    return raster


@dataclass(frozen=True)
class Refined:
    """What refining a raster did.

    Attributes:
        out: Where the refined map lies.
        pixels: Pixels with a class.
        changed: Name of each step to the pixels that it was the last to change.
    """

    out: str
    pixels: int
    changed: dict[str, int]


def refine_raster(
    raster: TiffRaster | ZarrRaster, spec: RefineSpec, scheme: ClassScheme, out: Path, progress: Progress
) -> Refined:
    """Refine a raster of classes into a file or a store.

    Args:
        raster: What is refined.
        spec: How.
        scheme: Its classes.
        out: A ``.tif``, beside which ``NAME.changed.tif`` comes to lie, or a ``.zarr``; one that is there is replaced.
        progress: Told how far it is.

    Raises:
        InputError: If a step names a class that the scheme has not, or `out` has another suffix.
    """
    around = Around.of(scheme, raster.grid, raster.box)
    writer = _writer_of(out)(out, raster, spec, scheme)
    counts, pixels, blocks = np.zeros(256, np.int64), 0, list(writer.blocks())
    with writer, _refined(raster, spec, around, out.parent) as refined:
        for done, block in enumerate(blocks, 1):
            layers = finished(refined(block))
            writer.write(block, layers)
            counts += np.bincount(layers[CHANGED].ravel(), minlength=256)
            pixels += int(np.count_nonzero(layers["label"]))
            progress(done, len(blocks), "")
    changed = {name: int(counts[number]) for number, name in enumerate(spec.names, 1)}
    return Refined(str(out), pixels, changed)


@contextmanager
def _refined(
    raster: TiffRaster | ZarrRaster, spec: RefineSpec, around: Around, scratch: Path
) -> Iterator[Source]:
    """Give what answers for any box; a sieve's whole answer lies in a file meanwhile."""
    if spec.sieve is None:
        yield spec.made(around).over(raster)
        return
    with tempfile.TemporaryFile(dir=scratch) as file:
        shape, sieve = raster.box.shape_yx, spec.sieve.made(around)
        sieved = np.memmap(file, np.uint8, "w+", shape=shape)

        def write(y0: int, rows: NDArray[np.uint8]) -> None:
            sieved[y0 : y0 + len(rows)] = rows

        sieve.run(rows_of(raster, raster.box), write, shape)
        yield beside(raster, ArraySource({"label": sieved}, raster.box))


class _Writer(Protocol):
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...
    def blocks(self) -> Iterator[Box]: ...
    def write(self, block: Box, layers: Layers) -> None: ...


def _writer_of(out: Path) -> Callable[[Path, TiffRaster | ZarrRaster, RefineSpec, ClassScheme], _Writer]:
    kinds: dict[str, Any] = {".tif": _TiffWriter, ".tiff": _TiffWriter, ".zarr": _ZarrWriter}
    if out.suffix not in kinds:
        raise InputError("the refined map goes into a .tif or a .zarr", where="--out", found=str(out))
    writer: Callable[..., _Writer] = kinds[out.suffix]
    return writer


class _TiffWriter:
    """Writes label and changed as two GeoTIFFs, under other names until they are whole."""

    def __init__(
        self, out: Path, raster: TiffRaster | ZarrRaster, spec: RefineSpec, scheme: ClassScheme
    ) -> None:
        self.raster, self.spec, self.scheme = raster, spec, scheme
        self.swapped = raster.swapped if isinstance(raster, TiffRaster) else lambda label: label
        self.no_data = raster.no_data if isinstance(raster, TiffRaster) else NO_DATA_LABEL
        self.paths = {"label": out, CHANGED: out.with_name(f"{out.stem}.{CHANGED}{out.suffix}")}
        self.files: dict[str, Any] = {}

    def blocks(self) -> Iterator[Box]:
        """Count blocks from the raster's corner, so that each fills whole tiles of the file."""
        box = self.raster.box
        for b in Box(0, 0, *box.shape_yx).blocks(BLOCK_PX):
            yield Box(b.y0 + box.y0, b.x0 + box.x0, b.y1 + box.y0, b.x1 + box.x0)

    def __enter__(self) -> None:
        for name, path in self.paths.items():
            no_data = self.no_data if name == "label" else CHANGED_NO_DATA
            self.files[name] = self._open(_aside(path), no_data)
        label = self.files["label"]
        table = {int(self.swapped(np.array([c.value], np.uint8))[0]): c for c in self.scheme.classes}
        label.write_colormap(1, {v: (*c.rgb, 255) for v, c in table.items()} | {self.no_data: (0, 0, 0, 0)})
        label.update_tags(1, **{f"class_{v}": c.name for v, c in table.items() if c.name != str(v)})
        self.files[CHANGED].update_tags(1, **{k: str(v) for k, v in self.spec.changed_attributes().items()})

    def _open(self, path: Path, no_data: int) -> Any:
        import rasterio
        from affine import Affine

        (height, width), grid = self.raster.box.shape_yx, self.raster.grid
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype="uint8",
            count=1,
            height=height,
            width=width,
            crs=grid.crs,
            transform=Affine(*grid.transform_of(self.raster.box)),
            nodata=no_data,
            tiled=True,
            blockxsize=_TIFF_TILE_PX,
            blockysize=_TIFF_TILE_PX,
            compress="deflate",
            bigtiff="if_safer",
        )

    def write(self, block: Box, layers: Layers) -> None:
        """Write a block."""
        from rasterio.windows import Window

        corner = self.raster.box
        window = Window(block.x0 - corner.x0, block.y0 - corner.y0, *block.shape_yx[::-1])
        self.files["label"].write(self.swapped(layers["label"]), 1, window=window)
        self.files[CHANGED].write(layers[CHANGED], 1, window=window)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for name, file in self.files.items():
            file.close()
            path = self.paths[name]
            if kind is None:
                _aside(path).replace(path)
            else:
                _aside(path).unlink(missing_ok=True)


class _ZarrWriter:
    """Writes a store with the flat layers of the raster and changed, beside its place until it is whole."""

    def __init__(
        self, out: Path, raster: TiffRaster | ZarrRaster, spec: RefineSpec, scheme: ClassScheme
    ) -> None:
        self.out, self.aside = out, _aside(out)
        label = {"long_name": "class", **scheme.flag_attributes()}
        variables = [Variable("label", "uint8", NO_DATA_LABEL, attrs=label)]
        if "confidence" in raster.names:
            variables.append(Variable("confidence", "uint8", 255, attrs={"scale": 1 / 250}))
        variables.append(Variable(CHANGED, "uint8", CHANGED_NO_DATA, attrs=spec.changed_attributes()))
        self.names = [v.name for v in variables]
        self.spec = StoreSpec(raster.grid, raster.box, BLOCK_PX, tuple(variables), title="refined")
        self.box = raster.box

    def blocks(self) -> Iterator[Box]:
        """Count blocks as shards: on whole multiples of the grid's pixels."""
        return self.box.blocks(BLOCK_PX)

    def __enter__(self) -> None:
        shutil.rmtree(self.aside, ignore_errors=True)
        create(str(self.aside), self.spec)

    def write(self, block: Box, layers: Layers) -> None:
        """Write a shard."""
        shard = block.snap_out(BLOCK_PX)
        arrays = {}
        for name in self.names:
            arrays[name] = np.full(shard.shape_yx, self.spec.variable(name).no_data, np.uint8)
            arrays[name][block.slices_in(shard)] = layers[name]
        write_region(str(self.aside), shard, arrays)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            shutil.rmtree(self.out, ignore_errors=True)
            self.aside.replace(self.out)
        else:
            shutil.rmtree(self.aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Return where a result lies until it is whole."""
    return path.with_name(f".{path.stem}.part{path.suffix}")
