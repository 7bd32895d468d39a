"""A read-only view of a map store: where its pixels are, and blocks of them.

What leaves the house (overviews, COG, quicklook, seam statistic) reads a map through this view, block by
block, so that nobody holds a country in memory::

    store box  ┌───────────┬───────────┐   whole shards, padded outward
               │ block     │ block     │
               │     area box┌─ ─ ─ ┐  │   reads take any Box inside the store
               ├───────────┼───────────┤
               └───────────┴───────────┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.store.remote import network, storage_options
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import zarr

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

NO_DATA = {"label": 0, "confidence": 255, "probability": 255}
"""No-data of the map's variables; `observations` has none (0 means: never seen)."""


@dataclass(frozen=True)
class MapView:
    """A map store opened for reading.

    Attributes:
        url: Local path or fsspec URL of the Zarr group.
        grid: Grid on which `box` counts pixels.
        box: Pixels that the store covers.
        variables: Names of the raster variables, (y, x) or (class, y, x).
        group: The open Zarr group.
    """

    url: str
    grid: Grid
    box: Box
    variables: tuple[str, ...]
    group: zarr.Group

    def array(self, variable: str) -> Any:
        """Return the Zarr array of a variable.

        Raises:
            InputError: If the map has no such variable.
        """
        if variable not in self.variables:
            raise InputError(
                "the map has no such variable",
                where=self.url,
                found=variable,
                limit=", ".join(self.variables),
            )
        return self.group[variable]

    def attributes(self, variable: str) -> dict[str, Any]:
        """Return the attributes of a variable."""
        return dict(self.array(variable).attrs)

    def is_classes(self, variable: str) -> bool:
        """Tell whether a variable holds class labels (CF flags) rather than amounts."""
        return "flag_values" in self.attributes(variable)

    def no_data(self, variable: str) -> int | None:
        """Return the no-data value that a variable declares, else the contract's, else None."""
        attributes = self.attributes(variable)
        for key in ("nodata", "missing_value", "_FillValue"):
            if isinstance(attributes.get(key), int | float):
                return int(attributes[key])
        return NO_DATA.get(variable)

    def planes(self) -> Iterator[tuple[str, int | None]]:
        """Yield each variable with the number of each of its planes, None for one of a single plane."""
        for name in self.variables:
            array = self.array(name)
            yield from [(name, None)] if array.ndim == 2 else [(name, k) for k in range(array.shape[0])]

    def read(self, variable: str, box: Box, plane: int | None = None) -> NDArray[Any]:
        """Read the pixels of a box, (y, x) or (class, y, x), in the stored dtype.

        Args:
            variable: Which.
            box: Pixels in the grid's global indices.
            plane: Number of one plane of several: (y, x); None reads all.

        Raises:
            InputError: If the box reaches outside the store.
        """
        rows, cols = box.slices_in(self.box)
        where = (..., rows, cols) if plane is None else (plane, rows, cols)
        with network(self.url):
            values: NDArray[Any] = np.asarray(self.array(variable)[where])
        return values

    def crop(self, box: Box | None) -> Box:
        """Return `box` if it lies inside the store, the whole store for None.

        Raises:
            InputError: If it is empty or reaches outside.
        """
        if box is None:
            return self.box
        if not box or not self.box.holds(box):
            raise InputError("the area is not inside the map", where=self.url, found=box, limit=self.box)
        return box


def open_view(url: str, grid: Grid | None = None) -> MapView:
    """Open a map store for reading.

    Args:
        url: Local path or fsspec URL.
        grid: Grid to count pixels on; None takes the one the store was made on, or, in a store that does
            not say, the one whose anchor lies within one pixel of the CRS's origin.

    Raises:
        InputError: If there is no map store at `url`.
        DataError: If it has no CRS, or does not lie on `grid`.
    """
    import zarr

    try:
        with network(str(url)):
            group = zarr.open_group(str(url), mode="r", storage_options=storage_options(str(url)) or None)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise InputError("no map store there", where=str(url), mend="run `landweave map` first") from error
    names = tuple(n for n, a in sorted(group.arrays()) if _is_raster(a))
    found, box = _place(str(url), group, names)
    grid = grid or _own_grid(group)
    if grid is not None and grid != found:
        box = _on_grid(str(url), grid, found, box)
    return MapView(str(url), grid or found, box, names, group)


def _own_grid(group: zarr.Group) -> Grid | None:
    """Read the grid that the store's own spec records, if it has one."""
    own: Any = group.attrs.get("landweave", {})
    fields = own.get("spec", {}).get("grid") if isinstance(own, dict) else None
    if not fields:
        return None
    return Grid(fields["crs"], tuple(fields["resolution_yx"]), tuple(fields["anchor_xy"]))


def _is_raster(array: Any) -> bool:
    return tuple(array.metadata.dimension_names or ())[-2:] == ("y", "x")


def _place(url: str, group: zarr.Group, names: tuple[str, ...]) -> tuple[Grid, Box]:
    """Read grid and box from ``spatial_ref`` (crs_wkt and GDAL's GeoTransform)."""
    from affine import Affine

    try:
        attributes = dict(group["spatial_ref"].attrs)
        numbers = [float(n) for n in str(attributes["GeoTransform"]).split()]
        shape: tuple[int, int] = group[names[0]].shape[-2:]  # type: ignore[union-attr, assignment]
        return Grid.of_transform(attributes["crs_wkt"], Affine.from_gdal(*numbers), shape)
    except (KeyError, IndexError) as error:
        raise DataError(
            "the store is not a map: no raster variable with spatial_ref, crs_wkt and GeoTransform",
            where=url,
            found=f"variables {list(names)}",
        ) from error


def _on_grid(url: str, grid: Grid, found: Grid, box: Box) -> Box:
    """Count `box` on another grid whose pixels are the same."""
    bounds = found.bounds_of_box(box)
    moved = grid.box_of_bounds(bounds)
    same = np.allclose(grid.bounds_of_box(moved), bounds, rtol=0, atol=1e-6 * max(grid.resolution_yx))
    if grid.crs != found.crs or grid.resolution_yx != found.resolution_yx or not same:
        raise DataError("the map does not lie on the grid", where=url, found=found, limit=grid)
    return moved


def in_flight(work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """Yield ``work(item)`` in order, with at most ``2 * workers`` results waiting.

    >>> list(in_flight(abs, [-3, 2, -1], 2))
    [3, 2, 1]
    """
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
