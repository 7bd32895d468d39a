"""A signature that expires during a run: the read signs anew and goes on, a bounded number of times."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import planetary_computer
import pytest
from planetary_computer import sas

from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.reader import OdcReader
from engine.archive.stackstac_reader import StackstacReader
from engine.values.errors import DataError, RetryableError
from engine.values.grid import Box, Grid
from tests.archive.conformance import UTM, ground, make_cog
from tests.archive.samples import record

ACCOUNT = "https://made.blob.core.windows.net"
BOX = Box(-590004, 30000, -590004 + 400, 30000 + 500)
OPTIONS = (
    ("GDAL_HTTP_MAX_RETRY", "0"), ("GDAL_INGESTED_BYTES_AT_OPEN", "16384"), ("CPL_VSIL_CURL_CHUNK_SIZE", "16384"),
    ("GDAL_HTTP_MERGE_CONSECUTIVE_RANGES", "NO"),
)  # fmt: skip


class Storage:
    """A storage that takes the newest token only, and the service that hands tokens out."""

    def __init__(self, body: bytes) -> None:
        self.body, self.newest, self.taken = body, "sig=T1", 10**9
        self.stuck = False
        self.asked: Counter[str] = Counter()

    def token(self) -> str:
        self.asked["token"] += 1
        return "sig=OLD" if self.stuck else self.newest

    def takes(self, query: str) -> bool:
        """Whether a request is answered; after `taken` of them the token expires."""
        self.asked["range"] += 1
        self.taken -= 1
        if self.taken == 0:
            self.newest = "sig=T2"
        return parse_qs(query).get("sig") == parse_qs(self.newest)["sig"]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    values = ground((500, 500))
    found = Storage(Path(make_cog(tmp_path / "b.tif", values)).read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlparse(self.path)
            if url.path.startswith("/token"):
                end = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
                body = json.dumps({"token": found.token(), "msft:expiry": end.isoformat()}).encode()
                self._send(200, body)
            elif not found.takes(url.query):
                self._send(403, b"expired")
            elif "Range" not in self.headers:
                self._send(200, found.body)
            else:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                part = found.body[int(first) : int(last or len(found.body)) + 1]
                self._send(206, part, f"bytes {first}-{int(first) + len(part) - 1}/{len(found.body)}")

        def _send(self, status: int, body: bytes, content_range: str = "") -> None:
            self.send_response(status)
            if content_range:
                self.send_header("Content-Range", content_range)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base, real = f"http://127.0.0.1:{server.server_port}", sas.sign_url
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{base}/token")
    sas.Settings.get.cache_clear()
    monkeypatch.setattr(sas, "TOKEN_CACHE", {})
    # the package itself signs and keeps tokens; the storage's name alone leads here
    monkeypatch.setattr(planetary_computer, "sign_url", lambda href: real(href).replace(ACCOUNT, base))
    yield found
    sas.Settings.get.cache_clear()
    server.shutdown()
    server.server_close()


def item(name: str) -> ItemRecord:
    return record(
        "signed", provider="planetary-computer", assets=(AssetRecord("red", f"{ACCOUNT}/c/{name}", 0.0),)
    )


READERS = (OdcReader(OPTIONS), StackstacReader(OPTIONS))


@pytest.mark.service
@pytest.mark.parametrize("reader", READERS, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_read_goes_on_after_its_token_expired(storage: Storage, reader: Any, after: int) -> None:
    truth = ground((500, 500))[:400]
    name = f"{type(reader).__name__}{after}.tif"
    assert np.array_equal(reader.read(item(name), ["red"], Grid.make(UTM, 10), BOX)[0], truth)
    before = storage.asked["token"]
    assert storage.asked["range"] == 3  # size, header, pixels: refused at each of them in turn
    storage.taken = after
    name = f"{type(reader).__name__}{after}again.tif"
    assert np.array_equal(reader.read(item(name), ["red"], Grid.make(UTM, 10), BOX)[0], truth)
    assert storage.newest == "sig=T2"
    assert storage.asked["token"] == before + 1


@pytest.mark.service
def test_threads_share_a_new_token(storage: Storage) -> None:
    truth = ground((500, 500))[:400]
    reader, grid = OdcReader(OPTIONS), Grid.make(UTM, 10)
    reader.read(item("first.tif"), ["red"], grid, BOX)
    storage.newest = "sig=T2"
    with ThreadPoolExecutor(6) as pool:
        reads = pool.map(lambda n: reader.read(item(f"thread{n}.tif"), ["red"], grid, BOX)[0], range(6))
        assert all(np.array_equal(got, truth) for got in reads)
    assert storage.asked["token"] == 2


@pytest.mark.service
def test_a_storage_that_refuses_for_good_is_asked_three_times_at_most(storage: Storage) -> None:
    storage.newest, storage.stuck = "sig=NOBODY", True
    with pytest.raises(DataError, match=r"item signed, band red.*403") as caught:
        OdcReader(OPTIONS).read(item("refused.tif"), ["red"], Grid.make(UTM, 10), BOX)
    assert "OLD" not in str(caught.value)
    assert storage.asked["token"] <= 3
    assert storage.asked["range"] <= 6


@pytest.mark.service
def test_a_busy_storage_costs_no_token(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, grid = OdcReader(OPTIONS), Grid.make(UTM, 10)
    monkeypatch.setattr(planetary_computer, "sign_url", lambda href: f"http://127.0.0.1:9/{href[-5:]}?sig=T1")
    with pytest.raises(RetryableError):
        reader.read(item("busy.tif"), ["red"], grid, BOX)
    assert storage.asked["token"] == 0
