"""Workers from a Dask gateway: a site's server that starts clusters for its users.

::

    kind: gateway
    address: https://dask.example.org
    auth: jupyterhub        # the token comes from JUPYTERHUB_API_TOKEN
    options: {worker_memory: 8}
    n_workers: 20
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cluster.base import ClusterSpec, refuse_secrets, seconds_of
from cluster.instructions import pins
from cluster.worker import PRE_SPAWN, forwarded
from engine.values.errors import InputError, LandweaveError, RetryableError

if TYPE_CHECKING:
    from dask_gateway import Gateway, GatewayCluster
    from distributed import Client

_T = TypeVar("_T", bound=Any)

PASSWORD = "LANDWEAVE_GATEWAY_PASSWORD"
TOKEN = "JUPYTERHUB_API_TOKEN"

logger = logging.getLogger("landweave.cluster")


class GatewaySpec(ClusterSpec):
    """A cluster of a Dask gateway, started for the run and stopped after it, or one that runs already.

    How large a worker is and how many tiles it makes at once is for the gateway and its `options`; told here as
    well, `memory_limit` and `threads_per_worker` are what `plan` counts with.

    Attributes:
        address: Of the gateway; default what Dask's own configuration says (``gateway.address``).
        proxy_address: Of its proxy for schedulers, where that is another one.
        auth: How one says who one is; default what Dask's own configuration says. The secret is never in a spec:
            ``basic`` takes the password from LANDWEAVE_GATEWAY_PASSWORD, ``jupyterhub`` the token from
            JUPYTERHUB_API_TOKEN, ``kerberos`` the ticket of ``kinit``.
        user: For ``auth: basic``; default the name of who runs it.
        options: What the gateway lets users choose for a cluster.
        cluster: Name of a running cluster to use; it is left running.
        queue_wait: How long the first worker may wait for a place.
        shutdown: False leaves the cluster running after the run, for the next one to name it.
    """

    kind: Literal["gateway"] = "gateway"
    address: str | None = Field(default=None, description="Such as https://dask.example.org.")
    proxy_address: str | None = Field(
        default=None, description="Of its proxy for schedulers, if another one."
    )
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = Field(
        default=None, description="How one says who one is; secrets come from the environment."
    )
    user: str | None = Field(default=None, description="For auth: basic; default who runs it.")
    options: dict[str, Any] = Field(default_factory=dict, description="What the gateway lets users choose.")
    cluster: str | None = Field(
        default=None, description="Name of a running cluster to use and leave running."
    )
    queue_wait: str = Field(default="10m", description="How long the first worker may wait for a place.")
    shutdown: bool = Field(default=True, description="False leaves the cluster running after the run.")

    @field_validator("address", "proxy_address")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError("an address with a password would be written down; use auth: basic")
        return value

    @field_validator("address")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError(f"{value!r} is no address; write e.g. https://dask.example.org")
        return value

    @field_validator("queue_wait")
    @classmethod
    def _duration_of_wait(cls, value: str) -> str:
        seconds_of(value)
        return value

    @field_validator("options")
    @classmethod
    def _secretless(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_secrets(value, "name such variables under forward")
        return value

    @model_validator(mode="after")
    def _one_cluster(self) -> GatewaySpec:
        if self.cluster is not None and self.options:
            raise ValueError(
                "options are for a new cluster, and cluster names one that runs; keep one of them"
            )
        return self

    @property
    def wait_s(self) -> float:
        """Return how many seconds a first worker is waited for, and a new one when all have left."""
        return seconds_of(self.queue_wait)


@contextmanager
def start(spec: GatewaySpec) -> Iterator[Client]:
    """Start a cluster at the gateway, or connect to one; give a client, and end what was started.

    Raises:
        InputError: If dask-gateway or a secret is missing, the gateway refuses it, an option is none of the
            gateway's, or workers are smaller than told.
        RetryableError: If the gateway does not answer or cannot start a cluster.
    """
    _require()
    if spec.cluster is None and spec.n_workers is None and spec.adapt is None:
        raise InputError(
            "a gateway starts a cluster without workers", where="cluster", mend="set n_workers or adapt"
        )
    forwarded(spec)  # before anything is started
    with ExitStack() as stack:
        with _told_clearly(spec):
            gateway = stack.enter_context(_closing(_connect(spec)))
            name = spec.cluster
            if name is None:
                name = gateway.submit(_options(spec, gateway))
                stack.callback(_stop, spec, gateway, name)
            cluster = stack.enter_context(_closing(gateway.connect(name)))
            client = stack.enter_context(cluster.get_client(set_as_default=False))
            if spec.cluster is None:
                client.register_plugin(_rules(_ALONE_S if spec.shutdown else None), name="landweave-rules")
            client.register_plugin(_environment(spec), name=_ENVIRONMENT)
            stack.callback(_forget, client)
            _scale(spec, cluster)
        yield client


_ALONE_S = 600.0


def _rules(alone_s: float | None) -> Any:
    """Return a plug-in for the scheduler of a cluster that is started here.

    A task whose worker died is reported at once: who is tried again is for the run to decide. And the cluster ends
    when its client has been gone for so many seconds: a driver that was killed stops nothing any more.
    """
    from distributed import SchedulerPlugin

    class Rules(SchedulerPlugin):
        async def start(self, scheduler: Any) -> None:
            scheduler.allowed_failures = 0

        def remove_client(self, scheduler: Any, client: str) -> None:
            if alone_s is not None:
                scheduler.loop.call_later(alone_s, self.end, scheduler)

        async def end(self, scheduler: Any) -> None:
            if set(scheduler.clients) <= {"fire-and-forget"}:
                await scheduler.close(reason="landweave-client-gone")

    return Rules()


_ENVIRONMENT = "landweave-environment"


def _environment(spec: GatewaySpec) -> Any:
    """Return a plug-in that gives the workers to come their environment and folder from the first instruction.

    Workers that run already are left as they are: they may be in somebody's use. What a site has set stays, but for
    what the spec tells. The class is made here so that it travels by value; a worker without landweave then says
    so when the run begins, not by never coming.
    """
    from distributed import NannyPlugin

    usual = dict(PRE_SPAWN)
    told = {**pins(spec.instruction_set), **spec.environment, **forwarded(spec)}
    folder = str(Path.cwd())

    class Environment(NannyPlugin):
        def setup(self, nanny: Any) -> None:
            import contextlib
            import os

            with contextlib.suppress(
                OSError
            ):  # where there is such a folder, a relative path means what it means here
                os.chdir(folder)
            values = {name: os.environ.get(name, value) for name, value in usual.items()} | told
            nanny.pre_spawn_env.update(values)
            nanny.env.update(values)

    return Environment()


def _forget(client: Client) -> None:
    if client.status == "running":
        client.unregister_worker_plugin(_ENVIRONMENT, nanny=True)


def _scale(spec: GatewaySpec, cluster: GatewayCluster) -> None:
    if spec.adapt is not None:
        least = max(1, spec.adapt.minimum)  # a first worker comes before the first tile
        cluster.adapt(minimum=least, maximum=spec.adapt.maximum)
    elif spec.n_workers is not None:
        cluster.scale(spec.n_workers)


@contextmanager
def _closing(thing: _T) -> Iterator[_T]:
    """Close a gateway or the view of a cluster, once.

    dask-gateway 2026.3 closes a gateway again when it is collected, which newer versions of Dask refuse.
    """
    try:
        yield thing
    finally:
        thing.close()
        gateway = getattr(thing, "gateway", thing)
        gateway.__dict__.pop("_loop_runner", None)


def _connect(spec: GatewaySpec) -> Gateway:
    from dask_gateway import Gateway

    try:
        return Gateway(address=spec.address, proxy_address=spec.proxy_address, auth=_auth(spec))
    except ValueError as error:
        raise InputError("the gateway is not told", where="cluster.address", found=str(error)) from error


def _auth(spec: GatewaySpec) -> Any:
    from dask_gateway import BasicAuth, JupyterHubAuth, KerberosAuth

    if spec.auth == "basic":
        return BasicAuth(spec.user or getpass.getuser(), os.environ.get(PASSWORD, ""))
    if spec.auth == "jupyterhub":
        if TOKEN not in os.environ:
            raise InputError(
                "auth: jupyterhub needs a token",
                where="cluster.auth",
                found=f"{TOKEN} is not set",
                mend="make one on the hub's page Token, and export it",
            )
        return JupyterHubAuth()
    return KerberosAuth() if spec.auth == "kerberos" else None


def _options(spec: GatewaySpec, gateway: Gateway) -> Any:
    """Return the options as the gateway wants them.

    Raises:
        InputError: If it does not know one, or refuses its value.
    """
    options = gateway.cluster_options()
    for name, value in spec.options.items():
        try:
            options[name] = value
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                "the gateway does not take an option",
                where=f"cluster.options.{name}",
                found=f"{value!r} ({str(error.args[0]) if error.args else error})",
                limit=f"one of {', '.join(options) or 'none: it offers no options'}",
            ) from error
    return options


def _stop(spec: GatewaySpec, gateway: Gateway, name: str) -> None:
    """Stop a cluster, or say how one does it later."""
    if not spec.shutdown:
        logger.warning("the gateway's cluster %s is left running; `cluster: %s` uses it again", name, name)
        return
    try:
        gateway.stop_cluster(name)
    except Exception as error:
        logger.error(
            "the gateway's cluster %s could not be stopped (%s) and may cost money; stop it by "
            "dask_gateway.Gateway(%r).stop_cluster(%r)",
            name,
            error,
            gateway.address,
            name,
        )


def _require() -> None:
    try:
        import dask_gateway  # noqa: F401
    except ImportError as error:
        raise InputError(
            "kind: gateway needs dask-gateway", found="not installed", mend='pip install "landweave[gateway]"'
        ) from error


@contextmanager
def _told_clearly(spec: GatewaySpec) -> Iterator[None]:
    """Turn what the gateway's client raises into what a user can do about it."""
    import aiohttp
    from dask_gateway import GatewayClusterError, GatewayServerError

    where = spec.address or "the gateway of Dask's configuration"
    try:
        yield
    except LandweaveError:
        raise
    except aiohttp.ContentTypeError as error:
        raise _nobody(where, str(error.message)) from error
    except aiohttp.ClientResponseError as error:
        raise _answered(spec, where, error.status, error.message) from error
    except (GatewayClusterError, GatewayServerError) as error:
        raise RetryableError(
            "the gateway cannot start the cluster",
            where=where,
            found=str(error),
            mend="ask for fewer or smaller workers (options), or see the gateway's log",
        ) from error
    except ImportError as error:
        raise InputError(
            "this way to say who one is needs a package",
            where="cluster.auth",
            found=f"{error.name} is not installed",
            mend='pip install "dask-gateway[kerberos]"'
            if error.name == "kerberos"
            else f"install {error.name}",
        ) from error
    except ValueError as error:
        raise _unknown(spec, where, str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise RetryableError(
            "the gateway does not answer",
            where=where,
            found=str(error) or type(error).__name__,
            mend="check the address, and that the gateway runs",
        ) from error


def _answered(spec: GatewaySpec, where: str, status: int, message: str) -> LandweaveError:
    if status not in (401, 403):
        kind = RetryableError if status >= 500 else InputError
        return kind("the gateway refuses", where=where, found=f"HTTP {status} {message}")
    how = {
        "basic": f"check user, and export {PASSWORD}",
        "jupyterhub": f"export a token that is still good as {TOKEN}",
        "kerberos": "get a ticket by kinit",
        None: "set auth",
    }
    return InputError(
        "the gateway does not let you in",
        where=where,
        found=f"HTTP {status} {message}, auth: {spec.auth or 'as in the configuration of Dask'}",
        mend=how[spec.auth],
    )


def _nobody(where: str, found: str) -> InputError:
    return InputError(
        "no Dask gateway answers there", where=where, found=found, mend="check the address and its path"
    )


def _unknown(spec: GatewaySpec, where: str, message: str) -> InputError:
    if spec.cluster is not None:
        return InputError(
            "the gateway has no such cluster",
            where="cluster.cluster",
            found=spec.cluster,
            mend=f"it may have ended; leave cluster out to start one ({message})",
        )
    if message.startswith("404"):
        return _nobody(where, message)
    return InputError("the gateway refuses", where=where, found=message)
