"""What is said of a map when it leaves the house: what, where, when, by whom, made from what."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.products.mosaic_files import Mosaic
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

Role = Literal["licensor", "producer", "processor", "host"]
"""What a provider did, by the words of STAC."""


@dataclass(frozen=True)
class ModelRef:
    """The model that made a map.

    Attributes:
        name: Its ``mlm:name``.
        href: Its manifest (an MLM item): absolute URL, or a path; a path becomes relative.
        digest: sha256 of its weights, if known.
    """

    name: str
    href: str
    digest: str | None = None


@dataclass(frozen=True)
class Provider:
    """Somebody who made, processed, licenses or hosts a map.

    Attributes:
        name: Organisation or person.
        roles: What they did.
        url: Their page, empty for none.
        description: A sentence, empty for none.
    """

    name: str
    roles: tuple[Role, ...] = ("producer", "processor")
    url: str = ""
    description: str = ""


@dataclass(frozen=True)
class Terms:
    """Under which terms, and by whom, a map is published.

    Attributes:
        licence: SPDX identifier or expression, or ``other``.
        licence_url: Text of the licence; STAC asks for it where `licence` is ``other``.
        providers: Who made it; none takes landweave as the processor.
        attribution: What users have to quote, such as the source of the imagery.
    """

    licence: str = "other"
    licence_url: str = ""
    providers: tuple[Provider, ...] = ()
    attribution: str = ""


@dataclass(frozen=True)
class MapProduct:
    """What a STAC collection says about a map.

    Attributes:
        id: Id of the item, or beginning of the ids of a mosaic's items; letters, digits, ``-``, ``_``, ``.``.
        title: One line.
        grid: Grid of the map.
        box: The area's box on it.
        scheme: The classes.
        start: First day of the imagery.
        end: Last day, inclusive.
        outline: The area's outline in EPSG:4326; None takes the box.
        files: Path per asset key; keys named like a variable (``label``, ``confidence``, ...) are data.
        mosaics: Variables that are files of several cells; with them there is an item for each cell, and
            `files` are those of the whole map.
        layers: How other layers than label, confidence, probability and observations are stored: type, no
            data, scale, offset and unit, by the names of the raster extension; ``planes``, if several; and
            ``classes``, a name per value, if the values are codes.
        model: The model, if one made it.
        sources: Paths or URLs of what it was derived from (catalogue, ``items.parquet``).
        raw: Path or URL of the map as the model gave it, where this one is a refined map.
        steps: The steps of the refinement, in words.
        terms: Licence and providers.
        version: Version of landweave that made it.
        created: When; None takes now.
    """

    id: str
    title: str
    grid: Grid
    box: Box
    scheme: ClassScheme
    start: dt.date
    end: dt.date
    outline: BaseGeometry | None = None
    files: dict[str, Path] = field(default_factory=dict)
    mosaics: tuple[Mosaic, ...] = ()
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: ModelRef | None = None
    sources: tuple[str, ...] = ()
    raw: str = ""
    steps: tuple[str, ...] = ()
    terms: Terms = Terms()
    version: str = ""
    created: dt.datetime | None = None
