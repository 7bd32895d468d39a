"""What the name of an image file tells: its band, date, MGRS tile, product and processing level."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from engine.values.bands import Band, find_band
from engine.values.errors import InputError

_PASSED_OVER = {
    "tci", "pvi", "aot", "wvp", "msk", "qit", "cld", "snw", "dem", "ddv", "classi", "cldprb", "snwprb",
}  # fmt: skip
_INDICES = {
    "ndvi", "evi", "evi2", "savi", "osavi", "msavi", "gndvi", "ndre", "ndwi", "mndwi", "ndmi", "nbr", "ndbi",
    "ndsi", "bsi", "lai", "fapar", "fcover",
}  # fmt: skip
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?:[T ](\d{2}):?(\d{2}):?(\d{2}))?(?!\d)")
_TILE = re.compile(r"(?:^|[_-])T?(\d{2}[C-X][A-Z]{2})(?=[_-])")
_PRODUCT = re.compile(
    r"(S2[A-D])_MSI(L1C|L2A)_\d{8}T\d{6}_N(\d{2})(\d{2})_R(\d{3})_T\d{2}[A-Z]{3}_\d{8}T\d{6}"
)


def band_in(name: str) -> tuple[Band, str]:
    """Find the band in a name, and return the name without it.

    Raises:
        InputError: If there is no band or there are several.

    >>> band, rest = band_in("T33UUU_20170216T102101_B02_10m")
    >>> band.name, rest
    ('blue', 'T33UUU_20170216T102101')
    """
    tokens = re.split(r"([_\-. ]+)", re.sub(r"[_-](10|20|60)m$", "", name, flags=re.IGNORECASE))
    hits = [i for i in range(0, len(tokens), 2) if find_band(tokens[i])]
    if not hits:
        index = next((t for t in tokens if t.lower() in _INDICES), None)
        if index:
            raise InputError(f"{index} is an index and no band: cubes compute indices, or take it as a layer")
        raise InputError("no known band in its name")
    if len({find_band(tokens[i]) for i in hits}) > 1:
        raise InputError(f"several bands in its name ({', '.join(tokens[i] for i in hits)})")
    band = find_band(tokens[hits[0]])
    assert band is not None
    kept = [t for i, t in enumerate(tokens) if i not in hits]
    return band, re.sub(r"([_\-. ])[_\-. ]+", r"\1", "".join(kept)).strip("_-. ")


def maybe_band(name: str | None) -> Band | None:
    """Return the one reflectance band or quality layer that a name tells, else None.

    >>> maybe_band("S2-L2A-B02").name, maybe_band("elevation"), maybe_band("S1-SIGMA0-VH")
    ('blue', None, None)
    """
    try:
        found = band_in(name or "")[0]
    except InputError:
        return None
    return None if found.kind == "backscatter" else found


def date_in(text: str) -> dt.datetime | None:
    """Return the first date in a text, UTC, with its time of day where it is told.

    Raises:
        InputError: If what looks like a date is none.

    >>> str(date_in("T33UUU_20170216T102101")), date_in("north")
    ('2017-02-16 10:21:01+00:00', None)
    """
    found = _DATE.search(text)
    if found is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(g or 0) for g in found.groups())
        return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError as error:
        raise InputError(f"{found[0]} in its name is no date") from error


def tile_in(stem: str) -> str:
    """Return the MGRS tile in a name, or ``""``.

    >>> tile_in("T33UUU_20170216T102101")
    '33UUU'
    """
    found = _TILE.search(stem + "_")
    return found[1] if found else ""


def product_in(path: str) -> str:
    """Return the Sentinel-2 product name (compact naming convention) in a path, or ``""``."""
    found = _PRODUCT.search(path)
    return found[0] if found else ""


def product_facts(product: str) -> dict[str, object]:
    """Return the STAC properties that a Sentinel-2 product's name tells.

    >>> facts = product_facts("S2B_MSIL2A_20230510T101601_N0509_R065_T33UUU_20230510T130000")
    >>> facts["platform"], facts["s2:processing_baseline"], facts["sat:relative_orbit"]
    ('sentinel-2b', '05.09', 65)
    """
    found = _PRODUCT.search(product)
    if not found:
        return {}
    platform, _, major, minor, orbit = found.groups()
    return {
        "platform": f"sentinel-{platform[1:].lower()}",
        "s2:processing_baseline": f"{major}.{minor}",
        "sat:relative_orbit": int(orbit),
        "s2:product_uri": f"{product}.SAFE",
    }


def level_in(stem: str, product: str) -> str:
    """Guess the processing level of a Sentinel-2 file from names; ``""`` for other files.

    >>> level_in("T33UUU_20170216T102101_B04", ""), level_in("T33UUU_20170216T102101_B04_10m", "")
    ('L1C', 'L2A')
    """
    found = _PRODUCT.search(product)
    if found:
        return found[2]
    if not tile_in(stem):
        return ""
    return "L2A" if re.search(r"_(10|20|60)m$", stem) or "SCL" in stem.upper() else "L1C"


def passed_over(path: Path) -> bool:
    """Tell the layers of a Sentinel-2 product that landweave does not use.

    >>> [passed_over(Path(n)) for n in ("T33UUU_20230510T101601_TCI_10m.jp2", "MSK_DETFOO_B02.jp2", "a_B02.tif")]
    [True, True, False]
    """
    words = re.split(r"[_\-.]", path.stem)
    known = [found for word in words if (found := find_band(word))]
    if any(b.kind == "probability" for b in known):
        return False
    return bool({word.lower() for word in words} & _PASSED_OVER)
