"""Sentinel-2 products as ESA delivers them: SAFE folders and zip files of them, L1C and L2A, as layers.

Only file names and two small XML files are read (Sentinel-2 Products Specification Document):
``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml`` (baseline, offsets, datatake, generation time, cloud cover) and each
granule's ``MTD_TL.xml`` (sensing time). A zip file stays packed; GDAL reads it through ``/vsizip/``.
"""

from __future__ import annotations

import datetime as dt
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from engine.archive.staging.layers import Layer, opened, raster_of
from engine.archive.staging.names import passed_over, product_facts, product_in, tile_in
from engine.values.bands import Band, find_band
from engine.values.errors import InputError

_METADATA = re.compile(r"(?:^|/)MTD_MSI(L1C|L2A)\.xml$")
_IMAGE = re.compile(r"GRANULE/(?P<granule>[^/]+)/(?:IMG_DATA|QI_DATA)/(?:.*/)?[^/]+\.jp2$")
_BAND_IDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
"""Bands in the order of the metadata's ``band_id`` 0..12."""

_XML_BYTES = 50 << 20


@dataclass(frozen=True)
class Product:
    """A SAFE folder or a zip file of one, as a list of files.

    Attributes:
        path: The folder or the zip file.
        names: Its files, with slashes, relative to the SAFE folder.
        inside: Path of the SAFE folder within the zip file, None for a folder.
        metadata: Name of the product's metadata file.
    """

    path: Path
    names: tuple[str, ...]
    inside: str | None
    metadata: str

    @property
    def level(self) -> str:
        """``L1C`` or ``L2A``."""
        found = _METADATA.search(self.metadata)
        assert found is not None
        return found[1]

    def source(self, name: str) -> str:
        """Return what GDAL opens for a file of the product."""
        if self.inside is None:
            return str(self.path / name)
        return f"/vsizip/{self.path}/{self.inside}{name}"

    def xml(self, name: str) -> ElementTree.Element:
        """Read one of its XML files.

        Raises:
            InputError: If it is no XML or too large.
        """
        try:
            if self.inside is None:
                data = (self.path / name).read_bytes()
            else:
                with zipfile.ZipFile(self.path) as archive:
                    data = archive.read(self.inside + name)
            if len(data) > _XML_BYTES:
                raise InputError(f"{name} has {len(data)} bytes, more than {_XML_BYTES}")
            return ElementTree.fromstring(data)
        except (OSError, ElementTree.ParseError, zipfile.BadZipFile) as error:
            raise InputError(f"{name} cannot be read ({error})") from error


def products_below(folder: Path) -> list[Product]:
    """Find the SAFE folders and zip files of them below a folder (or that it is itself)."""
    if folder.is_file():
        return list(_in_zip(folder)) if folder.suffix.lower() == ".zip" else []
    found = []
    for path in sorted(folder.rglob("MTD_MSIL*.xml")):
        if _METADATA.search(path.as_posix()):
            home = path.parent
            names = (p.relative_to(home).as_posix() for p in sorted(home.rglob("*")) if p.is_file())
            found.append(Product(home, tuple(names), None, path.name))
    for path in sorted(folder.rglob("*.zip")):
        found += _in_zip(path)
    return found


def _in_zip(path: Path) -> Iterator[Product]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return
    for name in names:
        if _METADATA.search(name):
            home = str(PurePosixPath(name).parent)
            inside = "" if home == "." else f"{home}/"
            own = tuple(n[len(inside) :] for n in names if n.startswith(inside) and not n.endswith("/"))
            yield Product(path, own, inside, name[len(inside) :])


def product_layers(product: Product) -> list[Layer]:
    """Return the layers of a product: each band at its native resolution, one scene per granule.

    Raises:
        InputError: Saying what is missing.
    """
    facts, claims = _metadata(product)
    granules: dict[str, dict[str, tuple[Band, str]]] = {}
    for name in product.names:
        image = _IMAGE.search(name)
        found = _band_of(name) if image else None
        if image and found:
            chosen = granules.setdefault(image["granule"], {})
            rival = chosen.get(found.name)
            if rival is None or _coarseness(name, found) < _coarseness(rival[1], found):
                chosen[found.name] = (found, name)
    if not granules:
        raise InputError("holds no image (GRANULE/*/IMG_DATA/*.jp2)")
    layers = []
    for granule, images in granules.items():
        own = _granule(product, granule)
        title = str(facts.get("s2:product_uri") or product.path.stem).removesuffix(".SAFE")
        item = title if len(granules) == 1 else f"{title}_{tile_in(granule) or granule}"
        moment = own.pop("moment", None) or _moment(facts, title)
        for found, name in images.values():
            with opened(product.source(name)) as file:
                nodata = file.nodata
                raster = raster_of(file, 1, 0.0 if nodata is None else nodata)
            scale, offset = claims.get(found.msi, (None, None))
            layer = Layer(
                item, moment, found, product.source(name), 1, raster, True,
                tile=tile_in(granule) or tile_in(title), level=product.level,
                facts=tuple((k, v) for k, v in {**facts, **own}.items() if k != "_start"), scale=scale, offset=offset,
            )  # fmt: skip
            layers.append(layer)
    return layers


def _band_of(name: str) -> Band | None:
    """Find the band of an image in a product.

    >>> _band_of("GRANULE/g/IMG_DATA/R10m/T33UUU_20230510T101601_B02_10m.jp2").name
    'blue'
    """
    path = Path(name)
    stem = re.sub(r"_(10|20|60)m$", "", path.stem)
    if passed_over(path):
        return None
    found = find_band(stem) or find_band(stem.split("_")[-1])
    return None if found is None or found.kind == "backscatter" else found


def _coarseness(name: str, band: Band) -> float:
    """Return how far an image's resolution is from the band's native one."""
    told = re.search(r"_(10|20|60)m\.jp2$", name)
    return abs(float(told[1]) - band.resolution_m) if told else 0.0


def _metadata(product: Product) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Return the STAC properties of a product and, per band, scale and offset where it states them."""
    root = product.xml(product.metadata)
    told = _texts(root)
    name = str(told.get("PRODUCT_URI") or product_in(str(product.path)) or product.path.stem)
    facts = product_facts(name) | {"s2:product_uri": f"{name.removesuffix('.SAFE')}.SAFE"}
    wanted = {
        "s2:processing_baseline": "PROCESSING_BASELINE",
        "s2:generation_time": "GENERATION_TIME",
        "s2:product_type": "PRODUCT_TYPE",
        "eo:cloud_cover": "Cloud_Coverage_Assessment",
        "s2:nodata_pixel_percentage": "NODATA_PIXEL_PERCENTAGE",
        "sat:relative_orbit": "SENSING_ORBIT_NUMBER",
        "platform": "SPACECRAFT_NAME",
    }
    facts |= {key: _value(key, told[tag]) for key, tag in wanted.items() if told.get(tag)}
    for element in root.iter():
        datatake, strip = (element.get(k) for k in ("datatakeIdentifier", "datastripIdentifier"))
        facts |= {"s2:datatake_id": datatake} if datatake else {}
        facts |= {"s2:datastrip_id": strip} if strip else {}
    facts["_start"] = told.get("PRODUCT_START_TIME", "")
    claims = _claims(root)
    facts |= _offset_verdict(str(facts.get("s2:processing_baseline", "")), claims)
    return facts, claims


def _value(key: str, text: str) -> Any:
    if key in ("eo:cloud_cover", "s2:nodata_pixel_percentage"):
        return float(text)
    if key == "sat:relative_orbit":
        return int(text)
    return text.lower() if key == "platform" else text


def _offset_verdict(baseline: str, claims: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Let the product's own offset decide where its baseline would tell otherwise.

    Products of a local Sen2Cor carry baseline 99.99, with or without an offset.
    """
    promised = bool(baseline) and baseline >= "04.00"
    if promised and not any(offset for _, offset in claims.values()):
        return {"landweave:offset_applied": True}
    if claims and baseline and not promised and any(offset for _, offset in claims.values()):
        raise InputError(f"its metadata state an offset, but baseline {baseline} has none")
    return {}


def _claims(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Return (reflectance per DN, reflectance of DN 0) per band, as far as offsets are stated."""
    one = next(
        (float(e.text or 0) for e in root.iter() if _tag(e).endswith(("BOA_QUANTIFICATION_VALUE",))), None
    ) or next((float(e.text or 0) for e in root.iter() if _tag(e) == "QUANTIFICATION_VALUE"), 10_000.0)
    claims = {}
    for element in root.iter():
        if _tag(element) in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
            name = _BAND_IDS[int(element.get("band_id", "0"))]
            claims[name] = (1 / one, float(element.text or 0) / one)
    return claims


def _granule(product: Product, granule: str) -> dict[str, Any]:
    """Return what a granule's own metadata tell: sensing time, tile and datastrip identifiers."""
    name = f"GRANULE/{granule}/MTD_TL.xml"
    own: dict[str, Any] = {"s2:granule_id": granule}
    if name not in product.names:
        return own
    told = _texts(product.xml(name))
    if told.get("SENSING_TIME"):
        own["moment"] = dt.datetime.fromisoformat(told["SENSING_TIME"]).astimezone(dt.UTC)
    if told.get("DATASTRIP_ID"):
        own["s2:datastrip_id"] = told["DATASTRIP_ID"]
    return own


def _moment(facts: dict[str, Any], title: str) -> dt.datetime:
    """Return the start of the datatake."""
    start = facts.get("_start")
    if start:
        return dt.datetime.fromisoformat(str(start)).astimezone(dt.UTC)
    from engine.archive.staging.names import date_in

    found = date_in(title)
    if found is None:
        raise InputError("neither its metadata nor its name tell a date")
    return found


def _texts(root: ElementTree.Element) -> dict[str, str]:
    """Return the text of each element by its name without namespace; the first of each counts."""
    found: dict[str, str] = {}
    for element in root.iter():
        if element.text and element.text.strip():
            found.setdefault(_tag(element), element.text.strip())
    return found


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
