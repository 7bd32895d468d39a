"""What a Sentinel-1 item tells beyond its STAC fields: slice, datatake, platform, from its product name.

Names follow the Sentinel-1 Product Specification (ESA, S1-RS-MDA-52-7441), e.g.
``S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8``: platform, mode, type, level and
polarisation, start, end, absolute orbit, datatake, and a checksum that differs between processings.
"""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(
    r"(?P<platform>S1[A-D])_(?:IW|EW|WV|S[1-6])_\w{4}_\w{4}_(?P<start>\d{8}T\d{6})_(?P<end>\d{8}T\d{6})"
    r"_(?P<orbit>\d{6})_(?P<take>[0-9A-F]{6})"
)


def is_radar(name: str, facts: dict[str, Any]) -> bool:
    """Tell whether an item is of Sentinel-1."""
    told = f"{facts.get('platform', '')} {facts.get('constellation', '')}".lower().replace(" ", "-")
    return "sentinel-1" in told or _NAME.search(name) is not None


def radar_name(name: str) -> dict[str, str]:
    """Read a product name; empty when it is none.

    >>> radar_name("S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13")["orbit"]
    '039156'
    """
    found = _NAME.search(name)
    return found.groupdict() if found else {}


def radar_platform(name: str, facts: dict[str, Any]) -> str:
    """Return the platform as ``sentinel-1a``, ``""`` when nothing tells."""
    named = str(facts.get("platform") or "").lower().replace(" ", "-")
    told = radar_name(name).get("platform", "")
    return named or (f"sentinel-{told[1:].lower()}" if told else "")


def radar_datatake(name: str, facts: dict[str, Any]) -> str:
    """Return the datatake: platform, absolute orbit and, where the name tells, the mission's own number.

    All slices of one pass share it, whatever the provider.

    >>> radar_datatake("S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8", {})
    'sentinel-1a_039156_049F13'
    >>> radar_datatake("", {"platform": "SENTINEL-1A", "sat:absolute_orbit": 39156})
    'sentinel-1a_039156'
    """
    platform, told = radar_platform(name, facts), radar_name(name)
    if told:
        return f"{platform}_{told['orbit']}_{told['take']}"
    orbit = facts.get("sat:absolute_orbit")
    if orbit is not None:
        return f"{platform}_{int(orbit):06d}"
    return str(facts.get("eopf:datatake_id") or "")


def radar_slice(name: str) -> str:
    """Return start and end of sensing of a slice, which all its processings share."""
    told = radar_name(name)
    return f"{told['start']}_{told['end']}" if told else ""
