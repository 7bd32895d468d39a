"""A real dask-gateway server with its proxy, on free loopback ports; its clusters are processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.services.require import require_service

_CONFIG = """
from dask_gateway_server.options import Integer, Options
from pathlib import Path

c.DaskGateway.address = "127.0.0.1:{private}"
c.Proxy.address = "127.0.0.1:{port}"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "{password}"
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"  # no user switch
c.UnsafeLocalBackend.clusters_directory = "{work}/clusters"
c.UnsafeLocalBackend.sigint_timeout = 3
c.UnsafeLocalBackend.cluster_heartbeat_timeout = 300  # a machine that is busy with other tests is slow
c.UnsafeLocalBackend.cluster_start_timeout = 300
c.UnsafeLocalBackend.worker_start_timeout = 300
c.UnsafeLocalBackend.check_timeouts_period = 20
c.ClusterConfig.scheduler_cmd = ["{python}", "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = ["{python}", "-m", "distributed.cli.dask_worker"]
c.ClusterConfig.cluster_max_workers = 3
c.Backend.cluster_options = Options(
    Integer("worker_memory_mb", default=600, min=100, max=1000, target="worker_memory"),
    handler=lambda options: {{"worker_memory": options.worker_memory * 2**20}},
)
"""


@dataclass(frozen=True)
class GatewayServer:
    """What the tests know of it.

    Attributes:
        address: For clients.
        password: That lets any user in.
        work: Folder with its files.
    """

    address: str
    password: str
    work: Path

    def log(self) -> str:
        """Return what the server has written."""
        return (self.work / "log").read_text()

    def running(self) -> list[str]:
        """Return the names of clusters that run or start, as the server tells its user."""
        with self._gateway() as gateway:
            return [report.name for report in gateway.list_clusters()]

    def stop(self, name: str) -> None:
        """Stop a cluster."""
        with self._gateway() as gateway:
            gateway.stop_cluster(name)

    @contextmanager
    def _gateway(self) -> Iterator[Any]:
        from dask_gateway import BasicAuth, Gateway

        gateway = Gateway(self.address, auth=BasicAuth("me", self.password))
        try:
            yield gateway
        finally:
            gateway.close()
            gateway.__dict__.pop("_loop_runner", None)  # or it closes itself again when it is collected


@contextmanager
def gateway_server(work: Path) -> Iterator[GatewayServer]:
    """Run a gateway; its clusters end with it."""
    if importlib.util.find_spec("dask_gateway_server") is None:
        require_service("dask-gateway-server", 'pip install "dask-gateway-server[local]"')
    work.mkdir(parents=True, exist_ok=True)
    port, private = _free_ports(2)
    server = GatewayServer(f"http://127.0.0.1:{port}", "gate-word", work)
    told = {
        "port": port,
        "private": private,
        "password": server.password,
        "work": work,
        "python": sys.executable,
    }
    (work / "config.py").write_text(_CONFIG.format(**told))
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", str(work / "config.py")],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    try:
        _wait(server, process)
        yield server
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it has started, which is in sessions of its own."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _wait(server: GatewayServer, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{server.address}/api/version", timeout=2):
                return
        except urllib.error.HTTPError as answer:
            answer.close()  # the proxy is there, the server not yet
        except OSError:
            if process.poll() is not None:
                pytest.fail(f"the gateway did not start: {server.log()[-2000:]}")
        time.sleep(0.1)
    pytest.fail(f"the gateway did not answer: {server.log()[-2000:]}")
