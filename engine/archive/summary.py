"""What a search found, in numbers: coverage, clouds, dates, orbits, tiles, baselines, radiometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.archive.coverage import Coverage
from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry

_AT_LEAST = (1, 2, 3, 5, 10, 20)


def summarise(items: ItemTable, seen: Coverage) -> dict[str, Any]:
    """Count a table of scenes; everything is plain JSON.

    Args:
        items: The scenes, at least one.
        seen: Their coverage of the area.
    """
    return {
        "scenes": len(items),
        "overpasses": len(
            {i.datatake or f"{i.platform} {i.datetime:%Y-%m-%d} {i.relative_orbit}" for i in items}
        ),
        "first": f"{items.items[0].datetime:%Y-%m-%d}",
        "last": f"{items.items[-1].datetime:%Y-%m-%d}",
        "months": _counted(f"{i.datetime:%Y-%m}" for i in items),
        "coverage": _coverage(seen),
        "cloud_percent": _clouds([i.cloud_cover for i in items]),
        "orbits": _counted(
            f"R{i.relative_orbit:03d}" if i.relative_orbit is not None else "untold" for i in items
        ),
        "directions": _counted(i.orbit_state or "untold" for i in items),
        "tiles": _counted(i.tile or "none" for i in items),
        "platforms": _counted(i.platform or "untold" for i in items),
        "crs": _counted(i.crs or "untold" for i in items),
        "baselines": _counted(i.baseline or "none" for i in items),
        "superseded": len(items.superseded),
        "offsets_dn": _counted(f"{radiometry(i).offset_dn:g}" for i in items),
        "offset_reasons": _counted(radiometry(i).reason for i in items),
        "probe": _counted(i.probe.partition(":")[0] or "not looked at" for i in items),
        "digest": items.digest(),
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _coverage(seen: Coverage) -> dict[str, Any]:
    """Return the shares of the area by number of observations, and observations per place."""
    low, tenth, median, most = seen.percentiles((0, 10, 50, 100))
    return {
        "cell_m": seen.cell_m,
        "area_km2": round(float(seen.inside.sum()) * seen.cell_m**2 / 1e6, 1),
        "share_seen_at_least": {str(n): round(seen.share(n), 4) for n in _AT_LEAST if n <= max(1, most)},
        "observations": {"least": low, "p10": tenth, "median": median, "most": most},
    }


def _clouds(told: list[float | None]) -> dict[str, Any]:
    """Return percentiles of the scenes' cloud cover, as the catalogue tells it."""
    known = np.array([c for c in told if c is not None])
    if not known.size:
        return {"untold": len(told)}
    p10, p50, p90 = (round(float(v), 1) for v in np.percentile(known, (10, 50, 90)))
    return {
        "p10": p10,
        "median": p50,
        "p90": p90,
        "mean": round(float(known.mean()), 1),
        "below_20_percent": int((known < 20).sum()),
        "untold": len(told) - int(known.size),
    }
