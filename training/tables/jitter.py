"""Augmentation of series, a whole batch at a time: what may differ between two fields of one crop.

::

    noise   each value a little off              gain    each plane of a sample spread wider or narrower
    offset  each plane of a sample off as one    slide   the season earlier or later, between two dates
    drop    dates missing                        mix     part of the way to another sample of its class

Amounts of noise, offset and gain are in standard deviations of the plane over the training part, so that they mean the
same for reflectance, indices and backscatter. `mix` is what SMOTE does (Chawla et al. 2002, JAIR 16:321), anew in
each batch. Values stay 16-bit integers, 0 = no data; what is missing stays missing.

Shape suffixes: B batch, T date, C plane.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.models.normalise import Standard

_Share = Field(default=0.0, ge=0, lt=1)


class SeriesJitter(BaseModel):
    """How much is drawn for each sample; the default changes nothing.

    Attributes:
        noise: Standard deviation of what each value is off by.
        offset: Standard deviation of what a plane of a sample is off by at all its dates.
        gain: Largest change of the spread around the plane's mean: 0.2 draws 1/1.2 to 1.2.
        slide: Largest shift of the season in dates (2.5: up to two and a half); the values between two dates are
            linear, and a date next to a missing one is missing. The dates themselves stay.
        drop: Probability of each date to go; one of a sample stays.
        mix: Probability of a sample to go up to half of the way to another of its class, on the dates that
            both have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    noise: float = Field(default=0.0, ge=0, le=2)
    offset: float = Field(default=0.0, ge=0, le=2)
    gain: float = Field(default=0.0, ge=0, le=1)
    slide: float = Field(default=0.0, ge=0, le=12)
    drop: float = _Share
    mix: float = _Share


def jittered(
    x_BTC: NDArray[np.uint16],
    index_B: NDArray[np.uint8],
    jitter: SeriesJitter,
    normalisation: Standard,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Draw another batch like this one.

    Args:
        x_BTC: uint16, 0 = no data.
        index_B: Class of each sample.
        jitter: How much.
        normalisation: Mean and standard deviation of each plane.
        rng: Decides all.

    Returns:
        (B, T, C) uint16.
    """
    if jitter == SeriesJitter():
        return x_BTC
    known_BTC = x_BTC != 0
    x = x_BTC.astype(np.float32)
    if jitter.mix:
        x = _mixed(x, known_BTC, index_B, jitter.mix, rng)
    if jitter.slide:
        x, known_BTC = _slid(x, known_BTC, rng.uniform(-jitter.slide, jitter.slide, len(x)))
    x = _toned(x, jitter, normalisation, rng)
    if jitter.drop:
        known_BTC = known_BTC & _kept(known_BTC, jitter.drop, rng)[:, :, None]
    return np.where(known_BTC, np.clip(np.rint(x), 1, 65535), 0).astype(np.uint16)


def _toned(
    x_BTC: NDArray[np.float32], jitter: SeriesJitter, normalisation: Standard, rng: np.random.Generator
) -> NDArray[np.float32]:
    mean_C, std_C = (np.asarray(v, np.float32) for v in (normalisation.mean, normalisation.std))
    series = (len(x_BTC), 1, x_BTC.shape[2])
    if jitter.gain:
        spread = np.exp(rng.uniform(-1, 1, series) * np.log1p(jitter.gain)).astype(np.float32)
        x_BTC = mean_C + (x_BTC - mean_C) * spread
    if jitter.offset:
        x_BTC = x_BTC + rng.standard_normal(series, np.float32) * (jitter.offset * std_C)
    if jitter.noise:
        x_BTC = x_BTC + rng.standard_normal(x_BTC.shape, np.float32) * (jitter.noise * std_C)
    return x_BTC


def _mixed(
    x_BTC: NDArray[np.float32],
    known_BTC: NDArray[np.bool_],
    index_B: NDArray[np.uint8],
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Go part of the way to another sample of the batch of the same class."""
    partner_B = np.arange(len(x_BTC))
    for value in np.unique(index_B):
        mine = np.flatnonzero(index_B == value)
        partner_B[mine] = rng.permutation(mine)
    way_B = np.where(rng.random(len(x_BTC)) < share, rng.uniform(0, 0.5, len(x_BTC)), 0.0).astype(np.float32)
    both_BTC = known_BTC & known_BTC[partner_B]
    return np.where(both_BTC, x_BTC + (x_BTC[partner_B] - x_BTC) * way_B[:, None, None], x_BTC)


def _slid(
    x_BTC: NDArray[np.float32], known_BTC: NDArray[np.bool_], steps_B: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read each series `steps_B` dates later; beyond its ends the first and the last date stand."""
    last = x_BTC.shape[1] - 1
    at_BT = np.clip(np.arange(last + 1)[None] + steps_B[:, None], 0, last)
    low_BT = np.floor(at_BT).astype(np.int64)
    high_BT = np.minimum(low_BT + 1, last)
    way_BT1 = (at_BT - low_BT).astype(np.float32)[:, :, None]
    rows = np.arange(len(x_BTC))[:, None]
    x = x_BTC[rows, low_BT] * (1 - way_BT1) + x_BTC[rows, high_BT] * way_BT1
    known = (known_BTC[rows, low_BT] | (way_BT1 == 1)) & (known_BTC[rows, high_BT] | (way_BT1 == 0))
    return x, known


def _kept(known_BTC: NDArray[np.bool_], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the dates that stay: of each sample one of those that it has, whatever is drawn."""
    drawn_BT = rng.random(known_BTC.shape[:2])
    there_BT = known_BTC.all(axis=2)
    stays_B = np.where(there_BT, drawn_BT, -1).argmax(axis=1)
    kept_BT: NDArray[np.bool_] = drawn_BT >= share
    kept_BT[np.arange(len(kept_BT)), stays_B] = True
    return kept_BT
