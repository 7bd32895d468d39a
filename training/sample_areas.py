"""Sample areas: where annotated fields lie close together, as boxes on the grid.

Cubes are made of areas, not of points: fields are clustered (DBSCAN; Ester, Kriegel, Sander and Xu 1996), and
each cluster becomes one box of whole patches::

    ·  ··          ┌─────┐
      · ·     ──►  │ · ··│            ·  = alone: in no area
    ·              └─────┘
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_sources import to_grid_crs
from training.label_values import Labels

NOISE = -1


@dataclass(frozen=True)
class SampleArea:
    """A box of the grid with fields.

    Attributes:
        box: Its pixels, on whole multiples of a patch.
        features: Number of its fields.
        classes: Number of fields of each class.
    """

    box: Box
    features: int
    classes: dict[str, int]


def sample_areas(
    labels: Labels, grid: Grid, *, near_m: float, least: int = 5, patch_px: int = 256, pad_px: int = 0
) -> tuple[list[SampleArea], int]:
    """Place areas where fields lie close together.

    Args:
        labels: The fields, in any CRS.
        grid: The cube's grid, in metres.
        near_m: Fields whose middles lie this close belong together.
        least: Fields within that distance, itself counted, that make a field the core of a cluster.
        patch_px: Boxes are whole multiples of this.
        pad_px: Pixels around the fields that belong to an area.

    Returns:
        The areas, those with most fields first; and the number of fields in none.

    Raises:
        InputError: If a number is not positive.
    """
    if near_m <= 0 or least < 1 or patch_px < 1:
        raise InputError("must be positive", where="sample_areas", found=(near_m, least, patch_px))
    frame = to_grid_crs(labels.frame, grid.crs)
    middle = frame.geometry.representative_point()
    cluster = dbscan(np.stack([middle.x, middle.y], axis=1), near_m, least)
    names = dict(zip(labels.classes.values, labels.classes.names, strict=True))
    areas = []
    for number in range(int(cluster.max(initial=NOISE)) + 1):
        mine = frame[cluster == number]
        box = grid.box_of_bounds(tuple(mine.total_bounds)).pad(pad_px).snap_out(patch_px)
        counted = mine["value"].value_counts()
        areas.append(SampleArea(box, len(mine), {names[v]: int(n) for v, n in counted.items()}))
    return sorted(areas, key=lambda a: (-a.features, a.box)), int((cluster == NOISE).sum())


def dbscan(places: NDArray[np.float64], near: float, least: int) -> NDArray[np.int64]:
    """Cluster points by density.

    A point with `least` points within `near` (itself counted) is a core; cores within `near` of each other
    are one cluster, numbered by their first point; a point near a core, but none itself, belongs to the
    cluster of its nearest core, which no order of points changes.

    Args:
        places: (n, 2).
        near: Distance, inclusive.
        least: Number of points.

    Returns:
        (n,) int64: number of the cluster, -1 for points in none.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    found = np.full(len(places), NOISE, np.int64)
    if not len(places):
        return found
    tree = cKDTree(places)
    core = np.array(tree.query_ball_point(places, near, return_length=True)) >= least
    if not core.any():
        return found
    cores = cKDTree(places[core])
    pairs = cores.query_pairs(near, output_type="ndarray")
    n = int(core.sum())
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, number = connected_components(links, directed=False)
    _, first = np.unique(number, return_index=True)
    order = np.argsort(np.argsort(first))
    found[core] = order[number]
    distance, nearest = cores.query(places[~core])
    found[~core] = np.where(distance <= near, found[core][nearest], NOISE)
    return found
