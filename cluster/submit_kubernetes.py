"""A driver as a Kubernetes Job: its pod starts the cluster of the run, and is replaced when its node is lost."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import yaml

from cluster.base import ClusterSpec
from cluster.kubernetes import KubernetesSpec
from cluster.pods import driver_job
from cluster.submit import Job, Look, Order
from engine.values.errors import InputError

if TYPE_CHECKING:
    from kr8s import Api

_WAY = "try `kubectl get pods`; KUBECONFIG names the file with the way to the cluster; --dry-run needs none"


def written(spec: ClusterSpec, order: Order) -> str:
    """Return the manifest as YAML."""
    manifest: str = yaml.safe_dump(_manifest(spec, order), sort_keys=False)
    return manifest


def start(spec: ClusterSpec, order: Order) -> Job:
    """Create the Job.

    Raises:
        InputError: If Kubernetes cannot be reached, or refuses it.
    """
    api = _api(cast("KubernetesSpec", spec).namespace)
    from kr8s.objects import Job as KubernetesJob

    namespace = str(api.namespace)
    try:
        KubernetesJob(_manifest(spec, order), namespace=namespace, api=api).create()
    except Exception as error:  # its own, httpx's, the operating system's
        raise InputError(
            "Kubernetes does not take the driver's Job",
            where=f"{namespace}/{order.name}",
            found=_said(error),
            mend="see the manifest with --dry-run, and `kubectl auth can-i create jobs`",
        ) from error
    output = f"kubectl logs --namespace {namespace} job/{order.name}"
    return Job("kubernetes", order.name, order.name, socket.gethostname(), output, {"namespace": namespace})


def look(job: Job) -> Look:
    """Ask for the Job and its pods."""
    try:
        api = _api(job.facts["namespace"])
        ended = _ended(job, api)
        if ended is not None:
            return Look("gone", ended)
        pods = _pods(job, api)
    except InputError as error:
        return Look("unknown", f"{error.what}: {error.found}")
    except Exception as error:  # as above: whatever it is, nothing is known
        return Look("unknown", _said(error))
    running = [p for p in pods if p["status"].get("phase") == "Running"]
    if running:
        return Look("running", f"on {running[0]['spec'].get('nodeName', 'a node')}")
    return Look("pending", "; ".join(_waits(p) for p in pods) or "no pod yet")


def stop(job: Job) -> str:
    """Delete a Job whose pod has not begun."""
    if look(job).state != "pending":
        return ""
    try:
        _object(job, _api(job.facts["namespace"])).delete(propagation_policy="Background")
    except Exception as error:
        return _said(error)
    return ""


def printed(job: Job) -> bytes | None:
    """Return what the Job's newest pod printed; None where it cannot be had."""
    try:
        api = _api(job.facts["namespace"])
        from kr8s.objects import Pod

        newest = max(_pods(job, api), key=lambda p: str(p["metadata"].get("creationTimestamp", "")))
        lines = Pod(newest, namespace=job.facts["namespace"], api=api).logs()
        return "".join(f"{line}\n" for line in lines).encode()
    except Exception:
        return None


def _manifest(spec: ClusterSpec, order: Order) -> dict[str, Any]:
    return driver_job(cast("KubernetesSpec", spec), order.name, order.argv)


def _object(job: Job, api: Api) -> Any:
    from kr8s.objects import Job as KubernetesJob

    return KubernetesJob.get(job.id, namespace=job.facts["namespace"], api=api)


def _ended(job: Job, api: Api) -> str | None:
    """Say how the Job ended, None while it has not."""
    import kr8s

    try:
        status = _object(job, api).raw.get("status", {})
    except kr8s.NotFoundError:
        return "the Job was deleted"
    for condition in status.get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return " ".join(filter(None, (condition["type"], condition.get("reason"))))
    return None


def _pods(job: Job, api: Api) -> list[dict[str, Any]]:
    from kr8s.objects import Pod

    found = Pod.list(namespace=job.facts["namespace"], label_selector={"job-name": job.id}, api=api)
    return [dict(cast("Pod", pod).raw) for pod in found]


def _waits(pod: dict[str, Any]) -> str:
    """Say what a pod waits for.

    >>> _waits({"status": {"phase": "Pending", "conditions": [{"status": "False", "message": "0/3 nodes fit"}]}})
    '0/3 nodes fit'
    """
    status = pod["status"]
    states = [s.get("state", {}).get("waiting", {}) for s in status.get("containerStatuses", ())]
    reasons = [state["reason"] for state in states if "reason" in state]
    unmet = [
        c.get("message") or c.get("reason", "")
        for c in status.get("conditions", ())
        if c["status"] == "False"
    ]
    return next(filter(None, (*reasons, *unmet)), str(status.get("phase", "no pod yet")))


def _api(namespace: str | None) -> Api:
    """Return the way to the Kubernetes of the current context.

    Raises:
        InputError: If the package or the settings are missing.
    """
    try:
        import kr8s
    except ImportError as error:
        raise InputError(
            "the package for Kubernetes is missing",
            where="kind: kubernetes",
            found=str(error),
            mend='pip install "landweave[kubernetes]"',
        ) from error
    try:
        return kr8s.api(namespace=namespace)
    except Exception as error:
        raise InputError(
            "no way to a Kubernetes API", where="kubeconfig", found=_said(error), mend=_WAY
        ) from error


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
