"""One STAC item, of whatever provider and version, as an `ItemRecord`.

Reads STAC 1.0 (``eo:bands``, ``raster:bands``, ``proj:epsg``) and 1.1 (``bands``, ``proj:code``) alike,
from plain dictionaries, so that the same item gives the same record whether it came from an API, a file
or a parquet table.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from engine.archive.footprints import cut_footprint
from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.radar import is_radar, radar_datatake, radar_platform, radar_slice
from engine.values.bands import Band, band, find_band
from engine.values.errors import DataError, InputError
from engine.values.grid import normal_crs

PROVIDERS = ("earth-search", "planetary-computer", "cdse", "sample", "other")

_AWS_ORIGINALS = ("sentinel-s2-l2a", "sentinel-s2-l1c", "sentinel-s1-l1c")  # buckets that it points at
_HOSTS = (
    (
        "earth-search",
        ("sentinel-cogs", "e84-earth-search", "earth-search.aws.element84.com", *_AWS_ORIGINALS),
    ),
    ("planetary-computer", ("blob.core.windows.net", "planetarycomputer.microsoft.com")),
    ("cdse", ("s3://eodata", "dataspace.copernicus.eu")),
)
_NOT_BANDS = {"thumbnail", "overview", "visual", "metadata"}
_PRODUCT = re.compile(
    r"(?P<platform>S2[A-D])_MSI(?P<level>L1C|L2A)_(?P<start>\d{8}T\d{6})_N(?P<base>\d{4})"
    r"_R(?P<orbit>\d{3})_T(?P<tile>\d{2}[A-Z]{3})_(?P<made>\d{8}T\d{6})"
)
_AZURE = {"sv", "ss", "srt", "sr", "st", "se", "sp", "spr", "sip", "si", "sdd"} | {
    "skoid", "sktid", "skt", "ske", "sks", "skv", "rscc", "rscd", "rsce", "rscl", "rsct",
}  # fmt: skip
_SECRET = {
    "sig",
    "token",
    "access_token",
    "api_key",
    "apikey",
    "signature",
    "key-pair-id",
    "policy",
    "expires",
}


def from_stac(items: Iterable[Any], base_href: str | None = None) -> list[ItemRecord]:
    """Turn STAC items into records, one each, in input order.

    Args:
        items: `pystac.Item` objects or item dictionaries.
        base_href: Where relative hrefs start: the address of the file that held the items.

    Raises:
        DataError: If an item has no id, time or footprint.
    """
    return [item_record(item, base_href) for item in items]


def item_record(item: Any, base_href: str | None = None) -> ItemRecord:
    """Turn one STAC item into a record; see `from_stac`."""
    data = item if isinstance(item, dict) else item.to_dict(transform_hrefs=False)
    if base_href is None and not isinstance(item, dict):
        base_href = item.get_self_href()
    facts = {k: v for k, v in data.get("properties", {}).items() if v is not None}
    name = str(data.get("id") or "")
    if not name:
        raise DataError("a STAC item has no id", where=base_href or "catalogue")
    product = _product(name, facts)
    applied = _first(facts, "earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
    chosen, applied = _speak_of_one(_choose_assets(data.get("assets") or {}), applied)
    applied = facts.get("landweave:offset_applied", applied)  # staged: the product's own metadata say so
    assets = [_asset(band, key, asset, base_href, name) for band, (key, asset) in chosen.items()]
    offset, scale = _claims(a for b, (_, a) in chosen.items() if band(b).kind == "reflectance")
    orbit = _first(facts, "sat:relative_orbit", default=product.get("orbit"))
    cloud = facts.get("eo:cloud_cover")
    radar = is_radar(name, facts)
    return ItemRecord(
        id=name,
        collection=str(data.get("collection") or ""),
        provider=_provider(data, [a.href for a in assets]),
        datetime=_moment(facts, name),
        geometry_wkb=_footprint(data, name),
        crs=_crs(facts, [asset for _, asset in chosen.values()]),
        tile=_tile(name, facts, product),
        datatake=radar_datatake(name, facts) if radar else _datatake(facts, product),
        platform=radar_platform(name, facts) if radar else _platform(facts, product),
        relative_orbit=None if orbit is None else int(orbit),
        baseline=None if radar else _baseline(facts, product),
        cloud_cover=None if cloud is None else float(cloud),
        offset_applied=None if applied is None else bool(applied),
        claimed_offset=offset,
        claimed_scale=scale,
        assets=tuple(sorted(assets)),
        datastrip=radar_slice(name) if radar else _datastrip(facts),
        generated=_generated(facts, product),
        orbit_state=str(facts.get("sat:orbit_state") or "").lower(),
    )


def unsigned(href: str) -> str:
    """Take signatures, tokens and passwords off an address; other parameters stay.

    >>> unsigned("https://h.net/a.tif?sv=2021&sig=abc&se=1&page=2")
    'https://h.net/a.tif?page=2'
    >>> unsigned("https://me:secret@h.net/a.tif")
    'https://h.net/a.tif'
    """
    if "://" not in href or not ("?" in href or "@" in href):
        return href
    parts = urlsplit(href)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    azure = _AZURE if any(k.lower() == "sig" for k, _ in pairs) else set()
    kept = [(k, v) for k, v in pairs if not _is_secret(k.lower(), azure)]
    query = parts.query if len(kept) == len(pairs) else urlencode(kept)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, parts.fragment))


def _is_secret(key: str, azure: set[str]) -> bool:
    return key in _SECRET or key in azure or key.startswith(("x-amz-", "x-goog-", "awsaccesskey"))


def _first(facts: dict[str, Any], *keys: str, default: Any = None) -> Any:
    """Return the first fact that is there."""
    return next((facts[k] for k in keys if facts.get(k) is not None), default)


def _product(name: str, facts: dict[str, Any]) -> dict[str, str]:
    """Read what a Sentinel-2 product name tells (ESA, compact naming convention)."""
    for text in (facts.get("s2:product_uri"), facts.get("sentinel:product_id"), name):
        found = _PRODUCT.search(str(text or ""))
        if found:
            return found.groupdict()
    return {}


def _provider(data: dict[str, Any], hrefs: list[str]) -> str:
    """Tell the provider by where the pixels are, else by the item's links."""
    if "sample" in str(data.get("collection") or "").lower():
        return "sample"
    links = [str(link.get("href") or "") for link in data.get("links") or []]
    for address in (*hrefs, *links):
        for provider, hosts in _HOSTS:
            if any(h in address for h in hosts):
                return provider
        if address in hrefs:
            break  # the pixels are somewhere else: what the links say about the metadata does not matter
    return "other"


def _moment(facts: dict[str, Any], name: str) -> dt.datetime:
    """Return the acquisition time in UTC; a time without a zone is UTC by the STAC specification."""
    value = _first(facts, "datetime", "start_datetime")
    if value is None:
        raise DataError("a STAC item has no datetime", where=f"item {name}")
    if not isinstance(value, dt.datetime):
        try:
            value = dt.datetime.fromisoformat(str(value))
        except ValueError as error:
            raise DataError("cannot read an item's datetime", where=f"item {name}", found=value) from error
    value = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
    return value.astimezone(dt.UTC)


def _footprint(data: dict[str, Any], name: str) -> bytes:
    """Return the footprint as normalised WKB; the bounding box stands in for a missing one."""
    import shapely
    from shapely.geometry import shape

    if data.get("geometry"):
        geometry = cut_footprint(shape(data["geometry"]))
    elif data.get("bbox"):
        west, south, east, north = (data["bbox"][i] for i in _corners(len(data["bbox"])))
        geometry = cut_footprint(shapely.box(west, south, east + 360.0 * (east < west), north))
    else:
        raise DataError("a STAC item has neither geometry nor bbox", where=f"item {name}")
    return bytes(shapely.to_wkb(shapely.normalize(shapely.force_2d(geometry)), byte_order=1))


def _corners(length: int) -> tuple[int, int, int, int]:
    """Return where west, south, east and north stand in a bbox of four or six numbers."""
    half = length // 2
    return 0, 1, half, half + 1


def _crs(facts: dict[str, Any], assets: list[dict[str, Any]]) -> str:
    """Return the pixels' CRS from the item, else from its assets."""
    for place in (facts, *assets):
        value = _first(place, "proj:code", "proj:epsg", "proj:wkt2")
        if value is not None:
            return normal_crs(int(value) if isinstance(value, float) else value)
    return ""


def _tile(name: str, facts: dict[str, Any], product: dict[str, str]) -> str:
    """Return the MGRS tile with a zero-padded zone.

    >>> _tile("", {"grid:code": "MGRS-1CCV"}, {})
    '01CCV'
    """
    text = str(_first(facts, "s2:mgrs_tile", "grid:code", default=""))
    for space in ("mgrs", "sentinel"):
        if not text and facts.get(f"{space}:utm_zone") is not None:
            zone, square = int(facts[f"{space}:utm_zone"]), facts.get(f"{space}:grid_square", "")
            text = f"{zone}{facts.get(f'{space}:latitude_band', '')}{square}"
    found = re.search(r"(\d{1,2}[C-X][A-Z]{2})$", text.upper())
    found = found or re.search(r"(?:^|_)T?(\d{2}[C-X][A-Z]{2})(?:_|$)", product.get("tile") or name)
    return found[1].zfill(5) if found else ""


def _datatake(facts: dict[str, Any], product: dict[str, str]) -> str:
    """Return the datatake without its baseline, so that two processings of it are equal.

    >>> _datatake({"s2:datatake_id": "GS2A_20230602T100601_041489_N05.09"}, {})
    'GS2A_20230602T100601_041489'
    """
    told = _first(facts, "s2:datatake_id", "eopf:datatake_id")
    if told:
        return re.sub(r"_N\d\d\.\d\d$", "", str(told))
    platform = _platform(facts, product)
    if product:
        return f"{platform}_{product['start']}"
    orbit = facts.get("sat:absolute_orbit")
    found = re.search(r"_A(\d{6})_", str(_first(facts, "s2:granule_id", "s2:tile_id", default="")))
    if orbit is not None or found:
        return f"{platform}_{int(orbit if orbit is not None else found[1]):06d}"  # type: ignore[index]
    if not platform:
        return ""
    return f"{platform}_{_solar_day(facts)}" if _first(facts, "datetime", "start_datetime") else ""


def _solar_day(facts: dict[str, Any]) -> str:
    """Return the day in UTC; Sentinel-2 and Landsat pass in mid-morning, but not across the date line."""
    return _moment(facts, "").strftime("%Y%m%d")


def _platform(facts: dict[str, Any], product: dict[str, str]) -> str:
    named = str(facts.get("platform") or "").lower().replace(" ", "-")
    return named or (f"sentinel-{product['platform'][1:].lower()}" if product else "")


def _baseline(facts: dict[str, Any], product: dict[str, str]) -> str | None:
    """Return the processing baseline as ``NN.NN``; other version numbers are none."""
    told = (facts.get("s2:processing_baseline"), facts.get("processing:version"))
    for value in (*told, facts.get("sentinel:processing_baseline")):
        text = f"{value:05.2f}" if isinstance(value, float) else str(value or "")
        if re.fullmatch(r"\d\d\.\d\d", text):
            return text
    if product:
        return f"{product['base'][:2]}.{product['base'][2:]}"
    granule = re.search(r"_N(\d\d\.\d\d)$", str(_first(facts, "s2:granule_id", "s2:tile_id", default="")))
    return granule[1] if granule else None


def _datastrip(facts: dict[str, Any]) -> str:
    """Return the start of sensing of the datastrip, which all its processings share."""
    text = str(_first(facts, "s2:datastrip_id", "eopf:datastrip_id", default=""))
    found = re.search(r"_S(\d{8}T\d{6})", text)
    return found[1] if found else ""


def _generated(facts: dict[str, Any], product: dict[str, str]) -> str:
    """Return when the product was made, to the second, as digits that sort."""
    told = str(_first(facts, "s2:generation_time", "processing:datetime", default=""))
    return re.sub(r"\D", "", told)[:14] or re.sub(r"\D", "", product.get("made", ""))


def _choose_assets(assets: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Pick one asset a band: native resolution first, GeoTIFF before JPEG 2000, then the shortest key."""
    found: dict[str, list[tuple[tuple[float, int, int, str], dict[str, Any]]]] = {}
    for key, asset in assets.items():
        kind = _band_of(key, asset) if asset else None
        if kind:
            coarse = abs((_resolution(key, asset) or kind.resolution_m) - kind.resolution_m)
            rank = (coarse, int(_is_jp2(asset)), len(key), key)
            found.setdefault(kind.name, []).append((rank, asset))
    best = {name: min(choices, key=lambda c: c[0]) for name, choices in found.items()}
    return {name: (rank[3], asset) for name, (rank, asset) in sorted(best.items())}


def _is_jp2(asset: dict[str, Any]) -> bool:
    return "jp2" in str(asset.get("type") or "") or str(asset.get("href")).lower().endswith(".jp2")


def _speak_of_one(
    chosen: dict[str, tuple[str, dict[str, Any]]], applied: bool | None
) -> tuple[dict[str, tuple[str, dict[str, Any]]], bool | None]:
    """Make assets and flag speak of the same files.

    Earth Search's flag is about its GeoTIFFs; the JPEG 2000 files beside them are ESA's, untouched. So
    bands that are there as JPEG 2000 only are left out, and where all are, nothing was taken off.
    """
    if not applied:
        return chosen, applied
    untouched = {n for n, (_, asset) in chosen.items() if band(n).kind == "reflectance" and _is_jp2(asset)}
    if untouched == {n for n in chosen if band(n).kind == "reflectance"}:
        return chosen, False if untouched else applied
    return {n: c for n, c in chosen.items() if n not in untouched}, applied


def _band_of(key: str, asset: dict[str, Any]) -> Band | None:
    """Find which band an asset holds: by its key, its band's name, then its common name."""
    if _NOT_BANDS & set(asset.get("roles") or []) or not asset.get("href"):
        return None
    described = asset.get("eo:bands") or asset.get("bands") or []
    if len(described) > 1:
        return None  # a picture of several bands
    names = [key, re.sub(r"[-_](jp2|tif|cog)$", "", key)]
    for one in described:
        names += [one.get("name"), one.get("eo:common_name"), one.get("common_name")]
    return next((b for b in (find_band(n) for n in names if n) if b), None)


def _resolution(key: str, asset: dict[str, Any]) -> float | None:
    """Return an asset's pixel size in metres, as far as told."""
    suffix = re.search(r"[_-](10|20|60)m$", key)
    if suffix:
        return float(suffix[1])
    for source in (asset, *(asset.get("raster:bands") or []), *(asset.get("bands") or [])):
        value = _first(source, "raster:spatial_resolution", "spatial_resolution", "gsd")
        if value:
            return float(value)
    transform = asset.get("proj:transform")
    return abs(float(transform[0])) if transform else None


def _claims(assets: Iterable[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Return the offset (in DN) and scale that all bands claim, None where none or not all agree."""
    claims = set()
    for asset in assets:
        for source in (asset, *(asset.get("raster:bands") or []), *(asset.get("bands") or [])):
            scale, offset = (_first(source, f"raster:{k}", k) for k in ("scale", "offset"))
            if scale and offset is not None:
                claims.add((round(float(offset) / float(scale), 6), float(scale)))
                break
    return claims.pop() if len(claims) == 1 else (None, None)


def _asset(band: str, key: str, asset: dict[str, Any], base: str | None, item: str) -> AssetRecord:
    sources = (asset, *(asset.get("raster:bands") or []), *(asset.get("bands") or []))
    nodata = next((s["nodata"] for s in sources if s.get("nodata") is not None), None)
    try:
        value = None if nodata is None else float(nodata)
    except ValueError as error:
        raise DataError("cannot read no-data", where=f"item {item}, asset {key}", found=nodata) from error
    value = None if value is not None and value != value else value
    size = asset.get("file:size")
    size_bytes = int(size) if isinstance(size, int | float) and size > 0 else None
    return AssetRecord(band, unsigned(absolute_href(asset["href"], base)), value, size_bytes)


def absolute_href(href: str, base: str | None) -> str:
    """Resolve an href against the file that held it.

    >>> absolute_href("./R10m/B04.tif", "https://h.net/c/item.json")
    'https://h.net/c/R10m/B04.tif'
    >>> absolute_href("../B04.tif", "/data/items/item.json")
    '/data/B04.tif'

    Raises:
        InputError: If the href is relative and nothing says to what.
    """
    if "://" in href or href.startswith("/vsi"):
        return href.removeprefix("file://") if href.startswith("file://") else href
    if Path(href).is_absolute():
        return href
    if base is None:
        raise InputError(
            "an asset's address is relative and the catalogue has none",
            found=href,
            mend="pass base_href, or search the file or folder itself",
        )
    if "://" in base:
        return urljoin(base, href)
    return os.path.normpath(Path(base).parent / href)
