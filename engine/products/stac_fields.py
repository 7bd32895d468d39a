"""The words of STAC and its extensions for what a map is: projection, bands, classes, processing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.products.map_product import MapProduct
from engine.values.classes import NO_DATA_LABEL, ClassScheme
from engine.values.grid import Grid

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"

_FIELDS = {"raster:bands": RASTER, "file:size": FILE, "classification:classes": CLASSIFICATION}

_BANDS: dict[str, dict[str, Any]] = {
    "label": {"nodata": NO_DATA_LABEL},
    "confidence": {"nodata": 255, "scale": 1 / 250, "offset": 0.0},
    "probability": {"nodata": 255, "scale": 1 / 250, "offset": 0.0},
    "observations": {"unit": "count"},
}


def collection_id(product: MapProduct) -> str:
    """Name the collection of a map."""
    return f"{product.id}-collection"


def processing_of(product: MapProduct) -> dict[str, Any]:
    """Say how a map was made, by the names of the processing extension."""
    lineage = "Classified by landweave"
    if product.model and product.model.digest:
        lineage += f" with model weights sha256:{product.model.digest}"
    if product.steps:
        lineage += f"; refined: {', then '.join(product.steps)}"
    fields: dict[str, Any] = {"processing:level": "L4", "processing:lineage": lineage}
    if product.version:
        fields["processing:software"] = {"landweave": product.version}
    return fields


def code_of(grid: Grid) -> str | None:
    """Return the authority's code of a grid's CRS, such as ``EPSG:32633``; None if it has none."""
    from pyproj import CRS

    authority = CRS.from_user_input(grid.crs).to_authority(min_confidence=100)
    return ":".join(authority) if authority else None


def described(key: str, product: MapProduct) -> dict[str, Any]:
    """Say what the pixels of an asset mean; nothing for one that is no data.

    Type, no data and unit stand with the asset, as STAC 1.1 has them, and in ``raster:bands``, where
    readers of version 1.0 look.
    """
    variable, stored = _variable(key, product)
    if stored is None:
        return {}
    known: dict[str, Any] = {"data_type": "uint8", **stored}
    planes: Sequence[str] = product.scheme.names if variable == "probability" else (variable,)
    planes = known.pop("planes", planes)
    codes: Mapping[int, str] = known.pop("classes", None) or {}
    band: dict[str, Any] = known | {"spatial_resolution": metres_per_px(product.grid)}
    fields: dict[str, Any] = {k: v for k, v in known.items() if k in ("data_type", "nodata", "unit")}
    fields |= {"bands": [{"name": p} for p in planes], "raster:bands": [dict(band) for _ in planes]}
    if product.model is not None:
        fields |= {"mlm:name": product.model.name, "processing:level": "L4"}
    if variable == "label":
        fields["classification:classes"] = classes_of(product.scheme)
    elif codes:
        fields["classification:classes"] = [_class(int(v), str(name)) for v, name in codes.items()]
    return fields


def _variable(key: str, product: MapProduct) -> tuple[str, dict[str, Any] | None]:
    """Return the variable that an asset's key names, and what is known of it, None if it is no data."""
    layers = _BANDS | product.layers
    name = next((n for n in (key, key.split("-")[0]) if n in layers), "")
    return name, layers.get(name)


def classes_of(scheme: ClassScheme) -> list[dict[str, Any]]:
    """Write a scheme as class objects of the classification extension, no data first."""
    no_data = {"value": NO_DATA_LABEL, "name": "no_data", "title": "no data", "nodata": True}
    return [no_data, *(_class(c.value, c.name, c.colour) for c in scheme.classes)]


def _class(value: int, name: str, colour: str = "") -> dict[str, Any]:
    hint = {"color_hint": colour[1:].upper()} if colour else {}
    return {"value": value, "name": machine_name(name), "title": name, **hint}


def machine_name(name: str) -> str:
    """Write a class name with letters, digits, ``-`` and ``_`` only, as the extension asks.

    >>> machine_name("Forêt / bois")
    'For_t_bois'
    """
    return re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_") or "class"


def metres_per_px(grid: Grid) -> float:
    """Return the larger side of a pixel in metres; of a geographic grid at the equator.

    >>> metres_per_px(Grid("EPSG:32633", (10.0, 10.0)))
    10.0
    """
    from pyproj import CRS

    crs, side = CRS.from_user_input(grid.crs), max(grid.resolution_yx)
    unit = crs.axis_info[0].unit_conversion_factor
    if crs.is_geographic:  # the factor turns units into radians
        return round(side * unit * crs.ellipsoid.semi_major_metre, 3) if crs.ellipsoid else side
    return side * unit


def extensions_of(assets: Iterable[dict[str, Any]]) -> list[str]:
    """List the extensions whose fields occur in assets."""
    used = {field for asset in assets for field in asset}
    return [uri for field, uri in _FIELDS.items() if field in used]
