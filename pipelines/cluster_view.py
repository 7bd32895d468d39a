"""What a cluster's YAML becomes, for a person to review before anything is sent."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from cluster.kubernetes import KubernetesSpec
from cluster.pods import autoscaler_manifest, cluster_manifest, driver_access, driver_job
from cluster.spec import load_spec
from engine.values.errors import InputError


def manifests(
    path: Path, name: str, *, access: bool = False, driver: str | None = None
) -> list[dict[str, Any]]:
    """Return the objects that a run on Kubernetes sends, in the order in which they are sent.

    Args:
        path: Cluster YAML of ``kind: kubernetes``.
        name: Of the objects; a run without a name in its YAML gets one of its own.
        access: Only what an administrator applies once, for drivers that run in the cluster.
        driver: A command; then also the Job that runs it.

    Raises:
        InputError: If the YAML is of another kind or wrong, or Kubernetes would refuse the name.
    """
    spec = load_spec(path)
    if not isinstance(spec, KubernetesSpec):
        raise InputError(
            "only Kubernetes takes manifests",
            where=str(path),
            found=f"kind: {spec.kind}",
            limit="kind: kubernetes",
        )
    if access:
        return list(driver_access(spec))
    name = spec.name or name
    found = [cluster_manifest(spec, name), autoscaler_manifest(spec, name)]
    if driver is not None:
        found.append(driver_job(spec, name, shlex.split(driver)))
    return [manifest for manifest in found if manifest is not None]
