"""A real nginx that serves a folder with HTTP ranges, and a small backend that injects faults.

nginx asks the backend about each request. The backend lets it through (X-Accel-Redirect: nginx then sends
the bytes itself, ranges and all) or answers with the fault that is due for that file::

    GDAL ──► nginx ──► backend: fault due?  yes: 403, 404, 429, 500, cut off, or slow
                  ◄── no: X-Accel-Redirect /files/...  ──► nginx sends the range
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import require_service

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off; default_type application/octet-stream; sendfile on;
  client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c;
  uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; proxy_buffering off; }}
    location /files/ {{ internal; alias {root}/; }}
    location /slow/ {{ internal; alias {root}/; limit_rate 40k; }}
  }}
}}
"""


_PLAIN = """
daemon off; master_process off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log warn;
events {{ worker_connections 256; }}
http {{
  log_format traffic escape=json
    '{{"path": "$uri", "status": $status, "sent": $body_bytes_sent, "range": "$http_range"}}';
  access_log {work}/access.log traffic; default_type application/octet-stream; sendfile on;
  client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c;
  uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Sent:
    """One answer of the plain server.

    Attributes:
        path: File that was asked for.
        status: 200 whole, 206 a range, 404 not there.
        sent: Bytes of its body.
        range: Range that was asked for, empty for none.
    """

    path: str
    status: int
    sent: int
    range: str


@dataclass
class PlainServer:
    """nginx as it comes, with a folder and nothing else.

    Attributes:
        url: Root address.
        log: Where it writes what it sent.
    """

    url: str
    log: Path
    _seen: int = 0

    def sent(self) -> list[Sent]:
        """Return what was sent since the last call."""
        marker = f"/end-{self._seen}"
        with suppress(urllib.error.HTTPError):  # lines come in order: when this is there, all before it are
            urllib.request.urlopen(self.url + marker, timeout=10).close()
        for _ in range(500):
            told = [Sent(**json.loads(line)) for line in self.log.read_text().splitlines()]
            if ends := [i for i, answer in enumerate(told) if answer.path == marker]:
                new, self._seen = told[self._seen : ends[0]], ends[0] + 1
                return new
            time.sleep(0.01)
        pytest.fail("nginx wrote no log")


@contextmanager
def serve_plain(root: Path, work: Path) -> Iterator[PlainServer]:
    """Serve a folder by nginx alone."""
    port = _free_port()
    work.mkdir(parents=True, exist_ok=True)
    with _running(_PLAIN.format(work=work, port=port, root=root), work):
        server = PlainServer(f"http://127.0.0.1:{port}", work / "access.log")
        _wait(server.url, work)
        server.sent()
        yield server


@contextmanager
def _running(config: str, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx with a configuration."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if nginx is None:
        require_service("nginx", "apt install nginx-light")
    path = work / "nginx.conf"
    path.write_text(config)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([str(nginx), "-c", str(path), "-p", str(work)], **quiet)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class FaultyServer:
    """What the tests steer.

    Attributes:
        url: Root address.
        faults: Path of a file to a function of (number of this request from 1, query) that returns a status code,
            ``"cut"``, ``"slow"`` or None for no fault.
        requests: How often each file was asked for.
        queries: Query strings seen, in order.
    """

    url: str
    faults: dict[str, Callable[[int, str], int | str | None]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve(root: Path, work: Path) -> Iterator[FaultyServer]:
    """Serve a folder by nginx on a free loopback port."""
    port, behind = _free_port(), _free_port()
    server = FaultyServer(f"http://127.0.0.1:{port}")
    backend = ThreadingHTTPServer(("127.0.0.1", behind), _handler(server))
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with _running(_CONFIG.format(work=work, port=port, backend=behind, root=root), work):
            _wait(server.url, work)
            server.requests.clear()
            server.queries.clear()
            yield server
    finally:
        backend.shutdown()
        backend.server_close()


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            name = parts.path.lstrip("/")
            with server.lock:
                server.requests[name] += 1
                server.queries.append(parts.query)
                count = server.requests[name]
            fault = server.faults.get(name, lambda number, query: None)(count, parts.query)
            if isinstance(fault, int):
                self._answer(fault)
            elif fault == "cut":
                self._cut()
            else:
                place = "slow" if fault == "slow" else "files"
                self._answer(200, {"X-Accel-Redirect": f"/{place}{parts.path}"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": "0"}.items():
                self.send_header(key, value)
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()

        def _cut(self) -> None:
            """Promise the range that was asked for, send a hundred bytes of it, and hang up."""
            span = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(span[1]), int(span[2])) if span else (0, 99_999)
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {first}-{last}/{last + 1_000_000}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"\0" * 100)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait(url: str, work: Path) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{url}/none", timeout=1)
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"nginx did not answer: {(work / 'error.log').read_text()}")
