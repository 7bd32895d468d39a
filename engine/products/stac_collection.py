"""The collection of a map: extents, classes, who made it under which terms, and files of the whole map."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.products.footprints import footprint_of
from engine.products.map_product import MapProduct, Provider
from engine.products.stac_assets import asset_of, link, media_type, roles_of, title_of
from engine.products.stac_fields import (
    PROCESSING,
    PROJECTION,
    classes_of,
    code_of,
    collection_id,
    described,
    extensions_of,
    metres_per_px,
    processing_of,
)

if TYPE_CHECKING:
    import pystac

CATALOG, COLLECTION = "catalog.json", "collection.json"


def collection_of(folder: Path, product: MapProduct, items: Sequence[str]) -> pystac.Collection:
    """Make the collection of a map.

    Args:
        folder: Where it will lie.
        product: What to say.
        items: File names of its items, beside it.
    """
    import pystac

    place = footprint_of(product.grid, product.box, product.outline)
    first = dt.datetime.combine(product.start, dt.time.min, dt.UTC)
    last = dt.datetime.combine(product.end, dt.time(23, 59, 59), dt.UTC)
    collection = pystac.Collection(
        id=collection_id(product),
        title=product.title,
        description=_description(product),
        extent=pystac.Extent(
            pystac.SpatialExtent([list(place.bbox)]), pystac.TemporalExtent([[first, last]])
        ),
        license=product.terms.licence,
        keywords=["land cover", "Sentinel-2", *product.scheme.names],
        providers=_providers(product),
        summaries=pystac.Summaries(_summaries(product), maxcount=1000),
        stac_extensions=[PROJECTION, PROCESSING],
    )
    for key, path in sorted(_whole_files(product).items()):
        collection.add_asset(key, asset_of(key, Path(path).resolve(), folder, product))
    expected = _item_assets(product)
    collection.extra_fields["item_assets"] = expected
    assets = [asset.to_dict() for asset in collection.assets.values()]
    found = extensions_of([*assets, *expected.values(), _summaries(product)])
    collection.stac_extensions = [*collection.stac_extensions, *found]
    _link(collection, product, items)
    return collection


def catalog_of(product: MapProduct) -> pystac.Catalog:
    """Make the root, for clients that begin at a catalogue."""
    import pystac

    catalog = pystac.Catalog(f"{product.id}-catalog", _description(product), product.title)
    link(catalog, "root", CATALOG)
    link(catalog, "child", COLLECTION, title=product.title)
    return catalog


def _link(collection: pystac.Collection, product: MapProduct, items: Sequence[str]) -> None:
    for rel in ("root", "parent"):
        link(collection, rel, CATALOG)
    if product.terms.licence_url:
        link(collection, "license", product.terms.licence_url, media_type="text/html")
    for name in items:
        link(collection, "item", name)


def _description(product: MapProduct) -> str:
    told = f"{product.title}: a map of {len(product.scheme.classes)} classes, made by landweave."
    if product.steps:
        told += f" Refined: {', then '.join(product.steps)}."
    return f"{told} {product.terms.attribution}".strip()


def _providers(product: MapProduct) -> list[pystac.Provider]:
    """List who made the map; the first who produced or processed it carries how that was done."""
    import pystac

    given = product.terms.providers or (
        Provider("landweave", ("processor",), description="Software that made the map"),
    )
    made = [
        pystac.Provider(
            p.name, p.description or None, [pystac.ProviderRole(r) for r in p.roles], p.url or None
        )
        for p in given
    ]
    makers = [p for p, told in zip(made, given, strict=True) if {"producer", "processor"} & set(told.roles)]
    if not makers:
        makers = [pystac.Provider("landweave", roles=[pystac.ProviderRole.PROCESSOR])]
        made += makers
    makers[0].extra_fields |= processing_of(product)
    return made


def _summaries(product: MapProduct) -> dict[str, Any]:
    """Sum up the items; the classes once as they are, so that a client needs no item to draw a legend."""
    code = code_of(product.grid)
    return {
        **({"proj:code": [code]} if code else {}),
        "gsd": [metres_per_px(product.grid)],
        "processing:level": ["L4"],
        **({"classification:classes": classes_of(product.scheme)} if _has_classes(product) else {}),
    }


def _has_classes(product: MapProduct) -> bool:
    keys = {*product.files, *(mosaic.variable for mosaic in product.mosaics)}
    return "label" in {key.split("-")[0] for key in keys}


def _item_assets(product: MapProduct) -> dict[str, Any]:
    """Say which assets each item has."""
    files = {m.variable: m.cells[0].path for m in product.mosaics} or product.files
    found: dict[str, Any] = {}
    for key, path in sorted(files.items()):
        fields = described(key, product)
        roles = roles_of(key, Path(path), data=bool(fields))
        found[key] = {"title": title_of(key), "type": media_type(Path(path)), "roles": roles, **fields}
    return found


def _whole_files(product: MapProduct) -> dict[str, Path]:
    """List the files of the whole map: of a mosaic the VRTs, coarse views and all else; else the picture."""
    if not product.mosaics:
        return {k: p for k, p in product.files.items() if Path(p).suffix == ".png"}
    found = dict(product.files)
    for mosaic in product.mosaics:
        found[mosaic.variable] = mosaic.main
        if mosaic.overview:
            found[f"{mosaic.variable}-overview"] = mosaic.overview
    return found
