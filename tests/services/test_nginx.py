"""The faulty server is itself looked at: ranges are right, faults are those that were asked for."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.nginx import FaultyServer, Sent, serve, serve_plain

pytestmark = pytest.mark.service


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(bytes(range(256)) * 40)
    with serve(tmp_path / "files", tmp_path / "nginx") as running:
        yield running


def _get(url: str, span: str = "") -> bytes:
    request = urllib.request.Request(url, headers={"Range": span} if span else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def test_ranges_are_served_and_counted(server: FaultyServer) -> None:
    assert _get(f"{server.url}/a.bin?sig=1", "bytes=300-303") == bytes([44, 45, 46, 47])
    assert len(_get(f"{server.url}/a.bin")) == 10240
    assert server.requests["a.bin"] == 2
    assert server.queries == ["sig=1", ""]


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_a_status_comes_as_often_as_asked(server: FaultyServer, status: int) -> None:
    server.faults["a.bin"] = lambda number, query: status if number <= 2 else None
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError) as refused:
            _get(f"{server.url}/a.bin")
        with refused.value as answer:
            assert answer.code == status
    assert len(_get(f"{server.url}/a.bin")) == 10240


def test_a_transfer_is_cut_off(server: FaultyServer) -> None:
    server.faults["a.bin"] = lambda number, query: "cut"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        _get(f"{server.url}/a.bin", "bytes=0-5000")


def test_the_plain_server_tells_what_it_sent(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(bytes(1000))
    with serve_plain(tmp_path / "files", tmp_path / "nginx") as plain:
        assert _get(f"{plain.url}/a.bin", "bytes=0-9") == bytes(10)
        assert plain.sent() == [Sent("/a.bin", 206, 10, "bytes=0-9")]
        assert len(_get(f"{plain.url}/a.bin")) == 1000
        assert plain.sent() == [Sent("/a.bin", 200, 1000, "")]
        assert plain.sent() == []
