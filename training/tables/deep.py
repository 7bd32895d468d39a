"""Forests and linear models on features that a network learnt: of a network of one's own, or of Presto.

::

    table ─► network.features ─► (N, F) ─┬─ forest, boosting (`training.tables.baselines.tuned`)
    table ─► months ─► Presto ─► (N, 128) ┴─ logistic regression

Presto was trained on monthly series of reflectance from all over the world (Tseng et al. 2023, arXiv:2304.14065), so
that a linear model on its features may need few labels.

Shape suffixes: N sample, T date, C band, M month, F feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.presto_config import PRESTO_GROUPS
from engine.values.bands import find_band
from engine.values.days import running_days
from engine.values.errors import InputError
from training.series import SeriesTable

if TYPE_CHECKING:
    from engine.models.presto import Presto

_ROWS = 512
_MOST_MONTHS = 24


def monthly(table: SeriesTable) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Average the dates of each month.

    Args:
        table: Series with dates; each sample has its own.

    Returns:
        (N, M, C) float32, NaN where a month has no value, and the months (N, M) datetime64[M], from each sample's
        first month on; NaT for samples without a date.

    Raises:
        InputError: If no sample has a date.
    """
    months_NT = table.dates.astype("datetime64[M]").astype(np.int64).astype(np.float64)
    months_NT[np.isnat(table.dates)] = np.nan
    if np.isnan(months_NT).all():
        raise InputError("the table has no dates", where=table.source, mend="read it with steps")
    first_N = np.where(np.isnan(months_NT), np.inf, months_NT).min(axis=1)
    at_NT = months_NT - np.where(np.isfinite(first_N), first_N, 0)[:, None]
    length = int(np.nanmax(at_NT)) + 1
    found = np.full((len(table), length, table.values.shape[2]), np.nan, np.float32)
    for month in range(length):
        held = np.where((at_NT == month)[:, :, None], table.values, np.nan)
        known = np.isfinite(held)
        total = np.where(known, held, 0).sum(axis=1)
        found[:, month] = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
    start = np.where(np.isfinite(first_N), first_N, 0).astype(np.int64).astype("datetime64[M]")
    stamps = start[:, None] + np.arange(length)[None]
    return found, np.where(np.isfinite(first_N)[:, None], stamps, np.datetime64("NaT"))


@torch.inference_mode()
def presto_features(table: SeriesTable, weights: str | Path) -> NDArray[np.float32]:
    """Return Presto's embedding of each sample.

    Args:
        table: Reflectance 0..1 under names that landweave knows, with dates; bands of a group of
            `PRESTO_GROUPS` come together or are not used, as are indices. At most 24 months.
        weights: The published state dict.

    Returns:
        (N, 128) float32.

    Raises:
        InputError: If the table has no group of bands, no dates or too many months.
    """
    bands = presto_bands(table.bands)
    if not bands:
        raise InputError(
            "no group of Presto's bands is in the table",
            where=table.source,
            found=table.bands,
            limit="; ".join(", ".join(g) for k, g in PRESTO_GROUPS.items() if k.startswith("S2")),
        )
    values_NMC, months_NM = monthly(table)
    if values_NMC.shape[1] > _MOST_MONTHS:
        raise InputError(
            "the series are too long",
            where=table.source,
            found=f"{values_NMC.shape[1]} months",
            limit=_MOST_MONTHS,
        )
    network = presto_network(tuple(bands), weights)
    x_NMC = torch.from_numpy(values_NMC[:, :, list(bands.values())])
    valid_NM = torch.isfinite(x_NMC).all(dim=2)
    x_NMC = torch.where(valid_NM[:, :, None], x_NMC, 0.0)
    days_NM = torch.from_numpy(running_days(months_NM.astype("datetime64[D]")).astype(np.float32))
    found = [
        network.features(x[..., None, None], valid[..., None, None].float(), days)[:, :, 0, 0]
        for x, valid, days in zip(
            x_NMC.split(_ROWS), valid_NM.split(_ROWS), days_NM.split(_ROWS), strict=True
        )
    ]
    return torch.cat(found).numpy()


def presto_bands(names: Sequence[str]) -> dict[str, int]:
    """Return the bands of which Presto has a use, by landweave's names, with their place in `names`."""
    have = {found.name: i for i, name in enumerate(names) if (found := find_band(name)) is not None}
    groups = (
        group for key, group in PRESTO_GROUPS.items() if key.startswith("S2") and set(group) <= set(have)
    )
    return {name: have[name] for group in groups for name in group}


def presto_network(bands: tuple[str, ...], weights: str | Path) -> Presto:
    """Build Presto for some bands with its published weights, in evaluation mode.

    Raises:
        InputError: If the weights are not those of Presto's encoder.
    """
    from engine.inference.state import read_state_dict
    from engine.models.presto import Presto
    from engine.models.presto_config import PrestoConfig

    own = {k: v for k, v in read_state_dict(weights).items() if k.startswith("encoder.")}
    network = Presto(PrestoConfig(n_bands=len(bands), bands=bands)).eval()
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            "the weights are not those of Presto's encoder", where=str(weights), found=str(error)[:300]
        ) from error
    return network
