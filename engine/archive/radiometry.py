"""Radiometry: how the numbers in a file become reflectance, decided once per item and recorded.

From processing baseline 04.00 on, ESA adds 1000 DN to every Sentinel-2 value, so that reflectance is
``(DN - 1000) / 10000`` (Sentinel-2 Products Specification Document, RADIO_ADD_OFFSET for L1C and
BOA_ADD_OFFSET for L2A). The archive is reprocessed: an image of 2018 may carry baseline 05.00. So the
baseline decides, and never the date. What each provider does with it::

    provider, collection                    files carry the offset        what tells
    earth-search sentinel-2-l2a, v0         no, where the flag is true    earthsearch:boa_offset_applied
    earth-search sentinel-2-c1-l2a          as made by ESA                baseline
    earth-search sentinel-2-l1c             as made by ESA                baseline; the flag is about L2A
    planetary-computer sentinel-2-l2a       as made by ESA                baseline; claims nothing
    cdse sentinel-2-l2a, sentinel-2-l1c     as made by ESA                baseline
    others, folders, the sample archive     as they say                   baseline, else raster:bands

Flags are wrong at times (Earth Search says false of files that have lost their offset), so
`engine.archive.probe` looks at the pixels; where they are trusted, they decide before everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.values.errors import InputError
from engine.values.spec import REFLECTANCE_ONE

OFFSET_BASELINE = (4, 0)
"""First processing baseline whose DN carry the offset."""

OFFSET_DN = -1000.0
_SCALE = 1.0 / REFLECTANCE_ONE


@dataclass(frozen=True)
class Radiometry:
    """How DN become reflectance: ``(DN + offset_dn) * scale``.

    Attributes:
        offset_dn: Added to each valid DN.
        scale: Reflectance per DN.
        reason: Why, in one sentence, for the run's record.
    """

    offset_dn: float
    scale: float
    reason: str


def radiometry(item: ItemRecord) -> Radiometry:
    """Decide offset and scale of an item's reflectance bands.

    In this order: pixels that were looked at and are trusted; an offset that the provider already took off
    is 0; a known baseline decides; without a baseline the catalogue's claim holds; without a claim there
    is no offset. Radar has none.

    Raises:
        InputError: If the baseline cannot be read.
    """
    if item.probed_offset is not None:
        return Radiometry(item.probed_offset, _SCALE, f"the pixels decide: {item.probe}")
    if item.platform.startswith("sentinel-1"):
        return Radiometry(0.0, 1.0, "radar: backscatter stands as it is")
    if item.offset_applied and not _is_l1c(item):
        return Radiometry(0.0, _SCALE, _reason("the provider has taken the offset off", item, 0.0))
    if item.baseline is not None:
        known = _baseline(item) >= OFFSET_BASELINE
        offset = OFFSET_DN if known else 0.0
        why = f"baseline {item.baseline} is {'04.00 or later' if known else 'before 04.00'}"
        if known and item.offset_applied is False:
            why += ", and the provider says that it has not taken the offset off"
        return Radiometry(offset, _SCALE, _reason(why, item, offset))
    if item.claimed_offset is not None:
        scale = item.claimed_scale or _SCALE
        return Radiometry(item.claimed_offset, scale, "no baseline; the catalogue's claim holds")
    return Radiometry(0.0, _SCALE, "no baseline and no claim: taken as reflectance x 10000 without offset")


def _is_l1c(item: ItemRecord) -> bool:
    return "l1c" in f"{item.collection} {item.id}".lower()


def to_reflectance(dn: NDArray[np.uint16], r: Radiometry) -> NDArray[np.uint16]:
    """Turn DN into reflectance x 10000.

    Integer arithmetic when the scale is 1/10000 and the offset whole; else float64, halves rounded up.
    For reflectance bands only: a scene classification is no reflectance.

    Args:
        dn: Any shape, uint16, 0 = no data.
        r: What `radiometry` decided.

    Returns:
        Same shape, uint16, 0 = no data; valid values clipped to 1..65535.

    >>> to_reflectance(np.array([0, 1, 1000, 1001, 3500], np.uint16), Radiometry(-1000, 1e-4, ""))
    array([   0,    1,    1,    1, 2500], dtype=uint16)
    """
    if r.scale == _SCALE and float(r.offset_dn).is_integer():
        value: NDArray[Any] = dn.astype(np.int32) + np.int32(r.offset_dn)
    else:
        value = np.floor((dn.astype(np.float64) + r.offset_dn) * (r.scale * REFLECTANCE_ONE) + 0.5)
    out = np.clip(value, 1, 65535).astype(np.uint16)
    out[dn == 0] = 0
    return out


def _baseline(item: ItemRecord) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(item.baseline).split("."))
    except ValueError as error:
        raise InputError(
            "cannot read the processing baseline", where=f"item {item.id}", found=item.baseline, limit="NN.NN"
        ) from error


def _reason(why: str, item: ItemRecord, offset: float) -> str:
    """Say why, and that the catalogue claims something else where it does."""
    if item.claimed_offset is None or item.claimed_offset == offset:
        return why
    return f"{why}; the catalogue claims {item.claimed_offset:g} DN, which is not followed"
