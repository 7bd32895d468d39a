"""Crop calendars: the closest entry, seasons over New Year, periods for a cube."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from engine.values.errors import InputError
from engine.values.periods import spans_of
from training.calendars import CropCalendar, CropSeason

CALENDAR = CropCalendar(
    seasons=(
        CropSeason(crop="wheat", region="Fergana", start="10-10", end="06-20"),
        CropSeason(crop="wheat", start="10-01", end="07-10"),
        CropSeason(region="Fergana", start="03-01", end="11-30"),
    )
)


def test_the_closest_entry_counts() -> None:
    starts = {
        (crop, region): (s.start if (s := CALENDAR.season(crop, region)) else None)
        for crop, region in [
            ("wheat", "Fergana"),
            ("wheat", "Khorezm"),
            ("cotton", "Fergana"),
            ("cotton", None),
        ]
    }
    assert list(starts.values()) == ["10-10", "10-01", "03-01", None]


@pytest.mark.parametrize(
    ("day", "year"), [("2021-05-03", 2020), ("2021-10-09", 2021), ("2020-12-31", 2020), ("2021-08-01", 2020)]
)
def test_a_day_finds_the_nearest_season(day: str, year: int) -> None:
    span = CALENDAR.span("wheat", "Fergana", dt.date.fromisoformat(day))
    assert span == (dt.date(year, 10, 10), dt.date(year + 1, 6, 21))


def test_yaml_and_csv_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "regions: r.gpkg\nseasons:\n- {crop: wheat, region: Fergana, start: 10-10, end: 06-20}\n"
    )
    (tmp_path / "a.csv").write_text("crop,region,start,end\nwheat,Fergana,10-10,06-20\n,,03-01,10-31\n")
    from_yaml, from_csv = (CropCalendar.from_file(tmp_path / n) for n in ("a.yaml", "a.csv"))
    assert from_yaml.regions == str(tmp_path / "r.gpkg")
    assert from_csv.seasons[0] == from_yaml.seasons[0] == CALENDAR.seasons[0]
    assert from_csv.seasons[1].crop is None
    (tmp_path / "b.yaml").write_text("seasons: [{crop: wheat, start: 13-40, end: 06-20}]")
    with pytest.raises(InputError, match="not a crop calendar"):
        CropCalendar.from_file(tmp_path / "b.yaml")


def test_a_cube_follows_a_crop_through_the_regions(tmp_path: Path) -> None:
    gpd.GeoDataFrame(
        {"name": ["Fergana", "Khorezm"]},
        geometry=[shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)],
        crs=4326,
    ).to_file(tmp_path / "r.gpkg")
    calendar = CropCalendar(
        regions=str(tmp_path / "r.gpkg"),
        seasons=(
            CropSeason(crop="cotton", region="Fergana", start="04-01", end="09-30"),
            CropSeason(crop="cotton", region="Khorezm", start="04-20", end="09-10"),
        ),
    )
    periods = calendar.periods("cotton", step_days=20)
    spans = periods.spans_by_region(dt.date(2021, 1, 1), dt.date(2021, 12, 31))
    assert {name: len(s) for name, s in spans.items()} == {"Fergana": 7, "Khorezm": 7}
    assert spans["Khorezm"][0] == (dt.date(2021, 4, 20), dt.date(2021, 5, 10))
    assert len(spans_of(periods, dt.date(2021, 1, 1), dt.date(2021, 12, 31))) == 7
    with pytest.raises(InputError, match="shorter than a step"):
        calendar.periods("cotton", step_days=200)
    with pytest.raises(InputError, match="needs regions"):
        CALENDAR.periods("cotton", 10)


def test_real_fields_of_central_asia_lie_in_their_regions(real_data: Path) -> None:
    """The 6063 visits of CAWa against a calendar of cotton: April to October."""
    table = pd.read_csv(real_data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz")
    calendar = CropCalendar(seasons=(CropSeason(crop="cotton", start="04-01", end="10-31"),))
    points = gpd.GeoSeries(gpd.points_from_xy(table.longitude, table.latitude), crs=4326)
    days = pd.to_datetime(table.date, errors="coerce").to_numpy()
    first, last = calendar.seasons_at(points, table.label_1.to_numpy(), days)
    cotton = (table.label_1 == "cotton").to_numpy() & ~pd.isna(days)
    assert (pd.isna(first) == ~cotton).all()
    visited = days[cotton]
    inside = (visited >= first[cotton]) & (visited <= last[cotton])
    months = pd.Series(visited).dt.month
    assert inside.mean() == pytest.approx(months.between(4, 10).mean())
    assert inside.mean() > 0.9
