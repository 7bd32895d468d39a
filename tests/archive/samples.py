"""The real STAC items of the test data, and records made for tests."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
from pathlib import Path
from typing import Any

import shapely

from engine.archive.items import AssetRecord, ItemRecord


@functools.cache
def stac_items(folder: Path) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return the items of each JSON file in the folder by file name."""
    found = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.geojson")]):
        data = json.loads(path.read_text())
        items = data if isinstance(data, list) else data.get("features", [data])
        found[path.name] = tuple(items)
    return found


def record(name: str = "a", **changes: Any) -> ItemRecord:
    """Return a record that is complete, with some fields changed."""
    base = ItemRecord(
        id=name,
        collection="sentinel-2-l2a",
        provider="other",
        datetime=dt.datetime(2023, 5, 1, 10, tzinfo=dt.UTC),
        geometry_wkb=shapely.to_wkb(shapely.normalize(shapely.box(13, 52, 14, 53)), byte_order=1),
        crs="EPSG:32633",
        tile="33UUU",
        datatake="GS2A_20230501T101601_041000",
        platform="sentinel-2a",
        relative_orbit=65,
        baseline="05.09",
        cloud_cover=12.5,
        offset_applied=None,
        claimed_offset=None,
        assets=(AssetRecord("blue", "/data/B02.tif", 0.0), AssetRecord("red", "/data/B04.tif")),
    )
    return dataclasses.replace(base, **changes)


def at(west: float, south: float, east: float, north: float) -> bytes:
    """Return a box as the footprint of a record."""
    return bytes(shapely.to_wkb(shapely.normalize(shapely.box(west, south, east, north)), byte_order=1))
