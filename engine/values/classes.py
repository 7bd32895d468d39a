"""Class scheme: one YAML from which CF flags, STAC, TIFF colours, QML and legends come.

::

    classes:
      - {value: 1, name: wheat, colour: "#e3b448", codes: [101, 102]}
      - {value: 2, name: maize, colour: "#f2e205", parent: cereals}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.values.errors import InputError

NO_DATA_LABEL = 0
"""Label of a pixel without data; never the value of a class."""


class LandClass(BaseModel):
    """One class of a map.

    Attributes:
        value: Label in the map, 1..255.
        name: Short name.
        colour: ``#rrggbb``.
        parent: Name of the broader class, if any.
        codes: Values that mean this class in the source (labels, other maps).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: int = Field(ge=1, le=255)
    name: str = Field(min_length=1)
    colour: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    parent: str | None = None
    codes: tuple[int | str, ...] = ()

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers 0..255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


class ClassScheme(BaseModel):
    """The classes of a map, in the order of the network's outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    classes: tuple[LandClass, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> ClassScheme:
        for field in ("value", "name"):
            seen = [getattr(c, field) for c in self.classes]
            if len(set(seen)) != len(seen):
                raise ValueError(f"class {field}s must be unique, got {seen}")
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> ClassScheme:
        """Read a scheme from YAML.

        Raises:
            InputError: If the file is missing or not a scheme; names the field.
        """
        try:
            return cls.model_validate(yaml.safe_load(Path(path).read_text()))
        except OSError as error:
            raise InputError("cannot read the class scheme", where=str(path), mend=str(error)) from error
        except (ValidationError, yaml.YAMLError) as error:
            raise InputError("not a class scheme", where=str(path), found=str(error)) from error

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ClassScheme:
        """Make a scheme with values 1..n and well separated colours."""
        names = list(names)
        return cls(
            classes=tuple(
                LandClass(value=i + 1, name=n, colour=_spread_colour(i)) for i, n in enumerate(names)
            )
        )

    def to_yaml(self) -> str:
        """Write the scheme as YAML that `from_file` reads."""
        rows: list[dict[str, Any]] = [c.model_dump(exclude_defaults=True, mode="json") for c in self.classes]
        return yaml.safe_dump({"classes": rows}, sort_keys=False, allow_unicode=True)

    @property
    def values(self) -> tuple[int, ...]:
        """Labels in network order."""
        return tuple(c.value for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in network order."""
        return tuple(c.name for c in self.classes)

    def lookup(self) -> dict[str, int]:
        """Return what each name, source code or value means, written as text: the value of a class.

        A name wins over a code, a code over a plain value.

        >>> wheat = LandClass(value=3, name="wheat", colour="#aa0000", codes=(101, "W"))
        >>> ClassScheme(classes=(wheat,)).lookup()
        {'3': 3, '101': 3, 'W': 3, 'wheat': 3}
        """
        table = {str(c.value): c.value for c in self.classes}
        table.update({str(code): c.value for c in self.classes for code in c.codes})
        return table | {c.name: c.value for c in self.classes}

    def codes_of(self, value: int) -> tuple[int | str, ...]:
        """Return the source codes of a class, its name where it has none: the inverse of `lookup`.

        Raises:
            InputError: If no class has this value.
        """
        for c in self.classes:
            if c.value == value:
                return c.codes or (c.name,)
        raise InputError("no class has this value", where="classes", found=value, limit=self.values)

    def broader(self) -> tuple[ClassScheme, dict[int, int]]:
        """Return the scheme one level up, and the value there of each class here.

        Classes with a parent become it; those that are parents themselves, or have none, stay. A parent
        that is a class keeps its value and colour, any other takes those of its first child. The broader
        class carries its children's codes, so it reads the same sources.

        >>> fine = ClassScheme(classes=(
        ...     LandClass(value=1, name="wheat", colour="#aa0000", parent="cereals"),
        ...     LandClass(value=2, name="maize", colour="#00aa00", parent="cereals"),
        ...     LandClass(value=3, name="forest", colour="#003300")))
        >>> coarse, table = fine.broader()
        >>> coarse.names, table
        (('cereals', 'forest'), {1: 1, 2: 1, 3: 3})
        """
        own, parents = {c.name: c for c in self.classes}, {c.parent for c in self.classes}
        children: dict[str, list[LandClass]] = {}
        for c in self.classes:
            children.setdefault(c.name if c.name in parents else c.parent or c.name, []).append(c)
        made = {}
        for name, members in children.items():
            first = own.get(name, members[0])
            codes = [code for m in members for code in (*m.codes, *(() if m.name == name else (m.name,)))]
            parent = own[name].parent if name in own else None
            made[name] = LandClass(
                value=first.value,
                name=name,
                colour=first.colour,
                parent=parent,
                codes=tuple(dict.fromkeys(codes)),
            )
        table = {m.value: made[name].value for name, members in children.items() for m in members}
        return ClassScheme(classes=tuple(made.values())), table

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON of this scheme."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def flag_attributes(self) -> dict[str, Any]:
        """Return the CF flag attributes of a label variable (CF conventions, section 3.5), 0 = no data."""
        return {
            "flag_values": [NO_DATA_LABEL, *self.values],
            "flag_meanings": " ".join(["no_data", *(n.replace(" ", "_") for n in self.names)]),
            "flag_colors": " ".join(["#000000", *(c.colour for c in self.classes)]),
        }


def _spread_colour(index: int) -> str:
    """Pick the index-th colour by turning the hue by the golden angle."""
    import colorsys

    hue = (0.12 + index * 0.61803398875) % 1.0
    value = (0.85, 0.65, 0.95)[index % 3]
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.6, value)))
