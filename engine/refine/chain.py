"""The steps of a refinement in a row, and what changed on the way.

::

    box ──► Link n ──► grown box ──► Link n-1 ──► ... ──► Link 1 ──► grown box ──► the map
                                                               each link notes in `changed` which pixels it changed

Nothing is kept between two boxes: a tile asks the last link, and the links ask for what they need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engine.refine.around import Around, StepConfig
from engine.refine.steps import Layers, Source, Step
from engine.values.grid import Box

AnyStep = StepConfig
"""Settings of any kind of step."""

CHANGED = "changed"
"""Layer of a refined map: (y, x) uint8, number of the last step that changed a pixel's label; 0 = none did."""

MOST_STEPS = 250


class RefineSpec(BaseModel):
    """How a map is refined: steps, one after the other.

    Attributes:
        steps: What is done, in this order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: tuple[AnyStep, ...] = Field(
        min_length=1, max_length=MOST_STEPS, description="what is done, in order"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Layers of the map that the steps look at, and those that are stored."""
        return tuple(dict.fromkeys(("label", "confidence", *(n for s in self.steps for n in s.reads))))

    def digest(self) -> str:
        """Hash all that decides what the steps answer, beside the map."""
        return hashlib.sha256("\n".join(s.fingerprint() for s in self.steps).encode()).hexdigest()

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


def names_of(steps: Sequence[StepConfig]) -> tuple[str, ...]:
    """Return what each step is called, in order: the meaning of the numbers in `CHANGED`."""
    return tuple(s.step for s in steps)
