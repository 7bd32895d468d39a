"""Catalogues: the STAC items of an API, a static catalogue, a folder or a GeoParquet file, as dictionaries.

Each source yields ``(item, base_href)``: the item as it stands there, and the address from which its
relative hrefs start. What they mean is `engine.archive.stac`'s business, so that all sources give the same
records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.paging import Answer, Ask, Patience, Send, walk
from engine.values.area import Area
from engine.values.errors import InputError, RetryableError

APIS = {
    "earth-search": ("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"),
    "planetary-computer": ("https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a"),
    "cdse": ("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a"),
}
"""Named providers: root of the API and the collection searched by default."""

_RETRIES, _BACKOFF_S, _TIMEOUT_S, _PAGE = 6, 0.5, (10.0, 120.0), 250
_MAX_VERTICES = 400  # servers refuse long requests

Found = tuple[dict[str, Any], str | None]


@dataclass(frozen=True)
class Query:
    """What a source may leave out to save work; the caller filters exactly afterwards.

    Attributes:
        area: Footprints must touch it.
        start: First moment, ISO 8601.
        end: Last moment, ISO 8601.
        collection: Collection id, or None for all.
    """

    area: Area
    start: str
    end: str
    collection: str | None


def items_of(catalog: str, query: Query) -> Iterator[Found]:
    """Yield the items of a catalogue, at least those that the query wants.

    Raises:
        InputError: If the catalogue cannot be found or is none.
        RetryableError: If a service did not answer.
    """
    if catalog in APIS:
        root, collection = APIS[catalog]
        wanted = Query(query.area, query.start, query.end, query.collection or collection)
        return _from_api(root, wanted)
    if catalog.startswith(("http://", "https://")):
        static = catalog.split("?")[0].endswith(".json")
        return _from_static(catalog) if static else _from_api(catalog, query)
    path = Path(catalog)
    if not path.exists():
        names = ", ".join(APIS)
        raise InputError("no such catalogue", where=catalog, limit=f"{names}, a URL, a file or a folder")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in (".parquet", ".geoparquet"):
        return _from_parquet(path)
    return _from_json(path)


def extent_of(catalog: str, collection: str | None) -> str:
    """Say in words which times an API's collection covers; empty when it does not tell."""
    root, default = APIS.get(catalog, (catalog, None))
    name = collection or default
    if name is None or not root.startswith("http") or root.endswith(".json"):
        return ""
    try:
        start, end = _client(root).get_collection(name).extent.temporal.intervals[0]
    except Exception:  # this only makes an error message better; it must not hide it
        return ""
    return f"{name} covers {start:%Y-%m-%d} to {f'{end:%Y-%m-%d}' if end else 'now'}" if start else ""


def _client(root: str) -> Any:
    """Open an API with retries on throttling and server errors."""
    from pystac_client import Client
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    try:
        return Client.open(root, stac_io=StacApiIO(max_retries=_retry(), timeout=_TIMEOUT_S))
    except APIError as error:
        raise _api_error(root, error) from error
    except Exception as error:  # pystac raises many kinds for a page that is no STAC
        raise InputError("this is no STAC API", where=root, found=str(error)[:200]) from error


def _retry() -> Any:
    """Retries on throttling and server errors; a server's own Retry-After is followed."""
    from urllib3 import Retry

    return Retry(
        total=_RETRIES,
        backoff_factor=_BACKOFF_S,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # a search is a POST that changes nothing
        respect_retry_after_header=True,
    )


def _from_api(root: str, query: Query) -> Iterator[Found]:
    """Search an API page by page; the outline sent is simplified outwards."""
    search = _client(root).search(
        method="POST",
        collections=[query.collection] if query.collection else None,
        datetime=f"{query.start}/{query.end}",
        intersects=_outline(query.area),
    )
    first = Ask("POST", search.url, search.get_parameters())
    for item in walk(_sender(), first, _PAGE, Patience(_RETRIES, _BACKOFF_S)):
        yield item, _self_href(item)


def _sender() -> Send:
    """Return what sends one request and never raises."""
    import requests

    session = requests.Session()

    def send(ask: Ask) -> Answer:
        body = ask.body if ask.method == "POST" else None
        try:
            got = session.request(ask.method, ask.href, json=body, headers=ask.headers, timeout=_TIMEOUT_S)
            text = got.text if got.status_code != 200 else ""
            document = got.json() if got.status_code == 200 else None
        except (requests.RequestException, ValueError) as error:
            return Answer(0, text=str(error))  # no answer, half an answer, or no JSON
        return Answer(got.status_code, document, got.headers.get("Retry-After", ""), text)

    return send


def _api_error(root: str, error: Exception) -> InputError | RetryableError:
    """Tell a refused question from a service that does not answer."""
    status = getattr(error, "status_code", None)
    text = f"{status or 'no answer'}: {str(error)[:300]}"
    if status is not None and 400 <= status < 500 and status != 429:
        return InputError("the STAC API refuses the search", where=root, found=text)
    return RetryableError(
        "the STAC API does not answer",
        where=root,
        found=text,
        limit=f"{_RETRIES} retries",
        mend="try again later",
    )


def _outline(area: Area) -> dict[str, Any]:
    """Return an outline as GeoJSON that holds the area and has few vertices."""
    import shapely
    from shapely.geometry import mapping

    globe = shapely.box(-180, -90, 180, 90)
    if shapely.get_num_coordinates(area.geometry) <= _MAX_VERTICES:
        return dict(mapping(area.geometry))
    for step in (0.01 * 2**i for i in range(12)):
        loose = area.geometry.buffer(3 * step, quad_segs=1).simplify(step)
        shape = shapely.intersection(loose, globe)
        # simplification moves edges by at most a step, but may drop a small part: so look
        if shapely.get_num_coordinates(shape) <= _MAX_VERTICES and shape.covers(area.geometry):
            return dict(mapping(shape))
    return dict(mapping(shapely.envelope(area.geometry)))


def _self_href(item: dict[str, Any]) -> str | None:
    links = item.get("links") or []
    return next((link["href"] for link in links if link.get("rel") == "self"), None)


def _from_static(href: str) -> Iterator[Found]:
    """Walk a static catalogue or collection, local or remote."""
    import pystac
    from pystac.stac_io import DefaultStacIO, RetryStacIO

    remote = href.startswith(("http://", "https://"))
    try:
        root = pystac.read_file(href, stac_io=RetryStacIO(retry=_retry()) if remote else DefaultStacIO())
        found = root.get_items(recursive=True) if isinstance(root, pystac.Catalog) else [root]
        for item in found:
            yield item.to_dict(transform_hrefs=False), item.get_self_href()
    except Exception as error:  # a missing child, a page that is no STAC, a network failure
        reason = " ".join(str(e) for e in (error, error.__cause__) if e)
        lost = remote and not re.search(r"\b4(0\d|1\d)\b", reason)
        kind = RetryableError if lost else InputError
        raise kind("cannot read the static catalogue", where=href, found=reason[:300]) from error


def _from_json(path: Path) -> Iterator[Found]:
    """Read one JSON file: a catalogue, a collection, an item, a feature collection or a list of items."""
    data = _load(path)
    if isinstance(data, dict) and data.get("type") in ("Catalog", "Collection"):
        yield from _from_static(str(path.resolve()))
        return
    items = _items_in(data)
    if not items:
        raise InputError("the file holds no STAC item", where=str(path))
    base = str(path.resolve())
    yield from ((item, base) for item in items)


def _from_folder(folder: Path) -> Iterator[Found]:
    """Read all items in the JSON files below a folder; other JSON is passed over."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".geojson") and p.is_file())
    for path in paths:
        base = str(path.resolve())
        yield from ((item, base) for item in _items_in(_load(path)))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "cannot read a JSON file of the catalogue", where=str(path), found=str(error)
        ) from error


def _items_in(data: Any) -> list[dict[str, Any]]:
    """Return the STAC items in a JSON document."""
    if isinstance(data, dict):
        data = data.get("features", []) if data.get("type") == "FeatureCollection" else [data]
    if not isinstance(data, list):
        return []
    return [d for d in data if isinstance(d, dict) and d.get("type") == "Feature" and d.get("assets")]


def _from_parquet(path: Path) -> Iterator[Found]:
    """Read a stac-geoparquet file."""
    import rustac

    try:
        found = rustac.read_sync(str(path.resolve()), set_self_link=False)
    except Exception as error:  # rustac's errors have no common public root
        raise InputError("cannot read the GeoParquet file", where=str(path), found=str(error)) from error
    items = _items_in(found)
    if not items:
        raise InputError("the GeoParquet file holds no STAC item", where=str(path))
    base = str(path.resolve())
    yield from ((item, base) for item in items)
