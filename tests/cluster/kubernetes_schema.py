"""What Kubernetes and the operator say is valid, closed against fields that they do not know.

A real API server drops an unknown field of a custom resource without a word, so a slip of the pen would be
found on a cluster only. Two sources, neither of them ours: the schemas of the operator's own objects in the
package `dask_kubernetes`, and the typed models of the package `kubernetes`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import yaml
from kubernetes import client as models
from kubernetes.client.api_client import ApiClient

_PLAIN: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string"},
    "object": {},  # an integer or a text, such as a port's number or name
}
_ANY_META = {"type": "object"}
CUSTOM = ("DaskCluster", "DaskWorkerGroup", "DaskAutoscaler", "DaskJob")


def check(manifest: dict[str, Any]) -> None:
    """Validate a manifest of any kind that we make.

    Raises:
        jsonschema.ValidationError: For an unknown field or a wrong type.
        ValueError: If a field that must be there is not.
    """
    kind = manifest["kind"]
    if kind in CUSTOM:
        operator_validator(kind).validate(manifest)
        check_as("V1ObjectMeta", manifest["metadata"])
        for part in manifest["spec"].values():
            if isinstance(part, dict) and "spec" in part:
                check_as("V1PodSpec", part["spec"])
                check_as("V1ServiceSpec", part.get("service", {}))
    else:
        check_as(f"V1{kind}", manifest)


def check_as(model: str, value: dict[str, Any]) -> None:
    """Validate a value as a model of the package `kubernetes`, such as ``V1PodSpec``."""
    _validator(model).validate(value)
    ApiClient()._ApiClient__deserialize(value, model)  # its constructors refuse what lacks a required field


@cache
def operator_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Return the closed schema of one of the operator's kinds."""
    home = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds"
    crd = yaml.load((home / f"{kind.lower()}.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = crd["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": _ANY_META,
    }
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _close(part)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    known = "properties" in schema and isinstance(schema["properties"], dict)
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for part in schema.values():
        _close(part)


@cache
def _validator(model: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/$defs/{model}", "$defs": _definitions(model)}
    return jsonschema.Draft202012Validator(schema)


def _definitions(model: str) -> dict[str, Any]:
    """Return the schemas of a model and of all that it refers to."""
    found: dict[str, Any] = {}
    wanted = [model]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        cls = getattr(models, name)
        properties = {
            cls.attribute_map[field]: _typed(kind, wanted) for field, kind in cls.openapi_types.items()
        }
        found[name] = {"type": "object", "properties": properties, "additionalProperties": False}
    return found


def _typed(kind: str, wanted: list[str]) -> dict[str, Any]:
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": _typed(inner[1], wanted)}
    if inner := re.fullmatch(r"dict[\[(]str, ?(.+)[\])]", kind):
        return {"type": "object", "additionalProperties": _typed(inner[1], wanted)}
    if kind in _PLAIN:
        return _PLAIN[kind]
    wanted.append(kind)
    return {"$ref": f"#/$defs/{kind}"}
