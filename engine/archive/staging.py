"""Staging: a folder of single-band files becomes a static STAC catalogue that `search` reads.

Understands Sentinel-2 names (``T33UUU_20170216T102101_B04.jp2``, ``..._B02_10m.jp2``, whole ``.SAFE``
folders) and any name that holds a date and a band, such as ``north_2023-05-01_red.tif``. Pixels stay where
they are; only JSON is written::

    out/catalog.json ─► out/<collection>/collection.json ─► out/<collection>/<item>/<item>.json
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.values.area import to_lonlat
from engine.values.bands import Band, find_band
from engine.values.errors import InputError
from engine.values.grid import normal_crs

if TYPE_CHECKING:
    import pystac

Level = Literal["L1C", "L2A"]

CATALOG_ID = "landweave-staged"
_SUFFIXES = {".jp2", ".tif", ".tiff"}
_PASSED_OVER = {
    "tci",
    "pvi",
    "aot",
    "wvp",
    "msk",
    "qit",
    "cld",
    "snw",
    "dem",
    "ddv",
    "classi",
    "cldprb",
    "snwprb",
}
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?:T(\d{6}))?(?!\d)")
_TILE = re.compile(r"(?:^|[_-])T?(\d{2}[C-X][A-Z]{2})(?=[_-])")
_PRODUCT = re.compile(
    r"(S2[A-D])_MSI(L1C|L2A)_\d{8}T\d{6}_N(\d{2})(\d{2})_R(\d{3})_T\d{2}[A-Z]{3}_\d{8}T\d{6}"
)
_THUMB_PX = 512  # the valid area is looked at on a picture of at most this many pixels a side
_SCHEMAS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
)


@dataclass(frozen=True)
class _File:
    """A file and what its name and header tell.

    Attributes:
        path: Where it is.
        item: Identifier of the item it belongs to.
        band: Its band.
        moment: Acquisition time, UTC.
        tile: MGRS tile or ``""``.
        level: Processing level or ``""``.
        product: Match of the Sentinel-2 product name in its path, or None.
        header: CRS, transform, shape, dtype, nodata.
    """

    path: Path
    item: str
    band: Band
    moment: dt.datetime
    tile: str
    level: str
    product: re.Match[str] | None
    header: dict[str, Any]

    @property
    def resolution(self) -> float:
        return float(self.header["transform"][0])

    @property
    def key(self) -> str:
        return f"{self.band.msi}_{self.resolution:g}m"


def stage(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    collection: str | None = None,
    level: Level | None = None,
) -> Path:
    """Write a static STAC catalogue of the single-band images below a folder.

    Args:
        folder: Searched with its subfolders for JPEG 2000 and GeoTIFF files.
        out: Where the catalogue goes; None puts it into the folder.
        collection: Collection id; None takes ``staged-l1c``, ``staged-l2a`` or ``staged``.
        level: Processing level; None reads it from names (``MSIL1C``, ``MSIL2A``; a Sentinel-2 name with
            ``_10m`` is L2A, without is L1C).

    Returns:
        The path of ``catalog.json``, to be given to `search`.

    Raises:
        InputError: If there is no image, or if files cannot be placed: all of them are listed with what
            is wrong with each.
    """
    folder, out = Path(folder).resolve(), Path(out or folder).resolve()
    _refuse_foreign_catalog(out)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and not _passed_over(p))
    if not paths:
        raise InputError("no JPEG 2000 or GeoTIFF image", where=str(folder), mend="check the folder")
    files: list[_File] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append(_examine(path, folder, level))
        except InputError as error:
            problems.append(f"{path.relative_to(folder)}: {error.what}")
    groups = _groups(files, problems)
    if problems:
        raise InputError(
            f"{len(problems)} of {len(paths)} files cannot be placed",
            where=str(folder),
            found="; ".join(problems),
            limit="names with a date and a band, one CRS an item, single-band integer images",
            mend="rename or move them, e.g. T33UUU_20170216T102101_B04.jp2 or north_2023-05-01_red.tif",
        )
    return _write(groups, out, collection)


def _passed_over(path: Path) -> bool:
    """Tell the layers of a Sentinel-2 product that are no bands."""
    return bool({t.lower() for t in re.split(r"[_\-.]", path.stem)} & _PASSED_OVER)


def _refuse_foreign_catalog(out: Path) -> None:
    """Refuse to write over a catalogue that is not ours."""
    import json

    path = out / "catalog.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("id") != CATALOG_ID:
        raise InputError("a catalogue of somebody else is here", where=str(path), mend="pass another out=")


def _examine(path: Path, folder: Path, level: Level | None) -> _File:
    """Read name and header of one file.

    Raises:
        InputError: Saying what is missing.
    """
    band, stem = _band_of(path.stem)
    date = _DATE.search(stem)
    if date is None:
        raise InputError("no date in its name")
    product = _PRODUCT.search(str(path.relative_to(folder.parent)))
    tile = _TILE.search(stem + "_")
    guess = _level(path.stem, product, bool(tile))
    return _File(
        path=path,
        item=product[0] if product else stem,
        band=band,
        moment=_moment(date),
        tile=tile[1] if tile else "",
        level=level or guess,
        product=product,
        header=_header(path),
    )


def _band_of(stem: str) -> tuple[Band, str]:
    """Find the band in a name and return the name without it.

    >>> band, rest = _band_of("T33UUU_20170216T102101_B02_10m")
    >>> band.name, rest
    ('blue', 'T33UUU_20170216T102101')
    """
    tokens = re.split(r"([_\-. ]+)", re.sub(r"[_-](10|20|60)m$", "", stem, flags=re.IGNORECASE))
    hits = [i for i in range(0, len(tokens), 2) if find_band(tokens[i])]
    if not hits:
        raise InputError("no known band in its name")
    if len({find_band(tokens[i]) for i in hits}) > 1:
        raise InputError(f"several bands in its name ({', '.join(tokens[i] for i in hits)})")
    band = find_band(tokens[hits[0]])
    assert band is not None
    kept = [t for i, t in enumerate(tokens) if i not in hits]
    return band, re.sub(r"([_\-. ])[_\-. ]+", r"\1", "".join(kept)).strip("_-. ")


def _moment(date: re.Match[str]) -> dt.datetime:
    year, month, day, clock = date.groups()
    try:
        return dt.datetime.strptime(f"{year}{month}{day}{clock or '000000'}", "%Y%m%d%H%M%S").replace(
            tzinfo=dt.UTC
        )
    except ValueError as error:
        raise InputError(f"{date[0]} in its name is no date") from error


def _level(stem: str, product: re.Match[str] | None, has_tile: bool) -> str:
    """Guess the processing level from names."""
    if product:
        return product[2]
    if not has_tile:
        return ""
    return "L2A" if re.search(r"_(10|20|60)m$", stem) or "SCL" in stem.upper() else "L1C"


def _header(path: Path) -> dict[str, Any]:
    """Read what the file's header tells.

    Raises:
        InputError: If it is no single-band, north-up image of integers with a CRS.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            header = {
                "crs": file.crs and normal_crs(file.crs.to_wkt()),
                "transform": [float(v) for v in tuple(file.transform)[:6]],
                "shape": [file.height, file.width],
                "dtype": file.dtypes[0],
                "nodata": file.nodata,
                "count": file.count,
            }
    except RasterioError as error:
        raise InputError(f"cannot be opened ({error})") from error
    a, b, _, d, e, _ = header["transform"]
    checks = (
        (header["crs"], "has no CRS"),
        (header["count"] == 1, f"has {header['count']} bands, not one"),
        ("int" in header["dtype"], f"holds {header['dtype']}, not integers"),
        (a > 0 > e and not b and not d, "is not north-up"),
    )
    for fine, text in checks:
        if not fine:
            raise InputError(text)
    return header


def _groups(files: Iterable[_File], problems: list[str]) -> dict[str, list[_File]]:
    """Group files into items; what does not fit together goes to `problems`."""
    groups: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        groups[file.item].append(file)
    for item, members in groups.items():
        crs = Counter(f.header["crs"] for f in members)
        usual = crs.most_common(1)[0][0]
        problems += [
            f"{f.path.name}: its CRS {f.header['crs'][:60]} is not that of item {item} ({usual[:60]})"
            for f in members
            if f.header["crs"] != usual
        ]
        keys = Counter(f.key for f in members)
        problems += [f"{f.path.name}: {f.key} is there twice in {item}" for f in members if keys[f.key] > 1]
        if len({f.level for f in members}) > 1:
            problems.append(f"item {item}: files of levels {sorted({f.level for f in members})}")
    return dict(groups)


def _write(groups: dict[str, list[_File]], out: Path, collection: str | None) -> Path:
    """Write the catalogue."""
    import pystac

    catalog = pystac.Catalog(CATALOG_ID, "Images staged by landweave")
    by_collection: dict[str, list[pystac.Item]] = defaultdict(list)
    for name in sorted(groups):
        members = sorted(groups[name], key=lambda f: f.key)
        level = members[0].level.lower()
        by_collection[collection or (f"staged-{level}" if level else "staged")].append(_item(name, members))
    for title, items in by_collection.items():
        extent = pystac.Extent.from_items(items)
        child = pystac.Collection(title, f"{len(items)} staged items", extent)
        child.add_items(items)
        catalog.add_child(child)
    catalog.normalize_hrefs(str(out))
    for item in catalog.get_items(recursive=True):
        for asset in item.assets.values():
            asset.href = os.path.relpath(asset.href, Path(str(item.get_self_href())).parent)
    try:
        catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    except OSError as error:
        raise InputError(
            "cannot write the catalogue", where=str(out), found=str(error), mend="pass out="
        ) from error
    return out / "catalog.json"


def _item(name: str, files: list[_File]) -> pystac.Item:
    """Build one item."""
    import pystac
    from shapely.geometry import mapping

    first = files[0]
    footprint = to_lonlat(_valid_area(max(files, key=lambda f: f.resolution)), first.header["crs"])
    item = pystac.Item(
        id=name,
        geometry=mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=first.moment,
        properties=_properties(first),
        stac_extensions=list(_SCHEMAS),
    )
    for file in files:
        item.add_asset(file.key, _asset(file))
    return item


def _properties(file: _File) -> dict[str, Any]:
    """Return the properties that name and header tell, and no others."""
    crs = file.header["crs"]
    facts: dict[str, Any] = {"proj:code": crs} if crs.startswith("EPSG:") else {"proj:wkt2": crs}
    if file.tile:
        facts |= {"constellation": "sentinel-2", "grid:code": f"MGRS-{file.tile}"}
    if file.level:
        facts |= {"processing:level": file.level, "s2:product_type": f"S2MSI{file.level[1:]}"}
    if file.product:
        platform, _, major, minor, orbit = file.product.groups()
        facts["platform"] = f"sentinel-{platform[1:].lower()}"
        facts["s2:processing_baseline"] = f"{major}.{minor}"
        facts |= {"sat:relative_orbit": int(orbit), "s2:product_uri": f"{file.product[0]}.SAFE"}
    return facts


def _asset(file: _File) -> pystac.Asset:
    """Build the asset of one file."""
    import pystac

    band, header = file.band, file.header
    official = next((a for a in band.aliases if a.startswith("rededge0")), band.name)
    described: dict[str, Any] = {"name": band.msi}
    if band.wavelength_um:
        described |= {"eo:common_name": official, "eo:center_wavelength": band.wavelength_um}
    jp2 = file.path.suffix.lower() == ".jp2"
    fields = {
        "bands": [described],
        "gsd": file.resolution,
        "data_type": header["dtype"],
        "proj:shape": header["shape"],
        "proj:transform": header["transform"],
    }
    if header["nodata"] is not None:
        fields["nodata"] = header["nodata"]
    return pystac.Asset(
        str(file.path),
        media_type=str(pystac.MediaType.JPEG2000 if jp2 else pystac.MediaType.GEOTIFF),
        roles=["data"],
        extra_fields=fields,
    )


def _valid_area(file: _File) -> Any:
    """Outline the pixels with data, generously, in the file's CRS; the whole image where it is full."""
    import numpy as np
    import rasterio
    import shapely
    from affine import Affine
    from rasterio.features import shapes
    from shapely.geometry import shape

    with rasterio.open(file.path) as data:
        step = max(1, -(-max(data.shape) // _THUMB_PX))
        small = tuple(-(-n // step) for n in data.shape)
        valid = data.read(1, out_shape=small) != (0 if data.nodata is None else data.nodata)
        whole = shapely.box(*data.bounds)
        a, _, c, _, e, f = tuple(data.transform)[:6]
        pixel_xy = a * data.width / small[1], e * data.height / small[0]
        transform = Affine(pixel_xy[0], 0.0, c, 0.0, pixel_xy[1], f)
    if valid.all() or not valid.any():
        return whole
    found = shapes(valid.astype(np.uint8), mask=valid, transform=transform)
    rings = [shapely.Polygon(shape(g).exterior) for g, _ in found]
    pixel = max(map(abs, pixel_xy))
    outline = shapely.union_all(rings).buffer(2 * pixel, join_style="mitre").simplify(pixel)
    return shapely.intersection(outline, whole)
