"""A real nginx that serves a folder with HTTP ranges, and a small backend that injects faults.

nginx asks the backend about each request. The backend lets it through (X-Accel-Redirect: nginx then sends
the bytes itself, ranges and all) or answers with the fault that is due for that file::

    GDAL ──► nginx ──► backend: fault due?  yes: 403, 404, 429, 500, cut off, or slow
                  ◄── no: X-Accel-Redirect /files/...  ──► nginx sends the range
"""

from __future__ import annotations

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
from contextlib import contextmanager
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
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if nginx is None:
        require_service("nginx", "apt install nginx-light")
    port, behind = _free_port(), _free_port()
    server = FaultyServer(f"http://127.0.0.1:{port}")
    backend = ThreadingHTTPServer(("127.0.0.1", behind), _handler(server))
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    work.mkdir(parents=True, exist_ok=True)
    config = work / "nginx.conf"
    config.write_text(_CONFIG.format(work=work, port=port, backend=behind, root=root))
    process = subprocess.Popen(
        [str(nginx), "-c", str(config), "-p", str(work)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(server.url, process, work)
        server.requests.clear()
        server.queries.clear()
        yield server
    finally:
        process.terminate()
        process.wait(10)
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


def _wait(url: str, process: subprocess.Popen[bytes], work: Path) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/none", timeout=1)
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            if process.poll() is not None:
                pytest.fail(f"nginx did not start: {(work / 'error.log').read_text()}")
            time.sleep(0.05)
    pytest.fail("nginx did not answer")
