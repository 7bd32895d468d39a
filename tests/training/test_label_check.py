"""The check: every kind of problem is counted, named and mended; and real files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from training.calendars import CropCalendar, CropSeason
from training.label_check import CheckOptions, check_labels, write_labels
from training.label_sources import PolygonSource, read_labels

CRS = "EPSG:32633"
OPTIONS = CheckOptions(CRS, season=(dt.date(2021, 3, 1), dt.date(2021, 10, 31)))
SCHEME = ClassScheme.from_names(["wheat", "maize"])


def _square(x: float, y: float, side: float = 100) -> shapely.Polygon:
    return shapely.box(400_000 + x, 5_000_000 + y, 400_000 + x + side, 5_000_000 + y + side)


def _write(
    folder: Path, rows: list[tuple[str | None, shapely.Geometry, str, str]], crs: str = CRS
) -> PolygonSource:
    crops, shapes, first, last = zip(*rows, strict=True)
    frame = gpd.GeoDataFrame({"crop": crops, "from": first, "to": last}, geometry=list(shapes), crs=CRS)
    frame.to_crs(crs).to_file(folder / "fields.gpkg")
    return PolygonSource(folder / "fields.gpkg", "crop", start_column="from", end_column="to")


def _all_wrong() -> list[tuple[str | None, shapely.Geometry, str, str]]:
    bow_tie = shapely.Polygon(
        [(400_000, 5_001_000), (400_100, 5_001_100), (400_100, 5_001_000), (400_000, 5_001_100)]
    )
    year = ("2021-01-01", "2021-12-31")
    return [
        ("wheat", _square(0, 0), *year),
        ("maize", _square(60, 0), *year),  # overlaps the first by 40 x 100 m
        ("wheat", _square(0, 300), *year),
        ("wheat", _square(50, 300), *year),  # overlaps one of its own class
        ("wheat", _square(500, 0), *year),
        ("wheat", _square(500, 0), *year),  # the same again
        ("maize", _square(800, 0), *year),
        ("wheat", _square(800, 0), *year),  # the same outline, another class
        ("hops", _square(1100, 0), *year),
        (None, _square(1400, 0), *year),
        ("wheat", bow_tie, *year),
        ("wheat", shapely.box(400_000, 5_002_000, 400_400, 5_002_003), *year),  # 3 m wide
        ("wheat", _square(1700, 0, 8), *year),  # 64 m2
        ("wheat", _square(2000, 0), "2019-03-01", "2019-09-01"),
        ("wheat", _square(2300, 0), "2021-09-01", "2021-03-01"),
        ("wheat", shapely.Polygon(), *year),
    ]  # fmt: skip


def test_each_problem_is_counted_named_and_mended(tmp_path: Path) -> None:
    labels, report = check_labels(_write(tmp_path, _all_wrong()), SCHEME, OPTIONS)
    assert {p.kind: p.count for p in report.problems} == {
        "no geometry": 1,
        "unknown class": 2,
        "invalid geometry": 1,
        "sliver": 2,
        "end before start": 1,
        "outside the season": 1,
        "one outline, several classes": 2,
        "duplicate": 1,
        "overlap of one class": 1,
        "overlap of different classes": 1,
    }
    told = {p.kind: p for p in report.problems}
    assert told["unknown class"].examples == ("hops x 1", "None x 1")
    assert told["overlap of different classes"].area_m2 == pytest.approx(4000)
    assert told["overlap of different classes"].examples == ("1+2",)
    assert (report.features, report.kept) == (16, 6)
    assert labels.counts() == report.classes == {"wheat": 5, "maize": 1}
    area = labels.frame.geometry.area
    assert sorted(area.round()) == [5000, 6000, 6000, 10_000, 10_000, 10_000]
    assert report.area_ha["maize"] == pytest.approx(0.6)
    assert shapely.is_valid(labels.frame.geometry.to_numpy()).all()


def test_the_mended_file_is_a_clean_source(tmp_path: Path) -> None:
    labels, report = check_labels(_write(tmp_path, _all_wrong(), "EPSG:4326"), SCHEME, OPTIONS)
    for name in ("mended.gpkg", "mended.parquet"):
        write_labels(tmp_path / name, labels, report)
        source = PolygonSource(
            tmp_path / name, "class", weight_column="weight", start_column="start", end_column="end"
        )
        again, clean = check_labels(source, SCHEME, OPTIONS)
        assert [p.kind for p in clean.problems] in ([], ["overlap of one class"])
        assert again.counts() == labels.counts()
        assert list(again.frame["start"]) == list(labels.frame["start"])
        assert len(read_labels(source, SCHEME)) == len(labels)
    assert json.loads((tmp_path / "mended.json").read_text())["kept"] == 6
    with pytest.raises(InputError, match="GeoParquet"):
        write_labels(tmp_path / "mended.shp", labels, report)


def test_a_feature_that_others_cover_is_left_out(tmp_path: Path) -> None:
    rows = [
        ("wheat", _square(0, 0, 50), "2021", "2021"),
        ("maize", _square(-10, -10), "2021", "2021"),
    ]
    labels, report = check_labels(_write(tmp_path, rows), SCHEME, OPTIONS)
    assert report.count("nothing left without overlaps") == 1
    assert labels.frame.geometry.area.tolist() == [pytest.approx(7500)]


def test_a_year_means_all_of_it(tmp_path: Path) -> None:
    rows = [("wheat", _square(0, 0), "2021", "2021"), ("wheat", _square(300, 0), "2020-11", "2021-02")]
    labels, report = check_labels(_write(tmp_path, rows), SCHEME, OPTIONS)
    assert str(labels.frame["end"].iloc[0])[:10] == "2021-12-31"
    assert report.count("outside the season") == 1  # it ends on 28 February


def test_a_remap_to_nothing_is_told_apart_from_an_unknown_class(tmp_path: Path) -> None:
    source = _write(
        tmp_path, [("hops", _square(0, 0), "2021", "2021"), ("W", _square(300, 0), "2021", "2021")]
    )
    mapped = PolygonSource(source.path, "crop", remap={"hops": None, "W": "wheat"})
    labels, report = check_labels(mapped, SCHEME, OPTIONS)
    assert [(p.kind, p.examples) for p in report.problems] == [("remapped to nothing", ("hops x 1",))]
    assert labels.counts() == {"wheat": 1, "maize": 0}
    assert len(read_labels(mapped, SCHEME)) == 1
    with pytest.raises(InputError, match="no class of the scheme"):
        check_labels(PolygonSource(source.path, "crop", remap={"W": "rye"}), SCHEME, OPTIONS)


def test_the_inner_buffer_tells_what_it_takes_away(tmp_path: Path) -> None:
    source = _write(
        tmp_path, [("wheat", _square(0, 0, 30), "2021", "2021"), ("maize", _square(300, 0), "2021", "2021")]
    )
    _, report = check_labels(PolygonSource(source.path, "crop", inner_buffer_m=16), SCHEME, OPTIONS)
    assert report.count("lost in the inner buffer") == 1


def test_a_calendar_has_its_own_season_for_each_region_and_crop(tmp_path: Path) -> None:
    regions = gpd.GeoDataFrame(
        {"name": ["west", "east"]}, geometry=[_square(0, 0, 1000), _square(1000, 0, 1000)], crs=CRS
    )
    regions.to_file(tmp_path / "regions.gpkg")
    calendar = CropCalendar(
        regions=str(tmp_path / "regions.gpkg"),
        seasons=(
            CropSeason(region="west", crop="wheat", start="10-01", end="06-30"),
            CropSeason(region="east", crop="wheat", start="04-01", end="09-15"),
        ),
    )
    day = ("2021-08-01", "2021-08-01")
    rows = [
        ("wheat", _square(100, 100), *day),
        ("wheat", _square(1100, 100), *day),
        ("maize", _square(100, 400), *day),
    ]
    labels, report = check_labels(_write(tmp_path, rows), SCHEME, CheckOptions(CRS, calendar=calendar))
    assert report.count("outside the season") == 1  # the western one
    assert labels.counts() == {"wheat": 1, "maize": 1}


def test_real_reference_polygons(real_data: Path) -> None:
    """30 polygons of the Havel lakes, read as they were published."""
    classes = ClassScheme(
        classes=(
            LandClass(value=1, name="water", colour="#0000ff"),
            LandClass(value=2, name="forest", colour="#00ff00"),
        )
    )
    source = PolygonSource(real_data / "s2_l1c_33UUU" / "s2l1c_ref.gpkg", "cid")
    labels, report = check_labels(source, classes, CheckOptions(CRS))
    assert report.features == 30
    raw = gpd.read_file(source.path)
    assert report.classes == {"water": int((raw.cid == 1).sum()), "forest": int((raw.cid == 2).sum())}
    assert sum(report.area_ha.values()) == pytest.approx(raw.area.sum() / 1e4, rel=1e-6)
    assert len(labels) == 30


def test_real_points_of_portugal_show_their_noise(real_data: Path) -> None:
    """Labels of an older land cover map: 5757 points, 12 classes."""
    path = real_data / "s2_ndvi_portugal" / "samples_cos2015.gpkg"
    raw = gpd.read_file(path)
    scheme = ClassScheme.from_names(sorted(raw.CLASS_NAME.unique())[:-1])
    labels, report = check_labels(PolygonSource(path, "CLASS_NAME"), scheme, CheckOptions("EPSG:32629"))
    left_out = sorted(raw.CLASS_NAME.unique())[-1] == raw.CLASS_NAME
    assert report.count("unknown class") == int(left_out.sum())
    known = raw[~left_out]
    places = known.geometry.to_wkb()
    kinds = known.CLASS_NAME.groupby(places).transform("nunique")
    assert report.count("one outline, several classes") == int((kinds > 1).sum())
    assert len(labels) == len(known[kinds == 1].drop_duplicates(["CLASS_NAME", "geometry"]))
