"""The Zarr conventions ``proj`` and ``spatial``: what a reader needs to place an array on the Earth.

Each convention is an entry in the attribute ``zarr_conventions`` plus attributes with its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.values.grid import Box, Grid

PROJ: Mapping[str, str] = {
    "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
SPATIAL: Mapping[str, str] = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}
MULTISCALES: Mapping[str, str] = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}


def with_convention(attrs: Mapping[str, Any], convention: Mapping[str, str]) -> dict[str, Any]:
    """Return attributes with a convention declared once, replacing an older entry of its uuid.

    >>> [c["name"] for c in with_convention(with_convention({}, PROJ), PROJ)["zarr_conventions"]]
    ['proj:']
    """
    others = [c for c in attrs.get("zarr_conventions", []) if c.get("uuid") != convention["uuid"]]
    return {**attrs, "zarr_conventions": [*others, dict(convention)]}


def georeference(attrs: Mapping[str, Any], grid: Grid, box: Box) -> dict[str, Any]:
    """Return attributes that place an array covering `box` of `grid`.

    Args:
        attrs: What else the node says.
        grid: CRS, pixel size, anchor.
        box: Pixels covered; the bounding box is (left, bottom, right, top) in CRS units.

    >>> attrs = georeference({}, Grid("EPSG:32633", (10.0, 10.0)), Box(0, 0, 4, 6))
    >>> attrs["proj:code"], attrs["spatial:transform"], attrs["spatial:bbox"]
    ('EPSG:32633', [10.0, 0.0, 0.0, 0.0, -10.0, 0.0], [0.0, -40.0, 60.0, 0.0])
    """
    coded = not grid.crs.lstrip().endswith("]")
    located = with_convention(with_convention(attrs, PROJ), SPATIAL)
    return located | {
        ("proj:code" if coded else "proj:wkt2"): grid.crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(v) for v in grid.transform_of(box)],
        "spatial:shape": list(box.shape_yx),
        "spatial:bbox": [float(v) for v in grid.bounds_of_box(box)],
        "spatial:registration": "pixel",
    }
