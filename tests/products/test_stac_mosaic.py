"""A mosaic as a collection with an item for each cell: valid, complete, and the same after it was moved."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pystac
import pystac_client
import pytest
import shapely
from shapely.geometry import shape

from engine.products.footprints import RowCuts, footprint_of
from engine.products.map_product import MapProduct, ModelRef, Provider, Terms
from engine.products.mosaic_files import Mosaic, MosaicCell
from engine.products.stac import write_stac
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid, TileKey
from tests.products.stac_rules import validate

GRID, CELL = Grid("EPSG:32633", (10.0, 10.0)), 1000
BOX = Box(-550_500, 50_200, -548_300, 52_100)  # 3 x 3 cells, the outer ones cut
HOLE = TileKey(-550, 51)  # a cell without data has no file


def make_mosaic(home: Path, variable: str, *, without: tuple[TileKey, ...] = (HOLE,)) -> Mosaic:
    """Write files that stand for the cells of a variable."""
    (home / "cog" / variable).mkdir(parents=True, exist_ok=True)
    cells = []
    for key in (TileKey(r, c) for r in (-551, -550, -549) for c in (50, 51, 52)):
        if key not in without:
            path = home / "cog" / variable / f"{key}.tif"
            path.write_bytes(f"{variable} {key}".encode())
            cells.append(MosaicCell(key, key.box(CELL) & BOX, path))
    vrt, overview = home / f"cog/{variable}.vrt", home / f"cog/{variable}/overview.tif"
    for path in (vrt, overview):
        path.write_text(variable)
    return Mosaic(variable, GRID, BOX, tuple(cells), vrt, overview)


@pytest.fixture
def product(tmp_path: Path) -> MapProduct:
    home = tmp_path / "run"
    mosaics = (make_mosaic(home, "label"), make_mosaic(home, "confidence"))
    (home / "refined.zarr").mkdir()
    for name in ("quicklook.png", "legend.png"):
        (home / name).write_bytes(b"png")
    (home / "cog/label.qml").write_text("<qgis/>")
    return MapProduct(
        id="land",
        title="Land 2023",
        grid=GRID,
        box=BOX,
        scheme=ClassScheme.from_names(["wheat", "maize"]),
        start=dt.date(2023, 3, 1),
        end=dt.date(2023, 10, 31),
        files={
            "quicklook": home / "quicklook.png",
            "legend": home / "legend.png",
            "style": home / "cog/label.qml",
            "zarr": home / "refined.zarr",
        },
        mosaics=mosaics,
        model=ModelRef("unet-small", str(home / "bundle/manifest.json"), "ab" * 32),
        sources=(str(home / "items.parquet"),),
        raw=str(home / "map.zarr"),
        steps=("mmu 0.5 ha", "majority 3 x 3"),
        terms=Terms(
            "CC-BY-4.0",
            "https://creativecommons.org/licenses/by/4.0/",
            (
                Provider("Institute", ("licensor",)),
                Provider("Agency", ("producer", "host"), "https://a.example"),
            ),
            "Contains modified Copernicus Sentinel data 2023.",
        ),
        version="0.1.0",
    )


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_each_cell_with_data_is_an_item_and_all_is_valid(product: MapProduct, tmp_path: Path) -> None:
    stac = tmp_path / "run/stac"
    assert write_stac(stac, product) == stac / "collection.json"
    documents = read(stac)
    cells = [f"r{r}_c{c}" for r in (-551, -550, -549) for c in (50, 51, 52) if (r, c) != (-550, 51)]
    assert set(documents) == {"catalog.json", "collection.json", *(f"land_{cell}.json" for cell in cells)}
    for document in documents.values():
        validate(document)
    item = documents["land_r-551_c52.json"]
    assert item["properties"]["proj:shape"] == [500, 100]  # cut by the mosaic's box
    assert item["properties"]["proj:transform"] == [10.0, 0.0, 520_000.0, 0.0, -10.0, 5_505_000.0]
    assert item["properties"]["proj:code"] == "EPSG:32633"
    assert set(item["assets"]) == {"label", "confidence"}
    assert item["assets"]["label"]["href"] == "../cog/label/r-551_c52.tif"
    lineage = item["properties"]["processing:lineage"]
    assert lineage.endswith("refined: mmu 0.5 ha, then majority 3 x 3")
    derived = {known["href"]: known.get("title") for known in item["links"] if known["rel"] == "derived_from"}
    assert derived == {
        "../items.parquet": None,
        "../map.zarr": "The map before refinement",
        "../bundle/manifest.json": "unet-small",
    }


def test_the_collection_sums_up_its_items(product: MapProduct, tmp_path: Path) -> None:
    write_stac(tmp_path / "run/stac", product)
    documents = read(tmp_path / "run/stac")
    collection = documents.pop("collection.json")
    documents.pop("catalog.json")
    items = list(documents.values())
    assert collection["summaries"]["proj:code"] == sorted({i["properties"]["proj:code"] for i in items})
    assert collection["summaries"]["gsd"] == sorted({i["properties"]["gsd"] for i in items}) == [10.0]
    assert collection["summaries"]["classification:classes"] == [
        {"value": 0, "name": "no_data", "title": "no data", "nodata": True},
        {
            "value": 1,
            "name": "wheat",
            "title": "wheat",
            "color_hint": product.scheme.classes[0].colour[1:].upper(),
        },
        {
            "value": 2,
            "name": "maize",
            "title": "maize",
            "color_hint": product.scheme.classes[1].colour[1:].upper(),
        },
    ]
    for key, expected in collection["item_assets"].items():
        for item in items:
            kept = {k: v for k, v in item["assets"][key].items() if not k.startswith(("file:", "href"))}
            assert kept == expected
    assert set(collection["assets"]) == {
        *("label", "confidence", "label-overview", "confidence-overview"),
        *("quicklook", "legend", "style", "zarr"),
    }
    assert collection["assets"]["label"]["href"] == "../cog/label.vrt"
    assert collection["assets"]["legend"]["roles"] == ["metadata", "legend"]
    west, south, east, north = collection["extent"]["spatial"]["bbox"][0]
    for item in items:
        w, s, e, n = item["bbox"]
        assert west - 1e-6 <= w < e <= east + 1e-6
        assert south - 1e-6 <= s < n <= north + 1e-6
    assert collection["license"] == "CC-BY-4.0"
    assert [known["href"] for known in collection["links"] if known["rel"] == "license"] == [
        "https://creativecommons.org/licenses/by/4.0/"
    ]
    institute, agency = collection["providers"]
    assert institute == {"name": "Institute", "roles": ["licensor"]}
    assert (agency["url"], agency["processing:software"]) == ("https://a.example", {"landweave": "0.1.0"})
    assert "Contains modified Copernicus Sentinel data 2023." in collection["description"]


@pytest.mark.filterwarnings("ignore::pystac_client.warnings.PystacClientWarning")  # files, not a server
def test_a_moved_folder_is_read_from_its_root(product: MapProduct, tmp_path: Path) -> None:
    write_stac(tmp_path / "run/stac", product)
    before = read(tmp_path / "run/stac")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert not any(str(tmp_path) in json.dumps(document) for document in before.values())
    client = pystac_client.Client.open(str(tmp_path / "elsewhere/stac/catalog.json"))
    items = {item.id: item for item in client.get_items(recursive=True)}
    assert len(items) == 8
    for item in items.values():
        for asset in item.assets.values():
            path = Path(asset.get_absolute_href() or "")
            assert path.is_file()
            assert asset.extra_fields["file:size"] == path.stat().st_size
    (collection,) = client.get_collections()
    assert collection.id == "land-collection"
    assert {item.collection_id for item in items.values()} == {"land-collection"}
    catalog = pystac.Catalog.from_file(str(tmp_path / "elsewhere/stac/catalog.json"))
    assert [len(list(found)) for _, _, found in catalog.walk()] == [0, 8]


def test_items_of_cells_that_are_gone_go_too(product: MapProduct, tmp_path: Path) -> None:
    stac = tmp_path / "run/stac"
    write_stac(stac, product)
    (stac / "mine.json").write_text("{}")
    gone = (HOLE, TileKey(-551, 50))
    mosaics = tuple(make_mosaic(tmp_path / "run", m.variable, without=gone) for m in product.mosaics)
    write_stac(stac, replace(product, mosaics=mosaics))
    assert "land_r-551_c50.json" not in read(stac)
    assert len(read(stac)) == 7 + 3  # with the file that was not ours
    one = replace(mosaics[0], cells=mosaics[0].cells[:1], vrt=None, overview=None)
    assert write_stac(stac, replace(product, mosaics=(one,))) == stac / "land.json"
    assert set(read(stac)) == {"catalog.json", "collection.json", "land.json", "mine.json"}
    assert read(stac)["land.json"]["assets"]["label"]["href"] == "../cog/label/r-551_c51.tif"


def test_a_mosaic_that_cannot_be_described_is_refused(product: MapProduct, tmp_path: Path) -> None:
    empty = tuple(replace(m, cells=()) for m in product.mosaics)
    with pytest.raises(InputError, match="no file"):
        write_stac(tmp_path / "stac", replace(product, mosaics=empty))
    product.mosaics[1].cells[3].path.unlink()
    with pytest.raises(InputError, match="missing"):
        write_stac(tmp_path / "stac", product)
    assert not (tmp_path / "stac").exists()


def test_footprints_of_the_cells_cover_the_outline_once(product: MapProduct) -> None:
    whole = footprint_of(GRID, BOX)
    middle = shape(whole.geometry).centroid
    outline = middle.buffer(0.08).union(shapely.affinity.translate(middle, 0.11, 0.01).buffer(0.01))
    cells = [key.box(CELL) & BOX for key in (TileKey(r, c) for r in (-551, -550, -549) for c in (50, 51, 52))]
    parts = [shape(footprint_of(GRID, cell, outline).geometry) for cell in cells]
    inside = [p for p in parts if p.within(outline.buffer(1e-9))]
    assert shapely.union_all(inside).symmetric_difference(outline).area < 1e-6 * outline.area
    assert sum(p.area for p in inside) == pytest.approx(outline.area, rel=1e-6)
    assert all(p.exterior.is_ccw for part in parts for p in shapely.get_parts(part).tolist())


def test_cutting_row_by_row_gives_the_same_footprints() -> None:
    middle = shape(footprint_of(GRID, BOX).geometry).centroid
    outline = middle.buffer(0.06).difference(middle.buffer(0.02))
    keys = [TileKey(r, c) for r in (-551, -550, -549) for c in (50, 51, 52)]
    cuts = RowCuts(GRID, BOX, outline)
    for key in [*keys, keys[4], keys[0], TileKey(-500, 50)]:  # the last one lies far outside
        box = key.box(CELL)
        cut, direct = cuts.footprint(box), footprint_of(GRID, box, outline)
        assert shape(cut.geometry).symmetric_difference(shape(direct.geometry)).area < 1e-12
        assert cut.bbox == pytest.approx(direct.bbox, abs=1e-9)
    bow = shapely.Polygon([(14.9, 49.6), (15.1, 49.7), (15.1, 49.6), (14.9, 49.7)])  # crosses itself
    assert shape(RowCuts(GRID, BOX, bow).footprint(keys[0].box(CELL) & BOX).geometry).is_valid


@pytest.mark.parametrize("outline", [None, shapely.box(-180, -90, 180, 90)])
def test_a_box_across_the_antimeridian_is_cut_there(outline: Any) -> None:
    grid = Grid("EPSG:32760", (100.0, 100.0))  # UTM zone 60 south: 180 degrees east is its eastern edge
    place = footprint_of(grid, Box(-81_000, 7_000, -80_000, 9_000), outline)
    parts = shapely.get_parts(shape(place.geometry)).tolist()
    assert [p.bounds[2] == 180 or p.bounds[0] == -180 for p in parts] == [True, True]
    west, south, east, north = place.bbox
    assert 178 < west < 180
    assert -180 < east < -178
    assert (round(south), round(north)) == (-18, -17)
    assert abs(place.centre_lonlat[0]) > 178
    assert sum(p.area for p in parts) < 4
