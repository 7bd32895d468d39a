"""The projected CRS in which a country's own mapping agency publishes, where pixels reach it exactly.

Taken from the EPSG registry (v11: scope and area of use) for countries whose datum is tied to ITRF, so that
no grid file is needed to get there from the UTM zones of the archive. Countries with an older datum (the
Netherlands, Great Britain, Czechia, Hungary, Greece, Romania) are left out on purpose: their grids would
be reached only to some metres, or with a file that not every worker has.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

Bounds = tuple[float, float, float, float]

_CODES = {
    "AUS": 3577, "AUT": 3416, "BEL": 3812, "BGR": 7801, "CAN": 3979, "CHE": 2056,
    "COL": 9377, "DEU": 25832, "DNK": 25832, "ESP": 25830, "EST": 3301, "FIN": 3067, "FRA": 2154, "HRV": 3765,
    "IND": 7755, "IRL": 2157, "ITA": 6875, "LTU": 3346, "LVA": 3059, "MEX": 6372, "NOR": 25833, "NZL": 2193,
    "POL": 2180, "PRT": 3763, "SRB": 8682, "SVN": 3794, "SWE": 3006, "TUR": 5637, "USA": 5070, "ZAF": 9221,
}  # fmt: skip

_OWN_USE: dict[str, Bounds] = {
    "DEU": (5.5, 47.0, 15.6, 55.6),
    "DNK": (7.5, 54.4, 15.6, 58.0),
    "ESP": (-9.8, 35.0, 4.6, 44.2),
    "NOR": (4.0, 57.5, 31.8, 71.6),
}
"""Where a country uses one UTM zone for all of its land: wider than the zone (west, south, east, north)."""

_SLACK_DEG = 0.5  # outlines of countries are drawn with few corners


def national_crs(country: str, bounds: Bounds) -> str | None:
    """Return the CRS in which a country maps itself, if an area lies within its use.

    Args:
        country: ISO 3166-1 alpha-3 code, or ``""``.
        bounds: West, south, east, north of the area in degrees.

    >>> national_crs("AUT", (9.5, 46.4, 17.1, 49.0)), national_crs("FRA", (-54.6, 2.1, 9.6, 51.1))
    ('EPSG:3416', None)
    """
    code = _CODES.get(country)
    if code is None:
        return None
    west, south, east, north = _OWN_USE.get(country) or _area_of_use(code)
    slack = _SLACK_DEG
    inside = west - slack <= bounds[0] and bounds[2] <= east + slack
    return f"EPSG:{code}" if inside and south - slack <= bounds[1] and bounds[3] <= north + slack else None


def countries() -> Iterable[str]:
    """Return the codes of the countries that have one."""
    return _CODES.keys()


@lru_cache(maxsize=64)
def _area_of_use(code: int) -> Bounds:
    from pyproj import CRS

    use = CRS.from_epsg(code).area_of_use
    assert use is not None  # every registered CRS has one
    return use.bounds
