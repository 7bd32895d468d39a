"""The steps of a refinement in a row, and what changed on the way.

::

    box ──► Link n ──► grown box ──► Link n-1 ──► ... ──► Link 1 ──► grown box ──► the map
                                                               each link notes in `changed` which pixels it changed

Nothing is kept between two boxes: a tile asks the last link, and the links ask for what they need.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.refine.around import Around
from engine.refine.context import ContextConfig
from engine.refine.fill import FillConfig
from engine.refine.filters import MajorityConfig
from engine.refine.mmu import MinimumMappingUnit
from engine.refine.parcels import ParcelsConfig
from engine.refine.rules import RulesConfig
from engine.refine.sieve import Sieve
from engine.refine.smooth import BayesConfig, BilateralConfig, GaussianConfig
from engine.refine.source import CHANGED
from engine.refine.steps import Layers, Source, Step
from engine.values.classes import NO_DATA_LABEL
from engine.values.grid import Box

AnyStep = Annotated[
    MinimumMappingUnit
    | MajorityConfig
    | ContextConfig
    | RulesConfig
    | FillConfig
    | ParcelsConfig
    | GaussianConfig
    | BilateralConfig
    | BayesConfig,
    Field(discriminator="step"),
]
"""Settings of any kind of step."""

CHANGED_NO_DATA = 255
"""Of a pixel without a class, that had none before."""

MOST_STEPS = 250

__all__ = [
    "CHANGED",
    "CHANGED_NO_DATA",
    "AnyStep",
    "Chain",
    "Link",
    "RefineSpec",
    "SieveConfig",
    "chain",
    "finished",
]


class SieveConfig(BaseModel):
    """GDAL's sieve of the whole map: regions of fewer pixels take the class of their largest neighbour.

    Attributes:
        min_px: Regions of fewer pixels are merged.
        min_ha: The same in hectares; either of the two.
        connectivity: 4: pixels of a region share edges; 8: corners join too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    min_px: int | None = Field(None, ge=1, description="regions of fewer pixels are merged")
    min_ha: float | None = Field(None, gt=0, description="regions of fewer hectares are merged")
    connectivity: Literal[4, 8] = Field(
        4, description="4: pixels of a region share edges; 8: corners join too"
    )

    @model_validator(mode="after")
    def _one_size(self) -> SieveConfig:
        if (self.min_px is None) == (self.min_ha is None):
            raise ValueError("give min_px or min_ha")
        return self

    def made(self, around: Around) -> Sieve:
        """Return the sieve for one map."""
        size = self.min_px if self.min_ha is None else around.pixels(self.min_ha)
        return Sieve(size or 1, self.connectivity)


class RefineSpec(BaseModel):
    """How a map is refined: steps, one after the other; or GDAL's sieve, which needs the map as a whole.

    Attributes:
        steps: What is done, in this order.
        sieve: What is done instead of steps, in one process, strip by strip.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: tuple[AnyStep, ...] = Field((), max_length=MOST_STEPS, description="what is done, in order")
    sieve: SieveConfig | None = Field(
        None, description="GDAL's sieve of the whole map, instead of steps; in one process"
    )

    @model_validator(mode="after")
    def _one_way(self) -> RefineSpec:
        if bool(self.steps) == (self.sieve is not None):
            raise ValueError("give steps, or a sieve alone")
        return self

    @model_validator(mode="after")
    def _smoothing_first(self) -> RefineSpec:
        kinds = [step.step for step in self.steps]
        smooths = ["probability" in step.reads for step in self.steps]
        first = smooths.index(False) if False in smooths else len(kinds)
        if any(smooths[first:]):
            raise ValueError(
                f"{kinds[first + smooths[first:].index(True)]} decides classes anew from the probabilities, "
                f"which would undo {kinds[first]}: put it first"
            )
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """Layers of the map that the steps look at, and those that are stored."""
        return tuple(dict.fromkeys(("label", "confidence", *(n for s in self.steps for n in s.reads))))

    @property
    def names(self) -> tuple[str, ...]:
        """What each step is called, in order: the meaning of the numbers in `CHANGED`.

        >>> RefineSpec(sieve=SieveConfig(min_px=5)).names
        ('1_sieve',)
        """
        kinds = ("sieve",) if self.sieve is not None else tuple(s.step for s in self.steps)
        return tuple(f"{number}_{kind}" for number, kind in enumerate(kinds, 1))

    def changed_attributes(self) -> dict[str, Any]:
        """Return the CF flag attributes of `CHANGED`."""
        return {
            "long_name": "number of the last step that changed the class",
            "flag_values": list(range(len(self.names) + 1)),
            "flag_meanings": " ".join(["unchanged", *self.names]),
        }

    def digest(self) -> str:
        """Hash all that decides what the steps answer, beside the map."""
        whole = [] if self.sieve is None else [self.sieve.model_dump_json()]
        return hashlib.sha256(
            "\n".join([*(s.fingerprint() for s in self.steps), *whole]).encode()
        ).hexdigest()

    def made(self, around: Around) -> Chain:
        """Return the steps for one map."""
        return Chain(tuple(s.made(around) for s in self.steps))


@dataclass(frozen=True)
class Chain:
    """Steps in a row: a step itself, that adds the layer `CHANGED`.

    Attributes:
        steps: What is done, in this order.
    """

    steps: tuple[Step, ...]

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it, at most."""
        return sum(step.reach_px for step in self.steps)

    def over(self, source: Source) -> Source:
        """Return what gives the refined layers over any box of a map that `source` reads."""
        for number, step in enumerate(self.steps, 1):
            source = Link(number, step, source)
        return source

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the refined layers over a box, `CHANGED` among them."""
        return self.over(source)(box)


@dataclass(frozen=True)
class Link:
    """One step over its source; a source itself.

    Attributes:
        number: Which step this is, counted from 1.
        step: What is done.
        source: Gives what the step begins with; `CHANGED` too, but for the map itself.
    """

    number: int
    step: Step
    source: Source

    def __call__(self, box: Box) -> Layers:
        """Return the layers over a box, with what this step and those before it changed."""
        watched = _Watched(self.source, box)
        after = self.step.apply(watched, box)
        before = watched.over_box()
        so_far = before.get(CHANGED, np.uint8(0))
        changed = np.where(after["label"] != before["label"], np.uint8(self.number), so_far)
        return {**after, CHANGED: changed}


class _Watched:
    """A source that remembers what lay under one box, so that it need not be asked twice."""

    def __init__(self, source: Source, box: Box) -> None:
        self.source, self.box = source, box
        self.before: Layers | None = None

    def __call__(self, box: Box) -> Layers:
        layers = self.source(box)
        if self.before is None and box.holds(self.box):
            at = self.box.slices_in(box)
            self.before = {n: layers[n][(..., *at)].copy() for n in ("label", CHANGED) if n in layers}
        return {n: a for n, a in layers.items() if n != CHANGED}

    def over_box(self) -> Layers:
        if self.before is None:
            self(self.box)
        assert self.before is not None  # a box holds itself
        return self.before


def chain(spec: RefineSpec, around: Around, source: Source) -> Source:
    """Return what gives the refined layers over any box.

    Args:
        spec: The steps.
        around: The map.
        source: Its layers over any box, no data outside it.

    Raises:
        InputError: If a step names a class that the map has not.
    """
    return spec.made(around).over(source)


def finished(layers: Layers) -> Layers:
    """Return refined layers as they are stored: `CHANGED` is no data where there was and is no class."""
    nothing = (layers["label"] == NO_DATA_LABEL) & (layers[CHANGED] == 0)
    return {**layers, CHANGED: np.where(nothing, np.uint8(CHANGED_NO_DATA), layers[CHANGED])}
