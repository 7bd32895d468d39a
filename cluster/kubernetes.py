"""Workers in pods, through the Dask operator: the scheduler and its workers are one `DaskCluster` object.

The operator must be installed in the Kubernetes cluster; what is sent to it is made by `cluster.pods`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.base import ClusterSpec, seconds_of
from engine.values.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

_REFERENCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+")


class Volume(BaseModel):
    """A claim of storage that pods see as a folder.

    Attributes:
        claim: Name of the PersistentVolumeClaim; one that workers write to must allow ReadWriteMany.
        path: Where pods see it.
        read_only: For an archive of scenes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    claim: str = Field(description="Name of the PersistentVolumeClaim.")
    path: str = Field(pattern="^/", description="Where pods see it, such as /runs.")
    read_only: bool = Field(default=False, description="Pods cannot write to it.")


class Toleration(BaseModel):
    """A taint of nodes that the pods accept, as Kubernetes names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str | None = Field(default=None, description="Key of the taint; none for all.")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="Exists or Equal.")
    value: str | None = Field(default=None, description="Value of the taint, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; none for all."
    )


class KubernetesSpec(ClusterSpec):
    """Workers in pods; each pod is a worker.

    Attributes:
        image: Image of scheduler, workers and driver, made from the Dockerfile; the same versions as the client.
        name: Of the DaskCluster; default ``landweave-`` and a few letters.
        namespace: Default that of the current context.
        cpu: Cores that a worker's pod asks for; default its threads.
        memory_limit: Of a worker; the pod's limit is 256 MiB above it.
        scheduler_cpu: Cores of the scheduler.
        scheduler_memory: Memory of the scheduler's pod.
        driver_cpu: Cores of a submitted run's driver.
        driver_memory: Memory of a submitted run's driver.
        gpu_resource: What the nodes call their GPUs.
        node_selector: Labels of the nodes that workers may run on, such as cheap ones that may vanish.
        tolerations: Taints of nodes that workers accept.
        head_node_selector: Labels of the nodes for scheduler and driver, such as ones that stay.
        priority_class: Which pods go first.
        user: Number of the user and group in the pods; storage must let them write.
        service_account: Identity of scheduler and workers, for storage without keys; no rights in Kubernetes.
        driver_account: Identity of a submitted run's driver, which starts the cluster.
        secrets: Variables taken from Secrets of the namespace: ``{AWS_SECRET_ACCESS_KEY: s3/secret-key}``.
        env_from: Secrets whose every key becomes a variable.
        volumes: Storage that all pods see; the run folder must be there, or in an object store.
        scratch: Local disk of a pod, for what a worker spills.
        image_pull_policy: When nodes fetch the image.
        image_pull_secrets: Secrets to fetch the image with.
        idle_timeout: The operator ends a cluster that was left with nothing to do for so long.
        start_timeout: How long the scheduler may take to be there, and then a first worker.
    """

    kind: Literal["kubernetes"] = "kubernetes"
    image: str = Field(description="Image of scheduler, workers and driver.")
    name: str | None = Field(default=None, description="Of the DaskCluster; default landweave-xxxxxx.")
    namespace: str | None = Field(default=None, description="Default that of the current context.")
    cpu: float | None = Field(default=None, gt=0, description="Cores a worker asks for; default its threads.")
    memory_limit: str | None = Field(default="4GiB", description="Of a worker; the pod gets 256 MiB more.")
    scheduler_cpu: float = Field(default=1, gt=0, description="Cores of the scheduler.")
    scheduler_memory: str = Field(default="2GiB", description="Memory of the scheduler's pod.")
    driver_cpu: float = Field(default=1, gt=0, description="Cores of a submitted run's driver.")
    driver_memory: str = Field(default="2GiB", description="Memory of a submitted run's driver.")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="What the nodes call their GPUs.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of workers' nodes.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints that workers accept.")
    head_node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels of the nodes for scheduler and driver."
    )
    priority_class: str | None = Field(default=None, description="Which pods go first.")
    user: int = Field(default=1000, ge=1, description="Number of the user and group in the pods.")
    service_account: str | None = Field(default=None, description="Identity of scheduler and workers.")
    driver_account: str = Field(default="landweave", description="Identity of a submitted run's driver.")
    secrets: dict[str, str] = Field(
        default_factory=dict, description="Variables from Secrets: {AWS_SECRET_ACCESS_KEY: s3/secret-key}."
    )
    env_from: tuple[str, ...] = Field(default=(), description="Secrets whose every key becomes a variable.")
    volumes: tuple[Volume, ...] = Field(default=(), description="Storage that all pods see.")
    scratch: str = Field(default="20Gi", description="Local disk of a pod, for what a worker spills.")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When nodes fetch the image."
    )
    image_pull_secrets: tuple[str, ...] = Field(default=(), description="Secrets to fetch the image with.")
    idle_timeout: str = Field(default="15m", description="An idle cluster is ended after so long.")
    start_timeout: str = Field(default="10m", description="How long the scheduler may take to be there.")

    @field_validator("memory_limit", "scheduler_memory", "driver_memory")
    @classmethod
    def _needed(cls, value: str | None) -> str:
        from dask.utils import parse_bytes

        if value is None or parse_bytes(value) <= 0:
            raise ValueError("pods need a limit, such as 4GiB")
        return value

    @field_validator("secrets")
    @classmethod
    def _references(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = sorted(name for name, ref in value.items() if not _REFERENCE.fullmatch(ref))
        if wrong:  # never print the value: somebody may have written the secret itself
            raise ValueError(f"{', '.join(wrong)}: write name-of-the-secret/key, not the value")
        return value

    @field_validator("idle_timeout", "start_timeout")
    @classmethod
    def _durations(cls, value: str) -> str:
        seconds_of(value)
        return value

    @property
    def wait_s(self) -> float:
        """Return how many seconds a first worker is waited for: nodes may have to be started first."""
        return seconds_of(self.start_timeout)

    @property
    def most_workers(self) -> int:
        """Return how many workers there may be at once; one, if nothing is said."""
        return super().most_workers or 1

    @model_validator(mode="after")
    def _by_reference(self) -> KubernetesSpec:
        if self.forward:
            raise ValueError(
                "forward would write values into a manifest that others can read; "
                "put them into a Secret and name it under secrets: {NAME: secret/key}"
            )
        return self


@contextmanager
def start(spec: KubernetesSpec) -> Iterator[Client]:
    """Have the operator start a cluster, give its client, and delete the cluster, also after an error.

    Raises:
        InputError: If there is no way to the API, no operator, no right to use it, or a pod cannot start.
        ConflictError: If a cluster of this name exists.
        RetryableError: If the API, the operator or the nodes take too long.
    """
    try:
        from cluster.kubernetes_start import close, open_cluster, wait_for_pod
    except ImportError as error:
        raise InputError(
            "kind: kubernetes needs the package dask-kubernetes",
            where="cluster.kind",
            found=str(error),
            mend='pip install "landweave[kubernetes]"',
        ) from error
    cluster = open_cluster(spec, spec.name or f"landweave-{uuid.uuid4().hex[:6]}")
    try:
        from distributed import Client

        with Client(cluster, set_as_default=False) as client:
            wait_for_pod(client, cluster)
            yield client
    finally:
        close(cluster)
