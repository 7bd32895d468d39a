"""A real sshd on a free loopback port, with keys of its own and nothing of the machine's configuration."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.services.require import require_service

_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {work}/host_key
AuthorizedKeysFile {work}/authorized_keys
PidFile {work}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AcceptEnv NONE_AT_ALL
LogLevel VERBOSE
"""


@dataclass(frozen=True)
class Sshd:
    """What the tests know of it.

    Attributes:
        host: ``user@127.0.0.1:port``.
        port: Of the server.
        key: Private key that is let in.
        stranger: Private key that is not.
        known_hosts: File that trusts the server.
        work: Folder with the server's files.
    """

    host: str
    port: int
    key: Path
    stranger: Path
    known_hosts: Path
    work: Path

    def sessions(self) -> list[psutil.Process]:
        """Return the server's processes that each hold a connection."""
        return psutil.Process(int((self.work / "sshd.pid").read_text())).children()


@contextmanager
def sshd(work: Path) -> Iterator[Sshd]:
    """Serve ssh from a folder of keys that are made for it; all sessions end with it."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        require_service("sshd", "apt install openssh-server")
    work.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "key", "stranger"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(work / name)]
        subprocess.run(made, check=True, capture_output=True)
    shutil.copy(work / "key.pub", work / "authorized_keys")
    port = _free_port()
    host_key = (work / "host_key.pub").read_text().strip()
    names = ",".join(f"[{name}]:{port}" for name in ("127.0.0.1", "localhost"))
    (work / "known_hosts").write_text(f"{names} {host_key}\n")
    (work / "sshd_config").write_text(_CONFIG.format(port=port, work=work))
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it when it runs as root
    with (work / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(program), "-D", "-e", "-f", str(work / "sshd_config")], stdout=log, stderr=log
        )
    try:
        _wait(port, server, work)
        yield Sshd(
            f"{getpass.getuser()}@127.0.0.1:{port}",
            port,
            work / "key",
            work / "stranger",
            work / "known_hosts",
            work,
        )
    finally:
        server.terminate()
        server.wait(10)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes], work: Path) -> None:
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if server.poll() is not None:
                pytest.fail(f"sshd did not start: {(work / 'log').read_text()}")
            time.sleep(0.05)
    pytest.fail("sshd did not answer")
