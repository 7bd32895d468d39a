"""Areas: names, files, boxes, the antimeridian, and the CRS that is chosen."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from engine.values.area import Area, to_lonlat
from engine.values.errors import InputError


@pytest.mark.parametrize("name", ["Luxembourg", "luxembourg", "LUX"])
def test_country_by_name_or_code(name: str) -> None:
    area = Area.from_name(name)
    west, south, east, north = area.bounds
    assert 5.6 < west < 5.8
    assert 49.4 < south < 49.5
    assert 6.2 < east < 6.6
    assert 50.1 < north < 50.2
    assert area.default_crs() == "EPSG:32631"


def test_a_country_keeps_the_digits_of_its_file() -> None:
    path = next(Path(pyogrio.__file__).parent.rglob("naturalearth_lowres.shp"))
    frame = pyogrio.read_dataframe(path)
    expected = frame[frame.name == "Austria"].geometry.iloc[0]
    ours = Area.from_name("Austria").geometry
    assert set(map(tuple, shapely.get_coordinates(ours))) == set(
        map(tuple, shapely.get_coordinates(expected))
    )


def test_a_miss_suggests_close_names() -> None:
    with pytest.raises(InputError, match="Germany") as caught:
        Area.from_name("Germny")
    assert caught.value.found == "Germny"


def test_no_outlines_in_this_build_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyogrio, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match="from_file"):
        Area.from_name("Luxembourg")


def test_provinces(real_data: Path) -> None:
    file = real_data / "boundaries" / "world_states_provinces.gpkg"
    bavaria = Area.from_name("Bayern, Germany", file=file)
    frame = gpd.read_file(file)
    truth = frame[(frame.name == "Bayern") & (frame.admin == "Germany")].geometry.union_all()
    assert bavaria.geometry.symmetric_difference(truth).area == 0
    assert Area.from_name("bayern, DEU", file=file).digest() == bavaria.digest()
    assert Area.from_name("Niederosterreich", file=file).bounds[0] > 14
    whole = Area.from_name("Luxembourg, Luxembourg", file=file)
    assert whole.geometry.area < Area.from_name("LUX", file=file).geometry.area  # district against country


def test_a_name_in_several_countries_is_ambiguous(real_data: Path) -> None:
    file = real_data / "boundaries" / "world_states_provinces.gpkg"
    with pytest.raises(InputError, match="Saint Andrew, Grenada"):
        Area.from_name("Saint Andrew", file=file)


def test_a_province_without_a_file_asks_for_one() -> None:
    with pytest.raises(InputError, match="pass file="):
        Area.from_name("Bayern, Germany")


def test_from_file_reprojects_and_unites(real_data: Path) -> None:
    area = Area.from_file(real_data / "boundaries" / "slovenia_utm33.geojson")
    truth = gpd.read_file(real_data / "boundaries" / "slovenia_utm33.geojson").geometry.union_all()
    back = area.to_crs("EPSG:32633")
    assert back.symmetric_difference(truth).area / truth.area < 1e-6
    assert area.name == "slovenia_utm33"
    assert area.default_crs() == "EPSG:32633"


def test_from_file_takes_layer_and_filter(real_data: Path) -> None:
    file = real_data / "boundaries" / "world_countries.gpkg"
    austria = Area.from_file(file, layer="countries", where="NAME = 'Austria'")
    assert 9.4 < austria.bounds[0] < 9.6
    for kwargs in ({"layer": "nope"}, {"where": "nope = 1"}, {"where": "NAME = 'Nowhere'"}):
        with pytest.raises(InputError):
            Area.from_file(file, **kwargs)


def test_from_file_repairs_and_drops_what_has_no_surface(tmp_path: Path) -> None:
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])  # crosses itself
    frame = gpd.GeoDataFrame(geometry=[bow, shapely.Point(5, 5)], crs="EPSG:4326")
    frame.to_file(tmp_path / "bow.gpkg")
    area = Area.from_file(tmp_path / "bow.gpkg")
    assert area.geometry.is_valid
    assert area.geometry.area == pytest.approx(2.0)
    assert area.bounds == (0, 0, 2, 2)


def test_from_file_errors(tmp_path: Path) -> None:
    gpd.GeoDataFrame(geometry=[shapely.Point(5, 5)], crs="EPSG:4326").to_file(tmp_path / "points.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(tmp_path / "bare.shp")
    (tmp_path / "bare.prj").unlink()
    for name, text in {
        "points.gpkg": "no polygon",
        "text.gpkg": "cannot read",
        "absent.gpkg": "no such file",
        "bare.shp": "no CRS",
    }.items():
        with pytest.raises(InputError, match=text):
            Area.from_file(tmp_path / name)


def test_an_outline_in_metres_taken_for_degrees_is_refused() -> None:
    with pytest.raises(InputError, match="leaves the globe"):
        Area("utm", shapely.box(300000, 5e6, 310000, 5.1e6))


@pytest.mark.parametrize(
    "bbox",
    [
        (0, 0, 0, 1),
        (0, 1, 1, 0),
        (-181, 0, 1, 1),
        (0, 0, 1, 91),
        (0, 0, 1),
        ("a", 0, 1, 1),
        (5, float("nan"), 6, 7),
    ],
)
def test_a_bad_box_is_refused(bbox: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        Area.from_bbox(bbox)  # type: ignore[arg-type]


def test_a_box_across_the_antimeridian_has_two_parts() -> None:
    area = Area.from_bbox((178.0, -20.0, -179.0, -16.0))
    assert area.crosses_antimeridian
    assert len(area.geometry.geoms) == 2
    assert area.geometry.area == pytest.approx(3 * 4)
    moved = area.to_crs(area.default_crs())
    assert area.default_crs() == "EPSG:32760"  # 178..181: one degree beyond zone 60
    assert moved.geom_type == "Polygon"  # closed again, no gap at 180 degrees
    assert moved.bounds[2] - moved.bounds[0] == pytest.approx(3 * 111_320 * np.cos(np.radians(16)), rel=0.01)


def test_russia_lies_on_both_sides() -> None:
    russia = Area.from_name("Russia")
    assert russia.crosses_antimeridian
    crs = CRS.from_user_input(russia.default_crs())
    assert "Azimuthal" in crs.coordinate_operation.method_name  # type: ignore[union-attr]
    moved = russia.to_crs(russia.default_crs())
    assert 1.5e13 < moved.area < 1.8e13  # 17.1 million km2, drawn at 1:110m


@pytest.mark.parametrize(
    ("bbox", "crs"),
    [
        ((14, 45, 16, 47), "EPSG:32633"),
        ((11.0, 45, 19.0, 47), "EPSG:32633"),  # 1 degree beyond either side
        ((10.9, 45, 19.0, 47), "EPSG:3035"),
        ((14, -30, 16, -28), "EPSG:32733"),
        ((-179.9, -30, -177, -28), "EPSG:32701"),
        ((176, -30, 180, -28), "EPSG:32760"),
    ],
)
def test_default_crs(bbox: tuple[float, float, float, float], crs: str) -> None:
    assert Area.from_bbox(bbox).default_crs() == crs


def test_default_crs_outside_europe_is_an_equal_area_one_on_whole_degrees() -> None:
    brazil = Area.from_name("Brazil")
    crs = CRS.from_user_input(brazil.default_crs())
    assert brazil.default_crs().startswith("PROJCRS")
    assert crs.is_projected
    centre = {p.name: p.value for p in crs.coordinate_operation.params}  # type: ignore[union-attr]
    assert centre["Latitude of natural origin"] == -11
    assert centre["Longitude of natural origin"] == -53
    assert brazil.to_crs(crs).area == pytest.approx(8.5e12, rel=0.02)  # 8.51 million km2


def test_edges_bend_when_moved_to_another_crs() -> None:
    area = Area.from_bbox((0.0, 50.0, 20.0, 60.0))
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform(10.0, 50.0)
    edge = area.to_crs("EPSG:3035").exterior.distance(shapely.Point(x, y))
    assert edge < 0.2  # the middle of the southern edge is on the outline, in metres


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(-70, 69),
    st.floats(0.05, 5),
    st.floats(0.05, 3),
    st.floats(0, 5000),
)
def test_padding_holds_the_area_wherever_it_is(w: float, s: float, dx: float, dy: float, pad: float) -> None:
    east = w + dx if w + dx <= 180 else w + dx - 360
    area = Area.from_bbox((w, s, east, s + dy))
    grown = area.padded(pad)
    assert area.geometry.difference(grown.geometry).area < 1e-6 * area.geometry.area
    assert grown.geometry.area < area.geometry.area + 2 * (dx + dy + 1) * (pad / 111_000 + 0.001) * 4


def test_padding_grows_by_metres() -> None:
    area = Area.from_bbox((14.0, 46.0, 14.5, 46.5))
    grown = area.padded(1000.0).to_crs("EPSG:32633").bounds
    inner = area.to_crs("EPSG:32633").bounds
    assert np.allclose(np.subtract(grown, inner), [-1000, -1000, 1000, 1000], atol=2)
    assert area.padded(0) is area
    with pytest.raises(InputError):
        area.padded(-1)


def test_a_polygon_over_the_antimeridian_in_metres_comes_back_in_parts() -> None:
    lonlat = to_lonlat(shapely.box(150_000, 7_900_000, 250_000, 8_000_000), "EPSG:32701")
    assert lonlat.bounds[0] == -180
    assert lonlat.bounds[2] == 180
    assert lonlat.geom_type == "MultiPolygon"
    assert lonlat.area == pytest.approx(100 * 100 / 111.2**2, rel=0.07)


def test_it_is_hashable_pickles_and_its_digest_is_of_the_outline() -> None:
    one, two = Area.from_bbox((5, 6, 7, 8)), Area.from_bbox((5, 6, 7, 8), name="other")
    assert hash(one) == hash(Area.from_bbox((5, 6, 7, 8)))
    assert one != two
    assert one.digest() == two.digest() != Area.from_bbox((5, 6, 7, 8.1)).digest()
    assert pickle.loads(pickle.dumps(one)) == one
    turned = Area("bbox", shapely.Polygon([(7, 8), (5, 8), (5, 6), (7, 6)]))
    assert turned.digest() == one.digest()
    assert json.dumps(one.__dask_tokenize__())
