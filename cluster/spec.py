"""The kinds of cluster, and how a few lines of YAML become one of them.

::

    kind: local            # or address, slurm, ssh, gateway, kubernetes, cuda
    n_workers: 4
    memory_limit: 8GiB
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from cluster.address import AddressSpec
from cluster.base import ClusterSpec
from cluster.cuda import CudaSpec
from cluster.gateway import GatewaySpec
from cluster.kubernetes import KubernetesSpec
from cluster.local import LocalSpec
from cluster.slurm import SlurmSpec
from cluster.ssh import SshSpec
from engine.values.errors import InputError

KINDS: tuple[str, ...] = ("local", "address", "slurm", "ssh", "gateway", "kubernetes", "cuda")


def _known(value: Any) -> Any:
    """Take ``local`` where no kind is told; name the kinds where an unknown one is."""
    if isinstance(value, dict):
        value = {"kind": "local", **value}
        if value["kind"] not in KINDS:
            raise ValueError(f"unknown kind {value['kind']!r}; known kinds: {', '.join(KINDS)}")
    return value


AnyCluster = Annotated[
    Annotated[
        LocalSpec | AddressSpec | SlurmSpec | SshSpec | GatewaySpec | KubernetesSpec | CudaSpec,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_known),
]
"""Any kind, for a field of a configuration."""

_adapter: TypeAdapter[ClusterSpec] = TypeAdapter(AnyCluster)


def parse_spec(raw: Any, where: str = "cluster") -> ClusterSpec:
    """Check a mapping and return the spec of its kind.

    Raises:
        InputError: Naming every wrong field at once.
    """
    try:
        return _adapter.validate_python(raw)
    except ValidationError as error:
        lines = [f"{_field(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise InputError(
            f"the cluster's settings are wrong: {'; '.join(lines)}",
            where=where,
            mend=f"known kinds: {', '.join(KINDS)}; `landweave schema` tells the fields of each",
        ) from error


def _field(loc: tuple[int | str, ...]) -> str:
    """Name a field; the kind that pydantic puts before it is told by the user already."""
    path = loc[1:] if loc and loc[0] in KINDS else loc
    return ".".join(map(str, path)) or "cluster"


def load_spec(path: str | Path) -> ClusterSpec:
    """Read a YAML file with a spec.

    Raises:
        InputError: If it cannot be read or a field is wrong.
    """
    return parse_spec(read_spec(path), where=str(path))


def read_spec(path: str | Path) -> Any:
    """Read a YAML file without checking what it says.

    Raises:
        InputError: If it cannot be read, or is no YAML.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            "cannot read the cluster's YAML", where=str(path), found=str(error), mend="kind: local"
        ) from error
    return {} if raw is None else raw
