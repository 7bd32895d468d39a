"""Rules for each class: what a class becomes, and how sure it must be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.refine.around import Around, StepConfig
from engine.refine.steps import Layers, Source
from engine.refine.windows import NO_SHARE, relabelled
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError
from engine.values.grid import Box

_CONFIDENCE_ONE = 250


class Rule(BaseModel):
    """What becomes of a class, always or where it is not sure enough.

    Attributes:
        of: The class or classes; ``class`` in YAML; left out: every class.
        below: Only pixels whose confidence is below this, 0..1; left out: all pixels.
        into: The class that they become; null = no data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    of: str | int | tuple[str | int, ...] | None = Field(
        None, alias="class", description="class or classes; left out: every class"
    )
    below: float | None = Field(
        None, gt=0, le=1, description="only where the confidence is below; left out: everywhere"
    )
    into: str | int | None = Field(description="class that they become; null = no data")


class RulesConfig(StepConfig):
    """Change classes by rules; of each pixel the first rule that fits decides, and no other.

    ::

        - step: rules
          keep: [water]
          rules:
            - {class: wetland, below: 0.6, into: grassland}
            - {class: [wheat, maize], into: cropland}
            - {below: 0.3, into: null}

    Attributes:
        rules: The rules, the first one first.
        keep: Classes that no rule changes.
    """

    step: Literal["rules"] = "rules"
    rules: tuple[Rule, ...] = Field(
        min_length=1, description="rules; of each pixel the first that fits decides"
    )
    keep: tuple[str | int, ...] = Field((), description="classes that no rule changes")

    def made(self, around: Around) -> Rules:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class.
        """
        table = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 256))
        free = np.ones_like(table, np.bool_)  # what no rule has decided yet
        free[NO_DATA_LABEL] = False
        free[list(around.values(self.keep, "rules.keep"))] = False
        for number, rule in enumerate(self.rules):
            fits = free & _fits(rule, around, f"rules.rules[{number}]")
            into = NO_DATA_LABEL
            if rule.into is not None:
                into = around.value(rule.into, f"rules.rules[{number}].into")
            table[fits] = into
            free &= ~fits
        return Rules(table.tobytes(), any(rule.below is not None for rule in self.rules))


def _fits(rule: Rule, around: Around, where: str) -> NDArray[np.bool_]:
    """Return the labels and confidences that a rule is for, (256, 256) bool."""
    fits = np.zeros((256, 256), np.bool_)
    of = rule.of if isinstance(rule.of, tuple) or rule.of is None else (rule.of,)
    fits[slice(None) if of is None else list(around.values(of, f"{where}.class"))] = True
    if rule.below is not None:
        fits[:, least_of(rule.below) :] = False
    return fits


def least_of(share: float) -> int:
    """Return the least stored confidence (0..250) that is not below a share.

    >>> least_of(0.58), least_of(0.581)
    (145, 146)
    """
    return math.ceil(round(share * _CONFIDENCE_ONE, 6))


@dataclass(frozen=True)
class Rules:
    """The rules for one map.

    Attributes:
        table: New label of each (label, confidence), 256 x 256 bytes; confidence 255 = unknown.
        confidence: Whether the confidence matters.
    """

    table: bytes
    confidence: bool

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it: none."""
        return 0

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given, beside that and what it gives."""
        return 4

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box.

        Raises:
            InputError: If a rule asks for a confidence and the map has none.
        """
        layers = source(box)
        if self.confidence and "confidence" not in layers:
            raise InputError(
                "a rule asks how sure a pixel is, but the map has no such layer",
                where="rules.below",
                found=", ".join(layers),
                limit="a layer confidence",
                mend="leave `below` out, or refine a map with confidence",
            )
        return relabelled(layers, ruled(layers["label"], layers.get("confidence"), self))


def ruled(label: NDArray[np.uint8], confidence: NDArray[np.uint8] | None, how: Rules) -> NDArray[np.uint8]:
    """Return the labels that the rules make.

    Args:
        label: (y, x) uint8, 0 = no data.
        confidence: (y, x) uint8, 0..250, 255 = unknown; None = all unknown.
        how: The rules.

    Returns:
        (y, x) uint8.
    """
    index = label.astype(np.uint16) << 8
    index |= NO_SHARE if confidence is None else confidence
    return np.frombuffer(how.table, np.uint8).take(index)
