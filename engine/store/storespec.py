"""What a store holds and where, as a value: dimensions, variables, the box they cover.

The spec stands in the store's own attributes (`engine.store.layout` makes the store from it), so a store
says all about itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from engine.values.errors import InputError
from engine.values.grid import Box, Grid

TIME = "time"
"""The one dimension that may grow."""

_RESERVED = {"y", "x", "spatial_ref"}


@dataclass(frozen=True)
class Dim:
    """An extra dimension before (y, x).

    Attributes:
        name: Such as ``class``, ``time`` or ``band``.
        labels: One per step: texts or numbers; for ``time`` ISO 8601 dates or UTC times.
        chunk: Steps per chunk and shard, None for all. 1 for a ``time`` that grows later.
        bounds: For ``time``: start and end (exclusive) of each step, written as CF ``time_bnds``.
        attrs: Attributes of the coordinate (JSON values).
        labelled: False for a dimension without a coordinate; its labels are then 0, 1, ...
    """

    name: str
    labels: tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
    chunk: int | None = None
    bounds: tuple[tuple[str, str], ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.name in _RESERVED or not self.labels:
            raise InputError(
                "an extra dimension needs a name of its own and labels", where=self.name, found=self.labels
            )
        if self.bounds is not None and len(self.bounds) != len(self.labels):
            raise InputError(
                "each step of a dimension needs its own bounds",
                where=self.name,
                found=len(self.bounds),
                limit=len(self.labels),
            )

    @property
    def chunk_len(self) -> int:
        """Steps per chunk."""
        return self.chunk or len(self.labels)

    def followed_by(self, later: Dim) -> Dim:
        """Return this dimension with the steps of another one after its own."""
        bounds = None if self.bounds is None else (*self.bounds, *(later.bounds or ()))
        return replace(self, labels=(*self.labels, *later.labels), bounds=bounds)


@dataclass(frozen=True)
class Variable:
    """One array of a store.

    Attributes:
        name: Such as ``label``.
        dtype: numpy name, such as ``uint8``.
        no_data: Value of a pixel without data; also the array's fill value.
        dims: Extra dimensions before (y, x), outermost first.
        attrs: Further attributes (JSON values), e.g. CF flags.
        codec: How chunks are compressed, see `engine.store.layout.codec_of`; empty for the default of
            the type.
    """

    name: str
    dtype: str
    no_data: float
    dims: tuple[Dim, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    codec: str = ""

    def __post_init__(self) -> None:
        if not _fits(np.dtype(self.dtype), self.no_data):
            raise InputError(
                "the no-data value must be a value of the variable's type",
                where=self.name,
                found=self.no_data,
                limit=self.dtype,
            )
        if {"_FillValue", "missing_value"} & set(self.attrs):
            raise InputError("declare no-data with no_data, not with attributes", where=self.name)

    @property
    def lead_shape(self) -> tuple[int, ...]:
        """Lengths of the extra dimensions."""
        return tuple(len(d.labels) for d in self.dims)

    @property
    def grows(self) -> bool:
        """Whether it has a time axis."""
        return any(d.name == TIME for d in self.dims)


@dataclass(frozen=True)
class Series:
    """A small array without pixels, such as the sine of each step's day: written whole with the metadata.

    Attributes:
        name: Such as ``day_of_year``.
        dtype: numpy name.
        dims: Its dimensions, outermost first.
        values: The numbers in C order.
        attrs: Further attributes (JSON values).
        coordinate: Whether it is a coordinate rather than a variable.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    values: tuple[float, ...] | tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    coordinate: bool = False

    def array(self) -> Any:
        """Return the values as an array of the dimensions' lengths."""
        shape = tuple(len(d.labels) for d in self.dims)
        return np.array(self.values, None if self.dtype == "str" else self.dtype).reshape(shape)


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds, and where.

    Attributes:
        grid: CRS, pixel size, anchor.
        box: Pixels covered, in global pixel indices of the grid; grown outward to whole shards.
        shard_px: Side of a shard in pixels; a tile is a whole number of shards.
        variables: The arrays.
        chunk_px: Side of an inner chunk; divides `shard_px`.
        title: One line for people.
        attrs: Further group attributes (JSON values).
        series: Small arrays without pixels.

    Raises:
        InputError: If the sizes do not fit, a name is taken twice or the box is empty.
    """

    grid: Grid
    box: Box
    shard_px: int
    variables: tuple[Variable, ...]
    chunk_px: int = 256
    title: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    series: tuple[Series, ...] = ()

    def __post_init__(self) -> None:
        if self.chunk_px < 1 or self.shard_px < 1 or self.shard_px % self.chunk_px:
            raise InputError(
                "a shard must be a whole number of chunks",
                where="store.shard_px",
                found=f"{self.shard_px} px",
                limit=f"a multiple of {self.chunk_px} px",
                mend="change shard_px or chunk_px",
            )
        if not self.box:
            raise InputError("the store's box is empty", where="store.box", found=self.box)
        names = [v.name for v in self.arrays]
        if not self.variables or len(set(names)) != len(names) or _RESERVED & set(names):
            raise InputError(
                "variables need names of their own", found=names, limit=f"none of {sorted(_RESERVED)}"
            )
        self.dims  # noqa: B018 - two dimensions of one name must be one
        object.__setattr__(self, "box", self.box.snap_out(self.shard_px))

    @property
    def arrays(self) -> tuple[Variable | Series, ...]:
        """All arrays but the coordinates."""
        return (*self.variables, *self.series)

    @property
    def dims(self) -> dict[str, Dim]:
        """The extra dimensions of all variables and series by name.

        Raises:
            InputError: If two variables mean different things by one name.
        """
        found: dict[str, Dim] = {}
        for dim in (d for v in self.arrays for d in v.dims):
            if found.setdefault(dim.name, dim) != dim:
                raise InputError("two variables disagree on a dimension", where=dim.name)
        return found

    def variable(self, name: str) -> Variable:
        """Return a variable by name.

        Raises:
            InputError: If there is none.
        """
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise InputError("no such variable", found=name, limit=", ".join(v.name for v in self.variables))

    def shards(self) -> int:
        """Return how many shards the box holds per variable and step."""
        height, width = self.box.shape_yx
        return height * width // self.shard_px**2

    def to_dict(self) -> dict[str, Any]:
        """Write the spec as JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for variable in fields["variables"]:  # NaN is no JSON
            if not math.isfinite(variable["no_data"]):
                variable["no_data"] = str(variable["no_data"])
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> StoreSpec:
        """Read what `to_dict` wrote."""
        grid = fields["grid"]
        return cls(
            **dict(fields)
            | {
                "grid": Grid(grid["crs"], tuple(grid["resolution_yx"]), tuple(grid["anchor_xy"])),
                "box": Box(**fields["box"]),
                "variables": tuple(_variable(v) for v in fields["variables"]),
                "series": tuple(
                    Series(**s | {"dims": _dims(s), "values": tuple(s["values"])})
                    for s in fields.get("series", ())
                ),
            }
        )


def _fits(dtype: np.dtype[Any], value: float) -> bool:
    """Tell whether a number is a value of a numeric type."""
    if dtype.kind not in "iu":
        return dtype.kind == "f"
    span = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and span.min <= value <= span.max


def _variable(fields: Mapping[str, Any]) -> Variable:
    no_data = float(fields["no_data"]) if isinstance(fields["no_data"], str) else fields["no_data"]
    return Variable(**dict(fields) | {"no_data": no_data, "dims": _dims(fields)})


def _dims(fields: Mapping[str, Any]) -> tuple[Dim, ...]:
    return tuple(
        Dim(
            **d
            | {"labels": tuple(d["labels"]), "bounds": d["bounds"] and tuple(tuple(b) for b in d["bounds"])}
        )
        for d in fields["dims"]
    )
