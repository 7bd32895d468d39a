"""Two steps for tests, small enough to see through, with answers that numpy and scipy know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.ndimage import maximum_filter

from engine.refine.around import Around, StepConfig
from engine.refine.steps import Layers, Source, grown
from engine.values.grid import Box


class SpreadConfig(StepConfig):
    """Each pixel takes the highest class within some pixels: what changes reaches exactly so far."""

    step: Literal["spread"] = "spread"
    within_px: int = Field(1, ge=1)

    def made(self, around: Around) -> Spread:
        return Spread(self.within_px)


@dataclass(frozen=True)
class Spread:
    within_px: int

    @property
    def reach_px(self) -> int:
        return self.within_px

    def apply(self, source: Source, box: Box) -> Layers:
        outer = grown(box, self.within_px)
        layers = source(outer)
        at = box.slices_in(outer)
        label = maximum_filter(layers["label"], 2 * self.within_px + 1, mode="constant")[at]
        rest = {n: a[(..., *at)] for n, a in layers.items()}
        return {**rest, "label": np.where(rest["label"] > 0, label, 0).astype(np.uint8)}


class RenameConfig(StepConfig):
    """One class becomes another; sure no more."""

    step: Literal["rename"] = "rename"
    old: str = "a"
    new: str = "b"

    def made(self, around: Around) -> Rename:
        return Rename(around.value(self.old, "rename.old"), around.value(self.new, "rename.new"))


@dataclass(frozen=True)
class Rename:
    old: int
    new: int

    reach_px = 0

    def apply(self, source: Source, box: Box) -> Layers:
        layers = source(box)
        label = np.where(layers["label"] == self.old, self.new, layers["label"]).astype(np.uint8)
        return {**layers, "label": label}
