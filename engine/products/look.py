"""How a raster file presents itself: type, no data, names, colours, scale. One answer for COG and VRT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.products.styles import scheme_of_flags
from engine.store.view import MapView
from engine.values.classes import ClassScheme

_SCALES = {"confidence": 1 / 250, "probability": 1 / 250}
"""Of layers that do not state theirs."""


@dataclass(frozen=True)
class Look:
    """What a file says about its pixels.

    Attributes:
        variable: Name of the layer in the store.
        dtype: numpy name of the pixels' type.
        bands: Name of each band.
        no_data: Value of a pixel without data, None for a layer that has none.
        scheme: The classes; None for amounts.
        scale: ``value = stored * scale + offset``; None where the layer does not state it.
        offset: See `scale`.
        zero: What value 0 means, in a layer of labels.
    """

    variable: str
    dtype: str
    bands: tuple[str, ...]
    no_data: int | None
    scheme: ClassScheme | None = None
    scale: float | None = None
    offset: float = 0.0
    zero: str = "no data"

    @property
    def tags(self) -> dict[str, str]:
        """Class names as tags of the first band, ``class_<value>``: they travel inside a GeoTIFF."""
        return {f"class_{c.value}": c.name for c in self.scheme.classes} if self.scheme else {}


def look_of(view: MapView, variable: str, scheme: ClassScheme | None = None) -> Look:
    """Say how a layer of a map presents itself.

    Args:
        view: The map.
        variable: The layer.
        scheme: Classes of a layer of labels; None takes those that its flags tell. Amounts have none.

    Raises:
        InputError: If the map has no such layer.
        DataError: If a layer of labels has no usable flags and no scheme is given.
    """
    array, attributes = view.array(variable), view.attributes(variable)
    dtype, no_data = array.dtype.name, view.no_data(variable)
    if view.is_classes(variable):
        scheme = scheme or scheme_of_flags(attributes, view.url)
        zero = _meaning_of_zero(attributes) if no_data else "no data"
        return Look(variable, dtype, (variable,), no_data, scheme, zero=zero)
    scale = attributes.get("scale", _SCALES.get(variable))
    return Look(
        variable,
        dtype,
        _band_names(view, variable),
        no_data,
        scale=None if scale is None else float(scale),
        offset=float(attributes.get("offset", 0.0)),
    )


def _meaning_of_zero(attributes: Mapping[str, Any]) -> str:
    """Read what the flags say of value 0, where it is not what marks no data.

    >>> _meaning_of_zero({"flag_values": [0, 1], "flag_meanings": "unchanged 1_mmu"})
    'unchanged'
    """
    meanings = str(attributes.get("flag_meanings", "")).split()
    known = dict(zip(attributes["flag_values"], meanings, strict=False))
    return known.get(0, "")


def _band_names(view: MapView, variable: str) -> tuple[str, ...]:
    """Name the bands: the variable itself, or the classes that its planes belong to."""
    array = view.array(variable)
    if array.ndim == 2:
        return (variable,)
    if "label" in view.variables and view.is_classes("label"):
        names = scheme_of_flags(view.attributes("label"), view.url).names
        if len(names) == array.shape[0]:
            return tuple(f"{variable} {name}" for name in names)
    return tuple(f"{variable} {index}" for index in range(1, array.shape[0] + 1))
