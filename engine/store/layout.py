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
from typing import Any, Literal

import numpy as np
import zarr
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import MemoryStore

from engine.store.conventions import georeference, with_convention
from engine.store.objects import Folder
from engine.store.remote import network, storage_options
from engine.store.storespec import TIME, Dim, Series, StoreSpec, Variable
from engine.values.errors import ConflictError, InputError

__all__ = [
    "SPEC_ATTR",
    "Dim",
    "Series",
    "StoreSpec",
    "Variable",
    "codec_of",
    "commit",
    "create",
    "open_group",
    "open_spec",
    "open_store",
    "restate",
    "update_attrs",
]

SPEC_ATTR = "landweave"
"""Group attribute that carries the store's spec, and whether it was completely made."""

TIME_CHUNK = 128
"""Steps in one chunk of a time coordinate; the same however many there are, so that it can grow."""


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
    with network(url):
        root = zarr.open_group(url, mode="a", zarr_format=3, storage_options=storage_options(url) or None)
        root.attrs.put({SPEC_ATTR: {"state": "begun"}})
        _write_coordinates(root, spec)
        for variable in spec.variables:
            _create_array(root, spec, variable)
    commit(url, _group_attrs(spec))


def restate(url: str, spec: StoreSpec) -> None:
    """Give a store other attributes and labels (names, colours, title); no pixel is touched.

    Arrays come first, the group's own metadata last and in one write. Killed before that, readers of
    consolidated metadata see the old words, and the next attempt ends the same.

    Args:
        url: A complete store.
        spec: The store's spec but for attributes, title and labels.
    """
    root, before = open_store(url, "r+")
    with network(url):
        if spec.dims != before.dims:
            write_labels(root, spec)
        for variable in spec.variables:
            root[variable.name].attrs.put(_array_attrs(spec, variable))
    commit(url, dict(root.attrs) | _group_attrs(spec, dict(root.attrs)))


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
        root = open_group(url, "r+" if mode == "r+" else "r")
    except FileNotFoundError as error:
        raise InputError("there is no store", where=url, mend="make it with create()") from error
    own = root.attrs.get(SPEC_ATTR)
    if not isinstance(own, dict) or own.get("state") != "complete":
        raise InputError("the store was not completely made", where=url, mend="make it with create()")
    return root, StoreSpec.from_dict(own["spec"])


def open_group(url: str, mode: Literal["r", "r+"] = "r") -> Any:
    """Open a group as it is now: past consolidated metadata and remembered listings.

    Raises:
        FileNotFoundError: If there is none.
        RetryableError: If the network fails.
    """
    with network(url):
        options = storage_options(url) or None
        return zarr.open_group(url, mode=mode, use_consolidated=False, storage_options=options)


def update_attrs(url: str, attrs: Mapping[str, Any], convention: Mapping[str, str] | None = None) -> None:
    """Add attributes to a group, and the Zarr convention they belong to, then consolidate again.

    Args:
        url: A store.
        attrs: New attributes (JSON values); the store's spec cannot be changed this way.
        convention: An entry for ``zarr_conventions``, e.g. `engine.store.conventions.MULTISCALES`.
    """
    if SPEC_ATTR in attrs:
        raise InputError("a store's spec is fixed when it is made", where=url, found=SPEC_ATTR)
    root = open_group(url, "r+")
    merged = dict(root.attrs) | dict(attrs)
    commit(url, with_convention(merged, convention) if convention else merged)


def commit(url: str, attrs: Mapping[str, Any]) -> None:
    """Replace a group's attributes and consolidate the metadata of all below it, in one write.

    Readers over plain HTTP need consolidated metadata, because they cannot list a folder; here they find
    the old whole or the new whole, never attributes of one and arrays of the other.
    """
    folder, root = Folder(url), open_group(url)
    with network(url):
        names = [f"{name}/{_META}" for name, _ in root.members(max_depth=None)]
    nodes = folder.read_all([_META, *names])
    own = json.loads(nodes[_META]) | {"attributes": dict(attrs)}
    nodes[_META] = json.dumps(own).encode()
    copy: dict[str, Any] = {name: Buffer.from_bytes(text) for name, text in nodes.items()}
    with warnings.catch_warnings():
        # Version 3 of the format does not name consolidated metadata yet; readers all know it.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(MemoryStore(copy), zarr_format=3)
    folder.replace(_META, copy[_META].to_bytes())


_META = "zarr.json"


def _already(url: str, spec: StoreSpec) -> bool:
    """Tell whether the store stands complete; refuse one that is different or not ours."""
    try:
        root = open_group(url)
    except FileNotFoundError:
        return False
    own = root.attrs.get(SPEC_ATTR)
    if not isinstance(own, dict):
        if not dict(root.attrs) and not list(root.keys()):
            return False
        raise ConflictError("a group that is no store of ours is in the way", where=url)
    if own.get("state") != "complete":
        return False
    old, new = StoreSpec.from_dict(own["spec"]).to_dict(), spec.to_dict()
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
    write_labels(root, spec)


def write_labels(root: Any, spec: StoreSpec) -> None:
    """Write the series and the coordinates of the extra dimensions; the labels of time come last."""
    for series in spec.series:
        names = tuple(d.name for d in series.dims)
        _plain(root, series.name, series.array(), names, dict(series.attrs))
    for dim in sorted(spec.dims.values(), key=lambda d: d.name == TIME):
        if not dim.labelled:
            continue
        values, attrs = _label_values(dim)
        if dim.bounds is not None:
            edges, _ = _times([edge for pair in dim.bounds for edge in pair])
            name = f"{dim.name}_bnds"
            _plain(root, name, edges.reshape(-1, 2), (dim.name, "nv"), {"units": attrs["units"]})
            attrs |= {"bounds": name}
        _plain(root, dim.name, values, (dim.name,), {**dim.attrs, **attrs})


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
    """Write a small array whole, or, where its time axis has grown, the larger one over the smaller.

    A reader that knows the shorter shape finds the same values at the same places at any moment.
    """
    if TIME in dims and name in root and root[name].ndim == values.ndim:
        if root[name].shape != values.shape:
            root[name].resize(values.shape)
    else:
        chunks = tuple(TIME_CHUNK if d == TIME else n for d, n in zip(dims, values.shape, strict=True))
        root.create_array(
            name,
            shape=values.shape,
            dtype=str if values.dtype.kind in "UT" else values.dtype,  # texts of any length: `string`
            chunks=chunks,
            dimension_names=dims,
            attributes=attrs,
            compressors=codec_of("", values.dtype),
            overwrite=True,
        )
    root[name][...] = values


def _group_attrs(spec: StoreSpec, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a group's own attributes; conventions that were declared before stay declared."""
    declared = {k: v for k, v in (before or {}).items() if k == "zarr_conventions"}
    attrs = georeference(declared | dict(spec.attrs), spec.grid, spec.box)
    attrs |= {"Conventions": "CF-1.11"} | ({"title": spec.title} if spec.title else {})
    return attrs | {SPEC_ATTR: {"state": "complete", "spec": spec.to_dict()}}


def _array_attrs(spec: StoreSpec, variable: Variable) -> dict[str, Any]:
    attrs: dict[str, Any] = dict(variable.attrs)
    attrs |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    attrs |= _no_data_attrs(np.dtype(variable.dtype), variable.no_data)
    return georeference(attrs, spec.grid, spec.box)


def _create_array(root: Any, spec: StoreSpec, variable: Variable) -> None:
    dtype = np.dtype(variable.dtype)
    lead = tuple(d.chunk_len for d in variable.dims)
    root.create_array(
        variable.name,
        shape=variable.lead_shape + spec.box.shape_yx,
        dtype=dtype,
        chunks=(*lead, spec.chunk_px, spec.chunk_px),
        shards=(*lead, spec.shard_px, spec.shard_px),
        compressors=codec_of(variable.codec, dtype),
        fill_value=dtype.type(variable.no_data),
        dimension_names=(*(d.name for d in variable.dims), "y", "x"),
        attributes=_array_attrs(spec, variable),
        overwrite=True,
    )


def _no_data_attrs(dtype: np.dtype[Any], no_data: float) -> dict[str, Any]:
    if dtype.kind != "f":
        return {"nodata": int(no_data)}
    if not math.isnan(no_data):
        return {"nodata": float(no_data)}
    from xarray.backends.zarr import FillValueCoder

    return {"_FillValue": FillValueCoder.encode(np.nan, dtype)}


def codec_of(name: str, dtype: np.dtype[Any]) -> list[Any]:
    """Return zarr's compressors by name: ``zstd:3``, ``blosc-lz4:5``, ``blosc-zstd:1``; empty by type.

    Blosc shuffles the bits of numbers first; the number is the compression level.

    >>> [type(c).__name__ for c in codec_of("", np.dtype("uint8"))]
    ['ZstdCodec']
    >>> codec_of("blosc-lz4:5", np.dtype("uint16"))[0].shuffle.value
    'bitshuffle'

    Raises:
        InputError: If there is no such codec.
    """
    wide = dtype.kind in "iuf" and dtype.itemsize > 1
    kind, _, level = (name or ("blosc-zstd:3" if wide else "zstd:3")).partition(":")
    if kind not in ("zstd", "blosc-lz4", "blosc-zstd") or not level.isdigit():
        raise InputError("no such codec", found=name, limit="zstd:N, blosc-lz4:N or blosc-zstd:N")
    if kind == "zstd":
        return [ZstdCodec(level=int(level))]
    family = kind.removeprefix("blosc-")
    return [
        BloscCodec(cname=family, clevel=int(level), shuffle="bitshuffle", typesize=dtype.itemsize)  # type: ignore[arg-type]
    ]
