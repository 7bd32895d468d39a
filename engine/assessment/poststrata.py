"""Use the map's known class totals after a simple random sample was drawn (post-stratification).

The points are weighed as if each mapped class had been a stratum, its number of points being what it happened to be
(Card 1982, Photogramm. Eng. Remote Sens. 48:431-439; Holt and Smith 1979, J. R. Stat. Soc. A 142:33-46; Olofsson et
al. 2013, Remote Sens. Environ. 129:122-131). Free precision wherever the map is better than a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from engine.assessment.types import Sample, Stratum
from engine.values.errors import InputError


def poststratified(
    sample: Sample, totals: Mapping[int, tuple[int, float]], names: Mapping[int, str] | None = None
) -> Sample:
    """Return the sample with the map's classes as strata.

    Args:
        sample: Of one stratum, points drawn singly.
        totals: Pixels and hectares of each mapped class over the whole population.
        names: Of the classes; their values as text where not told.

    Raises:
        InputError: If the sample has strata or clusters of its own, or the map's totals lack a class of a point.
    """
    if len(sample.strata) != 1 or sample.cluster is not None:
        raise InputError(
            "only a simple random sample can be stratified afterwards",
            where="sample",
            found=f"{len(sample.strata)} strata" + (", clusters" if sample.cluster is not None else ""),
            limit="1 stratum, points drawn singly",
        )
    names = names or {}
    values = sorted(totals)
    missing = sorted({int(v) for v in sample.mapped} - set(values))
    if missing:
        raise InputError(
            "the map's totals lack classes of the points", where="totals", found=missing, limit=values
        )
    strata = tuple(Stratum(names.get(v, str(v)), *totals[v], mapped=v) for v in values)
    return replace(sample, strata=strata, stratum=np.searchsorted(values, sample.mapped))
