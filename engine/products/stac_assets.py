"""The files of a map as STAC assets: what their pixels mean, their size and checksum, how to reach them."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.products.map_product import MapProduct
from engine.products.stac_fields import described

if TYPE_CHECKING:
    import pystac

_SHA256 = "1220"  # multihash: function sha2-256 (0x12), 32 bytes (0x20)
_CHUNK_BYTES = 1 << 22

_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".zarr": "application/vnd.zarr; version=3",
    ".png": "image/png",
    ".json": "application/json",
    ".html": "text/html",
    ".qml": "application/xml",
    ".sld": "application/vnd.ogc.sld+xml",
    ".vrt": "application/xml",
    ".xml": "application/xml",
    ".clr": "text/plain",
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}

_STYLES = (".qml", ".sld", ".clr", ".txt")


def asset_of(key: str, path: Path, folder: Path, product: MapProduct) -> pystac.Asset:
    """Describe a file.

    Args:
        key: Key of the asset; named like a variable (``label``, ``label-overview``), it is data.
        path: The file, or the folder of a Zarr, which has no one checksum.
        folder: Where the document lies that will name it.
        product: The map.
    """
    fields = described(key, product)
    import pystac

    asset = pystac.Asset(
        href=href_of(str(path), folder),
        media_type=media_type(path),
        roles=roles_of(key, path, data=bool(fields)),
        title=title_of(key),
        extra_fields=fields,
    )
    if path.is_file():
        asset.extra_fields |= {"file:size": path.stat().st_size, "file:checksum": _SHA256 + sha256_of(path)}
    return asset


def media_type(path: Path) -> str:
    """Return the media type of a file by its suffix."""
    if path.suffix == ".zarr" and (path / ".zgroup").exists():
        return "application/vnd.zarr; version=2"
    return _MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")


def roles_of(key: str, path: Path, *, data: bool) -> list[str]:
    """Say what an asset is for."""
    if data or path.suffix == ".zarr":
        return ["data", "overview"] if "overview" in key else ["data"]
    if "legend" in key and path.suffix in (".png", ".json"):
        return ["metadata", "legend"]
    if path.suffix == ".png":
        return ["thumbnail" if "thumbnail" in key else "overview"]
    return ["style"] if path.suffix in _STYLES else ["metadata"]


def title_of(key: str) -> str:
    """Write the title of an asset.

    >>> title_of("label-overview")
    'Label overview'
    """
    words = re.sub(r"[-_]+", " ", key)
    return words[:1].upper() + words[1:]


def href_of(target: str, folder: Path) -> str:
    """Write a path relative to the folder; leave a URL as it is."""
    if "://" in target:
        return target
    relative = os.path.relpath(Path(target).resolve(), folder).replace(os.sep, "/")
    return relative if relative.startswith("..") else f"./{relative}"


def link(node: Any, rel: str, href: str, **known: Any) -> None:
    """Add a link whose href is kept as it is written."""
    import pystac

    href = href if "/" in href else f"./{href}"
    known.setdefault("media_type", "application/geo+json" if rel == "item" else "application/json")
    node.links.append(pystac.Link(rel, href, **known))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
