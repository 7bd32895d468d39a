from __future__ import annotations

import pytest

from engine.archive.consistent import require_consistent
from engine.archive.warp import Raster
from engine.values.errors import DataError
from tests.archive.samples import record


def _raster(pixel: float, size: int, crs: str = "EPSG:32633", left: float = 300000.0) -> Raster:
    return Raster(crs, (pixel, 0.0, left, 0.0, -pixel, 5900040.0), (size, size), "uint16", 0)


GOOD = {
    "blue": _raster(10, 600),
    "red": _raster(10, 600),
    "swir16": _raster(20, 300),
    "scl": _raster(60, 100),
}


def test_bands_of_every_resolution_agree() -> None:
    require_consistent(record(), GOOD)
    require_consistent(record(), {})
    require_consistent(record(crs=""), {"red": _raster(10, 600, "EPSG:32632")})


@pytest.mark.parametrize("odd", [_raster(10, 300), _raster(20, 600), _raster(10, 600, left=300100.0)])
def test_the_band_that_shows_another_square_is_named(odd: Raster) -> None:
    with pytest.raises(DataError, match="another square than the other bands") as caught:
        require_consistent(record("s1"), GOOD | {"red": odd})
    assert (caught.value.item, caught.value.asset) == ("s1", "red")
    assert "band red, /data/B04.tif" in caught.value.where


def test_half_a_pixel_of_the_coarsest_band_is_no_difference() -> None:
    require_consistent(record(), GOOD | {"red": _raster(10, 600, left=300030.0)})


def test_a_file_in_another_crs_than_its_item_is_named() -> None:
    with pytest.raises(DataError, match="another CRS than its item says") as caught:
        require_consistent(record("s1"), GOOD | {"blue": _raster(10, 600, "EPSG:32632")})
    assert (caught.value.item, caught.value.asset) == ("s1", "blue")
    assert "EPSG:32632" in str(caught.value)


def test_only_tiles_of_sentinel_2_are_judged() -> None:
    require_consistent(record(tile=""), {"blue": _raster(10, 600, "EPSG:32632"), "red": _raster(10, 9)})
