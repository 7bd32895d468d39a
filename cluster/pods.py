"""What Kubernetes is asked for: pure functions from a spec to manifests that a person can review.

::

    cluster_manifest(spec, name)         DaskCluster of the Dask operator: a scheduler and its workers
    driver_job(spec, name, command)      Job that runs landweave itself, so that no terminal has to stay open
    driver_access(spec)                  ServiceAccount, Role, RoleBinding: what that Job may do, and no more

Secrets are named, never written: a container gets them by `secretKeyRef` or `envFrom`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.base import seconds_of
from cluster.worker import worker_environment
from engine.values.errors import InputError

if TYPE_CHECKING:
    from cluster.kubernetes import KubernetesSpec

NANNY_BYTES = 256 * 2**20
"""What a pod gets beside its worker's `memory_limit`: the process that watches the worker lives there too."""

_SCRATCH = "/scratch"
_HOME = {"HOME": _SCRATCH, "TMPDIR": _SCRATCH}  # a user who is none in the image owns no other folder
_NAME_CHARS = 45  # the operator and Kubernetes add to it, and 63 is the most
_KEEP_JOB_S = 7 * 24 * 3600
_DRAIN_S = 45  # a run drains within 25 s after SIGTERM and then ends its cluster

Manifest = dict[str, Any]


def cluster_manifest(spec: KubernetesSpec, name: str) -> Manifest:
    """Return the DaskCluster: a scheduler with its service, and one group of workers.

    Args:
        spec: The cluster's settings.
        name: Of the object; the operator derives the names of all others from it.

    Raises:
        InputError: If Kubernetes would refuse the name.
    """
    labels = _labels(check_name(name), "cluster")
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": _metadata(spec, name, labels),
        "spec": {
            "idleTimeout": math.ceil(seconds_of(spec.idle_timeout)),
            "scheduler": {
                "spec": _head_pod(spec, _scheduler_container(spec), token=False),
                "service": _service(name),
            },
            "worker": {"replicas": _replicas(spec), "spec": _worker_pod(spec)},
        },
    }


def autoscaler_manifest(spec: KubernetesSpec, name: str) -> Manifest | None:
    """Return the DaskAutoscaler of a spec that adapts; None for a fixed number of workers."""
    if spec.adapt is None:
        return None
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskAutoscaler",
        "metadata": _metadata(spec, check_name(name), _labels(name, "autoscaler")),
        "spec": {"cluster": name, "minimum": spec.adapt.minimum, "maximum": spec.adapt.maximum},
    }


def driver_job(
    spec: KubernetesSpec, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Manifest:
    """Return the Job in whose pod a run is driven; it starts its DaskCluster from there.

    A pod that is evicted, or whose node dies, is replaced, and the run goes on. A run that ended by itself is not
    begun again: exit codes 2 (configuration), 3 (gaps), 4 (data) and 5 (cancelled) end the Job. Any other end,
    out of memory for one, is tried again a few times.

    Args:
        spec: The settings of the cluster that the run will use: image, secrets and volumes are the same.
        name: Of the Job.
        command: What runs, such as ``("landweave", "map", "/runs/luxembourg/run.yaml")``.
        environment: Further variables; no secrets.

    Raises:
        InputError: If Kubernetes would refuse the name.
    """
    container = {
        "name": "driver",
        "image": spec.image,
        "args": [str(part) for part in command],
        **_environment(spec, {**spec.environment, **(environment or {})}),
        "resources": _resources(spec.driver_cpu, _bytes(spec.driver_memory)),
    }
    pod = _head_pod(spec, container, token=True) | {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _DRAIN_S,
    }
    labels = _labels(check_name(name), "driver")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(spec, name, labels),
        "spec": {
            "backoffLimit": 6,
            "ttlSecondsAfterFinished": _KEEP_JOB_S,
            "podReplacementPolicy": "Failed",  # two drivers at once would fight for the run folder
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "driver", "operator": "In", "values": [2, 3, 4, 5]},
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def driver_access(spec: KubernetesSpec) -> tuple[Manifest, ...]:
    """Return what lets a driver's pod start and end its own cluster: an identity, a role, and their binding."""
    labels = _labels(spec.driver_account, "access")
    meta = _metadata(spec, spec.driver_account, labels)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": _RULES}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": spec.driver_account},
        "subjects": [
            {"kind": "ServiceAccount", "name": spec.driver_account}
            | ({"namespace": spec.namespace} if spec.namespace else {})
        ],
    }
    return account, role, binding


_RULES = [
    {
        "apiGroups": ["kubernetes.dask.org"],
        "resources": ["daskclusters", "daskworkergroups", "daskworkergroups/scale", "daskautoscalers"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods", "services", "events"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
]


def check_name(name: str) -> str:
    """Return a name that Kubernetes takes for an object, its pods and its service.

    Raises:
        InputError: If it does not.
    """
    if len(name) > _NAME_CHARS or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise InputError(
            "Kubernetes does not take this name",
            where="name",
            found=name,
            limit=f"a-z, 0-9 and -, a letter first, at most {_NAME_CHARS} characters",
        )
    return name


def _scheduler_container(spec: KubernetesSpec) -> Manifest:
    environment = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",  # who is tried again is for the run to decide
        "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": repr([*_ROUTES]),
    }
    return {
        "name": "scheduler",
        "image": spec.image,
        "args": ["dask", "scheduler", "--host", "0.0.0.0", "--dashboard-address", ":8787"],
        "env": _plain(environment | spec.environment),  # it touches no data, so it needs no secrets
        "resources": _resources(spec.scheduler_cpu, _bytes(spec.scheduler_memory)),
        "ports": [_port("tcp-comm", 8786), _port("http-dashboard", 8787)],
        "readinessProbe": _probe(initialDelaySeconds=2, periodSeconds=2, timeoutSeconds=10),
        "livenessProbe": _probe(
            initialDelaySeconds=30, periodSeconds=20, timeoutSeconds=10, failureThreshold=6
        ),
    }


_ROUTES = (
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.proxy",
    "distributed.http.statics",
    "distributed.http.scheduler.api",  # beside the usual ones: through it the operator retires workers
)


def _worker_container(spec: KubernetesSpec) -> Manifest:
    limit = _bytes(spec.memory_limit)
    args = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", str(spec.threads_per_worker)]
    args += ["--memory-limit", str(limit), "--local-directory", _SCRATCH, "--dashboard-address", ":8788"]
    args += ["--resources", "GPU=1"] if spec.gpus_per_worker else []
    resources = _resources(spec.cpu or spec.threads_per_worker, limit + NANNY_BYTES)
    if spec.gpus_per_worker:
        resources["limits"][spec.gpu_resource] = resources["requests"][spec.gpu_resource] = "1"
    return {
        "name": "worker",
        "image": spec.image,
        "args": args,
        **_environment(spec, worker_environment(spec)),
        "resources": resources,
        "ports": [_port("http-dashboard", 8788)],
    }


def _worker_pod(spec: KubernetesSpec) -> Manifest:
    """Return the pod of a worker, on the nodes that are for workers."""
    pod = _pod(spec, _worker_container(spec), token=False)
    if spec.gpus_per_worker:  # torch's own processes talk through shared memory; a pod has 64 MB of it
        pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
        pod["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    if spec.tolerations:
        pod["tolerations"] = [t.model_dump(exclude_none=True) for t in spec.tolerations]
    return pod | ({"nodeSelector": dict(spec.node_selector)} if spec.node_selector else {})


def _head_pod(spec: KubernetesSpec, container: Manifest, *, token: bool) -> Manifest:
    """Return the pod of a scheduler or driver: a run does not survive the one, and restarts with the other."""
    pod = _pod(spec, container, token=token)
    return pod | ({"nodeSelector": dict(spec.head_node_selector)} if spec.head_node_selector else {})


def _pod(spec: KubernetesSpec, container: Manifest, *, token: bool) -> Manifest:
    """Return a pod's spec around one container, with the spec's volumes, identity and user."""
    volumes: list[Manifest] = [{"name": "scratch", "emptyDir": {"sizeLimit": spec.scratch}}]
    mounts: list[Manifest] = [{"name": "scratch", "mountPath": _SCRATCH}]
    for number, volume in enumerate(spec.volumes):
        claim = {"claimName": volume.claim, "readOnly": volume.read_only}
        volumes.append({"name": f"volume-{number}", "persistentVolumeClaim": claim})
        mounts.append({"name": f"volume-{number}", "mountPath": volume.path, "readOnly": volume.read_only})
    secured = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod: Manifest = {
        "automountServiceAccountToken": token,
        "containers": [
            container
            | {
                "imagePullPolicy": spec.image_pull_policy,
                "securityContext": secured,
                "volumeMounts": mounts,
            }
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": spec.user,
            "runAsGroup": spec.user,
            "fsGroup": spec.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": volumes,
    }
    optional: Manifest = {
        "serviceAccountName": spec.driver_account if token else spec.service_account,
        "imagePullSecrets": [{"name": name} for name in spec.image_pull_secrets],
        "priorityClassName": spec.priority_class,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _environment(spec: KubernetesSpec, plain: Mapping[str, str]) -> Manifest:
    """Return a container's variables: plain ones by value, secrets by reference."""
    env = _plain({**_HOME, **plain})
    for name, ref in spec.secrets.items():
        secret, key = ref.split("/")
        env.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    whole = [{"secretRef": {"name": name}} for name in spec.env_from]
    return {"env": env} | ({"envFrom": whole} if whole else {})


def _plain(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def _resources(cpu: float, memory: int) -> Manifest:
    """Ask for what is used. Memory is a limit too: a node that gives more than it has kills whom it likes."""
    asked = {"cpu": f"{round(cpu * 1000)}m", "memory": f"{math.ceil(memory / 2**20)}Mi"}
    return {"requests": asked, "limits": {"memory": asked["memory"]}}


def _service(name: str) -> Manifest:
    chosen = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    ports = [
        {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
        {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
    ]
    return {"type": "ClusterIP", "selector": chosen, "ports": ports}


def _port(name: str, number: int) -> Manifest:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(**timing: int) -> Manifest:
    return {"httpGet": {"port": "http-dashboard", "path": "/health"}, **timing}


def _metadata(spec: KubernetesSpec, name: str, labels: Mapping[str, str]) -> Manifest:
    meta: Manifest = {"name": name, "labels": dict(labels)}
    return meta | ({"namespace": spec.namespace} if spec.namespace else {})


def _labels(name: str, part: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "landweave",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": part,
    }


def _replicas(spec: KubernetesSpec) -> int:
    return spec.most_workers if spec.adapt is None else max(1, spec.adapt.minimum)


def _bytes(text: str | None) -> int:
    from dask.utils import parse_bytes

    return int(parse_bytes(text or 0))
