"""Staged layers as a static STAC catalogue (STAC 1.1; extensions projection, eo, raster, grid)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.archive.staging.layers import Layer
from engine.archive.staging.pixels import address, class_shares, cloud_share, valid_area, value_counts
from engine.values.area import to_lonlat
from engine.values.errors import InputError
from engine.values.grid import normal_crs

if TYPE_CHECKING:
    import pystac

CATALOG_ID = "landweave-staged"
Listener = Callable[[int, int, str], None]
"""Called with scenes done, scenes in all, and the scene at hand."""

_SCHEMAS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
)


def refuse_foreign_catalog(out: Path) -> None:
    """Refuse to write over a catalogue that is not ours.

    Raises:
        InputError: Naming the catalogue.
    """
    import json

    path = out / "catalog.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("id") != CATALOG_ID:
        raise InputError("a catalogue of somebody else is here", where=str(path), mend="pass another out=")


def write_catalog(
    scenes: dict[str, list[Layer]], out: Path, collection: str | None, copy: bool, listener: Listener
) -> Path:
    """Write the catalogue, and the VRTs or copies that its assets need.

    Args:
        scenes: Layers by item.
        out: Folder of the catalogue.
        collection: Collection id, None for one per processing level.
        copy: Copy the pixels.
        listener: Told of progress.

    Returns:
        The path of ``catalog.json``.

    Raises:
        InputError: If the folder cannot be written.
    """
    import pystac

    catalog = pystac.Catalog(CATALOG_ID, "Images staged by landweave")
    by_collection: dict[str, list[pystac.Item]] = defaultdict(list)
    try:
        for done, name in enumerate(sorted(scenes)):
            listener(done, len(scenes), name)
            members = sorted(scenes[name], key=lambda layer: layer.key)
            level = members[0].level.lower()
            title = collection or (f"staged-{level}" if level else "staged")
            by_collection[title].append(_item(name, members, out / title / name, copy))
        listener(len(scenes), len(scenes), "catalogue")
        for title, items in by_collection.items():
            child = pystac.Collection(title, f"{len(items)} staged items", pystac.Extent.from_items(items))
            child.add_items(items)
            catalog.add_child(child)
        catalog.normalize_hrefs(str(out))
        for item in catalog.get_items(recursive=True):
            for asset in item.assets.values():
                if not asset.href.startswith("/vsi"):
                    asset.href = os.path.relpath(asset.href, Path(str(item.get_self_href())).parent)
        catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    except OSError as error:
        raise InputError(
            "cannot write the catalogue", where=str(out), found=str(error), mend="pass out="
        ) from error
    return out / "catalog.json"


def _item(name: str, layers: Sequence[Layer], folder: Path, copy: bool) -> pystac.Item:
    """Build one item."""
    import pystac
    from shapely.geometry import mapping

    hrefs = {layer.key: address(layer, folder, copy) for layer in layers}
    images = [layer for layer in layers if layer.band.kind == "reflectance"] or list(layers)
    widest = max(images, key=lambda layer: layer.resolution)
    outline, coverage = valid_area(hrefs[widest.key])
    footprint = to_lonlat(outline, widest.raster.crs)
    item = pystac.Item(
        id=name,
        geometry=mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=widest.moment,
        properties=_properties(layers, hrefs, coverage),
        stac_extensions=list(_SCHEMAS),
    )
    for layer in layers:
        item.add_asset(layer.key, _asset(layer, hrefs[layer.key], copy))
    return item


def _properties(layers: Sequence[Layer], hrefs: dict[str, str], coverage: float) -> dict[str, Any]:
    """Return the properties that names, metadata and pixels tell, and no others."""
    first = layers[0]
    crs = normal_crs(first.raster.crs)
    facts: dict[str, Any] = {"proj:code": crs} if crs.startswith("EPSG:") else {"proj:wkt2": crs}
    if first.tile:
        facts |= {"constellation": "sentinel-2", "grid:code": f"MGRS-{first.tile}"}
    if first.level:
        facts |= {"processing:level": first.level, "s2:product_type": f"S2MSI{first.level[1:]}"}
    facts |= dict(first.facts)
    classes = next((layer for layer in layers if layer.is_class), None)
    probability = next((layer for layer in layers if layer.band.name == "cloud"), None)
    cloud = None
    if classes is not None:
        coverage, cloud = class_shares(value_counts(hrefs[classes.key]))
    elif probability is not None:
        cloud = cloud_share(value_counts(hrefs[probability.key]), coverage)
    if cloud is not None:
        facts.setdefault("eo:cloud_cover", round(cloud, 4))
    facts["landweave:coverage"] = round(coverage, 4)
    facts.setdefault("s2:nodata_pixel_percentage", round(100 - coverage, 4))
    return facts


def _asset(layer: Layer, href: str, copy: bool) -> pystac.Asset:
    """Build the asset of one layer."""
    import pystac

    band, raster = layer.band, layer.raster
    floats = copy and raster.dtype.startswith("float")
    official = next((a for a in band.aliases if a.startswith("rededge0")), band.name)
    described: dict[str, Any] = {"name": band.msi}
    if band.wavelength_um:
        described |= {"eo:common_name": official, "eo:center_wavelength": band.wavelength_um}
    fields: dict[str, Any] = {
        "bands": [described],
        "gsd": layer.resolution,
        "data_type": "uint16" if floats else raster.dtype,
        "proj:shape": list(raster.shape_yx),
        "proj:transform": list(raster.transform),
    }
    nodata = 0.0 if floats or (layer.is_class and not copy) else raster.nodata
    if nodata is not None:
        fields["nodata"] = nodata
    if band.kind == "reflectance" and layer.scale is not None and not floats:
        fields |= {"raster:scale": layer.scale, "raster:offset": layer.offset or 0.0}
    return pystac.Asset(href, media_type=_media_type(href), roles=["data"], extra_fields=fields)


def _media_type(href: str) -> str:
    import pystac

    kinds = {".jp2": pystac.MediaType.JPEG2000, ".vrt": "application/x-gdal-vrt"}
    return str(kinds.get(Path(href).suffix.lower(), pystac.MediaType.GEOTIFF))
