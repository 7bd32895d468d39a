"""The map as STAC: an item with its files, in a small collection, with relative links throughout.

::

    run/stac/collection.json      one collection, so that a static browser opens the folder
    run/stac/<id>.json            the item: what, where, when, which classes, made from what
    run/cog/label.tif  ...        assets, by relative href, with size and sha256

Versions: STAC 1.1; extensions projection 2.0, raster 1.1, classification 2.0, file 2.1, processing 1.2.
How a product names the model it came from follows the machine learning model extension (MLM): a link
``derived_from`` to the model's item that carries ``mlm:name``, level L4, and a ``processing:expression``
of format ``stac-mlm``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.products.styles import write_text
from engine.values.classes import NO_DATA_LABEL, ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import pystac
    from shapely.geometry.base import BaseGeometry

PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
"""The processing extension, for which pystac has no class."""

_SHA256 = "1220"  # multihash: function sha2-256 (0x12), 32 bytes (0x20)
_CHUNK_BYTES = 1 << 22
_POINTS_PER_SIDE = 21  # a straight edge of a projected box is a curve in degrees


@dataclass(frozen=True)
class ModelRef:
    """The model that made a map.

    Attributes:
        name: Its ``mlm:name``.
        href: Its manifest (an MLM item): absolute URL, or a path; a path becomes relative.
        digest: sha256 of its weights, if known.
    """

    name: str
    href: str
    digest: str | None = None


@dataclass(frozen=True)
class MapProduct:
    """What a STAC item says about a map.

    Attributes:
        id: Item id; letters, digits, ``-``, ``_``, ``.``.
        title: One line.
        grid: Grid of the map.
        box: The area's box on it.
        scheme: The classes.
        start: First day of the imagery.
        end: Last day, inclusive.
        outline: The area's outline in EPSG:4326; None takes the box.
        files: Path per asset key; keys named like a variable (``label``, ``confidence``, ...) are data.
        layers: How other layers than label, confidence, probability and observations are stored: type, no
            data, scale, offset and unit, by the names of the raster extension; and ``planes``, if several.
        model: The model, if one made it.
        sources: Paths or URLs of what it was derived from (catalogue, ``items.parquet``).
        version: Version of landweave that made it.
        created: When; None takes now.
    """

    id: str
    title: str
    grid: Grid
    box: Box
    scheme: ClassScheme
    start: dt.date
    end: dt.date
    outline: BaseGeometry | None = None
    files: dict[str, Path] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: ModelRef | None = None
    sources: tuple[str, ...] = ()
    version: str = ""
    created: dt.datetime | None = None


def write_stac(folder: str | Path, product: MapProduct, *, licence: str = "other") -> Path:
    """Write ``collection.json`` and the item of a map into a folder.

    Args:
        folder: Where the JSON files go; made if missing.
        product: What to say.
        licence: SPDX identifier of the map's licence, or ``other``.

    Returns:
        Path of the item.

    Raises:
        InputError: If the id cannot be a file name, the dates are swapped or an asset is missing.
    """
    _check(product)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    item = _item(folder, product)
    collection = _collection(item, product, licence)
    item_path, collection_path = folder / f"{product.id}.json", folder / "collection.json"
    for rel in ("root", "parent", "collection"):
        _link(item, rel, collection_path.name)
    _link(collection, "root", collection_path.name)
    _link(collection, "item", item_path.name)
    write_text(item_path, json.dumps(item.to_dict(include_self_link=False), indent=2))
    write_text(collection_path, json.dumps(collection.to_dict(include_self_link=False), indent=2))
    return item_path


def _check(product: MapProduct) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", product.id):
        raise InputError("a STAC id is made of letters, digits, '-', '_' and '.'", found=product.id)
    if product.end < product.start:
        raise InputError("the map ends before it starts", found=f"{product.start}/{product.end}")
    for key, path in product.files.items():
        if not Path(path).exists():
            raise InputError("an asset is missing", where=key, found=str(path))


def _item(folder: Path, product: MapProduct) -> pystac.Item:
    import pystac

    geometry, bbox = _footprint(product)
    created = product.created or dt.datetime.now(dt.UTC).replace(microsecond=0)
    item = pystac.Item(
        id=product.id,
        geometry=geometry,
        bbox=bbox,
        datetime=None,
        start_datetime=dt.datetime.combine(product.start, dt.time.min, dt.UTC),
        end_datetime=dt.datetime.combine(product.end, dt.time(23, 59, 59), dt.UTC),
        properties={"title": product.title, "created": _stamp(created), **_processing(product)},
        stac_extensions=[PROCESSING],
    )
    _project(item, product)
    for key, path in sorted(product.files.items()):
        _add_asset(item, key, Path(path).resolve(), folder, product)
    for source in product.sources:
        _link(item, "derived_from", _href(source, folder), media_type=_media_type(Path(source)))
    if product.model is not None:
        _link_model(item, product.model, folder)
    item.collection_id = _collection_id(product)
    return item


def _collection_id(product: MapProduct) -> str:
    return f"{product.id}-collection"


def _stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _processing(product: MapProduct) -> dict[str, Any]:
    fields: dict[str, Any] = {"processing:level": "L4", "processing:lineage": "Classified by landweave"}
    if product.version:
        fields["processing:software"] = {"landweave": product.version}
    if product.model and product.model.digest:
        fields["processing:lineage"] += f" with model weights sha256:{product.model.digest}"
    return fields


def _footprint(product: MapProduct) -> tuple[dict[str, Any], list[float]]:
    """Return GeoJSON geometry and bbox in EPSG:4326: the outline, or the box with densified edges."""
    from shapely.geometry import mapping

    outline = product.outline if product.outline is not None else _box_outline(product.grid, product.box)
    return dict(mapping(outline)), [float(v) for v in outline.bounds]


def _box_outline(grid: Grid, box: Box) -> BaseGeometry:
    import numpy as np
    from pyproj import Transformer
    from shapely.geometry import Polygon

    left, bottom, right, top = grid.bounds_of_box(box)
    xs, ys = np.linspace(left, right, _POINTS_PER_SIDE), np.linspace(bottom, top, _POINTS_PER_SIDE)
    ring_x = np.concatenate([xs[:-1], np.full(len(ys) - 1, right), xs[:0:-1], np.full(len(ys) - 1, left)])
    ring_y = np.concatenate([np.full(len(xs) - 1, bottom), ys[:-1], np.full(len(xs) - 1, top), ys[:0:-1]])
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(ring_x, ring_y)
    return Polygon(zip(np.round(lon, 7).tolist(), np.round(lat, 7).tolist(), strict=True))


def _project(item: pystac.Item, product: MapProduct) -> None:
    from pyproj import CRS
    from pystac.extensions.projection import ProjectionExtension

    crs = CRS.from_user_input(product.grid.crs)
    authority = crs.to_authority(min_confidence=100)
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=":".join(authority) if authority else None,
        wkt2=None if authority else crs.to_wkt("WKT2_2019"),
        bbox=list(product.grid.bounds_of_box(product.box)),
        shape=list(product.box.shape_yx),
        transform=list(product.grid.transform_of(product.box)),
    )


def _add_asset(item: pystac.Item, key: str, path: Path, folder: Path, product: MapProduct) -> None:
    import pystac
    from pystac.extensions.file import FileExtension

    data = key.split("-")[0] in _BANDS | product.layers
    asset = pystac.Asset(
        href=_href(str(path), folder), media_type=_media_type(path), roles=_roles(key, path, data), title=key
    )
    item.add_asset(key, asset)
    if data:
        _describe_data(asset, key.split("-")[0], product)
    if path.is_file():
        FileExtension.ext(asset, add_if_missing=True).apply(
            checksum=_SHA256 + sha256_of(path), size=path.stat().st_size
        )


_BANDS: dict[str, dict[str, Any]] = {
    "label": {"nodata": NO_DATA_LABEL},
    "confidence": {"nodata": 255, "scale": 1 / 250, "offset": 0.0},
    "probability": {"nodata": 255, "scale": 1 / 250, "offset": 0.0},
    "observations": {"unit": "count"},
}


def _describe_data(asset: pystac.Asset, variable: str, product: MapProduct) -> None:
    from pystac.extensions.classification import Classification, ClassificationExtension
    from pystac.extensions.raster import DataType, RasterBand, RasterExtension

    planes: Sequence[str] = product.scheme.names if variable == "probability" else (variable,)
    known = {"data_type": "uint8"} | (_BANDS | product.layers)[variable]
    planes = known.pop("planes", planes)
    data_type = known.pop("data_type")
    known |= {"spatial_resolution": product.grid.resolution_yx[0]}
    bands = [RasterBand.create(data_type=DataType(data_type), **known) for _ in planes]
    RasterExtension.ext(asset, add_if_missing=True).apply(bands)
    asset.extra_fields |= {"data_type": data_type, "bands": [{"name": name} for name in planes]}
    if "nodata" in known:
        asset.extra_fields["nodata"] = known["nodata"]
    if product.model is not None:
        asset.extra_fields |= {"mlm:name": product.model.name, "processing:level": "L4"}
    if variable == "label":
        no_data = Classification.create(value=NO_DATA_LABEL, name="no_data", title="no data", nodata=True)
        classes = [
            Classification.create(
                value=c.value, name=_machine_name(c.name), title=c.name, color_hint=c.colour[1:].upper()
            )
            for c in product.scheme.classes
        ]
        ClassificationExtension.ext(asset, add_if_missing=True).apply([no_data, *classes])


def _machine_name(name: str) -> str:
    """Write a class name with letters, digits, ``-`` and ``_`` only, as the extension asks.

    >>> _machine_name("Forêt / bois")
    'For_t_bois'
    """
    return re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_") or "class"


_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".zarr": "application/vnd.zarr; version=3",
    ".png": "image/png",
    ".json": "application/json",
    ".html": "text/html",
    ".qml": "application/xml",
    ".xml": "application/xml",
    ".parquet": "application/vnd.apache.parquet",
}


def _media_type(path: Path) -> str:
    return _MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")


def _roles(key: str, path: Path, data: bool) -> list[str]:
    if data or path.suffix == ".zarr":
        return ["data"]
    if path.suffix == ".png":
        return ["thumbnail" if "thumbnail" in key else "overview"]
    return ["style"] if path.suffix == ".qml" else ["metadata"]


def _href(target: str, folder: Path) -> str:
    """Write a path relative to the folder; leave a URL as it is."""
    if "://" in target:
        return target
    relative = os.path.relpath(Path(target).resolve(), folder).replace(os.sep, "/")
    return relative if relative.startswith("..") else f"./{relative}"


def _link(node: Any, rel: str, href: str, **known: Any) -> None:
    """Add a link whose href is kept as it is written."""
    import pystac

    href = href if "/" in href else f"./{href}"
    known.setdefault("media_type", "application/geo+json" if rel == "item" else "application/json")
    node.links.append(pystac.Link(rel, href, **known))


def _link_model(item: pystac.Item, model: ModelRef, folder: Path) -> None:
    href = _href(model.href, folder)
    extra = {"mlm:name": model.name, "processing:level": "L4"}
    _link(item, "derived_from", href, media_type="application/geo+json", title=model.name, extra_fields=extra)
    item.properties["processing:expression"] = {"format": "stac-mlm", "expression": href}


def _collection(item: pystac.Item, product: MapProduct, licence: str) -> pystac.Collection:
    import pystac

    common = item.common_metadata
    extent = pystac.Extent(
        pystac.SpatialExtent([item.bbox or []]),
        pystac.TemporalExtent([[common.start_datetime, common.end_datetime]]),
    )
    return pystac.Collection(
        id=_collection_id(product),
        title=product.title,
        description=f"{product.title}: a map of {len(product.scheme.classes)} classes, made by landweave.",
        extent=extent,
        license=licence,
        keywords=["land cover", "Sentinel-2", *product.scheme.names],
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
