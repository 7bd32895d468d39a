"""What is staged: one band of one scene, wherever in a file it lies, and what the user adds to it."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from engine.archive.warp import Raster
from engine.values.bands import Band, common_name
from engine.values.errors import InputError


class Hints(BaseModel):
    """What files do not tell of themselves; also the content of a YAML beside a file (``name.yaml``).

    Attributes:
        bands: Names of a file's bands, in order; if the file has a multiple of them, they repeat per date.
        dates: Date of each group of bands; one date for a whole file.
        nodata: The value that means no data; default what the file declares. A NetCDF variable of unsigned
            integers that declares none takes the highest value, as openEO writes it, others 0.
        scale: Reflectance per unit of the pixels: ``reflectance = value * scale + offset``; default what
            the file declares, else 0.0001 for integers.
        offset: Reflectance of value 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bands: tuple[str, ...] = ()
    dates: tuple[dt.datetime, ...] = ()
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None

    @field_validator("bands", mode="before")
    @classmethod
    def _band_list(cls, value: Any) -> Any:
        return tuple(common_name(v) for v in _listed(value))

    @field_validator("dates", mode="before")
    @classmethod
    def _date_list(cls, value: Any) -> Any:
        return tuple(_listed(value))

    @field_validator("dates")
    @classmethod
    def _in_utc(cls, value: tuple[dt.datetime, ...]) -> tuple[dt.datetime, ...]:
        return tuple(d.astimezone(dt.UTC) if d.tzinfo else d.replace(tzinfo=dt.UTC) for d in value)

    def beside(self, path: Path) -> Hints:
        """Add what the YAML beside a file tells; what is already said here wins.

        Raises:
            InputError: If the YAML cannot be read.
        """
        side = path.with_suffix(".yaml")
        if not side.is_file():
            return self
        import yaml

        try:
            told = Hints.model_validate(yaml.safe_load(side.read_text(encoding="utf-8")) or {})
        except (ValidationError, yaml.YAMLError, InputError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"the file {side.name} beside it cannot be read ({text[:200]})") from error
        return told.model_copy(update={k: getattr(self, k) for k in self.model_fields_set})


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True)
class Layer:
    """One band of one scene.

    Attributes:
        item: Identifier of the scene.
        moment: Acquisition time, UTC.
        band: Its band.
        source: What GDAL opens: a path, ``/vsizip/...`` or ``NETCDF:"path":variable``.
        index: Number of the band within the source, from 1.
        raster: CRS, transform, shape, dtype, and the no-data value that holds (None: 0).
        alone: The source has no other band and declares that same no-data value, so that it can be read
            as it is.
        tile: MGRS tile or ``""``.
        level: Processing level or ``""``.
        facts: STAC properties that the product's name or metadata tell.
        scale: Reflectance per DN as far as told.
        offset: Reflectance of DN 0 as far as told.
    """

    item: str
    moment: dt.datetime
    band: Band
    source: str
    index: int
    raster: Raster
    alone: bool = True
    tile: str = ""
    level: str = ""
    facts: tuple[tuple[str, Any], ...] = ()
    scale: float | None = None
    offset: float | None = None

    @property
    def resolution(self) -> float:
        """Pixel width in CRS units."""
        return self.raster.transform[0]

    @property
    def key(self) -> str:
        """Key of its asset."""
        return f"{self.band.msi}_{self.resolution:g}m"

    @property
    def is_class(self) -> bool:
        """Whether it holds classes instead of numbers."""
        return self.band.kind == "class"


@contextmanager
def opened(source: str) -> Iterator[Any]:
    """Open a dataset by rasterio, without network and without sharing.

    Raises:
        InputError: If it cannot be opened.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a container of variables has none
            file = rasterio.open(source, sharing=False)
    except RasterioError as error:
        raise InputError(f"cannot be opened ({error})") from error
    with file:
        yield file


def raster_of(file: Any, index: int, nodata: float | None) -> Raster:
    """Return how a band of an open dataset lies.

    Raises:
        InputError: If it has no CRS or is not north-up.
    """
    a, b, c, d, e, f = tuple(file.transform)[:6]
    if not file.crs:
        raise InputError("has no CRS")
    if not (a > 0 > e and not b and not d):
        raise InputError("is not north-up")
    dtype = file.dtypes[index - 1]
    return Raster(file.crs.to_wkt(), (a, b, c, d, e, f), (file.height, file.width), dtype, nodata)


def check_numbers(dtype: str, hints: Hints, copy: bool) -> None:
    """Refuse numbers that are not DN.

    Raises:
        InputError: If they are no integers and nothing says how to make them integers.
    """
    if "int" in dtype or (copy and hints.scale is not None and dtype.startswith("float")):
        return
    raise InputError(
        f"holds {dtype}, not integers (give --copy and --scale, the reflectance per unit: 1 for values of "
        "0..1; copies are uint16 reflectance x 10000)"
    )


def claims_of(file: Any, index: int, hints: Hints) -> tuple[float | None, float | None]:
    """Return scale and offset of a band: as given, else as the file declares them, else None."""
    scale, offset = file.scales[index - 1], file.offsets[index - 1]
    declared = (None, None) if (scale, offset) == (1.0, 0.0) else (scale, offset)
    if hints.scale is None and hints.offset is None:
        return declared
    return hints.scale or declared[0] or 1e-4, hints.offset or 0.0
