"""Refine a raster of classes that no run made, in one process: `landweave refine MAP.tif --out REFINED.tif`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.products.styles import scheme_of_flags
from engine.refine.files import Progress, Refined, TiffRaster, open_raster, refine_raster
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from pipelines.refine_config import RefineConfig

_SUFFIXES = (".tif", ".tiff", ".zarr", ".vrt")


@dataclass(frozen=True)
class FileCall:
    """What is refined, and where the result goes.

    Attributes:
        source: GeoTIFF, or the Zarr of a map.
        out: Where the result goes.
        classes: File of the class scheme; None for the classes that the raster tells.
    """

    source: str
    out: Path | None
    classes: Path | None = None


@dataclass(frozen=True)
class FileResult:
    """What refining a raster did."""

    refined: Refined

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        pixels = self.refined.pixels
        shares = {f"changed by {k}": f"{v / max(1, pixels):.2%}" for k, v in self.refined.changed.items()}
        return {"refined": self.refined.out, "pixels with a class": pixels, **shares}


def is_raster(source: str) -> bool:
    """Tell a raster of classes from a run folder, by its name.

    >>> is_raster("map.tif"), is_raster("runs/luxembourg"), is_raster("runs/luxembourg/map.zarr/")
    (True, False, True)
    """
    return source.rstrip("/").lower().endswith(_SUFFIXES)


def refine_file(call: FileCall, config: RefineConfig, progress: Progress) -> FileResult:
    """Refine a raster of classes into a file or a store.

    Args:
        call: What, and where to.
        config: The steps; where a run would run plays no part.
        progress: Told how far it is.

    Raises:
        InputError: If there is no such raster, no `out`, or steps and classes do not fit together.
    """
    if call.out is None or call.out.absolute() == Path(call.source).absolute():
        raise InputError(
            "a raster is refined into another one",
            where="--out",
            found=call.out,
            mend="--out refined.tif, or --out refined.zarr",
        )
    raster = open_raster(call.source, config.refine)
    if call.classes:
        scheme = ClassScheme.from_file(call.classes)
    elif isinstance(raster, TiffRaster):
        scheme = raster.scheme()
    else:
        scheme = scheme_of_flags(raster.view.attributes("label"), call.source)
    return FileResult(refine_raster(raster, config.refine, scheme, call.out, progress))
