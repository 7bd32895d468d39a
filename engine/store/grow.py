"""Let a store grow along its time axis, so that readers see the old axis or the new one, never a mixture.

Only metadata and small coordinates are written, in this order::

    1  every array with a time axis gets its new length      a reader of the old length reads as before
    2  series, time_bnds, and the labels of time last        one chunk of fixed length, put whole
    3  the group's zarr.json, in one write: the spec,        from here on the axis is the new one
       attributes and consolidated metadata

Consolidated metadata, which xarray takes first, describe the old axis until 3. Killed before 3, the store
is what it was; the next attempt begins again and ends the same. The new steps read as no data until their
tiles are written; no shard of an old step is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.store.layout import SPEC_ATTR, commit, open_store, write_labels
from engine.store.storespec import TIME, Dim, Series, StoreSpec, Variable
from engine.values.errors import ConflictError, InputError


def followed_by(spec: StoreSpec, later: StoreSpec) -> StoreSpec:
    """Return a spec whose time axis has the steps of another one after its own.

    Args:
        spec: What the store holds.
        later: The same, but for its time steps.

    Raises:
        ConflictError: If anything but time differs; names what.
        InputError: If there is no time axis, or its chunks hold more than one step.
    """
    if TIME not in spec.dims or spec.dims[TIME].chunk != 1:
        raise InputError("only a time axis with one step a chunk can grow", where=spec.title or "store")
    _require_equal(_timeless(spec), _timeless(later))
    axis = spec.dims[TIME].followed_by(later.dims[TIME])
    series = tuple(_joined(a, b, axis) for a, b in zip(spec.series, later.series, strict=True))
    variables = tuple(replace(v, dims=_with(v.dims, axis)) for v in spec.variables)
    return replace(spec, variables=variables, series=series)


def extend(url: str, longer: StoreSpec, attrs: Mapping[str, Any]) -> None:
    """Give a store the time axis of a longer spec, and new group attributes at the same moment.

    Args:
        url: A complete store.
        longer: What `followed_by` returned.
        attrs: Group attributes to add or replace.

    Raises:
        InputError: If there is no complete store.
        ConflictError: If the store holds anything else than the beginning of `longer`.
    """
    root, spec = open_store(url, "r+")
    steps = len(spec.dims[TIME].labels)
    _require_equal(_timeless(spec), _timeless(longer))
    if _first(longer.dims[TIME], steps) != spec.dims[TIME]:
        raise ConflictError(
            "the store's time axis is not the beginning of the longer one",
            where=url,
            found=", ".join(map(str, spec.dims[TIME].labels)),
            limit=", ".join(map(str, longer.dims[TIME].labels)),
            mend="write to another folder",
        )
    for variable in longer.variables:
        _resize(root[variable.name], variable, longer)
    write_labels(root, longer)
    own = {SPEC_ATTR: {"state": "complete", "spec": longer.to_dict()}}
    commit(url, dict(root.attrs) | dict(attrs) | own)


def _resize(array: Any, variable: Variable, longer: StoreSpec) -> None:
    shape = variable.lead_shape + longer.box.shape_yx
    if array.shape != shape:
        array.resize(shape)


def _first(dim: Dim, steps: int) -> Dim:
    """Return the first steps of a dimension."""
    bounds = None if dim.bounds is None else dim.bounds[:steps]
    return replace(dim, labels=dim.labels[:steps], bounds=bounds)


def _with(dims: tuple[Dim, ...], axis: Dim) -> tuple[Dim, ...]:
    return tuple(axis if d.name == TIME else d for d in dims)


def _joined(old: Series, new: Series, axis: Dim) -> Series:
    """Join a series with a time axis (its first dimension); one without must be the same."""
    if not any(d.name == TIME for d in old.dims):
        return old
    if old.dims[0].name != TIME:
        raise InputError("a series grows along its first dimension only", where=old.name)
    values: Any = (*old.values, *new.values)
    return replace(old, dims=_with(old.dims, axis), values=values)


def _timeless(spec: StoreSpec) -> dict[str, Any]:
    """Return all that must not change when time goes on."""
    fields = spec.to_dict()
    fields.pop("title")  # may name the season
    for array in (*fields["variables"], *fields["series"]):
        names = [d["name"] for d in array["dims"]]
        for dim in array["dims"]:
            if dim["name"] == TIME:
                dim.pop("labels"), dim.pop("bounds")
        if TIME in names:
            array.pop("values", None)
    return fields


def _require_equal(old: dict[str, Any], new: dict[str, Any]) -> None:
    differs = [k for k in old if old[k] != new[k]]
    if differs:
        raise ConflictError(
            "the store holds something else",
            where=", ".join(differs),
            found={k: old[k] for k in differs},
            limit={k: new[k] for k in differs},
            mend="write to another folder",
        )
