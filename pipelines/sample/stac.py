"""The STAC records of the simulated archive: a catalogue with relative hrefs, and the same as GeoParquet."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from engine.values.bands import band
from engine.values.grid import Box, Grid
from pipelines.sample.scenes import SCL, Pixels, cut, factor_of
from pipelines.sample.sky import Scene, swath
from pipelines.sample.spectra import BANDS
from pipelines.sample.truth import EPSG, Landscape
from pipelines.sample.zones import Sheet, mover

COLLECTION = "sentinel-2-l2a-simulated"
RADAR_COLLECTION = "sentinel-1-sample"
_TITLES = {COLLECTION: "Sentinel-2 L2A, simulated", RADAR_COLLECTION: "Sentinel-1 RTC, simulated"}
NOTE = "Simulated data of a fictional territory, made by landweave for demonstration; nothing was measured."
_EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "eo/v1.1.0",
        "projection/v2.0.0",
        "raster/v1.1.0",
        "grid/v1.1.0",
        "sat/v1.0.0",
        "view/v1.0.0",
        "sentinel-2/v1.0.0",
    )
)


@dataclass(frozen=True)
class TileOfScene:
    """One tile of one datatake.

    Attributes:
        tile: Name of the tile in the form of an MGRS square; no such square exists.
        box: Its pixels at 10 m.
        scene: The datatake.
        sheet: The zone's part of the land.
    """

    tile: str
    box: Box
    scene: Scene
    sheet: Sheet

    @property
    def id(self) -> str:
        """Item id, which is also the folder's name."""
        letter = self.scene.platform[-1].upper()
        return f"S2{letter}_T{self.tile}_{self.scene.time:%Y%m%dT%H%M%S}_L2A_SIMULATED"


def make_item(part: TileOfScene, pixels: Pixels) -> dict[str, Any]:
    """Describe one tile of a scene as a STAC 1.1 item with hrefs relative to its own file.

    Args:
        part: Tile and scene.
        pixels: Arrays of the scene over the sheet, for the cloud cover.
    """
    seen = swath(part.sheet.canvas.seed, part.scene, part.sheet.canvas.bounds)
    footprint = outline_of(part.sheet.canvas, seen, part.sheet.land.grid, part.box)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": part.id,
        "collection": COLLECTION,
        "geometry": footprint.__geo_interface__,
        "bbox": [round(v, 7) for v in footprint.bounds],
        "properties": _properties(part, cut(pixels.arrays[SCL], SCL, part.sheet.land.box, part.box)),
        "links": [],
        "assets": {band(b).name: _asset(part, b) for b in (*BANDS, SCL)},
    }


def write_catalogue(root: Path, items: Sequence[dict[str, Any]], bbox: Sequence[float]) -> Path:
    """Write a self-contained STAC catalogue: catalog.json, collections, and an item file per folder.

    Args:
        root: Folder of the archive.
        items: Items as `make_item` makes them, of one or two collections.
        bbox: West, south, east, north of the territory in degrees.

    Returns:
        The path of catalog.json.
    """
    import pystac

    catalog = pystac.Catalog("landweave-sample", NOTE, title="Simulated archive (fictional territory)")
    ordered = sorted(
        items, key=lambda i: (i["collection"] != COLLECTION, i["properties"]["datetime"], i["id"])
    )
    for name, found in itertools.groupby(ordered, key=lambda i: i["collection"]):
        of_name = list(found)
        times = sorted(dt.datetime.fromisoformat(i["properties"]["datetime"]) for i in of_name)
        collection = pystac.Collection(
            name,
            NOTE,
            pystac.Extent(pystac.SpatialExtent([list(bbox)]), pystac.TemporalExtent([[times[0], times[-1]]])),
            title=_TITLES[name],
            license="CC0-1.0",
            keywords=["simulated", "fictional", name[:10]],
        )
        catalog.add_child(collection)
        collection.add_items(pystac.Item.from_dict(item, preserve_dict=True) for item in of_name)
    catalog.normalize_and_save(str(root), pystac.CatalogType.SELF_CONTAINED)
    return root / "catalog.json"


def write_items_parquet(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Write the items as stac-geoparquet; hrefs are relative to the folder of that file."""
    import copy

    import rustac

    moved = []
    for item in copy.deepcopy(list(items)):
        for asset in item["assets"].values():
            asset["href"] = f"./{COLLECTION}/{item['id']}/{asset['href'].removeprefix('./')}"
        moved.append(item)
    rustac.write_sync(str(path), moved, format="geoparquet")
    return path


def outline_of(canvas: Landscape, swath_xy: NDArray[np.float64], grid: Grid, box: Box) -> Any:
    """Return the outline of a file's valid pixels in degrees, with a vertex at least every kilometre.

    Args:
        canvas: The whole land.
        swath_xy: (n, 2) corners of the swath in metres of the canvas, which reaches no further than it.
        grid: Grid of the file.
        box: Pixels of the file.
    """
    ground = shapely.segmentize(shapely.polygons(swath_xy), 1000.0)
    if grid.crs != canvas.grid.crs:
        ground = shapely.transform(ground, mover(EPSG, grid.crs))
    seen = shapely.intersection(ground, shapely.box(*grid.bounds_of_box(box)))
    to_degrees = mover(grid.crs, 4326)
    degrees = shapely.transform(
        shapely.segmentize(shapely.normalize(seen), 1000.0), lambda xy: to_degrees(xy).round(7)
    )
    return shapely.orient_polygons(degrees)


def _properties(part: TileOfScene, scl: NDArray[Any]) -> dict[str, Any]:
    """Return the item's properties; the percentages come from its scene classification."""
    scene = part.scene
    azimuth, elevation = scene.sun
    made = f"{scene.time:%Y%m%dT150000}"
    letter = scene.platform[-1].upper()
    code = f"N{scene.baseline.replace('.', '')}_R{scene.orbit:03d}_T{part.tile}"
    return {
        "datetime": f"{scene.time:%Y-%m-%dT%H:%M:%S}Z",
        "created": f"{scene.time:%Y-%m-%d}T15:00:00Z",
        "title": f"Simulated Sentinel-2 L2A, tile {part.tile}, {scene.time:%Y-%m-%d}",
        "description": NOTE,
        "landweave:simulated": True,
        "platform": scene.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        "proj:code": f"EPSG:{part.sheet.epsg}",
        "grid:code": f"MGRS-{part.tile}",
        "sat:orbit_state": "descending",
        "sat:relative_orbit": scene.orbit,
        "view:sun_azimuth": round(azimuth, 3),
        "view:sun_elevation": round(elevation, 3),
        "s2:mgrs_tile": part.tile,
        "s2:processing_baseline": scene.baseline,
        "s2:datatake_id": scene.datatake,
        "s2:product_type": "S2MSI2A",
        "s2:product_uri": f"S2{letter}_MSIL2A_{scene.time:%Y%m%dT%H%M%S}_{code}_{made}.SAFE",
        "s2:generation_time": f"{scene.time:%Y-%m-%d}T15:00:00Z",
        **_percentages(scl),
    }


def _percentages(scl: NDArray[Any]) -> dict[str, float]:
    """Return cover percentages: no-data of the tile, the others of its valid pixels."""
    count = np.bincount(scl.ravel(), minlength=12)
    valid = max(int(count[1:].sum()), 1)

    def percent(*values: int) -> float:
        return round(100.0 * float(count[list(values)].sum()) / valid, 4)

    return {
        "eo:cloud_cover": percent(8, 9, 10),
        "s2:nodata_pixel_percentage": round(100.0 * float(count[0]) / scl.size, 4),
        "s2:cloud_shadow_percentage": percent(3),
        "s2:vegetation_percentage": percent(4),
        "s2:not_vegetated_percentage": percent(5),
        "s2:water_percentage": percent(6),
        "s2:unclassified_percentage": percent(7),
        "s2:medium_proba_clouds_percentage": percent(8),
        "s2:high_proba_clouds_percentage": percent(9),
        "s2:thin_cirrus_percentage": percent(10),
        "s2:snow_ice_percentage": percent(11),
    }


def _asset(part: TileOfScene, name: str) -> dict[str, Any]:
    """Return the asset of one band."""
    spectral = band(name)
    factor = factor_of(name)
    height, width = part.box.shape_yx
    left, _, _, top = part.sheet.land.grid.bounds_of_box(part.box)
    resolution = spectral.resolution_m
    layer: dict[str, Any] = {"nodata": 0, "data_type": "uint8", "spatial_resolution": resolution}
    asset: dict[str, Any] = {
        "href": f"./{name}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": f"{spectral.name} ({name}), simulated",
        "roles": ["data"] if name == SCL else ["data", "reflectance"],
        "gsd": resolution,
        "proj:code": f"EPSG:{part.sheet.epsg}",
        "proj:shape": [height // factor, width // factor],
        "proj:transform": [resolution, 0, int(left), 0, -resolution, int(top)],
    }
    if name != SCL:
        layer |= {"data_type": "uint16", "scale": 0.0001, "offset": -part.scene.offset_dn / 10000}
        described = {"name": name, "common_name": spectral.name, "center_wavelength": spectral.wavelength_um}
        asset["eo:bands"] = [described]
    asset["raster:bands"] = [layer]
    return asset
