"""Probe: do the pixels of a scene agree with what its metadata say of the radiometric offset?

Metadata are wrong at times, and 1000 DN too many or too few are a tenth of full reflectance in every band.
The dark end of the pixels tells. Water and shadow reflect next to nothing beyond the visible (Gordon &
Wang 1994, Appl. Opt. 33:443: nothing leaves clear water in the infrared; Chavez 1988, Remote Sens.
Environ. 24:459: nearly every scene holds a dark object, of about 1% reflectance)::

    DN        0         700  900 1000  1250           2000
    darkest   ├──────────┤····├────────┤················
    band       no offset        offset, if no other band (blue aside) has its dark end above 2000

- **No offset** when the darkest band has its dark end below 700: with an offset, more than a hundredth of
  the scene would reflect less than -0.03. Rayleigh scattering lifts only the blue of L1C: on a real winter
  scene of baseline 02.04 the dark ends are blue 1200, green 848, red 608, nir08 448, swir16 128, swir22 64.
- **Offset** when the darkest band has its dark end within 900..1250, and red, near and short-wave infrared
  have theirs below 2000. Snow and desert without an offset can be as dark in one band, never in all.
- **Undecided** otherwise: overcast, snow, bare desert, too few pixels, a file that cannot be read. The
  metadata hold then.

Once per item, before the first tile: a decision per tile would make seams.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord, ItemTable
from engine.archive.look import look
from engine.archive.radiometry import OFFSET_DN, radiometry
from engine.values.errors import DataError, LandweaveError

Policy = Literal["warn", "fail", "trust"]
Presence = Literal["offset", "no offset", "undecided"]

NO_OFFSET_BELOW_DN, OFFSET_FROM_DN, OFFSET_TO_DN, OTHERS_TO_DN = 700, 900, 1250, 2000
DARK_PERCENT = 1.0
MIN_PIXELS = 1000
"""Fewer valid pixels say nothing: the dark end would be a handful of them."""

_EDGE_PX = 2  # an overview mixes valid pixels with the no-data beside them, which makes false dark ones
_LOOKED_AT = (("blue", "green"), ("red",), ("swir22", "swir16"), ("nir08", "nir"))
_THREADS = 16  # looks wait for the network


class RadiometryWarning(UserWarning):
    """Pixels and metadata disagree about the radiometric offset."""


@dataclass(frozen=True)
class Verdict:
    """What the pixels say of an item's offset.

    Attributes:
        kind: ``agrees``, ``contradicts`` or ``undecided``.
        text: With the numbers, for the record.
        offset_dn: What the pixels show, 0 or -1000; None while undecided.
    """

    kind: Literal["agrees", "contradicts", "undecided"]
    text: str
    offset_dn: float | None = None


def dark_end(values: NDArray[np.uint16]) -> int | None:
    """Return the DN below which one hundredth of the valid pixels lie.

    Pixels within 2 px of no data do not count.

    Args:
        values: (y, x) uint16 DN, 0 = no data.

    Returns:
        DN, or None with fewer than `MIN_PIXELS` pixels.

    >>> scene = np.full((64, 64), 3000, np.uint16)
    >>> scene[:8] = 1040
    >>> dark_end(scene)
    1040
    """
    from scipy.ndimage import minimum_filter

    inside = minimum_filter(values, 2 * _EDGE_PX + 1, mode="nearest") > 0
    valid = values[inside]
    if valid.size < MIN_PIXELS:
        return None
    return int(np.percentile(valid, DARK_PERCENT, method="lower"))


def presence(ends: Mapping[str, int]) -> Presence:
    """Tell from the dark ends of several bands whether DN carry the offset.

    >>> presence({"blue": 1240, "red": 1160, "swir22": 1020})
    'offset'
    >>> presence({"blue": 1200, "red": 608, "swir22": 64})
    'no offset'
    >>> presence({"blue": 7200, "red": 6900, "swir22": 1010})
    'undecided'
    """
    if not ends:
        return "undecided"
    darkest = min(ends.values())
    if darkest < NO_OFFSET_BELOW_DN:
        return "no offset"
    others = [end for band, end in ends.items() if band != "blue"]
    near = OFFSET_FROM_DN <= darkest <= OFFSET_TO_DN
    return "offset" if near and len(others) >= 2 and max(others) <= OTHERS_TO_DN else "undecided"


def judge(item: ItemRecord) -> Verdict:
    """Look at an item's dark pixels; whatever cannot be read leaves it undecided."""
    expected = radiometry(item).offset_dn
    if item.platform.startswith("sentinel-1") or expected not in (0.0, OFFSET_DN):
        return Verdict("undecided", "undecided: the rule is for the offset of Sentinel-2")
    ends: dict[str, int] = {}
    try:
        for names in _LOOKED_AT:
            band = next((n for n in names if n in item.bands), None)
            end = dark_end(look(item, band)) if band else None
            if band and end is not None:
                ends[band] = end
            if presence(ends) == "no offset":
                break
    except LandweaveError as error:
        return Verdict("undecided", f"undecided: {error}")
    return _verdict(ends, expected)


def _verdict(ends: Mapping[str, int], expected: float) -> Verdict:
    """Compare what the pixels show with what the metadata say."""
    found = presence(ends)
    numbers = ", ".join(f"{band} {end}" for band, end in ends.items()) or "too few valid pixels"
    shown = f"dark end (DN) {numbers}: {found}"
    if found == "undecided":
        return Verdict("undecided", f"undecided: {shown}")
    offset = OFFSET_DN if found == "offset" else 0.0
    if offset == expected:
        return Verdict("agrees", f"agrees: {shown}", offset)
    return Verdict("contradicts", f"contradicts: {shown}, where the metadata say {expected:g} DN", offset)


def probe(items: ItemTable, policy: Policy = "warn") -> ItemTable:
    """Look at every item's dark pixels once and record what they say.

    Items that were looked at before stay as they are.

    Args:
        items: The scenes.
        policy: Where pixels contradict metadata: ``warn`` keeps the metadata and warns, ``fail`` raises,
            ``trust`` follows the pixels (`ItemRecord.probed_offset`).

    Returns:
        The table with `ItemRecord.probe` filled in; the digest changes only where pixels are trusted.

    Raises:
        DataError: With ``fail``, naming the first item, its dark ends and what was expected.
    """
    fresh = [item for item in items if not item.probe]
    with ThreadPoolExecutor(_THREADS) as pool:
        verdicts = list(pool.map(judge, fresh))
    against = [(i, v) for i, v in zip(fresh, verdicts, strict=True) if v.kind == "contradicts"]
    if against and policy == "fail":
        raise _contradiction(*against[0], len(against))
    if against and policy == "warn":
        warnings.warn(_warning(against), RadiometryWarning, stacklevel=2)
    said = {id(i): _recorded(i, v, policy) for i, v in zip(fresh, verdicts, strict=True)}
    return dataclasses.replace(items, items=tuple(said.get(id(i), i) for i in items))


def _recorded(item: ItemRecord, verdict: Verdict, policy: Policy) -> ItemRecord:
    changes: dict[str, Any] = {"probe": verdict.text}
    if policy == "trust" and verdict.kind == "contradicts":
        changes["probed_offset"] = verdict.offset_dn
    return dataclasses.replace(item, **changes)


def _contradiction(item: ItemRecord, verdict: Verdict, count: int) -> DataError:
    decided = radiometry(item)
    return DataError(
        f"the pixels of {count} item(s) contradict the metadata about the radiometric offset",
        where=f"item {item.id}",
        found=verdict.text.partition(": ")[2],
        limit=f"offset {decided.offset_dn:g} DN ({decided.reason})",
        mend="look at the item; probe: trust follows the pixels, probe: warn the metadata",
    )


def _warning(against: list[tuple[ItemRecord, Verdict]]) -> str:
    lines = [f"  {item.id}: {verdict.text}" for item, verdict in against[:10]]
    more = [f"  and {len(against) - 10} more"] if len(against) > 10 else []
    head = f"the pixels of {len(against)} item(s) contradict the metadata, which are followed (probe: trust would not):"
    return "\n".join([head, *lines, *more])
