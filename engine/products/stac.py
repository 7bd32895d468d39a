"""The map as STAC: items with their files, in a small collection, with relative links throughout.

::

    run/stac/catalog.json         the root, for clients that begin at a catalogue
    run/stac/collection.json      classes, extents, licence, who made it; files of the whole map
    run/stac/<id>.json            the item: what, where, when, which classes, made from what
    run/stac/<id>_r-61_c7.json    of a mosaic one item for each cell that holds data
    run/cog/label.tif  ...        assets, by relative href, with size and sha256

No document names the place that it lies in, so the folder can be moved, or served by any web server.

Versions: STAC 1.1; extensions projection 2.0, raster 1.1, classification 2.0, file 2.1, processing 1.2.
How a product names the model it came from follows the machine learning model extension (MLM): a link
``derived_from`` to the model's item that carries ``mlm:name``, level L4, and a ``processing:expression``
of format ``stac-mlm``.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.products.footprints import Footprint, RowCuts
from engine.products.map_product import MapProduct, ModelRef, Provider, Terms
from engine.products.stac_assets import asset_of, href_of, link, media_type
from engine.products.stac_collection import CATALOG, COLLECTION, catalog_of, collection_of
from engine.products.stac_fields import (
    PROCESSING,
    code_of,
    collection_id,
    extensions_of,
    metres_per_px,
    processing_of,
)
from engine.products.styles import write_text
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import pystac

__all__ = ["MapProduct", "ModelRef", "Provider", "Terms", "write_stac"]


@dataclass(frozen=True)
class _Part:
    """What becomes an item: the whole map, or a cell of the mosaic."""

    id: str
    title: str
    box: Box
    files: dict[str, Path]


def write_stac(folder: str | Path, product: MapProduct) -> Path:
    """Write the catalogue of a map into a folder: root, collection and items.

    Items that an earlier call wrote and that are no longer part of the map are removed.

    Args:
        folder: Where the JSON files go; made if missing.
        product: What to say.

    Returns:
        Path of the item; of a mosaic that of the collection.

    Raises:
        InputError: If the id cannot be a file name, the dates are swapped or an asset is missing.
    """
    product = _single_cog(product)
    parts = _parts(product)
    _check(product, parts)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    before = _listed(folder / COLLECTION)
    cuts = RowCuts(product.grid, product.box, product.outline)
    names = [_write_item(folder, product, part, cuts.footprint(part.box)) for part in parts]
    collection = collection_of(folder, product, names)
    _write(folder / COLLECTION, collection.to_dict(include_self_link=False))
    _write(folder / CATALOG, catalog_of(product).to_dict(include_self_link=False))
    for name in before - set(names):
        (folder / name).unlink(missing_ok=True)
    return folder / (COLLECTION if product.mosaics else names[0])


def _single_cog(product: MapProduct) -> MapProduct:
    """Take mosaics of one COG each as what they are: files of one item."""
    if any(mosaic.vrt for mosaic in product.mosaics):
        return product
    files = {mosaic.variable: mosaic.main for mosaic in product.mosaics}
    return replace(product, mosaics=(), files={**product.files, **files})


def _parts(product: MapProduct) -> list[_Part]:
    """List the items to be: one, or one for each cell that any variable has a file for."""
    if not product.mosaics:
        return [_Part(product.id, product.title, product.box, product.files)]
    found: dict[str, _Part] = {}
    for mosaic in product.mosaics:
        for cell in mosaic.cells:
            name = str(cell.key)
            new = _Part(f"{product.id}_{name}", f"{product.title}, {name}", cell.box, {})
            found.setdefault(name, new).files[mosaic.variable] = cell.path
    return [found[name] for name in sorted(found, key=lambda n: (found[n].box.y0, found[n].box.x0))]


def _check(product: MapProduct, parts: list[_Part]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", product.id):
        raise InputError("a STAC id is made of letters, digits, '-', '_' and '.'", found=product.id)
    if product.end < product.start:
        raise InputError("the map ends before it starts", found=f"{product.start}/{product.end}")
    if not parts:
        raise InputError("the mosaic has no file", where=product.id, mend="check that the map holds any data")
    for key, path in _all_files(product, parts):
        if not Path(path).exists():
            raise InputError("an asset is missing", where=key, found=str(path))


def _all_files(product: MapProduct, parts: list[_Part]) -> Iterator[tuple[str, Path]]:
    yield from product.files.items()
    for part in parts:
        yield from part.files.items()


def _listed(collection: Path) -> set[str]:
    """Return the names of the items that an earlier collection links to, if they lie beside it."""
    try:
        links = json.loads(collection.read_text())["links"]
    except (OSError, ValueError, KeyError):
        return set()
    hrefs = (str(known.get("href", "")) for known in links if known.get("rel") == "item")
    return {h.removeprefix("./") for h in hrefs if re.fullmatch(r"\./[A-Za-z0-9][\w.-]*\.json", h)}


def _write_item(folder: Path, product: MapProduct, part: _Part, place: Footprint) -> str:
    """Write the item of a part and return the name of its file."""
    item = _item(folder, product, part, place)
    link(item, "root", CATALOG)
    for rel in ("parent", "collection"):
        link(item, rel, COLLECTION)
    name = f"{part.id}.json"
    _write(folder / name, item.to_dict(include_self_link=False))
    return name


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a document, one field a line, but the thousands of numbers of an outline in one."""
    text = json.dumps({**document, **({"geometry": _OUTLINE} if "geometry" in document else {})}, indent=2)
    outline = json.dumps(document.get("geometry"))
    write_text(path, text.replace(f'"geometry": "{_OUTLINE}"', f'"geometry": {outline}', 1))


_OUTLINE = "the outline"


def _item(folder: Path, product: MapProduct, part: _Part, place: Footprint) -> pystac.Item:
    import pystac

    item = pystac.Item(
        id=part.id,
        geometry=place.geometry,
        bbox=list(place.bbox),
        datetime=None,
        start_datetime=dt.datetime.combine(product.start, dt.time.min, dt.UTC),
        end_datetime=dt.datetime.combine(product.end, dt.time(23, 59, 59), dt.UTC),
        properties=_properties(product, part),
        stac_extensions=[PROCESSING],
    )
    _project(item, product.grid, part.box, place)
    for key, path in sorted(part.files.items()):
        item.add_asset(key, asset_of(key, Path(path).resolve(), folder, product))
    item.stac_extensions += extensions_of(asset.to_dict() for asset in item.assets.values())
    _link_sources(item, product, folder)
    item.collection_id = collection_id(product)
    return item


def _properties(product: MapProduct, part: _Part) -> dict[str, Any]:
    created = product.created or dt.datetime.now(dt.UTC).replace(microsecond=0)
    stamp = created.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    told = {"title": part.title, "created": stamp, "gsd": metres_per_px(product.grid)}
    return {**told, "license": product.terms.licence, **processing_of(product)}


def _project(item: pystac.Item, grid: Grid, box: Box, place: Footprint) -> None:
    from pyproj import CRS
    from pystac.extensions.projection import ProjectionExtension

    code = code_of(grid)
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=code,
        wkt2=None if code else CRS.from_user_input(grid.crs).to_wkt("WKT2_2019"),
        bbox=list(grid.bounds_of_box(box)),
        centroid={"lat": place.centre_lonlat[1], "lon": place.centre_lonlat[0]},
        shape=list(box.shape_yx),
        transform=list(grid.transform_of(box)),
    )


def _link_sources(item: pystac.Item, product: MapProduct, folder: Path) -> None:
    """Link to what the map was derived from: imagery, the unrefined map, the model."""
    for source in product.sources:
        link(item, "derived_from", href_of(source, folder), media_type=media_type(Path(source)))
    if product.raw:
        kind = media_type(Path(product.raw))
        link(
            item,
            "derived_from",
            href_of(product.raw, folder),
            media_type=kind,
            title="The map before refinement",
        )
    if product.terms.licence_url:
        link(item, "license", product.terms.licence_url, media_type="text/html")
    if (model := product.model) is not None:
        href, extra = href_of(model.href, folder), {"mlm:name": model.name, "processing:level": "L4"}
        link(
            item,
            "derived_from",
            href,
            media_type="application/geo+json",
            title=model.name,
            extra_fields=extra,
        )
        item.properties["processing:expression"] = {"format": "stac-mlm", "expression": href}
