"""An interactive map of a cube: its picture, outline and scenes over a base map, through folium if installed.

The picture is moved to the map's own projection (Web Mercator, EPSG:3857) by looking up, for each pixel of
the map, the cube's pixel under its centre.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.cube.picture import Picture
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

_EDGE_POINTS = 33
_MOST_SCENES = 300


@dataclass(frozen=True, eq=False)
class MapLayers:
    """What an interactive map shows, without any map library.

    Attributes:
        image: (y, x, 4) uint8 in Web Mercator, transparent without data.
        bounds: ``((south, west), (north, east))`` of the image, degrees.
        outline: GeoJSON feature of the cube's box.
        scenes: GeoJSON feature collection of the scenes' footprints.
        title: What the image shows.
    """

    image: NDArray[np.uint8]
    bounds: tuple[tuple[float, float], tuple[float, float]]
    outline: dict[str, Any]
    scenes: dict[str, Any]
    title: str

    @property
    def image_url(self) -> str:
        """The image as a ``data:`` URL."""
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def map_layers(picture: Picture, grid: Grid, box: Box, scenes: list[ItemRecord]) -> MapLayers:
    """Make the layers of a map.

    Args:
        picture: The picture.
        grid: Grid of the picture's pixels.
        box: Which of its pixels it holds.
        scenes: Scenes to outline; the first 300 are.
    """
    left, bottom, right, top = grid.bounds_of_box(box)
    across, down = np.linspace(left, right, _EDGE_POINTS), np.linspace(top, bottom, _EDGE_POINTS)
    ring_x = np.concatenate([across, np.full_like(down, right), across[::-1], np.full_like(down, left)])
    ring_y = np.concatenate([np.full_like(across, top), down, np.full_like(across, bottom), down[::-1]])
    image, bounds = _to_mercator(picture.rgba, grid, box, (ring_x, ring_y))
    lon, lat = _move(grid.crs, "EPSG:4326", ring_x, ring_y)
    outline = _feature({"type": "Polygon", "coordinates": [np.stack([lon, lat], 1).tolist()]}, {})
    return MapLayers(image, bounds, outline, _footprints(scenes), picture.title)


def _to_mercator(
    rgba: NDArray[np.uint8], grid: Grid, box: Box, ring: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[NDArray[np.uint8], tuple[tuple[float, float], tuple[float, float]]]:
    """Look up a picture's pixels on a Web Mercator raster of as many pixels."""
    mx, my = _move(grid.crs, "EPSG:3857", *ring)
    west, east, south, north = mx.min(), mx.max(), my.min(), my.max()
    size = max((east - west) / rgba.shape[1], (north - south) / rgba.shape[0])
    cols, rows = max(1, round((east - west) / size)), max(1, round((north - south) / size))
    x = west + (np.arange(cols) + 0.5) * (east - west) / cols
    y = north - (np.arange(rows) + 0.5) * (north - south) / rows
    gx, gy = _move("EPSG:3857", grid.crs, *(a.ravel() for a in np.meshgrid(x, y)))
    left, _, _, top = grid.bounds_of_box(box)
    res_y, res_x = grid.resolution_yx
    col = np.floor((gx - left) / res_x).astype(np.int64)
    row = np.floor((top - gy) / res_y).astype(np.int64)
    inside = (row >= 0) & (row < rgba.shape[0]) & (col >= 0) & (col < rgba.shape[1])
    image = np.zeros((rows * cols, 4), np.uint8)
    image[inside] = rgba[row[inside], col[inside]]
    (w, e), (s, n) = _move("EPSG:3857", "EPSG:4326", np.array([west, east]), np.array([south, north]))
    return image.reshape(rows, cols, 4), ((float(s), float(w)), (float(n), float(e)))


def _move(
    source: str, target: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pyproj import Transformer

    moved = Transformer.from_crs(source, target, always_xy=True).transform(x, y)
    return np.asarray(moved[0]), np.asarray(moved[1])


def _footprints(scenes: list[ItemRecord]) -> dict[str, Any]:
    from shapely.geometry import mapping

    found = []
    for scene in scenes[:_MOST_SCENES]:
        cloud = None if scene.cloud_cover is None else f"{scene.cloud_cover:.1f} %"
        told = {"scene": scene.id, "date": f"{scene.datetime:%Y-%m-%d}", "cloud": cloud or "not told"}
        found.append(_feature(mapping(scene.geometry), told))
    return {"type": "FeatureCollection", "features": found}


def _feature(geometry: Any, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def folium_map(layers: MapLayers) -> Any:
    """Draw map layers with folium.

    Returns:
        A ``folium.Map``, which a notebook shows and ``save("map.html")`` writes.

    Raises:
        InputError: If folium is not installed.
    """
    try:
        import folium
    except ImportError as error:
        raise InputError(
            "an interactive map needs folium",
            where="explore",
            found="not installed",
            mend="pip install 'landweave[jupyter]', or look at cube.landweave.rgb()",
        ) from error
    shown = folium.Map(control_scale=True)
    bounds = [list(corner) for corner in layers.bounds]
    folium.raster_layers.ImageOverlay(layers.image_url, bounds, name=layers.title).add_to(shown)
    line = {"color": "#1b2327", "weight": 2, "fill": False}
    folium.GeoJson(layers.outline, name="cube", style_function=lambda _: line).add_to(shown)
    if layers.scenes["features"]:
        thin = {"color": "#2f6f73", "weight": 1, "fillOpacity": 0.02}
        told = folium.GeoJsonTooltip(["scene", "date", "cloud"])
        folium.GeoJson(layers.scenes, name="scenes", style_function=lambda _: thin, tooltip=told).add_to(
            shown
        )
    folium.LayerControl().add_to(shown)
    shown.fit_bounds(bounds)
    return shown
