"""Tables of series: the published ones, read whole, with their known traps; and splits of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyproj import CRS

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_sources import PolygonSource
from training.labels import rasterise
from training.leakage import measure_samples, refuse_leaks
from training.series import Columns, SeriesTable, joined, read_long, read_wide
from training.splits import TEST, TRAIN, VAL, Split
from training.stratify import count_samples, shares_of, stratified

BAHIA = ClassScheme.from_names(["Pasture", "Cropland", "Cerrado", "Cerradao"])
REGIONS = ("eastern", "sahel", "central", "south_eastern", "indian_ocean")


def _bahia(folder: Path) -> SeriesTable:
    home = folder / "cbers4_bahia"
    return read_long(
        home / "cbers4_bahia_timeseries.csv.gz", home / "cbers4_bahia_samples.csv", BAHIA, Columns()
    )


def _cawa(folder: Path, **columns: str) -> SeriesTable:
    path = folder / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz"
    scheme = ClassScheme.from_names(sorted(pd.read_csv(path).label_1.unique()))
    return read_wide(
        path, r"(?P<band>ndvi)_doy(?P<step>\d+)", scheme, Columns(label="label_1", **columns), steps="year"
    )


def test_bahia_is_read_from_its_long_table(real_data: Path) -> None:
    table = _bahia(real_data)
    assert table.counts() == {"Pasture": 205, "Cropland": 184, "Cerrado": 148, "Cerradao": 131}
    assert (table.values.shape, table.missing) == ((668, 23, 6), 0.0)
    raw = pd.read_csv(real_data / "cbers4_bahia" / "cbers4_bahia_timeseries.csv.gz")
    ids = pd.read_csv(real_data / "cbers4_bahia" / "cbers4_bahia_samples.csv").sample_id
    for i in (0, 17, 667):
        rows = raw[raw.sample_id == ids[i]].sort_values("date")
        np.testing.assert_allclose(table.band("NDVI")[i], rows.NDVI, rtol=1e-6)
        assert [str(d) for d in table.dates[i]] == list(rows.date)
    assert table.index_difference("NDVI", "BAND16", "BAND15") < 0.001


def test_bahia_lies_on_its_rasters_whose_crs_has_no_code(real_data: Path) -> None:
    """55 of the points lie on the rasters; the NDVI there is the table's."""
    import rasterio

    table = _bahia(real_data)
    path = next((real_data / "cbers4_bahia").glob("*2018-08-29*NDVI.tif"))
    with rasterio.open(path) as file:
        grid, box = Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)
        ndvi = file.read(1) / 1e4
    assert grid.crs.startswith("PROJCRS")
    with pytest.raises(InputError, match="ballpark"):  # nobody says how its datum lies to WGS 84
        rasterise(table.labels(), BAHIA, grid, box)
    # Saying that the points lie on the rasters' own datum is the way out.
    datum = CRS.from_user_input(grid.crs).geodetic_crs
    assert datum is not None
    table = replace(table, crs=datum.to_wkt())
    found = rasterise(table.labels(), BAHIA, grid, box)
    assert sum(found.counts().values()) <= 55
    assert {name for name, n in found.counts().items() if n} == {"Cropland", "Pasture"}
    xy = table.samples().on(grid.crs)
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    row = np.floor((ay - xy[:, 1]) / res_y).astype(int) - box.y0
    col = np.floor((xy[:, 0] - ax) / res_x).astype(int) - box.x0
    inside = (row >= 0) & (row < 680) & (col >= 0) & (col < 1000)
    assert inside.sum() == 55
    at = found.values[row[inside], col[inside]]
    assert np.isin(at, [0]).sum() + (at == table.value[inside]).sum() == 55
    same = np.corrcoef(ndvi[row[inside], col[inside]], table.band("NDVI")[inside, 0])[0, 1]
    assert same > 0.85


def test_the_red_of_rondonia_is_found_under_its_wrong_name(real_data: Path) -> None:
    home = real_data / "s2_rondonia"
    scheme = ClassScheme.from_names(["NonForest", "Forest", "Deforestation"])
    table = read_long(home / "s2_20LKP_timeseries.csv.gz", home / "s2_20LKP_samples.csv", scheme, Columns())
    assert table.counts() == {"NonForest": 215, "Forest": 97, "Deforestation": 24}
    assert table.index_difference("NDVI", "B08", "B07") < 0.001
    assert table.index_difference("NDVI", "B08", "B03") > 0.05
    mended = table.rename({"B07": "red", "B08": "nir"})
    assert mended.index_difference("NDVI", "nir", "red") < 0.001
    with pytest.raises(InputError, match="rename"):
        table.rename({"B07": "B08"})


def test_cawa_has_35_classes_and_its_gaps(real_data: Path) -> None:
    table = _cawa(real_data, group="region")
    raw = pd.read_csv(real_data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz")
    assert table.values.shape == (6063, 23, 1)
    assert len(table.counts()) == 35
    assert min(table.counts().values()) < 5 < 2000 < max(table.counts().values())
    assert table.missing == pytest.approx(raw.filter(like="ndvi_doy").isna().to_numpy().mean())
    assert 0.27 < table.missing < 0.29
    assert str(table.dates[0, 1]) == f"{raw.year[0]}-01-17"
    np.testing.assert_array_equal(table.years(), raw.year)


def test_cawa_is_split_by_year_and_place_without_leaks(real_data: Path) -> None:
    table = _cawa(real_data, group="region")
    samples, grid = table.samples(), Grid.make("EPSG:32642", 30)
    years = Split(by="years", assigned={"2018": "test"})
    parts = years.parts_of(samples)
    assert (parts == TEST).sum() == (samples.year == 2018).sum() > 0
    refuse_leaks(measure_samples(parts, samples, grid.crs, table.values), years)
    blocks = Split(block_px=100, buffer_px=10, val=0.2, test=0.2).on(grid)
    blocks = stratified(blocks, counts := count_samples(blocks, samples))
    leakage = measure_samples(blocks.parts_of(samples), samples, grid.crs, table.values)
    assert min(leakage.distance.values()) > 300
    refuse_leaks(leakage, blocks)
    cotton = {c.name: c.value for c in table.classes.classes}["cotton"]
    assert shares_of(blocks, counts)["test"][cotton] == pytest.approx(0.2, abs=0.03)


def test_a_draw_by_sample_leaks_where_fields_lie_close(real_data: Path) -> None:
    """What most people do: a fifth of the samples at random. Fields 30 m apart land on both sides."""
    table = _cawa(real_data, group="region")
    samples, grid = table.samples(), Grid.make("EPSG:32642", 30)
    parts = np.where(np.random.default_rng(0).random(len(table)) < 0.2, VAL, TRAIN).astype(np.uint8)
    leakage = measure_samples(parts, samples, grid.crs, table.values)
    assert leakage.distance["train-val"] < 100
    with pytest.raises(InputError, match="too close"):
        refuse_leaks(leakage, Split(block_px=100, buffer_px=10).on(grid))


def test_africa_leaves_one_region_out(real_data: Path) -> None:
    scheme = ClassScheme(
        classes=(
            LandClass(value=1, name="crop", colour="#aa0000"),
            LandClass(value=2, name="other", colour="#00aa00", codes=(0,)),
        )
    )
    tables = [
        read_wide(
            real_data / "deafrica_cropmask" / f"{region}_training_data.txt.gz",
            r"(?P<band>\w+?)_S(?P<step>[12])",
            scheme,
            Columns(label="Class", x=None, y=None),
            steps={"1": "2019-04-01", "2": "2019-10-01"},
        )
        for region in REGIONS
    ]
    assert [len(t) for t in tables] == [4444, 6153, 3509, 4177, 1777]
    table = joined(tables)
    assert len(table) == 20_060
    assert len(table.bands) == 16
    for name, alone in zip(sorted(set(table.group)), sorted(REGIONS), strict=True):
        split = Split(by="groups", assigned={name: "test"}, buffer_px=0)
        parts = split.parts_of(table.samples())
        assert (parts == TEST).sum() == len(tables[REGIONS.index(alone)])
        leakage = measure_samples(parts, table.samples(), "EPSG:6933", table.values)
        assert (leakage.groups, leakage.distance) == ({"train-test": 0}, {})
        refuse_leaks(leakage, split)


def test_worldcereal_is_mapped_by_codes(real_data: Path) -> None:
    path = real_data / "worldcereal" / "public_extractions.parquet"
    scheme = ClassScheme(
        classes=(
            LandClass(value=1, name="cereals", colour="#aa0000", codes=(1101060000, 1101070000)),
            LandClass(value=2, name="roots", colour="#00aa00", codes=("1105010010",)),
        )
    )
    table = read_wide(
        path,
        r"OPTICAL-(?P<band>B\w+)-ts(?P<step>\d+)-\d+m",
        scheme,
        Columns(label="ewoc_code", x="lon", y="lat", group="ref_id"),
        steps="start_date+months",
        missing=65535,
    )
    raw = pd.read_parquet(path)
    codes = raw.ewoc_code.astype(str)
    assert table.counts() == {"cereals": int(codes.isin(["1101060000", "1101070000"]).sum()), "roots": 12}
    assert sum(table.left_out.values()) == 361 - len(table)
    kept = raw[codes.isin(["1101060000", "1101070000", "1105010010"])]
    expected = kept["OPTICAL-B08-ts11-10m"].replace(65535, np.nan).to_numpy(np.float32)
    np.testing.assert_array_equal(table.band("B08")[:, 11], expected)
    assert table.values.shape[1:] == (12, 10)
    first = pd.to_datetime(kept.start_date).dt.strftime("%Y-%m-01")
    assert [str(d) for d in table.dates[:, 0]] == list(first)


def test_a_table_of_points_is_a_source_of_labels(real_data: Path) -> None:
    table = _bahia(real_data)
    source = PolygonSource(
        real_data / "cbers4_bahia" / "cbers4_bahia_samples.csv", "label", xy=("longitude", "latitude")
    )
    grid = Grid.make("EPSG:32723", 1000)
    x, y = table.samples().on(grid.crs).T
    box = grid.box_of_bounds((x.min(), y.min(), x.max(), y.max())).pad(1)
    box = Box(*(int(v) for v in (box.y0, box.x0, box.y1, box.x1)))
    by_file, by_table = rasterise(source, BAHIA, grid, box), rasterise(table.labels(), BAHIA, grid, box)
    np.testing.assert_array_equal(by_file.values, by_table.values)
    assert sum(by_file.counts().values()) > 500


def test_values_outside_a_season_are_blanked(real_data: Path) -> None:
    table = _bahia(real_data).during(dt.date(2018, 11, 1), dt.date(2019, 2, 28))
    there = np.isfinite(table.values).all(axis=2)
    days = table.dates
    np.testing.assert_array_equal(
        there, (days >= np.datetime64("2018-11-01")) & (days <= np.datetime64("2019-02-28"))
    )


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("sample_id,label,longitude,latitude\na,Pasture,1,2\n")
    (tmp_path / "v.csv").write_text("sample_id,date,ndvi\na,2020-01-01,0.3\na,2020-01-01,0.4\n")
    with pytest.raises(InputError, match="several rows of one date"):
        read_long(tmp_path / "v.csv", tmp_path / "s.csv", BAHIA, Columns())
    with pytest.raises(InputError, match="no column is named"):
        read_wide(tmp_path / "s.csv", "(?P<band>evi)", BAHIA, Columns())
    with pytest.raises(InputError, match="lacks columns"):
        read_wide(tmp_path / "s.csv", "(?P<band>longitude)", BAHIA, Columns(label="crop"))
    with pytest.raises(InputError, match="cannot read"):
        read_wide(tmp_path / "gone.csv", "(?P<band>evi)", BAHIA, Columns())
