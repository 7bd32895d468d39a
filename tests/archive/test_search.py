"""Search: all sources give one table; time, footprint, clouds, collections; errors that help."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pystac
import pytest
import rustac
import shapely

from engine.archive import catalogs
from engine.archive.items import ItemTable
from engine.archive.search import parse_time, search
from engine.values.area import Area
from engine.values.errors import InputError, RetryableError
from tests.archive.samples import stac_items
from tests.conftest import require_service

NAME = "pc_s2l2a_13_35MNM_2020.geojson"
AREA = Area.from_bbox((27.0, -8.0, 27.8, -7.4))
SEASON = "2020-06-10/2020-07"


@pytest.fixture(scope="module")
def features(real_data: Path) -> list[dict[str, Any]]:
    return list(stac_items(real_data / "stac")[NAME])


@pytest.fixture(scope="module")
def expected(real_data: Path) -> ItemTable:
    return search(AREA, SEASON, real_data / "stac" / NAME)


@pytest.fixture(scope="module")
def static_catalog(features: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    catalog = pystac.Catalog("static", "a static catalogue")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pystac announces what it migrates
        items = [pystac.Item.from_dict(f) for f in features]
        for item in items:
            item.clear_links()
        child = pystac.Collection("sentinel-2-l2a", "items", pystac.Extent.from_items(items))
        child.add_items(items)
        catalog.add_child(child)
        catalog.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"


def test_a_feature_collection_against_a_plain_filter(
    features: list[dict[str, Any]], expected: ItemTable
) -> None:
    wanted = {
        f["id"]
        for f in features
        if "2020-06-10" <= f["properties"]["datetime"] < "2020-08-01"
        and shapely.geometry.shape(f["geometry"]).intersects(AREA.geometry)
    }
    assert {i.id for i in expected} == wanted
    assert len(wanted) == 11
    assert expected.time_range == (dt.date(2020, 6, 10), dt.date(2020, 7, 31))


def test_a_folder_of_items(features: list[dict[str, Any]], expected: ItemTable, tmp_path: Path) -> None:
    for index, feature in enumerate(features):
        folder = tmp_path / str(index % 3)
        folder.mkdir(exist_ok=True)
        (folder / f"{feature['id']}.json").write_text(json.dumps(feature))
    (tmp_path / "style.json").write_text(json.dumps({"type": "legend"}))  # other JSON is passed over
    found = search(AREA, SEASON, tmp_path)
    assert found == expected
    assert found.digest() == expected.digest()


def test_a_list_of_items(features: list[dict[str, Any]], expected: ItemTable, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps(features))
    assert search(AREA, SEASON, tmp_path / "items.json").digest() == expected.digest()


def test_a_static_catalogue_and_its_collection(static_catalog: Path, expected: ItemTable) -> None:
    for path in (static_catalog, static_catalog.parent / "sentinel-2-l2a" / "collection.json"):
        assert search(AREA, SEASON, path).digest() == expected.digest()


def test_a_geoparquet_file(features: list[dict[str, Any]], expected: ItemTable, tmp_path: Path) -> None:
    rustac.write_sync(str(tmp_path / "items.parquet"), features)
    assert search(AREA, SEASON, tmp_path / "items.parquet").digest() == expected.digest()


def test_our_own_table(real_data: Path, expected: ItemTable, tmp_path: Path) -> None:
    search(Area.from_bbox((20, -12, 30, 0)), "2020", real_data / "stac" / NAME).to_parquet(
        tmp_path / "i.parquet"
    )
    assert search(AREA, SEASON, tmp_path / "i.parquet").digest() == expected.digest()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on the loopback address."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.service
def test_a_static_catalogue_over_http(
    web: tuple[Path, str], static_catalog: Path, expected: ItemTable
) -> None:
    folder, url = web
    shutil.copytree(static_catalog.parent, folder, dirs_exist_ok=True)
    assert search(AREA, SEASON, f"{url}/catalog.json").digest() == expected.digest()
    with pytest.raises(InputError, match="cannot read the static catalogue"):
        search(AREA, SEASON, f"{url}/absent.json")


@pytest.fixture(scope="module")
def api(features: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start rustac's STAC API on the loopback address."""
    rustac_bin = Path(sys.executable).with_name("rustac")
    if not rustac_bin.exists():
        require_service("the rustac command", "pip install 'landweave[dev]'")
    path = tmp_path_factory.mktemp("api") / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(rustac_bin), "serve", "--create-collections", "-a", f"127.0.0.1:{port}", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}"
    try:
        _wait_for(root, process)
        yield root
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(root: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(150):
        if process.poll() is not None:
            pytest.fail(f"rustac serve ended with {process.returncode}")
        try:
            with urllib.request.urlopen(root, timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    pytest.fail("rustac serve did not answer within 30 s")


@pytest.mark.service
def test_a_stac_api(api: str, expected: ItemTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "_PAGE", 3)  # several pages
    found = search(AREA, SEASON, api, collection="sentinel-2-l2a")
    assert found == expected
    assert found.digest() == expected.digest()


@pytest.mark.service
def test_an_api_without_hits_tells_its_extent(api: str) -> None:
    with pytest.raises(InputError, match="sentinel-2-l2a covers 2020-06-01 to 2020-07-31"):
        search(AREA, "2023", api, collection="sentinel-2-l2a")


@pytest.mark.service
def test_an_outline_with_many_vertices_is_sent_simplified(api: str, expected: ItemTable) -> None:
    ragged = shapely.Point(27.4, -7.7).buffer(0.3, quad_segs=2000)
    assert (
        search(Area("round", ragged), SEASON, api, collection="sentinel-2-l2a").digest() == expected.digest()
    )
    sent = shapely.geometry.shape(catalogs._outline(Area("round", ragged)))
    assert shapely.get_num_coordinates(sent) <= 400
    assert sent.covers(ragged)


@pytest.mark.parametrize("name", ["Russia", "Canada", "Fiji", "Indonesia"])
def test_a_simplified_country_holds_the_country(name: str) -> None:
    area = Area.from_name(name)
    fine = Area(name, shapely.segmentize(area.geometry, 0.2))
    sent = shapely.geometry.shape(catalogs._outline(fine))
    assert shapely.get_num_coordinates(sent) <= 400
    assert fine.geometry.difference(sent).area < 1e-9


class _Flaky(BaseHTTPRequestHandler):
    answers: ClassVar[list[int]] = []
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        status = self.answers.pop(0) if self.answers else 200
        link = {"rel": "search", "href": f"http://{self.headers['Host']}/search", "method": "POST"}
        root = {"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "x"}
        conforms = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search")]
        root |= {"links": [link | {"type": "application/geo+json"}], "conformsTo": conforms}
        self._send(status, json.dumps(root).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(
            self.answers.pop(0) if self.answers else 200, b'{"type":"FeatureCollection","features":[]}'
        )

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(catalogs, "_BACKOFF_S", 0.001)
    _Flaky.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.service
def test_throttling_and_server_errors_are_tried_again(flaky: str) -> None:
    _Flaky.answers = [503, 429, 200, 502]
    with pytest.raises(InputError, match="no items found"):
        search(AREA, "2020", flaky, collection="c")
    assert _Flaky.asked >= 3


@pytest.mark.service
def test_a_service_that_stays_away_is_retryable_and_a_refusal_is_not(flaky: str) -> None:
    _Flaky.answers = [503] * 50
    with pytest.raises(RetryableError, match="does not answer"):
        search(AREA, "2020", flaky)
    _Flaky.answers = [200, 400]
    with pytest.raises(InputError, match="refuses the search"):
        search(AREA, "2020", flaky)
    _Flaky.answers = []


def test_nobody_there_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "_RETRIES", 0)
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:9"):
        search(AREA, "2020", "http://127.0.0.1:9")
    with pytest.raises(RetryableError, match="static catalogue"):
        search(AREA, "2020", "http://127.0.0.1:9/catalog.json")


def test_named_providers_have_an_address_and_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fake(root: str, query: catalogs.Query) -> Iterator[catalogs.Found]:
        asked.append((root, query.collection))
        return iter(())

    monkeypatch.setattr(catalogs, "_from_api", fake)
    for name in catalogs.APIS:
        list(catalogs.items_of(name, catalogs.Query(AREA, "a", "b", None)))
    assert [root for root, _ in asked] == [root for root, _ in catalogs.APIS.values()]
    assert {c for _, c in asked} == {"sentinel-2-l2a"}


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023", (2023, 1, 1), (2023, 12, 31)),
        ("2024-02", (2024, 2, 1), (2024, 2, 29)),
        ("2023-03/2023-10", (2023, 3, 1), (2023, 10, 31)),
        ("2023-05-03/2023-06-10", (2023, 5, 3), (2023, 6, 10)),
        ("2023-05-03", (2023, 5, 3), (2023, 5, 3)),
        (("2023-05", dt.date(2023, 6, 10)), (2023, 5, 1), (2023, 6, 10)),
        ((dt.datetime(2023, 5, 3, 12), "2023-06"), (2023, 5, 3), (2023, 6, 30)),
    ],
)
def test_times(text: Any, start: tuple[int, int, int], end: tuple[int, int, int]) -> None:
    assert parse_time(text) == (dt.date(*start), dt.date(*end))


@pytest.mark.parametrize("text", ["", "2023-13", "2023-02-30", "23", "a/b/c", "2023-10/2023-03", "2023//"])
def test_bad_times(text: str) -> None:
    with pytest.raises(InputError, match="time"):
        parse_time(text)


def test_the_last_day_counts_to_midnight(features: list[dict[str, Any]], tmp_path: Path) -> None:
    for moment in ("2020-07-31T23:59:59.999Z", "2020-08-01T00:00:00Z"):
        feature = features[0] | {"id": moment, "properties": features[0]["properties"] | {"datetime": moment}}
        feature["properties"].pop("s2:datatake_id", None)
        feature["properties"].pop("s2:product_uri", None)
        (tmp_path / f"{moment[:10]}.json").write_text(json.dumps(feature))
    assert [i.id for i in search(AREA, "2020-07", tmp_path)] == ["2020-07-31T23:59:59.999Z"]


def test_the_footprint_decides_and_not_its_box(features: list[dict[str, Any]], tmp_path: Path) -> None:
    triangle = {"type": "Polygon", "coordinates": [[[26, -9], [28, -9], [26, -7], [26, -9]]]}
    (tmp_path / "i.json").write_text(json.dumps(features[0] | {"geometry": triangle}))
    with pytest.raises(InputError, match="elsewhere"):
        search(
            Area.from_bbox((27.5, -7.5, 27.9, -7.1)), "2020", tmp_path
        )  # in the box, beyond the slanted edge
    assert len(search(Area.from_bbox((26.1, -8.9, 26.5, -8.5)), "2020", tmp_path)) == 1


def test_padding_reaches_further(real_data: Path) -> None:
    beside = Area.from_bbox((28.0, -8.0, 28.5, -7.5))  # the footprints end at 27.9967 east, 360 m away
    with pytest.raises(InputError):
        search(beside, "2020", real_data / "stac" / NAME)
    assert len(search(beside, "2020", real_data / "stac" / NAME, pad_m=1000)) == 13


def test_clouds(real_data: Path, features: list[dict[str, Any]]) -> None:
    path = real_data / "stac" / NAME
    covers = sorted(f["properties"]["eo:cloud_cover"] for f in features)
    assert len(search(AREA, "2020", path, max_cloud=1.0)) == sum(c <= 1.0 for c in covers)
    with pytest.raises(InputError, match="too cloudy"):
        search(AREA, "2020", path, max_cloud=-1.0)


def test_a_stricter_cloud_limit_never_brings_an_old_processing_back(
    features: list[dict[str, Any]], tmp_path: Path
) -> None:
    def version(name: str, baseline: str, cloud: float) -> dict[str, Any]:
        facts = features[0]["properties"] | {"s2:processing_baseline": baseline, "eo:cloud_cover": cloud}
        return features[0] | {"id": name, "properties": facts}

    pair = [version("old", "02.12", 5.0), version("new", "05.00", 50.0)]
    other = features[1]
    (tmp_path / "i.json").write_text(json.dumps([*pair, other]))
    assert search(AREA, "2020", tmp_path).superseded == ("old",)
    assert [i.id for i in search(AREA, "2020", tmp_path, max_cloud=40.0)] == [other["id"]]


def test_collections_do_not_mix(real_data: Path) -> None:
    world = Area.from_bbox((-180, -90, 180, 90))
    with pytest.raises(InputError, match="several collections"):
        search(world, "2019/2024", real_data / "stac" / "")
    c1 = search(world, "2019/2024", real_data / "stac", collection="sentinel-2-c1-l2a")
    assert len(c1) == 10
    with pytest.raises(InputError, match="collection nope"):
        search(world, "2019/2024", real_data / "stac", collection="nope")


def test_nothing_found_says_what_there_is(real_data: Path) -> None:
    with pytest.raises(
        InputError, match="13 items there from 2020-06-01 to 2020-07-31, the nearest on 2020-07-31"
    ):
        search(AREA, "2021", real_data / "stac" / NAME)
    with pytest.raises(InputError, match="13 items elsewhere"):
        search(Area.from_name("Luxembourg"), "2020", real_data / "stac" / NAME)


def test_bad_catalogues(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1PAR1")
    (tmp_path / "dangling.json").write_text(
        json.dumps(
            {
                "type": "Catalog",
                "id": "x",
                "description": "x",
                "stac_version": "1.0.0",
                "links": [{"rel": "item", "href": "./absent.json"}],
            }
        )
    )
    for name, text in {
        "broken.json": "cannot read a JSON file",
        "other.json": "no STAC item",
        "dangling.json": "cannot read the static catalogue",
        "nowhere": "no such catalogue",
        "broken.parquet": "cannot read",
    }.items():
        with pytest.raises(InputError, match=text):
            search(AREA, "2020", tmp_path / name)
