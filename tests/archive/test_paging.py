"""Paging against a STAC API that throttles, fails and refuses large pages: the items of a quiet one."""

from __future__ import annotations

import copy
import datetime as dt
import email.utils
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.archive import catalogs
from engine.archive.paging import Answer, Ask, Patience, walk
from engine.archive.search import search
from engine.values.area import Area
from engine.values.errors import InputError, RetryableError
from tests.archive.samples import stac_items

WORLD = Area.from_bbox((20.0, -12.0, 30.0, 0.0))


@dataclass
class Api:
    """A STAC API over some items, with faults on request.

    `largest`: pages of more items get `refusal`. `faults`: popped first, (status, headers) or "cut".
    `style`: how the next link tells the position: token, page (numbered) or get (a token in a GET link).
    """

    items: list[dict[str, Any]]
    largest: int = 10_000
    refusal: int = 504
    style: str = "token"
    faults: list[Any] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    def page(self, host: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        limit = int(body["limit"])
        self.limits.append(limit)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            return *fault, None
        if limit > self.largest:
            return self.refusal, {}, None
        start = (int(body["page"]) - 1) * limit if "page" in body else int(body.get("token", 0))
        page = {"type": "FeatureCollection", "features": self.items[start : start + limit], "links": []}
        if start + limit < len(self.items):
            page["links"].append(self._next(host, body, start, limit))
        return 200, {}, page

    def _next(self, host: str, body: dict[str, Any], start: int, limit: int) -> dict[str, Any]:
        link = {"rel": "next", "href": f"http://{host}/search", "method": "POST", "merge": True}
        if self.style == "page":
            return link | {"body": {"page": start // limit + 2}}
        if self.style == "get":
            return {"rel": "next", "href": f"/search?token={start + limit}&limit={limit}"}
        return link | {"body": {"token": start + limit}}


@pytest.fixture
def api(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Api, str]]:
    monkeypatch.setattr(catalogs, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(catalogs, "_PAGE", 16)
    feature = stac_items(real_data / "stac")["pc_s2l2a_13_35MNM_2020.geojson"]
    items = [copy.deepcopy(feature[i % 13]) for i in range(39)]
    for index, item in enumerate(items):  # 39 acquisitions of their own
        item["id"] = f"item-{index:02}"
        for key in ("s2:datatake_id", "s2:product_uri"):
            item["properties"][key] = f"{key}-{index:02}"
    service = Api(items)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/search"):
                query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                return self._send(*service.page(self.headers["Host"], query))
            link = {"rel": "search", "href": f"http://{self.headers['Host']}/search", "method": "POST"}
            conforms = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search")]
            root = {"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "x"}
            links = [link | {"type": "application/geo+json"}]
            return self._send(200, {}, root | {"links": links, "conformsTo": conforms})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*service.page(self.headers["Host"], body))

        def _send(self, status: int, headers: dict[str, str], document: Any) -> None:
            text = json.dumps(document).encode()
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(text))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield service, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def found(url: str) -> list[str]:
    return [i.id for i in search(WORLD, "2020", url, collection="sentinel-2-l2a")]


EVERYTHING = {f"item-{i:02}" for i in range(39)}


@pytest.mark.parametrize("style", ["token", "page", "get"])
@pytest.mark.parametrize("refusal", [504, 413, 500, 502])
def test_large_pages_are_asked_for_in_halves(api: tuple[Api, str], style: str, refusal: int) -> None:
    service, url = api
    service.style = style
    quiet = found(url)
    assert set(quiet) == EVERYTHING
    assert len(quiet) == 39
    service.largest, service.refusal, service.limits = 5, refusal, []
    assert found(url) == quiet
    assert service.limits[0] == 16
    assert set(service.limits) == {16, 8, 4}
    assert service.limits.index(4) == (2 if refusal == 413 else 4)  # a refusal needs no second try


@pytest.mark.parametrize("style", ["token", "page", "get"])
def test_a_page_in_the_middle_becomes_too_large(api: tuple[Api, str], style: str) -> None:
    service, url = api
    service.style = style
    service.faults = [None, (504, {}), (504, {}), None, (504, {}), (504, {})]
    assert sorted(found(url)) == sorted(EVERYTHING)
    assert service.limits[:7] == [16, 16, 16, 8, 8, 8, 4]  # the first page, then each size and its second try


def test_throttling_with_retry_after_and_passing_errors(api: tuple[Api, str]) -> None:
    service, url = api
    soon = email.utils.format_datetime(dt.datetime.now(dt.UTC), usegmt=True)
    half = (200, {"Content-Length": "7"})
    service.faults = [(429, {"Retry-After": "0"}), (500, {}), None, (503, {"Retry-After": soon}), half, None]
    assert set(found(url)) == EVERYTHING
    assert set(service.limits) == {16}  # none of these says that the page is too large


def test_a_refusal_is_final_and_says_why(api: tuple[Api, str]) -> None:
    service, url = api
    service.faults = [None, (400, {})]
    with pytest.raises(InputError, match=r"refuses the search.*400"):
        found(url)
    assert len(service.limits) == 2


def test_a_service_that_answers_nothing_is_given_up(api: tuple[Api, str]) -> None:
    service, url = api
    service.largest = 0
    with pytest.raises(RetryableError, match=r"does not answer.*504.*6 retries"):
        found(url)
    assert service.limits.count(1) == 7


def test_waits_follow_the_service_and_else_grow() -> None:
    waits: list[float] = []
    answers = iter(
        [Answer(429, retry_after="7"), Answer(503), Answer(503), Answer(200, {"features": [{"id": "a"}]})]
    )
    patience = Patience(sleep=waits.append)
    assert [i["id"] for i in walk(lambda ask: next(answers), Ask("POST", "http://h/s"), 9, patience)] == ["a"]
    assert waits == [7.0, 1.0, 2.0]


def test_a_next_link_to_itself_ends() -> None:
    page = {"features": [{"id": "a"}], "links": [{"rel": "next", "href": "http://h/s", "method": "POST"}]}
    assert len(list(walk(lambda ask: Answer(200, page), Ask("POST", "http://h/s", {"limit": 3}), 3))) == 1
