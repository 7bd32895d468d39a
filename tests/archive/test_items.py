"""ItemTable: order, hash, GeoParquet, search by box and time, superseded items."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.archive.footprints import box_outline, cut_footprint
from engine.archive.items import AssetRecord, ItemTable, drop_superseded, is_item_table
from engine.archive.stac import from_stac
from engine.values.errors import InputError
from tests.archive.samples import at, record, stac_items

YEAR = (dt.date(2023, 1, 1), dt.date(2023, 12, 31))


@pytest.fixture(scope="module")
def all_real(real_data: Path) -> ItemTable:
    records = [
        r for name, items in stac_items(real_data / "stac").items() for r in from_stac(items, f"/stac/{name}")
    ]
    return ItemTable(tuple(dict.fromkeys(records)), YEAR, ("gone",))


@pytest.fixture(scope="module")
def colorado(real_data: Path) -> ItemTable:
    import rustac

    found = rustac.read_sync(str(real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"))["features"]
    kept, dropped = drop_superseded(from_stac(found))
    return ItemTable(tuple(kept), (dt.date(2024, 1, 1), dt.date(2024, 12, 31)), dropped)


def test_order_of_input_does_not_matter() -> None:
    items = [record("b"), record("a"), record("c", datetime=dt.datetime(2023, 1, 1, tzinfo=dt.UTC))]
    one, two = ItemTable(tuple(items), YEAR), ItemTable(tuple(reversed(items)), YEAR)
    assert [i.id for i in one] == ["c", "a", "b"]
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest() == two.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "z"},
        {"assets": (AssetRecord("blue", "/data/other.tif", 0.0),)},
        {"baseline": "05.10"},
        {"offset_applied": True},
        {"crs": "EPSG:32632"},
        {"geometry_wkb": at(13, 52, 14, 54)},
    ],
)
def test_what_decides_a_pixel_is_in_the_digest(change: dict[str, object]) -> None:
    assert ItemTable((record(),), YEAR).digest() != ItemTable((record(**change),), YEAR).digest()


def test_superseded_ids_are_not_in_the_digest_but_the_time_range_is() -> None:
    table = ItemTable((record(),), YEAR)
    assert table.digest() == ItemTable((record(),), YEAR, ("old",)).digest()
    assert table.digest() != ItemTable((record(),), (YEAR[0], dt.date(2024, 1, 1))).digest()


def test_the_digest_of_a_fixed_record_stays() -> None:
    """A change here makes every finished tile of every run stale: raise TABLE_FORMAT with it."""
    assert record().digest() == "30eada70c39ee559caf1536d47043ece764556b34dc2a66d153d8c1ee76cb407"


def test_parquet_round_trip_is_exact(all_real: ItemTable, tmp_path: Path) -> None:
    all_real.to_parquet(tmp_path / "items.parquet")
    back = ItemTable.from_parquet(tmp_path / "items.parquet")
    assert back == all_real
    assert back.digest() == all_real.digest()
    assert back.superseded == ("gone",)
    assert back.time_range == YEAR
    assert is_item_table(tmp_path / "items.parquet")


def test_an_empty_table_round_trips(tmp_path: Path) -> None:
    ItemTable((), YEAR).to_parquet(tmp_path / "none.parquet")
    assert ItemTable.from_parquet(tmp_path / "none.parquet") == ItemTable((), YEAR)


def test_geopandas_reads_it_as_geoparquet(all_real: ItemTable, tmp_path: Path) -> None:
    all_real.to_parquet(tmp_path / "items.parquet")
    frame = gpd.read_parquet(tmp_path / "items.parquet")
    assert frame.crs.equals("OGC:CRS84")
    assert list(frame["id"]) == [i.id for i in all_real]
    assert all(a.equals(b.geometry) for a, b in zip(frame.geometry, all_real, strict=True))


def test_other_parquet_files_are_refused(real_data: Path, tmp_path: Path) -> None:
    foreign = real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"
    assert not is_item_table(foreign)
    with pytest.raises(InputError, match="not an item table"):
        ItemTable.from_parquet(foreign)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("broken.parquet", "absent.parquet"):
        with pytest.raises(InputError, match="cannot read"):
            ItemTable.from_parquet(tmp_path / name)


def test_pickle_leaves_the_tree_behind(colorado: ItemTable) -> None:
    before = len(pickle.dumps(colorado))
    colorado.in_bounds((500000, 4500000, 510000, 4510000), "EPSG:32613")
    assert "_index" in vars(colorado)
    assert len(pickle.dumps(colorado)) == before
    assert pickle.loads(pickle.dumps(colorado)) == colorado == copy.deepcopy(colorado)


def test_thousand_items(colorado: ItemTable) -> None:
    assert len(colorado) == 1000
    assert len({i.tile for i in colorado}) == 54
    assert len({i.datatake for i in colorado}) == 51
    # 13 pairs share tile and datatake: two datastrips of different parts of the tile, none is superseded
    assert len({(i.tile, i.datatake) for i in colorado}) == 987
    assert colorado.superseded == ()


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-110.5, -101), st.floats(35.5, 42), st.floats(0.001, 1.5), st.sampled_from([32613, 5070, 4326])
)
def test_in_bounds_against_brute_force(
    colorado: ItemTable, x: float, y: float, size: float, epsg: int
) -> None:
    west, south, east, north = Transformer.from_crs(4326, epsg, always_xy=True).transform_bounds(
        x, y, x + size, y + size
    )
    found = {i.id for i in colorado.in_bounds((west, south, east, north), epsg)}
    # oracle: the footprints moved to the box's CRS, and the box there
    move = Transformer.from_crs(4326, epsg, always_xy=True)
    box = shapely.box(west, south, east, north)
    touching, near = set(), set()
    for item in colorado:
        shape = shapely.transform(
            shapely.segmentize(item.geometry, 0.05),
            lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])),
        )
        distance = shape.distance(box) * (111_000 if epsg == 4326 else 1)
        touching |= {item.id} if distance == 0 else set()
        near |= {item.id} if distance < 8000 else set()
    assert touching <= found <= near


def _one_by_one(table: ItemTable, bounds: tuple[float, float, float, float], crs: str) -> list[str]:
    """Look at each footprint on its own, at the place where it is and a whole turn to each side."""
    outline = box_outline(bounds, crs)
    around = [shapely.transform(outline, lambda xy, t=t: xy + np.array([t, 0])) for t in (-360.0, 0.0, 360.0)]
    shapes = [shapely.make_valid(cut_footprint(item.geometry)) for item in table]
    pairs = zip(table, shapes, strict=True)
    return [item.id for item, shape in pairs if any(shape.intersects(o) for o in around)]


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([("EPSG:32701", 180.0, -17.0), ("EPSG:32660", 179.0, 60.0), ("EPSG:5070", -96.0, 40.0)])
    | st.sampled_from([("EPSG:4326", 11.0, 48.0), ("EPSG:3413", 170.0, 84.0), ("EPSG:2154", 3.0, 47.0)]),
)
def test_in_bounds_equals_a_look_at_each(seed: int, place: tuple[str, float, float]) -> None:
    """Footprints of all three ways to cross the antimeridian, several items with one footprint."""
    rng, (crs, lon, lat) = np.random.default_rng(seed), place
    footprints = []
    for x, y in rng.uniform(-4, 4, (25, 2)) + np.array([lon, lat]):
        ring = np.array([[x, y], [x + 1.4, y + 0.1], [x + 1.3, y + 1], [x - 0.1, y + 0.9]])
        ring[:, 0] += rng.choice([0.0, 0.0, -360.0]) if x > 175 else 0.0
        if rng.random() < 0.3 and abs(x) > 175:
            ring[:, 0] = (ring[:, 0] + 180) % 360 - 180
        footprints.append(shapely.to_wkb(shapely.make_valid(shapely.Polygon(ring))))
    days = rng.integers(0, 300, 60)
    table = ItemTable(
        tuple(
            record(
                f"i{n}",
                geometry_wkb=footprints[rng.integers(len(footprints))],
                datetime=dt.datetime(2023, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=int(day)),
            )
            for n, day in enumerate(days)
        ),
        YEAR,
        ("gone",),
    )
    move = Transformer.from_crs(4326, crs, always_xy=True)
    for size in (1e-4, 0.2) if crs == "EPSG:4326" else (10.0, 25_000.0):
        x, y = move.transform(lon + rng.uniform(-3, 3), lat + rng.uniform(-3, 3))
        bounds = (x, y, x + size, y + size)
        part = table.in_bounds(bounds, crs)
        assert [i.id for i in part] == _one_by_one(table, bounds, crs)
        assert part == ItemTable(tuple(reversed(part.items)), YEAR, ("gone",))


def test_in_bounds_across_the_antimeridian() -> None:
    east, west = (
        record("east", geometry_wkb=at(179, -17, 180, -16)),
        record("west", geometry_wkb=at(-180, -17, -179, -16)),
    )
    wide = record(
        "wide",
        geometry_wkb=shapely.to_wkb(
            shapely.Polygon([(179.5, -17), (-179.5, -17), (-179.5, -16), (179.5, -16)])
        ),
    )
    far = record("far", geometry_wkb=at(0, -17, 1, -16))
    table = ItemTable((east, west, wide, far), YEAR)
    to_utm = Transformer.from_crs(4326, 32701, always_xy=True)

    def ids(lon: float) -> set[str]:
        x, y = to_utm.transform(lon, -16.5)
        return {i.id for i in table.in_bounds((x - 500, y - 500, x + 500, y + 500), "EPSG:32701")}

    assert ids(180.0) == {"east", "west", "wide"}
    assert ids(-179.2) == {"west"}
    assert ids(179.2) == {"east"}
    assert ids(-179.8) == {"west", "wide"}


def test_real_items_over_the_antimeridian_are_found(real_data: Path) -> None:
    name = "stactools_01WCP_20230625_antimeridian.json"
    (item,) = from_stac(stac_items(real_data / "stac")[name], "/stac/item.json")
    table = ItemTable((item,), YEAR)
    for part in shapely.get_parts(item.geometry):
        x, y = Transformer.from_crs(4326, 32601, always_xy=True).transform(
            *part.representative_point().coords[0]
        )
        assert len(table.in_bounds((x, y, x + 10, y + 10), "EPSG:32601")) == 1
    assert len(table.in_bounds((0, 0, 10, 10), "EPSG:32633")) == 0


def test_in_time_is_half_open() -> None:
    days = [dt.datetime(2023, 5, d, 23, 59, tzinfo=dt.UTC) for d in (1, 2, 3)]
    table = ItemTable(tuple(record(str(d.day), datetime=d) for d in days), YEAR)
    part = table.in_time(dt.date(2023, 5, 1), dt.date(2023, 5, 3))
    assert [i.id for i in part] == ["1", "2"]
    assert part.time_range == (dt.date(2023, 5, 1), dt.date(2023, 5, 2))


def test_a_missing_band_is_named() -> None:
    with pytest.raises(InputError, match="item a, band nir"):
        record().asset("nir")


def test_the_newest_processing_wins_whatever_the_order() -> None:
    old = record("old", baseline="02.14", generated="20200101000000")
    new = record("new", baseline="05.00", generated="20230101000000")
    newer = record("newer", baseline="05.00", generated="20230601000000")
    for order in ([old, new, newer], [newer, new, old], [new, newer, old]):
        kept, dropped = drop_superseded(order)
        assert [k.id for k in kept] == ["newer"]
        assert dropped == ("new", "old")


def test_a_baseline_is_compared_as_numbers_and_none_is_oldest() -> None:
    kept, _ = drop_superseded(
        [record("a", baseline="05.10"), record("b", baseline="05.09"), record("c", baseline=None)]
    )
    assert [k.id for k in kept] == ["a"]


@pytest.mark.parametrize(
    "change",
    [{"tile": "33UVU"}, {"datatake": "GS2B_20230501T101601_041000"}, {"datastrip": "20230501T102000"}],
)
def test_other_pixels_are_not_superseded(change: dict[str, str]) -> None:
    kept, dropped = drop_superseded([record("a"), record("b", **change)])
    assert len(kept) == 2
    assert dropped == ()


def test_records_that_cannot_be_compared_stay_and_equal_ones_are_one() -> None:
    bare = {"tile": "", "datatake": ""}
    kept, dropped = drop_superseded([record("a", **bare), record("b", **bare), record("a", **bare)])
    assert [k.id for k in kept] == ["a", "b"]
    assert dropped == ()
