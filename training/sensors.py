"""Which planes of a patch an augmentation touches, where there are more than bands of reflectance.

Shape suffixes: T date, C plane, H row, W column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.values.planes import Group, Plane, PlaneKind

Change = Callable[[NDArray[np.uint16]], NDArray[np.uint16]]
"""From (T, C, H, W) uint16 to the same shape."""


def of_kind(planes: Sequence[Plane], kind: PlaneKind) -> list[int] | None:
    """Return the places of one kind of planes; None, all, where planes are not told and so are reflectance."""
    return [i for i, plane in enumerate(planes) if plane.kind == kind] if planes else None


def of_group(planes: Sequence[Plane], group: Group) -> list[int] | None:
    """Return the places of a group; None, all, where planes are not told and so are optical."""
    if not planes:
        return None if group == "optical" else []
    return [i for i, plane in enumerate(planes) if plane.group == group]


def together(planes: Sequence[Plane]) -> Iterator[list[int] | None]:
    """Yield the places of planes that are there or missing together, layers one by one."""
    for group in ("optical", "radar"):
        places = of_group(planes, group)
        if places != []:
            yield places
    yield from ([place] for place in of_group(planes, "static") or ())


def changed(x_TCHW: NDArray[np.uint16], places: list[int] | None, change: Change) -> NDArray[np.uint16]:
    """Change some planes of a patch and leave the others as they are."""
    if places is None:
        return change(x_TCHW)
    if not places:
        return x_TCHW
    out_TCHW = x_TCHW.copy()
    out_TCHW[:, places] = change(x_TCHW[:, places])
    return out_TCHW
