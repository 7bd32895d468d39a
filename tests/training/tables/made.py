"""A made-up table: three crops whose season peaks at other dates, in places of a chessboard of units."""

from __future__ import annotations

import numpy as np

from engine.values.classes import ClassScheme
from engine.values.grid import Grid
from training.series import SeriesTable
from training.splits import Split

GRID = Grid.make("EPSG:32633", 10.0)
BANDS = ("red", "nir", "rain")


def made_table(n: int = 120, dates: int = 8, gaps: float = 0.0, seed: int = 0) -> SeriesTable:
    """Samples of three classes in turn: nir peaks at the class's own date; red and rain tell nothing."""
    rng = np.random.default_rng(seed)
    index = np.arange(n) % 3
    peak = np.array([1.5, 3.5, 5.5])[index]
    days = np.arange(dates)
    nir = 0.2 + 0.4 * np.exp(-0.5 * (days[None] - peak[:, None]) ** 2) + rng.normal(0, 0.02, (n, dates))
    red = rng.uniform(0.05, 0.1, (n, dates))
    rain = rng.uniform(0, 400, (n, dates))
    values = np.stack([red, nir, rain], axis=2).astype(np.float32)
    values[rng.random((n, dates)) < gaps] = np.nan
    stamps = np.datetime64("2023-11-05") + 30 * days
    return SeriesTable(
        values=values,
        dates=np.tile(stamps, (n, 1)).astype("datetime64[D]"),
        bands=BANDS,
        value=(np.array([1, 4, 9])[index]).astype(np.uint8),
        classes=_scheme(),
        x=500_000 + 100.0 * (np.arange(n) // 3 % 10),
        y=5_000_000 + 100.0 * (np.arange(n) // 30),
        crs="EPSG:32633",
        group=np.array([f"region {i // 3 % 4}" for i in range(n)], object),
        weight=np.ones(n, np.float32),
    )


def made_split(**fields: object) -> Split:
    """Blocks of one place each, a quarter of them for validation."""
    given = {"block_px": 10, "buffer_px": 0, "val": 0.25, **fields}
    return Split.model_validate(given).on(GRID)


def _scheme() -> ClassScheme:
    colours = ("#111111", "#222222", "#333333")
    classes = [
        {"value": v, "name": n, "colour": c}
        for v, n, c in zip((1, 4, 9), ("early", "mid", "late"), colours, strict=True)
    ]
    return ClassScheme.model_validate({"classes": classes})
