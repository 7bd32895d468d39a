"""Staging: local images become a static STAC catalogue that `search` and `open_cube` read.

Understands, mixed in one folder or given alone:

- Sentinel-2 files by name (``T33UUU_20170216T102101_B04.jp2``) and any single-band file whose name holds a
  date and a band (``north_2023-05-01_red.tif``);
- GeoTIFFs of several bands, and of several dates (`rasters`);
- NetCDF cubes, time x y x (`netcdf`);
- SAFE folders and zip files of them, L1C and L2A (`safe`).

Pixels stay where they are; what is written is JSON, and small VRT files where a file holds several bands::

    out/catalog.json ─► out/<collection>/collection.json ─► out/<collection>/<item>/<item>.json
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.archive.staging import netcdf, rasters
from engine.archive.staging.items import Listener, refuse_foreign_catalog, write_catalog
from engine.archive.staging.layers import Hints, Layer
from engine.archive.staging.names import passed_over
from engine.archive.staging.netcdf import netcdf_layers
from engine.archive.staging.pixels import COPY_SUFFIX
from engine.archive.staging.rasters import raster_layers
from engine.archive.staging.safe import Product, product_layers, products_below
from engine.archive.warp import same_crs
from engine.values.errors import InputError

__all__ = ["Hints", "hints_of", "stage"]

_MOST_PROBLEMS = 20


def hints_of(told: Mapping[str, Any]) -> Hints:
    """Make hints of plain values, None for what is not told.

    Raises:
        InputError: If a value cannot be read; names it.
    """
    try:
        return Hints.model_validate({k: v for k, v in told.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(first["msg"], where=where, found=first["input"]) from error


def stage(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    collection: str | None = None,
    level: str | None = None,
    hints: Hints | None = None,
    copy: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Write a static STAC catalogue of local images.

    Args:
        folder: A file, a SAFE folder, a zip file of one, or a folder that is searched with its subfolders.
        out: Where the catalogue goes; None puts it into the folder (or the file's).
        collection: Collection id; None takes ``staged-l1c``, ``staged-l2a`` or ``staged``.
        level: Processing level; None reads it from names (``MSIL1C``, ``MSIL2A``; a Sentinel-2 name with
            ``_10m`` is L2A, without is L1C).
        hints: Bands, dates, no-data, scale and offset that files do not tell of themselves; a YAML beside a
            file (``image.yaml`` for ``image.tif``) says the same for that file alone.
        copy: Also copy the pixels beside the catalogue, as Cloud Optimized GeoTIFFs; floating-point numbers
            become uint16 reflectance x 10000 (``hints.scale`` says how).
        listener: Told of progress: scenes done, scenes in all, name of the scene.

    Returns:
        The path of ``catalog.json``, to be given to `search`.

    Raises:
        InputError: If there is no image, or if files cannot be placed: they are listed with what is wrong
            with each, and nothing is written.

    Examples:
        A two-season image of eight bands::

            stage("image.tif", "catalogue", hints=Hints(
                bands=["red", "green", "blue", "nir"], dates=["2021-05-01", "2021-08-01"]))
            items = search(area, "2021", "catalogue/catalog.json")
    """
    folder = Path(folder).resolve()
    if level not in (None, "L1C", "L2A"):
        raise InputError("no such processing level", where="level", found=level, limit="L1C or L2A")
    if not folder.exists():
        raise InputError("no such file or folder", where=str(folder), mend="check the path")
    home = folder if folder.is_dir() else folder.parent
    out = Path(out or home).resolve()
    refuse_foreign_catalog(out)
    products = products_below(folder)
    files = [] if products and folder.is_file() else _files(folder, products)
    if not files and not products:
        raise InputError(
            "no JPEG 2000, GeoTIFF or NetCDF image, and no SAFE product",
            where=str(folder),
            mend="check the folder",
        )
    scenes = _scenes_of([*products, *files], home, hints or Hints(), level, copy)
    return write_catalog(scenes, out, collection, copy, listener or (lambda done, total, name: None))


def _files(folder: Path, products: list[Product]) -> list[Path]:
    """List the images that are in no product."""
    suffixes = rasters.SUFFIXES | netcdf.SUFFIXES
    paths = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    homes = {p.path for p in products if p.inside is None}
    return [
        p
        for p in paths
        if p.suffix.lower() in suffixes
        and not p.name.endswith(COPY_SUFFIX)
        and not passed_over(p)
        and not homes & set(p.parents)
    ]


def _scenes_of(
    sources: Sequence[Path | Product], home: Path, hints: Hints, level: str | None, copy: bool
) -> dict[str, list[Layer]]:
    """Return the layers of all sources by scene.

    Raises:
        InputError: If any does not fit; tells all that is wrong.
    """
    layers: list[Layer] = []
    problems: list[tuple[str, str]] = []
    for source in sources:
        try:
            layers += _examine(source, home, hints, level, copy)
        except InputError as error:
            path = source.path if isinstance(source, Product) else source
            problems.append((path.name, error.what))
    scenes = _grouped(layers, problems)
    if problems:
        raise _refusal(problems, len(sources), home)
    return scenes


def _examine(source: Path | Product, home: Path, hints: Hints, level: str | None, copy: bool) -> list[Layer]:
    """Return the layers of one file or product.

    Raises:
        InputError: Saying what is missing.
    """
    if isinstance(source, Product):
        return product_layers(source)
    if source.suffix.lower() in netcdf.SUFFIXES:
        return netcdf_layers(source, hints, level, copy)
    return raster_layers(source, str(source.relative_to(home.parent)), hints, level, copy)


def _grouped(layers: Iterable[Layer], problems: list[tuple[str, str]]) -> dict[str, list[Layer]]:
    """Group layers into scenes; what does not fit together goes to `problems`."""
    scenes: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        scenes[layer.item].append(layer)
    for item, members in scenes.items():
        usual = Counter(layer.raster.crs for layer in members).most_common(1)[0][0]
        keys = Counter(layer.key for layer in members)
        for layer in members:
            name = Path(layer.source).name
            if not same_crs(layer.raster.crs, usual):
                told = f"its CRS {_short(layer.raster.crs)} is not that of item {item} ({_short(usual)})"
                problems.append((name, told))
            if keys[layer.key] > 1:
                problems.append((name, f"{layer.key} is there twice in {item}"))
        levels = sorted({layer.level for layer in members})
        if len(levels) > 1:
            problems.append((f"item {item}", f"files of levels {levels}"))
    return dict(scenes)


def _short(crs: str) -> str:
    from engine.values.grid import normal_crs

    return normal_crs(crs)[:60]


def _refusal(problems: list[tuple[str, str]], total: int, home: Path) -> InputError:
    """Say what is wrong, one line for all files with one reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in problems:
        by_reason[reason].append(name)
    lines = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in by_reason.items()
    ]
    rest = len(lines) - _MOST_PROBLEMS
    if rest > 0:
        lines = [*lines[:_MOST_PROBLEMS], f"{rest} more kinds of problems"]
    count = len({name for name, _ in problems})
    return InputError(
        f"{count} of {total} files cannot be placed",
        where=str(home),
        found="; ".join(lines),
        limit="for each band a known name, a date and integers; one CRS a scene",
        mend="rename them (north_2023-05-01_red.tif), say it with --bands, --dates, --scale or a YAML beside "
        "the file, or move them away",
    )
