"""What a mapping agency would have of the simulated territory: an outline, and labels of some fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipelines.sample.noise import stream, wave_field
from pipelines.sample.truth import BUILT_UP, EPSG, FOREST, SCHEME, WATER, Landscape, burn

_BLOCK_M = 2600.0  # about the side of a sample block in which all fields are annotated
_BLOCK_SHARE = 0.37  # of the territory inside such blocks
_SCATTERED = 0.2  # of the fields elsewhere
_SHRINK_M = 8.0  # digitisers stay inside the field
_SHIFT_M = 2.0  # standard deviation of a polygon's displacement along each axis
_PURE = 0.97  # part of a polygon that must show its field


def territory(land: Landscape) -> Any:
    """Return the outline of the fictional territory: a rounded, wavy shape inside the canvas.

    Returns:
        A shapely polygon in the grid's CRS.
    """
    left, bottom, right, _ = land.bounds
    half = (right - left) / 2
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    # A superellipse of exponent 5 fills most of the square; waves around the circle make it a border.
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    waves = wave_field(stream(land.seed, "outline"), (0.25, 1.5), 14)(around)
    radius = half * (0.93 + 0.025 * np.tanh(waves)) / (np.abs(around) ** 5).sum(axis=1) ** 0.2
    centre = np.array([left + half, bottom + half])
    return shapely.polygons((centre + around * radius[:, None]).round(1))


def write_territory(path: Path, outline: Any) -> Path:
    """Write the outline as GeoJSON in EPSG:4326."""
    import geopandas as gpd

    frame = gpd.GeoDataFrame(
        {
            "name": ["Weavonia"],
            "description": ["Fictional territory of landweave's simulated sample archive"],
            "simulated": [True],
        },
        geometry=[shapely.segmentize(outline, 500.0)],
        crs=f"EPSG:{EPSG}",
    )
    frame.to_crs("EPSG:4326").to_file(path, driver="GeoJSON")
    return path


def write_labels(path: Path, land: Landscape) -> Path:
    """Write the labels as GeoPackage: class_name, class_value, label_id and area_ha per polygon.

    About a third of the fields is annotated, most of them in sample blocks, and some of the forest,
    water and built-up land there. Polygons are a little smaller than what they show, and displaced.
    """
    import geopandas as gpd

    shapes, values = _field_labels(land)
    more, more_values = _cover_labels(land)
    shapes, values = np.concatenate([shapes, more]), np.concatenate([values, more_values])
    names = dict(zip(SCHEME.values, SCHEME.names, strict=True))
    frame = gpd.GeoDataFrame(
        {
            "label_id": np.arange(1, len(shapes) + 1),
            "class_name": [names[int(v)] for v in values],
            "class_value": values.astype(np.int32),
            "area_ha": (shapely.area(shapes) / 1e4).round(3),
        },
        geometry=shapes,
        crs=f"EPSG:{EPSG}",
    )
    frame.to_file(path, driver="GPKG", layer="labels")
    return path


def sample_blocks(land: Landscape) -> NDArray[Any]:
    """Choose the squares in which everything was annotated: (n,) shapely polygons.

    The squares lie on a lattice, so that none overlap; a small canvas has at least one.
    """
    left, bottom, right, _ = land.bounds
    count = max(3, round((right - left) / _BLOCK_M))
    side = (right - left) / count
    rng = stream(land.seed, "sample blocks")
    chosen = rng.permutation(count * count)[: max(1, round(_BLOCK_SHARE * count * count))]
    x, y = left + chosen % count * side, bottom + chosen // count * side
    return np.asarray(shapely.box(x, y, x + side, y + side))


def _field_labels(land: Landscape) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Draw the annotated fields as a digitiser would."""
    rng = stream(land.seed, "labels")
    fields = land.parcels.fields
    blocks = shapely.union_all(sample_blocks(land))
    inside = shapely.contains_xy(blocks, shapely.get_coordinates(shapely.centroid(fields)))
    wanted = inside | (rng.random(len(fields)) < _SCATTERED)
    shift = _SHIFT_M * rng.normal(size=(len(fields), 2))
    drawn = shapely.simplify(shapely.buffer(fields, -_SHRINK_M, join_style="mitre"), 2.0)
    wanted &= (shapely.area(drawn) > 2500) & shapely.within(drawn, territory(land))
    wanted &= shapely.get_type_id(drawn) == 3  # thin fields fall into several parts
    drawn[wanted] = [
        shapely.transform(d, lambda xy, s=s: (xy + s).round(1))
        for d, s in zip(drawn[wanted], shift[wanted], strict=True)
    ]
    kept = wanted & _mostly_field(land, drawn, wanted)
    return drawn[kept], land.crop[kept]


def _mostly_field(land: Landscape, drawn: NDArray[Any], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which drawn polygons show their field, and hardly any forest, house or road."""
    n = len(drawn)
    number = burn([(drawn[i], int(i)) for i in np.flatnonzero(wanted)], land.grid, land.box)
    all_px = np.bincount(number[number >= 0], minlength=n)
    own_px = np.bincount(number[number == land.unit], minlength=n)
    return np.asarray((own_px >= _PURE * all_px) & (all_px >= 12))


def _cover_labels(land: Landscape) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Outline forest, water and built-up land inside the sample blocks, and one of each anywhere."""
    shapes: list[Any] = []
    values: list[int] = []
    blocks = shapely.intersection(sample_blocks(land), territory(land))
    for value in (FOREST, WATER, BUILT_UP):
        regions = _regions(land, value)
        found = [shapely.intersection(regions, b) for b in blocks]
        parts = shapely.get_parts(shapely.buffer(shapely.get_parts(np.array(found)), 0))
        parts = parts[shapely.area(parts) > 4000]
        if not len(parts):
            every = shapely.get_parts(shapely.intersection(regions, territory(land)))
            parts = every[np.argsort(-shapely.area(every), kind="stable")[:1]]
        shapes += list(parts)
        values += [value] * len(parts)
    return np.array(shapes, dtype=object), np.array(values, np.uint8)


def _regions(land: Landscape, value: int) -> Any:
    """Return the inner part of all patches of a class at 20 m, smoothed: a multipolygon."""
    from affine import Affine
    from rasterio.features import shapes as polygonise

    of_class = land.truth == value
    whole = of_class[0::2, 0::2] & of_class[1::2, 0::2] & of_class[0::2, 1::2] & of_class[1::2, 1::2]
    a, b, c, d, e, f = land.grid.transform_of(land.box)
    found = polygonise(whole.astype(np.uint8), mask=whole, transform=Affine(2 * a, b, c, d, 2 * e, f))
    patches = [shapely.geometry.shape(s) for s, _ in found]
    smooth = shapely.simplify(shapely.buffer(np.array(patches, dtype=object), -10.0), 6.0)
    return shapely.multipolygons([p for p in shapely.get_parts(smooth) if p.area > 1500])
