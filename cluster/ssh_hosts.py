"""The machines of an ssh cluster: their names, how one logs in, and a look at each before anything is started."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.remote import MARK
from engine.values.errors import InputError, LandweaveError, RetryableError

if TYPE_CHECKING:
    from cluster.ssh import SshSpec

_HOST = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<name>\[[0-9a-fA-F:.]+\]|[^\s:@\[\]]+)(?::(?P<port>\d{1,5}))?")
_CONNECT_S = 20
_LOOK_S = 120  # Python's first imports from a cold network disk take their time


@dataclass(frozen=True)
class Host:
    """A machine as one writes it: ``[user@]name[:port]``; an IPv6 address stands in brackets.

    >>> Host.parse("me@[::1]:2222")
    Host(name='::1', user='me', port=2222)
    """

    name: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Take a host's text apart.

        Raises:
            ValueError: If it is none.
        """
        match = _HOST.fullmatch(text)
        if match is None or text.startswith("-"):
            raise ValueError(f"{text!r} is no host; write [user@]name[:port]")
        port = int(match["port"]) if match["port"] else None
        return cls(match["name"].strip("[]"), match["user"], port)


@dataclass(frozen=True)
class Seen:
    """What a look at a host found.

    Attributes:
        host: As the spec writes it.
        here: This machine's address on the connection: the one under which the host reaches it.
        there: The host's own address on the connection.
        cores: That a process may use.
        memory_bytes: That a process may use.
        gpus: How many.
    """

    host: str
    here: str
    there: str
    cores: int
    memory_bytes: int
    gpus: int


def connect_options(spec: SshSpec, host: str) -> dict[str, Any]:
    """Return the keywords of `asyncssh.connect` for a host.

    Whatever is not told is left to ``~/.ssh/config``, the ssh agent, the usual keys and ``~/.ssh/known_hosts``.
    """
    parsed = Host.parse(host)
    told = {
        "port": parsed.port or spec.port,
        "username": parsed.user or spec.user,
        "client_keys": [str(Path(spec.key_file).expanduser())] if spec.key_file else None,
        "known_hosts": str(Path(spec.known_hosts).expanduser()) if spec.known_hosts else None,
    }
    options: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "login_timeout": _CONNECT_S,
        "keepalive_interval": 30,  # a router forgets a silent connection, and a dead host is noticed
        "keepalive_count_max": 3,
        **{key: value for key, value in told.items() if value is not None},
        **spec.connect_options,
    }
    if not spec.check_host_key:
        options["known_hosts"] = None
    return options


def command(spec: SshSpec, *arguments: str) -> str:
    """Return what the login shell of a host is told: the prologue's lines, then Python."""
    python = spec.python or sys.executable
    home = "~/" if python.startswith("~/") else ""  # left to the shell there
    start = (
        f"exec {home}{shlex.quote(python.removeprefix(home))} -P -m cluster.remote {shlex.join(arguments)}"
    )
    return " && ".join([*spec.prologue, start.strip()])


def look_at(spec: SshSpec) -> list[Seen]:
    """Log in to all hosts at once and look around, so that all that is wrong is told together.

    Raises:
        InputError: If a host is unknown, its key is not trusted, ours is refused, or Python or landweave is
            missing there.
        RetryableError: If a host does not answer.
    """
    from concurrent.futures import ThreadPoolExecutor

    hosts = list(dict.fromkeys(spec.hosts))
    with ThreadPoolExecutor(1) as pool:  # a notebook's thread has a loop of its own already
        results = pool.submit(asyncio.run, _look_at_all(spec, hosts)).result()
    wrong = [result for result in results if isinstance(result, BaseException)]
    for error in wrong:
        if not isinstance(error, LandweaveError):
            raise error
    if wrong:
        raise _together([error for error in wrong if isinstance(error, LandweaveError)])
    seen = {result.host: result for result in results if isinstance(result, Seen)}
    return [seen[host] for host in spec.hosts]


def _together(errors: Sequence[LandweaveError]) -> LandweaveError:
    """Return one error for all hosts; what must be mended by hand goes before what may pass by itself."""
    first = next((error for error in errors if isinstance(error, InputError)), errors[0])
    for error in errors:
        if error is not first:
            first.add_note(f"also: {error}")
    return first


async def _look_at_all(spec: SshSpec, hosts: Sequence[str]) -> list[Seen | BaseException]:
    return await asyncio.gather(*(_look(spec, host) for host in hosts), return_exceptions=True)


async def _look(spec: SshSpec, host: str) -> Seen:
    import asyncssh

    with told_clearly(host):
        async with asyncssh.connect(Host.parse(host).name, **connect_options(spec, host)) as connection:
            try:
                done = await asyncio.wait_for(connection.run(command(spec, "look")), _LOOK_S)
            except TimeoutError as error:
                raise RetryableError(
                    "Python did not start on a host",
                    where=host,
                    limit=f"within {_LOOK_S} s",
                    mend="try it by hand: ssh there and import distributed",
                ) from error
            found = answer_in(str(done.stdout))
            if done.exit_status != 0 or found is None:
                raise cannot_start(spec, host, done.exit_status, str(done.stderr))
            here, there = (connection.get_extra_info(name)[0] for name in ("sockname", "peername"))
    return Seen(host, here, there, found["cores"], found["memory_bytes"], found["gpus"])


def answer_in(output: str) -> dict[str, Any] | None:
    """Return the answer among the lines that a login printed."""
    for line in output.splitlines():
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    return None


def cannot_start(spec: SshSpec, host: str, status: int | None, stderr: str) -> InputError:
    """Say why Python or landweave did not start on a host."""
    python = spec.python or sys.executable
    last = " | ".join(stderr.strip().splitlines()[-3:]) or f"exit status {status}"
    if status in (126, 127) and python.rpartition("/")[2] in stderr:
        what, mend = "there is no such Python on a host", f"set python to its path there, not {python}"
    elif "No module named" in stderr:
        what = "landweave is not installed on a host"
        mend = (
            f"install the same version there ({python} -m pip install landweave), or set python or prologue"
        )
    else:
        what, mend = "Python did not start on a host", f"try it by hand: ssh, then {command(spec, 'look')}"
    return InputError(what, where=host, found=last, mend=mend)


@contextmanager
def told_clearly(host: str) -> Iterator[None]:
    """Turn what ssh raises into what a user can do about it."""
    import asyncssh

    try:
        yield
    except LandweaveError:
        raise
    except (asyncssh.Error, asyncssh.KeyImportError, asyncssh.KeyEncryptionError, OSError) as error:
        raise _clear(host, error) from error


def _clear(host: str, error: Exception) -> LandweaveError:
    import asyncssh

    kinds: list[tuple[type[Exception], Callable[[str, str], LandweaveError]]] = [
        (asyncssh.HostKeyNotVerifiable, _untrusted),
        (asyncssh.PermissionDenied, _denied),
        (asyncssh.KeyImportError, _unreadable_key),
        (asyncssh.KeyEncryptionError, _unreadable_key),
        (socket.gaierror, _unknown),
    ]
    reason = str(error) or type(error).__name__
    for kind, tell in kinds:
        if isinstance(error, kind):
            return tell(host, reason)
    return RetryableError(
        "a host does not answer over ssh",
        where=host,
        found=reason,
        limit=f"a connection within {_CONNECT_S} s",
        mend="check that it is switched on, its sshd's port and the firewall, or take it out of hosts",
    )


def _untrusted(host: str, reason: str) -> InputError:
    return InputError(
        "the host's key is not the one that is known",
        where=host,
        found=reason,
        limit="a key in known_hosts",
        mend="connect once by hand with ssh and compare the fingerprint, or name the file with known_hosts; "
        "a key that changed without a reason may be somebody else's machine",
    )


def _denied(host: str, reason: str) -> InputError:
    return InputError(
        "the host refuses to let you in",
        where=host,
        found=reason,
        mend="put your public key there (ssh-copy-id), and check user and key_file; passwords are not used",
    )


def _unreadable_key(host: str, reason: str) -> InputError:
    return InputError(
        "the ssh key cannot be used",
        where=host,
        found=reason,
        mend="load a key that has a passphrase into the ssh agent (ssh-add), and leave key_file out",
    )


def _unknown(host: str, reason: str) -> InputError:
    return InputError("there is no such host", where=host, found=reason, mend="check its name in hosts")
