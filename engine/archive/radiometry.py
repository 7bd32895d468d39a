"""Radiometry: how the numbers in a file become reflectance, decided once per item and recorded.

From processing baseline 04.00 on, ESA adds 1000 DN to every Sentinel-2 value, so that reflectance is
``(DN - 1000) / 10000`` (Sentinel-2 Products Specification Document, RADIO_ADD_OFFSET for L1C and
BOA_ADD_OFFSET for L2A). The archive is reprocessed: an image of 2018 may carry baseline 05.00. So the
baseline decides, and never the date.
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

    In this order: an offset that the provider already took off is 0; a known baseline decides; without a
    baseline the catalogue's claim holds; without a claim there is no offset.

    Raises:
        InputError: If the baseline cannot be read.
    """
    if item.offset_applied:
        return Radiometry(0.0, _SCALE, _reason("the provider has taken the offset off", item, 0.0))
    if item.baseline is not None:
        known = _baseline(item) >= OFFSET_BASELINE
        offset = OFFSET_DN if known else 0.0
        why = f"baseline {item.baseline} is {'04.00 or later' if known else 'before 04.00'}"
        return Radiometry(offset, _SCALE, _reason(why, item, offset))
    if item.claimed_offset is not None:
        scale = item.claimed_scale or _SCALE
        return Radiometry(item.claimed_offset, scale, "no baseline; the catalogue's claim holds")
    return Radiometry(0.0, _SCALE, "no baseline and no claim: taken as reflectance x 10000 without offset")


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
