"""Two class schemes brought to common classes, so that two maps can be compared.

::

    first map   winter wheat ─┐                      second map   crops ──► cropland
                maize ────────┴─► cropland                        grass ──► grassland
                grassland ──────► grassland                       shrub ──► (left out)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError

NOTHING, LEFT_OUT = 0, 255
"""Index of a pixel without data, and of one whose class is left out of a comparison."""


class LegendSpec(BaseModel):
    """What the classes of each map are called in common; a class that is not named keeps its own name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    first: dict[str, str | None] = Field(
        default_factory=dict, description="Class of the first map to common class; null leaves it out."
    )
    second: dict[str, str | None] = Field(
        default_factory=dict, description="Class of the second map to common class; null leaves it out."
    )
    only_named: bool = Field(default=False, description="Leave out classes that are not named above.")

    @classmethod
    def from_file(cls, path: str) -> LegendSpec:
        """Read it from YAML.

        Raises:
            InputError: If the file is missing or no such YAML.
        """
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123
                return cls.model_validate(yaml.safe_load(file) or {})
        except OSError as error:
            raise InputError("cannot read the legend", where=path, mend=str(error)) from error
        except (ValidationError, yaml.YAMLError) as error:
            raise InputError(
                "not a legend", where=path, found=str(error), mend="keys: first, second"
            ) from error


@dataclass(frozen=True)
class Legend:
    """Common classes, numbered 1, 2, ... in their order, and what each map's values mean.

    Attributes:
        classes: The common classes.
        first: (256,) uint8, value of the first map to number; 0 = no data, 255 = left out.
        second: (256,) uint8, of the second map.
    """

    classes: ClassScheme
    first: NDArray[np.uint8]
    second: NDArray[np.uint8]

    @classmethod
    def of(cls, first: ClassScheme, second: ClassScheme, spec: LegendSpec | None = None) -> Legend:
        """Match classes by name, whatever its case, after renaming.

        Raises:
            InputError: If no class is in both, or a renamed class is not in the scheme.

        >>> one, two = ClassScheme.from_names(["crop", "forest"]), ClassScheme.from_names(["Forest", "Crop"])
        >>> Legend.of(one, two).second[:3].tolist()
        [0, 2, 1]
        """
        spec = spec or LegendSpec()
        names = [
            _renamed(first, spec.first, spec.only_named, "first"),
            _renamed(second, spec.second, spec.only_named, "second"),
        ]
        shared = {_key(n) for n in names[0].values() if n} & {_key(n) for n in names[1].values() if n}
        if not shared:
            raise InputError(
                "the maps have no class in common",
                where="legend",
                found=_few(second.names),
                limit=_few(first.names),
                mend=_mend(first, second),
            )
        common: dict[str, LandClass] = {}
        for scheme, table in zip((first, second), names, strict=True):
            for own in scheme.classes:
                name = table[own.value]
                if name and _key(name) not in common:
                    value = len(common) + 1
                    common[_key(name)] = LandClass(value=value, name=name, colour=own.colour)
        if len(common) >= LEFT_OUT:
            raise InputError("too many common classes", found=len(common), limit=LEFT_OUT - 1)
        tables = [_table(names[i], common) for i in range(2)]
        return cls(ClassScheme(classes=tuple(common.values())), *tables)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the common classes."""
        return self.classes.names


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _few(names: Sequence[str]) -> str:
    """List some names.

    >>> _few([str(n) for n in range(1, 256)])
    '1, 2, 3, 4, 5, 6, 7, 8 and 247 more'
    """
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _mend(first: ClassScheme, second: ClassScheme) -> str:
    """Say how to name classes: of a raster that has but numbers, by its scheme."""
    bare = [
        f"--{side}-classes"
        for side, scheme in (("first", first), ("second", second))
        if all(name.isdigit() for name in scheme.names)
    ]
    if bare:
        return f"that raster names no classes: give its class scheme (YAML) as {bare[0]}"
    return "name common classes: --legend FILE with first: {class: common} and second: {...}"


def _renamed(
    scheme: ClassScheme, wanted: Mapping[str, str | None], only_named: bool, where: str
) -> dict[int, str | None]:
    """Return the common name of each class value, None for those that are left out."""
    lookup: dict[str, Any] = {_key(k): v for k, v in scheme.lookup().items()}
    table: dict[int, str | None] = {c.value: None if only_named else c.name for c in scheme.classes}
    for name, common in wanted.items():
        if _key(name) not in lookup:
            raise InputError(
                "the map has no such class",
                where=f"legend.{where}",
                found=name,
                limit=", ".join(scheme.names),
            )
        table[lookup[_key(name)]] = common
    return table


def _table(names: Mapping[int, str | None], common: Mapping[str, LandClass]) -> NDArray[np.uint8]:
    table = np.full(256, LEFT_OUT, np.uint8)
    table[0] = NOTHING
    for value, name in names.items():
        if name:
            table[value] = common[_key(name)].value
    return table
