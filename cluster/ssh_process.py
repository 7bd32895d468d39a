"""Dask's scheduler or workers on a machine that is reached over ssh, as parts of a `SpecCluster`.

Dask's own `SSHCluster` puts its whole configuration on the remote command line, reads the remote's log only until
the workers are there, and leaves a host that was lost. Here the order goes through standard input, the log
is read for as long as the process runs, and a host that was lost is asked again until the run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed.deploy.spec import ProcessInterface

from cluster.ssh_hosts import Host, answer_in, connect_options, told_clearly
from cluster.ssh_hosts import command as command_of
from engine.values.errors import InputError, LandweaveError, RetryableError

if TYPE_CHECKING:
    import asyncssh

    from cluster.ssh import SshSpec

logger = logging.getLogger("landweave.cluster")

_START_S = 120
_END_S = 25
_AGAIN_S = 30


@dataclass(frozen=True)
class Order:
    """What a host is told on standard input; nothing of it is on a command line or in a log.

    Attributes:
        environment: Of the process there and its children; secrets among them.
        servers: Name to class and keywords of what is started.
        security: Keywords of Dask's `Security`, None for connections in the clear.
    """

    environment: dict[str, str] = field(repr=False)
    servers: dict[str, dict[str, Any]]
    security: dict[str, Any] | None = field(repr=False)

    def line(self, arguments: list[str]) -> str:
        """Return the order as one line of JSON."""
        parts = {
            "folder": str(Path.cwd()),  # so that a relative path means there what it means here
            "environment": self.environment,
            "servers": self.servers,
            "arguments": arguments,
            "security": self.security,
        }
        return json.dumps(parts) + "\n"

    def veil(self, text: str) -> str:
        """Return a text of the host's without the values of the environment that it was given."""
        for name, value in self.environment.items():
            if len(value) > _SHORT:
                text = text.replace(value, f"<{name}>")
        return text


_SHORT = 5  # characters; nothing so short is a secret, and a log without every "1" is no log


class RemoteProcess(ProcessInterface):
    """The processes of one host: they are there once this is awaited, and gone once it is closed."""

    def __init__(self, spec: SshSpec, host: str, order: Order, arguments: list[str]):
        super().__init__()
        self.spec, self.host, self.order, self.arguments = spec, host, order, arguments
        self.last: deque[str] = deque(maxlen=20)
        self.connection: asyncssh.SSHClientConnection | None = None
        self.process: Any = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the processes.

        Raises:
            InputError: If they end at once.
            RetryableError: If the host does not answer, or nothing is ready in time.
        """
        await self.begin()
        await super().start()

    async def begin(self) -> list[str]:
        """Connect, hand the order over, and return the addresses that came back."""
        import asyncssh

        options = connect_options(self.spec, self.host)
        with told_clearly(self.host):
            self.connection = await asyncssh.connect(Host.parse(self.host).name, **options)
            self.process = await self.connection.create_process(command_of(self.spec), errors="replace")
            self.process.stdin.write(self.order.line(self.arguments))
            self._spawn(self._log())
            try:
                addresses = await asyncio.wait_for(self._ready(), _START_S)
            except TimeoutError as error:
                await self._end()
                raise self._not_ready(f"nothing within {_START_S} s") from error
        if addresses is None:
            await asyncio.sleep(0.2)  # the last lines of its log
            await self._end()
            raise self._not_ready("it ended")
        return addresses

    async def _ready(self) -> list[str] | None:
        async for line in self.process.stdout:
            answer = answer_in(line)
            if answer is not None:
                self._spawn(self._drain())
                return list(answer["ready"])
        return None

    def _not_ready(self, found: str) -> LandweaveError:
        told = self.order.veil(" | ".join(self.last)[-1500:])
        unreached = "Timed out trying to connect" in told or "TimeoutError" in told
        where, found = self.host, f"{found}; its last lines: {told or 'none'}"
        if unreached:
            return RetryableError(
                "a worker does not reach the scheduler",
                where=where,
                found=found,
                limit=f"a connection to {' '.join(self.arguments)}",
                mend="set scheduler_address to a name of that machine that this host knows, "
                "and scheduler_port to one that the firewall lets through",
            )
        return InputError("Dask did not start on a host", where=where, found=found, mend="see its last lines")

    async def _log(self) -> None:
        """Read the log for as long as there is one: a process whose output nobody reads stops in the end."""
        async for line in self.process.stderr:
            self.last.append(line.strip())
            logger.debug("%s: %s", self.host, self.order.veil(line.strip()))

    async def _drain(self) -> None:
        async for _ in self.process.stdout:
            pass

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """End the input, on which the host ends all that was started there; kill what does not follow."""
        for task in list(self.tasks):
            task.cancel()
        await self._end()
        await super().close()

    async def _end(self) -> None:
        process, connection, self.process, self.connection = self.process, self.connection, None, None
        with contextlib.suppress(Exception):  # a connection that is lost has ended all there already
            if process is not None:
                process.stdin.write_eof()
                try:
                    await asyncio.wait_for(process.wait_closed(), _END_S)
                except TimeoutError:
                    process.kill()
        if connection is not None:
            connection.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), _END_S)


class RemoteScheduler(RemoteProcess):
    """The scheduler on a host; a run that loses it ends, and goes on when it is started again."""

    def __init__(self, spec: SshSpec, host: str, order: Order, via: str | None):
        super().__init__(spec, host, order, [])
        self.via = via

    async def begin(self) -> list[str]:
        """Start it and keep its address."""
        addresses = await super().begin()
        self.address = _through(addresses[0], self.via)
        return addresses


class RemoteWorkers(RemoteProcess):
    """The workers of a host, each under a nanny that replaces it when it dies.

    When the connection or all of them are lost, the host is asked again every half a minute: the run goes on
    with the others meanwhile.
    """

    def __init__(self, scheduler: str, *, spec: SshSpec, host: str, order: Order, via: str | None, name: str):
        super().__init__(spec, host, order, [_through(scheduler, via)])
        self.name = name

    async def begin(self) -> list[str]:
        """Start them, and stay with them."""
        addresses = await super().begin()
        self._spawn(self._stay())
        return addresses

    async def _stay(self) -> None:
        await self.process.wait_closed()
        logger.warning(
            "%s: the workers are gone (%s); asking again", self.host, self.order.veil(self._reason())
        )
        await self._end()
        while True:
            await asyncio.sleep(_AGAIN_S)
            try:
                await super().begin()
            except LandweaveError as error:
                logger.info("%s: %s", self.host, error)
            else:
                logger.warning("%s: the workers are back", self.host)
                self._spawn(self._stay())
                return

    def _reason(self) -> str:
        return self.last[-1] if self.last else "the connection was lost"


def _through(address: str, via: str | None) -> str:
    """Return an address under another name of its machine.

    >>> _through("tls://10.0.0.1:8786", "gate")
    'tls://gate:8786'
    """
    if via is None:
        return address
    protocol, rest = address.split("://")
    name = f"[{via}]" if ":" in via else via
    return f"{protocol}://{name}:{rest.rpartition(':')[2]}"
