"""A TCP proxy in a process of its own: ``python -m tests.faults.proxy port target``.

Stopped (SIGSTOP) it is a network that is silent: nothing passes, nothing closes, what was sent arrives later.
Killed it is a network that resets all connections and takes no new ones.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.processes import free_port, listens, start, wait_for


class Proxy:
    """Forwards every connection to a port of this machine."""

    def __init__(self, target: int):
        self.target, self.port = target, free_port()
        self._process = self._start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let nothing pass for a while."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Reset all connections and refuse new ones for a while."""
        self.close()
        yield
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = start("tests.faults.proxy", str(self.port), str(self.target), **nowhere)
        wait_for(lambda: listens(self.port), "the proxy")
        return process


def main(port: int, target: int) -> None:
    """Forward until killed."""
    server = socket.create_server(("127.0.0.1", port))
    while True:
        here, _ = server.accept()
        threading.Thread(target=_serve, args=(here, target), daemon=True).start()


def _serve(here: socket.socket, target: int) -> None:
    try:
        there = socket.create_connection(("127.0.0.1", target))
    except OSError:
        here.close()
        return
    threading.Thread(target=_carry, args=(there, here), daemon=True).start()
    _carry(here, there)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
