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
