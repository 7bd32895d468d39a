"""The STAC records of the simulated radar scenes, in the form of terrain-corrected Sentinel-1 scenes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from engine.values.grid import Box
from pipelines.sample.radar import LOOKS, PIXEL_M, POLARISATIONS, RADAR_NODATA, Frame, Pass, radar_swath
from pipelines.sample.stac import NOTE, RADAR_COLLECTION, outline_of
from pipelines.sample.truth import Landscape

_EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "raster/v1.1.0", "sar/v1.0.0", "sat/v1.0.0")
)
_SLICE_S = 25


@dataclass(frozen=True)
class Slice:
    """One slice of a pass: one item.

    Attributes:
        number: 0 the northern, 1 the southern.
        one: The pass.
        frame: Its pixels.
    """

    number: int
    one: Pass
    frame: Frame

    @property
    def box(self) -> Box:
        """Its pixels at 20 m."""
        return self.frame.slices[self.number]

    @property
    def times(self) -> tuple[dt.datetime, dt.datetime]:
        """Start and end of sensing; ascending passes see the southern slice first."""
        second = self.number == (0 if self.one.orbit.state == "ascending" else 1)
        start = self.one.time + dt.timedelta(seconds=_SLICE_S * second)
        return start, start + dt.timedelta(seconds=_SLICE_S)

    @property
    def id(self) -> str:
        """Item id, which is also the folder's name, in the form of ESA's product names."""
        start, end = (f"{t:%Y%m%dT%H%M%S}" for t in self.times)
        orbit = self.one.absolute_orbit
        return f"S1A_IW_GRDH_1SDV_{start}_{end}_{orbit:06d}_{orbit + 0xA000:06X}_SIMULATED"


def make_radar_item(canvas: Landscape, part: Slice) -> dict[str, Any]:
    """Describe one slice as a STAC 1.1 item with hrefs relative to its own file."""
    footprint = outline_of(canvas, radar_swath(canvas, part.one.orbit), part.frame.grid, part.box)
    start, end = (f"{t:%Y-%m-%dT%H:%M:%S}Z" for t in part.times)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": part.id,
        "collection": RADAR_COLLECTION,
        "geometry": footprint.__geo_interface__,
        "bbox": [round(v, 7) for v in footprint.bounds],
        "properties": {
            "datetime": start,
            "start_datetime": start,
            "end_datetime": end,
            "title": f"Simulated Sentinel-1 RTC, {part.one.orbit.state}, {start[:10]}",
            "description": NOTE,
            "landweave:simulated": True,
            "platform": "sentinel-1a",
            "constellation": "sentinel-1",
            "instruments": ["c-sar"],
            "gsd": PIXEL_M,
            "proj:code": part.frame.grid.crs,
            "sar:instrument_mode": "IW",
            "sar:frequency_band": "C",
            "sar:polarizations": [p.upper() for p in POLARISATIONS],
            "sar:product_type": "RTC",
            "sar:looks_equivalent_number": LOOKS,
            "sat:orbit_state": part.one.orbit.state,
            "sat:relative_orbit": part.one.orbit.number,
            "sat:absolute_orbit": part.one.absolute_orbit,
        },
        "links": [],
        "assets": {p: _asset(part, p) for p in POLARISATIONS},
    }


def _asset(part: Slice, polarisation: str) -> dict[str, Any]:
    left, _, _, top = part.frame.grid.bounds_of_box(part.box)
    return {
        "href": f"./{polarisation}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": f"gamma nought {polarisation.upper()}, linear power, simulated",
        "roles": ["data"],
        "sar:polarizations": [polarisation.upper()],
        "proj:code": part.frame.grid.crs,
        "proj:shape": list(part.box.shape_yx),
        "proj:transform": [PIXEL_M, 0, int(left), 0, -PIXEL_M, int(top)],
        "raster:bands": [{"nodata": RADAR_NODATA, "data_type": "float32", "spatial_resolution": PIXEL_M}],
    }
