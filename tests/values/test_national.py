"""A country's own CRS is its default where it needs more than one UTM zone."""

from __future__ import annotations

import pytest

from engine.archive.warp import require_transform
from engine.values.area import Area
from engine.values.national import countries, national_crs


@pytest.mark.parametrize(
    ("name", "crs"),
    [
        ("Austria", "EPSG:3416"),
        ("Germany", "EPSG:25832"),
        ("Poland", "EPSG:2180"),
        ("Norway", "EPSG:25833"),
        ("Luxembourg", "EPSG:32631"),  # one zone: no warp
        ("Slovenia", "EPSG:32633"),
    ],
)
def test_a_country_by_name_takes_its_own_crs(name: str, crs: str) -> None:
    if name == "Norway":  # with Svalbard and Bouvet it reaches beyond the use of its CRS
        area = Area("Norway", Area.from_bbox((5.0, 58.0, 31.0, 71.0)).geometry, "NOR")
    else:
        area = Area.from_name(name)
    assert area.default_crs() == crs


def test_overseas_parts_or_an_unknown_country_fall_back() -> None:
    france = Area.from_name("France")  # with French Guiana
    assert france.country == "FRA"
    assert france.default_crs().startswith("PROJCRS")
    assert Area.from_bbox((9.5, 46.4, 17.1, 49.0)).default_crs() == "EPSG:3035"


@pytest.mark.parametrize("country", sorted(countries()))
def test_every_national_crs_is_reached_without_a_grid_file(country: str) -> None:
    from pyproj import CRS

    from engine.values import national

    code = national._CODES[country]
    west, south, east, north = national._OWN_USE.get(country) or CRS.from_epsg(code).area_of_use.bounds
    lon, lat = (west + east) / 2, (south + north) / 2
    assert national_crs(country, (lon - 1, lat - 1, lon + 1, lat + 1)) == f"EPSG:{code}"
    assert CRS.from_epsg(code).is_projected
    for zone in {int((x + 180) // 6) + 1 for x in (west, lon, east)}:
        require_transform(f"EPSG:{(32600 if lat > 0 else 32700) + zone}", f"EPSG:{code}")


def test_a_province_knows_its_country(real_data: object) -> None:
    area = Area.from_name("Tirol, Austria", file=f"{real_data}/boundaries/world_states_provinces.gpkg")
    assert area.country == "AUT"
