"""Stores of maps and cubes: one Zarr v3 group with sharded arrays that says all about itself.

A store covers a box of a `Grid`, grown outward to whole shards, so that shard borders lie on whole
multiples of ``shard_px`` of the global pixel index and a tile of whole shards never shares a file with
its neighbour::

      map.zarr/   zarr.json                  CRS, transform, spec; consolidated metadata
                  label/ zarr.json  c/0/0    one file = one shard of shard_px x shard_px,
                                    c/0/1    made of inner chunks of chunk_px x chunk_px
                  y/  x/  spatial_ref/       pixel centres (float64), CRS as WKT and GeoTransform

Making a store writes metadata and coordinates only, and shards without data are never written, so it
takes as long for a country as for a village.

How no-data is declared: the Zarr ``fill_value`` (GDAL, zarr) and the attribute ``nodata`` (rioxarray).
Integer variables have no ``_FillValue`` attribute, because xarray would turn them into floats;
floating-point variables with NaN have one, as xarray itself writes it.

Codecs, measured on real labels, probabilities and reflectances: single bytes are smallest and fast with
plain zstd (shuffling bytes has nothing to work on), wider numbers with blosc's bit shuffle before zstd.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from engine.store.conventions import georeference, with_convention
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid

SPEC_ATTR = "landweave"
"""Group attribute that carries the store's spec, and whether it was completely made."""

_RESERVED = {"y", "x", "spatial_ref"}


@dataclass(frozen=True)
class Dim:
    """An extra dimension before (y, x).

    Attributes:
        name: Such as ``class``, ``time`` or ``band``.
        labels: One per step: texts or numbers; for ``time`` ISO 8601 dates or UTC times.
        chunk: Steps per chunk and shard, None for all. 1 for a ``time`` that grows later.
        bounds: For ``time``: start and end (exclusive) of each step, written as CF ``time_bnds``.
    """

    name: str
    labels: tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
    chunk: int | None = None
    bounds: tuple[tuple[str, str], ...] | None = None

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


@dataclass(frozen=True)
class Variable:
    """One array of a store.

    Attributes:
        name: Such as ``label``.
        dtype: numpy name, such as ``uint8``.
        no_data: Value of a pixel without data; also the array's fill value.
        dims: Extra dimensions before (y, x), outermost first.
        attrs: Further attributes (JSON values), e.g. CF flags.
    """

    name: str
    dtype: str
    no_data: float
    dims: tuple[Dim, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)

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
        names = [v.name for v in self.variables]
        if not names or len(set(names)) != len(names) or _RESERVED & set(names):
            raise InputError(
                "variables need names of their own", found=names, limit=f"none of {sorted(_RESERVED)}"
            )
        self.dims  # noqa: B018 - two dimensions of one name must be one
        object.__setattr__(self, "box", self.box.snap_out(self.shard_px))

    @property
    def dims(self) -> dict[str, Dim]:
        """The extra dimensions of all variables by name.

        Raises:
            InputError: If two variables mean different things by one name.
        """
        found: dict[str, Dim] = {}
        for dim in (d for v in self.variables for d in v.dims):
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
            }
        )


def _fits(dtype: np.dtype[Any], value: float) -> bool:
    """Tell whether a number is a value of a numeric type."""
    if dtype.kind not in "iu":
        return dtype.kind == "f"
    span = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and span.min <= value <= span.max


def _variable(fields: Mapping[str, Any]) -> Variable:
    dims = tuple(
        Dim(d["name"], tuple(d["labels"]), d["chunk"], d["bounds"] and tuple(map(tuple, d["bounds"])))
        for d in fields["dims"]
    )
    no_data = float(fields["no_data"]) if isinstance(fields["no_data"], str) else fields["no_data"]
    return Variable(fields["name"], fields["dtype"], no_data, dims, fields["attrs"])


def create(url: str, spec: StoreSpec) -> None:
    """Make a store; one that is already there with the same spec is left as it is.

    A store whose making was interrupted is made again. Arrays come first and the mark of completeness
    last, so nobody takes half a store for a whole one.

    Args:
        url: Local path or any fsspec URL.
        spec: What it holds.

    Raises:
        ConflictError: If something else is there, naming the fields that differ.
    """
    if _already(url, spec):
        return
    root = zarr.open_group(url, mode="a", zarr_format=3)
    root.attrs.put({SPEC_ATTR: {"state": "begun"}})
    _write_coordinates(root, spec)
    for variable in spec.variables:
        _create_array(root, spec, variable)
    attrs = georeference(dict(spec.attrs), spec.grid, spec.box)
    attrs |= {"Conventions": "CF-1.11"} | ({"title": spec.title} if spec.title else {})
    root.attrs.put(attrs | {SPEC_ATTR: {"state": "complete", "spec": spec.to_dict()}})
    consolidate(url)


def open_spec(url: str) -> StoreSpec:
    """Read the spec of a complete store.

    Raises:
        InputError: If there is no complete store.
    """
    return open_store(url)[1]


def open_store(url: str, mode: str = "r") -> tuple[Any, StoreSpec]:
    """Open a store's group and spec, past the consolidated metadata.

    Raises:
        InputError: If there is no complete store.
    """
    try:
        root = zarr.open_group(url, mode="r+" if mode == "r+" else "r", use_consolidated=False)
    except FileNotFoundError as error:
        raise InputError("there is no store", where=url, mend="make it with create()") from error
    own = root.attrs.get(SPEC_ATTR)
    if not isinstance(own, dict) or own.get("state") != "complete":
        raise InputError("the store was not completely made", where=url, mend="make it with create()")
    return root, StoreSpec.from_dict(own["spec"])


def update_attrs(url: str, attrs: Mapping[str, Any], convention: Mapping[str, str] | None = None) -> None:
    """Add attributes to a group, and the Zarr convention they belong to, then consolidate again.

    Args:
        url: A store.
        attrs: New attributes (JSON values); the store's spec cannot be changed this way.
        convention: An entry for ``zarr_conventions``, e.g. `engine.store.conventions.MULTISCALES`.
    """
    if SPEC_ATTR in attrs:
        raise InputError("a store's spec is fixed when it is made", where=url, found=SPEC_ATTR)
    root = zarr.open_group(url, mode="r+", use_consolidated=False)
    merged = dict(root.attrs) | dict(attrs)
    root.attrs.put(with_convention(merged, convention) if convention else merged)
    consolidate(url)


def consolidate(url: str) -> None:
    """Write consolidated metadata, which readers over plain HTTP need, over all levels below `url`."""
    with warnings.catch_warnings():
        # Version 3 of the format does not name consolidated metadata yet; readers all know it.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(url, zarr_format=3)


def _already(url: str, spec: StoreSpec) -> bool:
    """Tell whether the store stands complete; refuse one that is different or not ours."""
    try:
        root = zarr.open_group(url, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return False
    own = root.attrs.get(SPEC_ATTR)
    if not isinstance(own, dict):
        if not dict(root.attrs) and not list(root.keys()):
            return False
        raise ConflictError("a group that is no store of ours is in the way", where=url)
    if own.get("state") != "complete":
        return False
    old, new = own["spec"], spec.to_dict()
    differs = [k for k in new if old.get(k) != new[k]]
    if differs:
        raise ConflictError(
            "the store exists with another spec",
            where=", ".join(differs),
            found={k: old.get(k) for k in differs},
            limit={k: new[k] for k in differs},
            mend="write to another folder, or delete the store",
        )
    return True


def _write_coordinates(root: Any, spec: StoreSpec) -> None:
    centres = spec.grid.centres(spec.box)
    for name, values in zip("yx", centres, strict=True):
        attrs = {
            "axis": name.upper(),
            "standard_name": f"projection_{name}_coordinate",
            "long_name": "pixel centre",
        }
        _plain(root, name, values, (name,), attrs)
    left, res_x, top, res_y = _corner(spec)
    wkt = _crs_wkt(spec.grid.crs)
    _plain(
        root,
        "spatial_ref",
        np.int64(0),
        (),
        {
            "crs_wkt": wkt,
            "spatial_ref": wkt,
            "GeoTransform": f"{left!r} {res_x!r} 0.0 {top!r} 0.0 {-res_y!r}",
        },
    )
    for dim in spec.dims.values():
        values, attrs = _label_values(dim)
        if dim.bounds is not None:
            edges, _ = _times([edge for pair in dim.bounds for edge in pair])
            _plain(
                root, f"{dim.name}_bnds", edges.reshape(-1, 2), (dim.name, "bnds"), {"units": attrs["units"]}
            )
            attrs |= {"bounds": f"{dim.name}_bnds"}
        _plain(root, dim.name, values, (dim.name,), attrs)


def _corner(spec: StoreSpec) -> tuple[float, float, float, float]:
    a, _, c, _, e, f = spec.grid.transform_of(spec.box)
    return float(c), float(a), float(f), float(-e)


def _crs_wkt(crs: str) -> str:
    """Write a CRS in GDAL's WKT (which rasterio and rioxarray write too)."""
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    return str(parsed.to_wkt("WKT1_GDAL") if parsed.to_authority() else parsed.to_wkt("WKT2_2019"))


def _label_values(dim: Dim) -> tuple[Any, dict[str, Any]]:
    """Return a dimension's coordinate and its attributes; times as CF numbers."""
    if dim.name == "time":
        values, units = _times([str(v) for v in dim.labels])
        return values, {"units": units, "calendar": "proleptic_gregorian", "standard_name": "time"}
    return np.asarray(dim.labels), {}


def _times(labels: list[str]) -> tuple[Any, str]:
    stamps = np.array([label.removesuffix("Z").removesuffix("+00:00") for label in labels], "datetime64[s]")
    return stamps.astype(np.int64), "seconds since 1970-01-01"


def _plain(root: Any, name: str, values: Any, dims: tuple[str, ...], attrs: dict[str, Any]) -> None:
    """Write a small array whole."""
    array = root.create_array(
        name,
        shape=values.shape,
        dtype=str if values.dtype.kind in "UT" else values.dtype,  # texts of any length: `string`
        chunks=values.shape,
        dimension_names=dims,
        attributes=attrs,
        compressors=_codec(values.dtype),
        overwrite=True,
    )
    array[...] = values


def _create_array(root: Any, spec: StoreSpec, variable: Variable) -> None:
    dtype = np.dtype(variable.dtype)
    lead = tuple(d.chunk_len for d in variable.dims)
    attrs: dict[str, Any] = dict(variable.attrs)
    attrs |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    attrs |= _no_data_attrs(dtype, variable.no_data)
    root.create_array(
        variable.name,
        shape=variable.lead_shape + spec.box.shape_yx,
        dtype=dtype,
        chunks=(*lead, spec.chunk_px, spec.chunk_px),
        shards=(*lead, spec.shard_px, spec.shard_px),
        compressors=_codec(dtype),
        fill_value=dtype.type(variable.no_data),
        dimension_names=(*(d.name for d in variable.dims), "y", "x"),
        attributes=georeference(attrs, spec.grid, spec.box),
        overwrite=True,
    )


def _no_data_attrs(dtype: np.dtype[Any], no_data: float) -> dict[str, Any]:
    if dtype.kind != "f":
        return {"nodata": int(no_data)}
    if not math.isnan(no_data):
        return {"nodata": float(no_data)}
    from xarray.backends.zarr import FillValueCoder

    return {"_FillValue": FillValueCoder.encode(np.nan, dtype)}


def _codec(dtype: np.dtype[Any]) -> list[Any]:
    if dtype.kind in "iuf" and dtype.itemsize > 1:
        return [BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=dtype.itemsize)]
    return [ZstdCodec(level=3)]
