"""Workers on machines that one can log in to: Dask over ssh.

::

    kind: ssh
    hosts: [lab1, lab2, me@lab3:2222]
    n_workers: 12          # dealt out over the hosts; without it one per core
    python: ~/landweave/bin/python
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dask.utils import format_bytes, parse_bytes
from pydantic import Field, field_validator, model_validator

from cluster.base import ClusterSpec, refuse_secrets
from cluster.instructions import pins
from cluster.ssh_hosts import Host, Seen, look_at
from cluster.worker import forwarded, worker_environment
from engine.values.errors import BudgetError, InputError

if TYPE_CHECKING:
    from distributed import Client, Security

    from cluster.ssh_process import Order

_PORTS = r"\d{1,5}(:\d{1,5})?"


class SshSpec(ClusterSpec):
    """Workers on machines that one can log in to; what is not told here is taken from ``~/.ssh/config``.

    `n_workers` is dealt out over the hosts in their order; without it each host gets one worker per core, and
    without `memory_limit` each worker a fair share of its host.

    Attributes:
        hosts: ``[user@]name[:port]`` each.
        user: Whom to log in as, where the host does not say.
        port: Of the hosts' sshd, where the host does not say.
        key_file: Private key; default the ssh agent's keys and the usual files.
        known_hosts: File with the keys of hosts that are trusted; default ``~/.ssh/known_hosts``.
        check_host_key: False trusts any machine that answers. Only for machines that are made anew each day, on
            a network of one's own.
        connect_options: Further keywords of ``asyncssh.connect``, such as ``tunnel: me@gate``.
        python: Python on the hosts, with landweave installed; default the path of the one that runs here.
        prologue: Shell lines before it, such as ``module load gdal``.
        scheduler: Where the scheduler runs: here, or on the first host.
        scheduler_address: Name or IP of the scheduler's machine as the hosts know it; default the one that the
            ssh connection uses.
        scheduler_port: For a firewall; default any free one.
        worker_ports: One port or ``first:last``, for a firewall; default any free ones.
        tls: Encrypt what workers, scheduler and client say to each other, and let nobody else in.
    """

    kind: Literal["ssh"] = "ssh"
    hosts: tuple[str, ...] = Field(min_length=1, description="[user@]name[:port] each.")
    user: str | None = Field(default=None, description="Whom to log in as.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Of the hosts' sshd; default 22.")
    key_file: str | None = Field(
        default=None, description="Private key; default the agent's and the usual ones."
    )
    known_hosts: str | None = Field(
        default=None, description="Keys of trusted hosts; default ~/.ssh/known_hosts."
    )
    check_host_key: bool = Field(default=True, description="False trusts any machine that answers.")
    connect_options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Further keywords of asyncssh.connect; no secrets."
    )
    python: str | None = Field(default=None, description="Python on the hosts; default the path of this one.")
    prologue: tuple[str, ...] = Field(default=(), description="Shell lines before Python on the hosts.")
    scheduler: Literal["here", "first"] = Field(default="here", description="Here, or on the first host.")
    scheduler_address: str | None = Field(
        default=None, description="Of the scheduler's machine as the hosts know it."
    )
    scheduler_port: int = Field(default=0, ge=0, le=65535, description="For a firewall; 0 any free one.")
    worker_ports: str | None = Field(default=None, pattern=f"^{_PORTS}$", description="One, or first:last.")
    tls: bool = Field(default=True, description="Encrypt, and let nobody else in.")

    @field_validator("hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [Host.parse(host) for host in value]
        twice = sorted({host.name for host in parsed if parsed.count(host) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} twice; n_workers says how many workers there are in all")
        return value

    @field_validator("connect_options")
    @classmethod
    def _secretless(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_secrets(value, "use key_file or the ssh agent")
        return value

    @model_validator(mode="after")
    def _sizes(self) -> SshSpec:
        if self.adapt is not None:
            raise ValueError("kind: ssh has the machines that it is given; leave adapt out")
        if self.n_workers is not None and self.n_workers < len(self.hosts):
            raise ValueError(f"n_workers {self.n_workers} leaves hosts without any; name fewer of them")
        return self

    def shares(self) -> list[int] | None:
        """Return how many workers each host gets; None where each gets one per core."""
        if self.n_workers is None:
            return None
        each, more = divmod(self.n_workers, len(self.hosts))
        return [each + (i < more) for i in range(len(self.hosts))]


@contextmanager
def start(spec: SshSpec) -> Iterator[Client]:
    """Look at all hosts, start scheduler and workers, give a client, and end all of it.

    Raises:
        InputError: If asyncssh or a file is missing, or a host cannot be used; `cluster.ssh_hosts.look_at` says
            how.
        BudgetError: If the workers of a host would need more memory than it has.
        RetryableError: If a host does not answer.
    """
    _require()
    _check_files(spec)
    forwarded(spec)  # before anything is started
    import dask
    from distributed import Client, Security
    from distributed.deploy.spec import SpecCluster

    from cluster.ssh_process import RemoteWorkers

    seen = look_at(spec)
    security = Security.temporary() if spec.tls else None
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": worker_environment(spec),
    }
    with dask.config.set(settings):
        orders = [_workers(spec, host, n, security) for host, n in zip(seen, _dealt(spec, seen), strict=True)]
        workers = {
            f"{i}": {
                "cls": RemoteWorkers,
                "options": {"spec": spec, "host": host, "order": order, "via": via},
                "group": [f"-{j}" for j in range(len(order.servers))],
            }
            for i, (host, order, via) in enumerate(zip(spec.hosts, orders, _ways(spec, seen), strict=True))
        }
        scheduler = _scheduler(spec, seen, security)
        cluster = SpecCluster(
            workers, scheduler, security=security, silence_logs=logging.ERROR, name="landweave-ssh"
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _require() -> None:
    try:
        import asyncssh  # noqa: F401
    except ImportError as error:
        raise InputError(
            "kind: ssh needs asyncssh", found="not installed", mend='pip install "landweave[ssh]"'
        ) from error


def _check_files(spec: SshSpec) -> None:
    for name in ("key_file", "known_hosts"):
        path = getattr(spec, name)
        if path is not None and not Path(path).expanduser().is_file():
            raise InputError("no such file", where=f"cluster.{name}", found=path)
    if not spec.check_host_key:
        logging.getLogger("landweave.cluster").warning(
            "check_host_key is off: whoever answers under a host's name gets the run's secrets and code"
        )


def _dealt(spec: SshSpec, seen: list[Seen]) -> list[int]:
    """Return how many workers each host gets, and refuse what it cannot bear."""
    usual = [host.gpus if spec.gpus_per_worker else host.cores for host in seen]
    dealt = spec.shares() or [max(1, n) for n in usual]
    each = None if spec.memory_limit is None else parse_bytes(spec.memory_limit)
    for host, n in zip(seen, dealt, strict=True):
        if spec.gpus_per_worker and n > host.gpus:
            raise InputError(
                "a host has fewer GPUs than workers", where=host.host, found=f"{host.gpus} GPUs", limit=n
            )
        if each is not None and n * each > host.memory_bytes:
            raise BudgetError(
                "the workers of a host would need more memory than it has",
                where=host.host,
                found=f"{n} x {spec.memory_limit}",
                limit=f"at most {format_bytes(host.memory_bytes)}",
                mend="fewer n_workers, or a lower memory_limit",
            )
    return dealt


def _workers(spec: SshSpec, host: Seen, n: int, security: Security | None) -> Order:
    """Return the order for a host's workers; Dask names them as the cluster's parts of a group."""
    index = spec.hosts.index(host.host)
    options: dict[str, Any] = {
        "nthreads": spec.threads_per_worker,
        "memory_limit": spec.memory_limit or host.memory_bytes // n,
        "death_timeout": "60s",
        "worker_port": spec.worker_ports,
        "dashboard": False,
    }
    if spec.gpus_per_worker:
        options["resources"] = {"GPU": 1}
    servers = {}
    for j in range(n):
        gpu = {"env": {"CUDA_VISIBLE_DEVICES": str(j)}} if spec.gpus_per_worker else {}
        servers[str(j)] = {"cls": "distributed.Nanny", "opts": {**options, **gpu, "name": f"{index}-{j}"}}
    return _order(spec, servers, security)


def _order(spec: SshSpec, servers: dict[str, dict[str, Any]], security: Security | None) -> Order:
    import dask

    from cluster.ssh_process import Order

    environment = {
        "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config),
        **pins(spec.instruction_set),
        **spec.environment,
        **forwarded(spec),
    }
    return Order(environment, servers, None if security is None else _plain(security))


def _plain(security: Security) -> dict[str, Any]:
    """Return a security's keywords as JSON can carry them: keys and certificates as text."""
    names = (
        "ca_file",
        *(f"{role}_{part}" for role in ("scheduler", "worker", "client") for part in ("key", "cert")),
    )
    return {"require_encryption": True, **{f"tls_{name}": getattr(security, f"tls_{name}") for name in names}}


def _ways(spec: SshSpec, seen: list[Seen]) -> list[str | None]:
    """Return the name under which each host knows the scheduler's machine; None for what the scheduler says."""
    if spec.scheduler == "first":
        return [spec.scheduler_address] * len(seen)
    return [spec.scheduler_address or host.here for host in seen]


def _scheduler(spec: SshSpec, seen: list[Seen], security: Security | None) -> dict[str, Any]:
    """Return the scheduler for a `SpecCluster`: one in this process, or one on the first host."""
    from distributed import Scheduler

    from cluster.ssh_process import RemoteScheduler

    ours = {host.here for host in seen}
    options: dict[str, Any] = {
        "port": spec.scheduler_port,
        "protocol": "tls://" if security else "tcp://",
        "dashboard_address": "127.0.0.1:0",  # of nobody's concern but who is logged in there
        "dashboard": True,
    }
    if spec.scheduler == "first":
        servers = {"scheduler": {"cls": "distributed.Scheduler", "opts": {**options, "host": seen[0].there}}}
        order = _order(spec, servers, security)
        told = {"spec": spec, "host": spec.hosts[0], "order": order, "via": spec.scheduler_address}
        return {"cls": RemoteScheduler, "options": told}
    host = next(iter(ours)) if len(ours) == 1 and spec.scheduler_address is None else None
    return {"cls": Scheduler, "options": {**options, "host": host, "security": security}}
