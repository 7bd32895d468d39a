"""How a map is published: cells, overviews, licence, providers. Changes no pixel of the map itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.products.map_product import Provider, Role, Terms


class ProviderConfig(BaseModel):
    """Somebody who made, processed, licenses or hosts the map."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, description="Organisation or person.")
    roles: tuple[Role, ...] = Field(default=("producer", "processor"), description="What they did.")
    url: str = Field(default="", description="Their page.")
    description: str = Field(default="", description="A sentence about them.")


class PublishConfig(BaseModel):
    """What the catalogue says about the map, and how large its files are."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    licence: str = Field(
        default="other", min_length=1, description="SPDX identifier of the map's licence, or other."
    )
    licence_url: str = Field(
        default="", description="Text of the licence; needed by readers where it is other."
    )
    providers: tuple[ProviderConfig, ...] = Field(default=(), description="Who made the map.")
    attribution: str | None = Field(
        default=None,
        description="What users have to quote; default: the notice for Copernicus Sentinel data.",
    )
    cell_px: int = Field(
        default=16384,
        ge=1024,
        description="Side of a cell of the COG mosaic in pixels, a power of two; a map that fits one is one COG.",
    )
    overviews: Literal["mode", "nearest"] = Field(
        default="mode", description="How overviews of classes are reduced: mode (majority) or nearest."
    )

    @field_validator("cell_px")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(
                f"the side of a cell is a power of two, such as 4096, 8192 or 16384, got {value}"
            )
        return value

    def terms(self, attribution: str) -> Terms:
        """Return licence and providers; `attribution` stands in where none is given."""
        providers = tuple(Provider(p.name, p.roles, p.url, p.description) for p in self.providers)
        told = attribution if self.attribution is None else self.attribution
        return Terms(self.licence, self.licence_url, providers, told)
