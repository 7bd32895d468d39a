"""Made-up networks and examples whose answers rest on known bands and dates."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from engine.models.normalise import Standard
from training.batch import IGNORE, Batch
from training.explain.examples import Examples
from training.explain.lens import Lens
from training.explain.season import Season, season_of

DATES, BANDS, MEAN, STD = 5, 3, 5000.0, 1000.0
MONTHLY = (60, 91, 121, 152, 182)
NORMAL = Standard(mean=(MEAN,) * BANDS, std=(STD,) * BANDS)


class Linear(nn.Module):
    """Logits are a linear function of every band of every date: ``weight`` (K, T, C)."""

    def __init__(self, weight_KTC: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight_KTC).float())

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        return torch.einsum("btchw,ktc->bkhw", x_BTCHW, self.weight)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        return x_BTCHW.flatten(1, 2)


def one_place(date: int, band: int, strength: float = 4.0) -> Lens:
    """Return a network of two classes that looks at one band of one date: class 1 where it is above its mean."""
    weight = np.zeros((2, DATES, BANDS))
    weight[1, date, band] = strength
    return Lens(Linear(weight), NORMAL)


def examples(
    values_NTC: np.ndarray, of: np.ndarray, days: np.ndarray | None = None, side: int = 1
) -> Examples:
    """Make examples of standardised values, each patch of one value; NaN = no data."""
    n, dates, _ = values_NTC.shape
    stored = np.where(np.isnan(values_NTC), 0, np.rint(np.nan_to_num(values_NTC) * STD + MEAN)).astype(
        np.uint16
    )
    x = np.broadcast_to(stored[..., None, None], (*stored.shape, side, side)).copy()
    target = np.full((n, side, side), IGNORE, np.uint8)
    target[:] = of[:, None, None]
    running = np.broadcast_to(MONTHLY[:dates], (n, dates)) if days is None else days
    batch = Batch(
        x=torch.from_numpy(x),
        dates=torch.from_numpy(np.asarray(running, np.int16).copy()),
        present=torch.from_numpy(np.asarray(running) > 0),
        target=torch.from_numpy(target),
        weight=torch.ones(n, side, side),
        place=torch.zeros(n, 2, dtype=torch.int64),
    )
    return Examples(batch, np.asarray(of, np.int64))


def two_classes(date: int, band: int, n: int = 60, seed: int = 0) -> Examples:
    """Draw noise, and plant the class in one band of one date."""
    rng = np.random.default_rng(seed)
    of = np.arange(n) % 2
    values = rng.normal(0, 1, (n, DATES, BANDS)).clip(-3, 3)
    values[:, date, band] = np.where(of == 1, 1.5, -1.5) + rng.uniform(-0.5, 0.5, n)
    return examples(values, of)


def season(made: Examples) -> Season:
    return season_of(made.batch.dates.numpy())
