"""Start and end a cluster of the Dask operator, and say why one does not start."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import kr8s
from dask_kubernetes.exceptions import SchedulerStartupError
from dask_kubernetes.operator import KubeCluster
from dask_kubernetes.operator._objects import DaskAutoscaler, DaskCluster
from dask_kubernetes.operator.kubecluster.kubecluster import CreateMode
from distributed.deploy.cluster import Cluster

from cluster.kubernetes import KubernetesSpec
from cluster.pods import autoscaler_manifest, cluster_manifest
from engine.values.errors import ConflictError, InputError, LandweaveError, RetryableError

if TYPE_CHECKING:
    from distributed import Client

_OPERATOR = (
    "helm install --repo https://helm.dask.org --create-namespace -n dask-operator --generate-name "
    "dask-kubernetes-operator"
)
_API_S = 30.0  # for the first answer
_CLOSE_S = 120.0
_TELL_S = 15.0

_logger = logging.getLogger("landweave.cluster")


class StartedCluster(KubeCluster):
    """A cluster that is deleted when its start fails; one that existed before is left alone."""

    namespace: str

    def __init__(self, spec: KubernetesSpec, name: str, ended: threading.Event) -> None:
        self.wanted, self._ended = spec, ended
        self._kept: kr8s.asyncio.Api | None = None
        super().__init__(
            namespace=spec.namespace,
            custom_cluster_spec=cluster_manifest(spec, name),
            create_mode=CreateMode.CREATE_ONLY,
            shutdown_on_close=False,  # not before it is ours
            resource_timeout=int(_API_S) * 2,
            quiet=True,
        )

    async def _start(self) -> None:
        try:
            await asyncio.wait_for(self._refuse_other(), _API_S)
            self.shutdown_on_close = True
            await asyncio.wait_for(super()._start(), self.wanted.wait_s)
            manifest = autoscaler_manifest(self.wanted, self.name)
            if manifest is not None:
                await (await DaskAutoscaler(manifest, namespace=self.namespace)).create()
        except BaseException as error:
            refusal = await self._refusal(error)
            await self._drop(error)
            await Cluster._close(self)
            await self._hang_up()
            self._ended.set()
            if refusal is None:
                raise
            raise refusal from error

    async def _close(self, timeout: float = _CLOSE_S) -> None:
        try:
            await super()._close(timeout=timeout)
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Close the connection to the API; kr8s leaves that to the garbage collector."""
        session = getattr(self._kept, "_session", None)
        if session is not None:
            await session.aclose()

    async def _refuse_other(self) -> None:
        self._kept = await kr8s.asyncio.api()  # kr8s shares one connection as long as somebody holds it
        self.namespace = self.namespace or self._kept.namespace
        if await (await DaskCluster({"metadata": {"name": self.name}}, namespace=self.namespace)).exists():
            raise ConflictError(
                "a DaskCluster of this name exists",
                where=f"{self.namespace}/{self.name}",
                mend="choose another name, leave it out, or delete that cluster",
            )

    async def _drop(self, error: BaseException) -> None:
        """Delete what was started, unless the API says that somebody else has made it meanwhile."""
        if not self.shutdown_on_close or _status(error) == 409:
            return
        self.shutdown_on_close = False  # neither again at the end of the process
        try:
            found = await DaskCluster.get(self.name, namespace=self.namespace)
            await found.delete(propagation_policy="Foreground")
        except kr8s.NotFoundError:
            pass
        except (kr8s.ServerError, kr8s.APITimeoutError, httpx.HTTPError) as left:
            _logger.warning("cannot delete %s: %s; %s", self.name, left, delete_command(self))

    async def _refusal(self, error: BaseException) -> LandweaveError | None:
        """Say in our words what went wrong; None for what is not Kubernetes' to tell, such as Ctrl-C."""
        where = f"{self.namespace or 'default namespace'}/{self.name}"
        if isinstance(error, asyncio.TimeoutError | TimeoutError):
            return RetryableError(
                "the cluster does not start",
                where=where,
                found=await self._waiting() or "no pod: the operator does not answer",
                limit=f"a running scheduler within {self.wanted.start_timeout}",
                mend="see to what is waited for, or raise start_timeout; without an operator: " + _OPERATOR,
            )
        if isinstance(error, SchedulerStartupError):
            return InputError(
                "the scheduler ends as soon as it starts",
                where=where,
                found=str(error.args[-1])[-2000:],
                mend=f"try the image by itself: docker run {self.wanted.image} dask scheduler --version",
            )
        if isinstance(error, ValueError) and not isinstance(error, LandweaveError):
            return InputError("no way to a Kubernetes API", where=where, found=str(error), mend=_WAY)
        if isinstance(error, kr8s.APITimeoutError | kr8s.ConnectionClosedError | httpx.TransportError):
            return RetryableError(
                "the Kubernetes API does not answer", where=where, found=str(error), mend=_WAY
            )
        return _refused(error, where)

    async def _waiting(self) -> str:
        try:
            return await asyncio.wait_for(why_waiting(self.name, self.namespace), _API_S)
        except Exception as error:  # the reason must not hide the failure
            return f"unknown ({type(error).__name__} when asked)"


_WAY = "try `kubectl get pods`; KUBECONFIG names the file with the way to the cluster"


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _refused(error: BaseException, where: str) -> LandweaveError | None:
    mends = {
        401: "log in again; `kubectl auth whoami` tells who you are",
        403: "let an administrator apply what `landweave cluster manifest --access` prints",
        404: f"install the Dask operator: {_OPERATOR}",
        409: "choose another name, or leave it out",
    }
    status = _status(error)
    if not isinstance(error, kr8s.ServerError):
        return None
    if status is None or status >= 500 or status == 429:
        return RetryableError("the Kubernetes API fails", where=where, found=str(error))
    mend = mends.get(status, "`landweave cluster manifest` shows what is sent")
    kind = ConflictError if status == 409 else InputError
    return kind("the Kubernetes API refuses the cluster", where=where, found=f"{status}: {error}", mend=mend)


async def why_waiting(name: str, namespace: str) -> str:
    """Say what the pods of a cluster wait for, in Kubernetes' words; empty if all run.

    Args:
        name: Of the cluster.
        namespace: Where it is.
    """
    reasons = []
    async for pod in kr8s.asyncio.get(
        "pods", namespace=namespace, label_selector=f"dask.org/cluster-name={name}"
    ):
        if told := "; ".join(_reasons(pod.raw.get("status", {}))):
            reasons.append(f"{pod.name}: {told}")
    return " | ".join(reasons[:3])


def _reasons(status: dict[str, Any]) -> list[str]:
    """Return why a pod is not ready: no node for it, no image, a crash.

    >>> _reasons({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node has a GPU"}]})
    ['no node has a GPU']
    """
    told = [
        str(condition.get("message") or condition.get("reason"))
        for condition in status.get("conditions") or []
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    for container in status.get("containerStatuses") or []:
        for state in (
            (container.get("state") or {}).get("waiting"),
            (container.get("lastState") or {}).get("terminated"),
        ):
            if state:
                told.append(" ".join(str(state[k]) for k in ("reason", "message") if state.get(k)))
    return told


def open_cluster(spec: KubernetesSpec, name: str) -> StartedCluster:
    """Start a cluster; see `cluster.kubernetes.start`."""
    ended = threading.Event()
    try:
        return StartedCluster(spec, name, ended)
    except KeyboardInterrupt:
        ended.wait(_API_S)  # the start runs in a thread that must still delete what it has made
        raise


def wait_for_pod(client: Client, cluster: StartedCluster) -> None:
    """Wait for the first worker's pod; say every now and then what it waits for.

    Raises:
        RetryableError: If it is not there in time.
    """
    begun, limit_s = time.monotonic(), cluster.wanted.wait_s
    while not client.nthreads():
        waited = time.monotonic() - begun
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=min(_TELL_S, max(0.1, limit_s - waited)))
            return
        why = cluster.sync(cluster._waiting) or "they run, and no worker has come to the scheduler"
        if time.monotonic() - begun > limit_s:
            raise RetryableError(
                "no worker starts",
                where=f"{cluster.namespace}/{cluster.name}",
                found=why,
                limit=f"a worker within {cluster.wanted.start_timeout}",
                mend="see to what is waited for, or raise start_timeout",
            )
        _logger.info("waiting for the first worker: %s", why)


def delete_command(cluster: KubeCluster) -> str:
    """Return what a person types to delete a cluster that is left."""
    return f"kubectl delete daskcluster {cluster.name} -n {cluster.namespace}"


def close(cluster: StartedCluster) -> None:
    """Delete the cluster and wait until it is gone; say so if it is not."""
    try:
        cluster.close(timeout=_CLOSE_S)
    except (TimeoutError, kr8s.ServerError, kr8s.APITimeoutError, httpx.HTTPError) as error:
        _logger.warning("the cluster may still run (%s): %s", error, delete_command(cluster))
