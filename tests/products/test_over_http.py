"""What a run publishes, read by others over HTTP from nginx with nothing behind it: no server of ours.

GDAL (rasterio's and Debian's), xarray, rioxarray, pystac, pystac-client and rio-tiler get an address and find
dtype, CRS, classes and pixels by themselves; the access log says how little they had to fetch.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac_client
import pytest
import rasterio
import rioxarray  # noqa: F401 (gives xarray its .rio)
import xarray as xr
import zarr
from numpy.typing import NDArray
from rasterio.windows import Window
from rio_tiler.io import Reader, STACReader

from engine.products.legends import write_styles
from engine.products.map_product import MapProduct
from engine.products.mosaic import MosaicOptions, write_mosaic
from engine.products.overviews import build_overviews
from engine.products.stac import write_stac
from engine.products.styles import colour_table
from engine.store.layout import create
from engine.store.storespec import StoreSpec, Variable
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid
from tests.conftest import require_service
from tests.products.stac_rules import validate
from tests.services.nginx import PlainServer, serve_plain

pytestmark = [
    pytest.mark.service,
    pytest.mark.filterwarnings("ignore::pystac_client.warnings.PystacClientWarning"),  # files, not a server
]

SCHEME = ClassScheme.from_names(["winter wheat", "maize", "water"])
GRID, CELL_PX = Grid("EPSG:32633", (10.0, 10.0)), 1024


@dataclass(frozen=True)
class Site:
    """A published run: what it holds, where it lies, and who serves it."""

    web: PlainServer
    home: Path
    box: Box
    label: NDArray[np.uint8]

    def url(self, path: str) -> str:
        return f"{self.web.url}/{path}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(3)
    label = rng.integers(1, 4, (1536, 2048)).astype(np.uint8)  # noise: files that do not get small
    label[:64] = 0
    layers = {"label": label, "confidence": rng.integers(0, 251, label.shape).astype(np.uint8)}
    box = _write_store(home / "refined.zarr", layers)
    build_overviews(str(home / "refined.zarr"))
    cells = MosaicOptions(cell_px=CELL_PX, joined=True)
    mosaics = [
        write_mosaic(str(home / "refined.zarr"), home / "cog", n, scheme=SCHEME, options=cells)
        for n in layers
    ]
    one = write_mosaic(str(home / "refined.zarr"), home / "one", "label", scheme=SCHEME)
    assert (one.vrt, len(mosaics[0].cells)) == (None, 4)
    files = write_styles(home / "cog", SCHEME)
    product = MapProduct(
        *("land", "Land 2023", GRID, box, SCHEME, dt.date(2023, 3, 1), dt.date(2023, 10, 31)),
        files={**files, "zarr": home / "refined.zarr"},
        mosaics=tuple(mosaics),
    )
    write_stac(home / "stac", product)
    with serve_plain(home, tmp_path_factory.mktemp("nginx")) as web:
        yield Site(web, home, box, label)


def _write_store(path: Path, layers: dict[str, NDArray[np.uint8]]) -> Box:
    """Write a store as a run does."""
    y0, x0 = -490 * CELL_PX, 49 * CELL_PX
    box = Box(y0, x0, y0 + 1536, x0 + 2048)
    variables = (
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255),
    )
    create(str(path), StoreSpec(GRID, box, 512, variables, chunk_px=128))
    root = zarr.open_group(str(path), mode="r+")
    for name, values in layers.items():
        root[name][...] = values
    return box


def test_a_window_of_a_cog_costs_a_small_part_of_it(site: Site) -> None:
    site.web.sent()
    with rasterio.open(site.url("one/label.tif")) as source:
        found = source.read(1, window=Window(600, 900, 200, 150))
        assert (source.dtypes, source.nodata, source.crs.to_epsg()) == (("uint8",), 0, 32633)
        assert source.overviews(1) != []
    np.testing.assert_array_equal(found, site.label[900:1050, 600:800])
    sent = [s for s in site.web.sent() if s.path == "/one/label.tif"]
    whole = (site.home / "one/label.tif").stat().st_size
    assert whole > 900_000
    assert {s.status for s in sent if s.sent} == {206}
    print("COG", sum(s.sent for s in sent), whole, sent)
    assert sum(s.sent for s in sent) < 0.2 * whole


def test_a_look_from_afar_costs_the_overview_alone(site: Site) -> None:
    site.web.sent()
    with rasterio.open(site.url("cog/label.vrt")) as source:
        far = source.read(1, out_shape=(source.height // 16, source.width // 16))
    assert set(np.unique(far)) <= {0, 1, 2, 3}
    sent = site.web.sent()
    print("VRT", [(x.path, x.status, x.sent) for x in sent])
    cells = sum(p.stat().st_size for p in (site.home / "cog/label").glob("r*.tif"))
    assert sum(s.sent for s in sent if s.path.endswith(".tif")) < 0.2 * cells


@pytest.mark.parametrize("path", ["one/label.tif", "cog/label.vrt"])
def test_debians_gdal_opens_it(site: Site, path: str, tmp_path: Path) -> None:
    gdalinfo = shutil.which("gdalinfo", path="/usr/bin") or require_service(
        "gdalinfo", "apt install gdal-bin"
    )
    address = f"/vsicurl/{site.url(path)}"
    told = json.loads(
        subprocess.run([gdalinfo, "-json", address], check=True, capture_output=True, timeout=60).stdout
    )
    (band,) = told["bands"]
    assert told["coordinateSystem"]["wkt"].rstrip("]").endswith('ID["EPSG",32633')
    assert (band["type"], band["noDataValue"], band["colorInterpretation"]) == ("Byte", 0, "Palette")
    table = band["colorTable"]["entries"]
    assert {value: tuple(table[value]) for value in range(4)} == colour_table(SCHEME)
    assert len(band["overviews"]) >= 2
    text = subprocess.run([gdalinfo, address], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "winter wheat" in text
    translate = ["gdal_translate", "-q", "-srcwin", "1000", "1000", "100", "60"]
    subprocess.run([*translate, address, str(tmp_path / "a.tif")], check=True, timeout=60)
    with rasterio.open(tmp_path / "a.tif") as cut:
        np.testing.assert_array_equal(cut.read(1), site.label[1000:1060, 1000:1100])


def test_xarray_opens_the_zarr_with_no_help(site: Site) -> None:
    pytest.importorskip("aiohttp")
    site.web.sent()
    opened = xr.open_zarr(site.url("refined.zarr"))
    assert (opened["label"].dtype, opened["confidence"].dtype) == (np.dtype("uint8"), np.dtype("uint8"))
    assert opened.rio.crs.to_epsg() == 32633
    first = site.web.sent()
    assert {s.path for s in first if s.status == 200} >= {"/refined.zarr/zarr.json"}
    assert len(first) < 12  # metadata comes in one piece; x and y are read for the index
    window = opened["label"].isel(y=slice(700, 900), x=slice(1000, 1100)).values
    np.testing.assert_array_equal(window, site.label[700:900, 1000:1100])
    assert sum(s.sent for s in site.web.sent()) < 400_000
    levels = [g for g in (site.home / "refined.zarr/overviews").iterdir() if g.is_dir()]
    level = min(levels, key=lambda g: int(g.name))
    coarse = xr.open_zarr(site.url(f"refined.zarr/overviews/{level.name}"))
    assert coarse["label"].shape == tuple(-(-n // int(level.name)) for n in site.label.shape)
    assert coarse.rio.crs.to_epsg() == 32633
    with xr.open_zarr(site.home / f"refined.zarr/overviews/{level.name}") as here:
        np.testing.assert_array_equal(coarse["label"].values, here["label"].values)


def test_the_catalogue_is_followed_from_its_address_to_the_pixels(site: Site) -> None:
    client = pystac_client.Client.open(site.url("stac/catalog.json"))
    (collection,) = client.get_collections()
    items = list(client.get_items(recursive=True))
    assert len(items) == 4
    assert [c["name"] for c in collection.summaries.to_dict()["classification:classes"]][1:] == [
        *("winter_wheat", "maize", "water"),
    ]
    found = np.zeros_like(site.label)
    for item in items:
        asset = item.assets["label"]
        href = asset.get_absolute_href() or ""
        assert href.startswith(site.web.url)
        with rasterio.open(href) as source:
            assert list(source.shape) == item.properties["proj:shape"]
            assert list(source.transform)[:6] == item.properties["proj:transform"]
            assert source.crs.to_string() == item.properties["proj:code"]
            left, top = source.transform * (0.5, 0.5)
            row, col = _place(site, left, top)
            found[row : row + source.height, col : col + source.width] = source.read(1)[
                : 1536 - row, : 2048 - col
            ]
    np.testing.assert_array_equal(found, site.label)
    with urllib.request.urlopen(href, timeout=10) as answer:
        digest = hashlib.sha256(answer.read()).hexdigest()
    assert asset.extra_fields["file:checksum"] == "1220" + digest
    assert client.get_self_href() == site.url("stac/catalog.json")
    for known in (
        "style",
        "style-sld",
        "style-txt",
        "legend",
        "legend-json",
        "classes",
        "label",
        "label-overview",
    ):
        with urllib.request.urlopen(collection.assets[known].get_absolute_href() or "", timeout=10) as answer:
            assert len(answer.read()) == collection.assets[known].extra_fields["file:size"]
    for document in (read_json(site.url(f"stac/{name}")) for name in ("catalog.json", "collection.json")):
        validate(document)
    catalog = pystac.Catalog.from_file(site.url("stac/catalog.json"))
    assert {i.id for i in catalog.get_items(recursive=True)} == {i.id for i in items}


def _place(site: Site, x: float, y: float) -> tuple[int, int]:
    """Return row and column of a coordinate in the map's own array."""
    left, _, _, top = GRID.bounds_of_box(site.box)
    return int((top - y) // 10), int((x - left) // 10)


def read_json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.parametrize("path", ["one/label.tif", "cog/label.vrt"])
def test_rio_tiler_serves_tiles_of_it(site: Site, path: str) -> None:
    with Reader(site.url(path)) as reader:
        info = reader.info()
        assert info.colormap is not None
        assert {v: info.colormap[v] for v in (1, 2, 3)} == {v: colour_table(SCHEME)[v] for v in (1, 2, 3)}
        left, bottom, right, top = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
        lon, lat = (left + right) / 2, (bottom + top) / 2
        tile = reader.tile(*reader.tms.tile(lon, lat, 14), 14)
        assert set(np.unique(tile.data[:, tile.mask > 0])) <= {1, 2, 3}
        assert tile.render(img_format="PNG", colormap=info.colormap)[:4] == b"\x89PNG"
        west, _, _, north = GRID.bounds_of_box(site.box)
        point = reader.point(west + 10_000 + 5, north - 8_000 - 5, coord_crs="EPSG:32633")
        assert point.data[0] == site.label[800, 1000]


@pytest.mark.filterwarnings("ignore:Some statistics data in STAC")  # said of items that have none
def test_rio_tiler_serves_tiles_of_an_item(site: Site) -> None:
    item = next(iter(pystac.Catalog.from_file(site.url("stac/catalog.json")).get_items(recursive=True)))
    with STACReader(item.get_self_href() or "") as reader:
        west, south, east, north = item.bbox or ()
        tile = reader.tms.tile((west + east) / 2, (south + north) / 2, 14)
        image = reader.tile(tile.x, tile.y, 14, assets=["label"])
        assert set(np.unique(image.data[:, image.mask > 0])) <= {1, 2, 3}
        assert (image.mask > 0).any()
