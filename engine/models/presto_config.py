"""Configuration of Presto: a frozen value that a bundle's manifest carries, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.models.configs import NetworkConfig
from engine.values.bands import common_name

PRESTO_FEATURES = 128
"""Length of Presto's embedding."""

# The order is that of the learnt embedding of the groups. It is the order of the tensors in the published
# file, which differs from the order in the code published beside it (red edge before near infrared). The
# file's order is right: of all 24 orders of these four groups it restores hidden months best, on three places.
PRESTO_GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("vv", "vh"),
    "S2_RGB": ("blue", "green", "red"),
    "S2_NIR_10m": ("nir",),
    "S2_NIR_20m": ("nir08",),
    "S2_Red_Edge": ("rededge1", "rededge2", "rededge3"),
    "S2_SWIR": ("swir16", "swir22"),
    "ERA5": ("temperature", "precipitation"),
    "SRTM": ("elevation", "slope"),
    "NDVI": ("ndvi",),
}
"""Presto's groups of bands, one token each (Tseng et al. 2023, arXiv:2304.14065), by landweave's names."""


class PrestoConfig(NetworkConfig):
    """What `engine.models.presto.Presto` is built from.

    Attributes:
        bands: Bands of the cube in its order; those of a group come together or not at all.
        head: ``embedding`` (128 outputs), ``linear`` (a linear map to classes) or ``mlp`` (64 hidden units).
        n_classes: Outputs (K); 128 for embeddings.
        place: Latitude and longitude in degrees of the area; None leaves the token of the place out.
        n_positions: Longest series, in months, that the weights know.
    """

    bands: tuple[str, ...] = Field(min_length=1)
    head: Literal["embedding", "linear", "mlp"] = "embedding"
    n_classes: int = Field(default=PRESTO_FEATURES, ge=1, le=255)
    place: tuple[Annotated[float, Field(ge=-90, le=90)], Annotated[float, Field(ge=-180, le=180)]] | None = (
        None
    )
    n_positions: int = Field(default=24, ge=1, le=366)

    @model_validator(mode="after")
    def _fits(self) -> PrestoConfig:
        if self.n_dates is not None and self.n_dates > self.n_positions:
            raise ValueError(f"the weights know at most {self.n_positions} months, not {self.n_dates}")
        if self.head == "embedding" and self.n_classes != PRESTO_FEATURES:
            raise ValueError(f"an embedding has {PRESTO_FEATURES} outputs, not {self.n_classes}")
        if len(self.bands) != self.n_bands:
            raise ValueError(f"n_bands is {self.n_bands}, but there are {len(self.bands)} bands")
        have = {common_name(name) for name in self.bands}
        used = {b for names in PRESTO_GROUPS.values() if set(names) <= have for b in names}
        if have - used:
            groups = "; ".join(", ".join(g) for k, g in PRESTO_GROUPS.items() if k.startswith("S2"))
            raise ValueError(f"Presto has no use for {sorted(have - used)}: its groups are {groups}")
        return self
