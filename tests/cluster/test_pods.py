from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from cluster.instructions import pins
from cluster.kubernetes import KubernetesSpec
from cluster.pods import NANNY_BYTES, autoscaler_manifest, cluster_manifest, driver_access, driver_job
from cluster.size import ClusterSize, size_of
from cluster.spec import parse_spec
from cluster.worker import PRE_SPAWN
from engine.values.errors import InputError
from tests.cluster.kubernetes_schema import check

LEAN = {"kind": "kubernetes", "image": "registry.example/landweave:0.1.0"}
FULL = LEAN | {
    "namespace": "maps",
    "adapt": {"minimum": 2, "maximum": 40},
    "threads_per_worker": 2,
    "memory_limit": "8GiB",
    "cpu": 1.5,
    "gpus_per_worker": 1,
    "gpu_resource": "nvidia.com/mig-1g.10gb",
    "lifetime": "55m",
    "environment": {"GDAL_CACHEMAX": "512", "AWS_ENDPOINT_URL": "https://s3.example"},
    "secrets": {"AWS_SECRET_ACCESS_KEY": "s3/secret-key"},
    "env_from": ["catalogue"],
    "volumes": [
        {"claim": "runs", "path": "/runs"},
        {"claim": "scenes", "path": "/scenes", "read_only": True},
    ],
    "node_selector": {"pool": "spot"},
    "tolerations": [
        {"key": "spot", "effect": "NoSchedule"},
        {"operator": "Equal", "key": "gpu", "value": "a"},
    ],
    "head_node_selector": {"pool": "steady"},
    "priority_class": "batch",
    "service_account": "reads-scenes",
    "image_pull_secrets": ["registry"],
    "idle_timeout": "1h",
}


def _spec(raw: dict[str, Any]) -> KubernetesSpec:
    spec = parse_spec(raw)
    assert isinstance(spec, KubernetesSpec)
    return spec


def _manifests(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = _spec(raw)
    yield cluster_manifest(spec, "luxembourg")
    yield driver_job(spec, "luxembourg", ("landweave", "map", "/runs/lux/run.yaml"))
    yield from driver_access(spec)
    if (autoscaler := autoscaler_manifest(spec, "luxembourg")) is not None:
        yield autoscaler


def _container(raw: dict[str, Any], part: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster_manifest(_spec(raw), "lux")["spec"][part]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("raw", [LEAN, FULL], ids=["lean", "full"])
def test_manifests_are_valid(raw: dict[str, Any]) -> None:
    kinds = []
    for manifest in _manifests(raw):
        check(manifest)
        kinds.append(manifest["kind"])
    assert kinds[:5] == ["DaskCluster", "Job", "ServiceAccount", "Role", "RoleBinding"]
    assert ("DaskAutoscaler" in kinds) == ("adapt" in raw)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk to every object in a manifest whose fields Kubernetes prescribes."""
    free = {"labels", "annotations", "nodeSelector", "requests", "limits", "selector"}
    if isinstance(value, dict):
        if not path or path[-1] not in free:
            yield path
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, (*path, number))


def test_an_unknown_field_is_found_wherever_it_is() -> None:
    tried = 0
    for manifest in _manifests(FULL):
        for path in _places(manifest):
            planted = copy.deepcopy(manifest)
            place = planted
            for key in path:
                place = place[key]
            place["plantedByTheTest"] = "x"
            with pytest.raises(jsonschema.ValidationError, match="plantedByTheTest"):
                check(planted)
            tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    "drop", [("spec", "worker", "spec", "containers"), ("spec", "scheduler"), ("spec", "worker", "spec")]
)
def test_a_missing_field_is_found(drop: tuple[str, ...]) -> None:
    manifest = cluster_manifest(_spec(LEAN), "lux")
    place = manifest
    for key in drop[:-1]:
        place = place[key]
    del place[drop[-1]]
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(manifest)


def test_a_wrong_type_is_found() -> None:
    manifest = cluster_manifest(_spec(LEAN), "lux")
    manifest["spec"]["idleTimeout"] = "15m"
    with pytest.raises(jsonschema.ValidationError, match="15m"):
        check(manifest)


def test_a_worker_gets_what_the_spec_says() -> None:
    worker = _container(FULL, "worker")
    args = worker["args"]
    assert args[:2] == ["dask", "worker"]
    assert args[args.index("--nthreads") + 1] == "2"
    assert int(args[args.index("--memory-limit") + 1]) == 8 * 2**30
    assert args[args.index("--resources") + 1] == "GPU=1"
    asked = worker["resources"]
    assert (
        asked["limits"]["memory"] == f"{(8 * 2**30 + NANNY_BYTES) // 2**20}Mi" == asked["requests"]["memory"]
    )
    assert asked["requests"]["cpu"] == "1500m"
    assert "cpu" not in asked["limits"], "a core that is free may be used"
    assert asked["limits"]["nvidia.com/mig-1g.10gb"] == asked["requests"]["nvidia.com/mig-1g.10gb"] == "1"
    env = {entry["name"]: entry.get("value") for entry in worker["env"]}
    assert env["GDAL_CACHEMAX"] == "512", "the user's word goes before ours"
    assert {name: env[name] for name in PRE_SPAWN if name != "GDAL_CACHEMAX"} == {
        name: value for name, value in PRE_SPAWN.items() if name != "GDAL_CACHEMAX"
    }


def test_instructions_are_pinned_from_the_first_one_on() -> None:
    env = {
        entry["name"]: entry.get("value")
        for entry in _container(LEAN | {"instruction_set": "avx2"}, "worker")["env"]
    }
    assert pins("avx2").items() <= env.items()
    assert pins("avx2")


def test_a_plan_knows_the_size_before_it_starts() -> None:
    assert size_of(_spec(FULL)) == ClusterSize(workers=40, slots=40, memory_limit=8 * 2**30)
    assert size_of(_spec(LEAN)) == ClusterSize(workers=1, slots=1, memory_limit=4 * 2**30)
    assert _spec(LEAN | {"start_timeout": "20m"}).wait_s == 1200


def test_only_a_worker_with_a_gpu_takes_tiles_that_need_one() -> None:
    lean = _container(LEAN, "worker")
    assert "--resources" not in lean["args"]
    assert set(lean["resources"]["limits"]) == {"memory"}


def test_cheap_nodes_are_for_workers_alone() -> None:
    cluster = cluster_manifest(_spec(FULL), "lux")["spec"]
    job = driver_job(_spec(FULL), "lux", ("landweave",))["spec"]["template"]["spec"]
    assert cluster["worker"]["spec"]["nodeSelector"] == {"pool": "spot"}
    assert cluster["worker"]["spec"]["tolerations"][0] == {
        "key": "spot",
        "operator": "Exists",
        "effect": "NoSchedule",
    }
    for head in (cluster["scheduler"]["spec"], job):
        assert head["nodeSelector"] == {"pool": "steady"}
        assert "tolerations" not in head


def test_secrets_are_named_and_go_only_where_data_is_read() -> None:
    spec = _spec(FULL)
    cluster = cluster_manifest(spec, "lux")["spec"]
    job = driver_job(spec, "lux", ("landweave",))["spec"]["template"]["spec"]
    wanted = {
        "name": "AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret-key"}},
    }
    for pod in (cluster["worker"]["spec"], job):
        assert wanted in pod["containers"][0]["env"]
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "catalogue"}}]
    assert "secretKeyRef" not in json.dumps(cluster["scheduler"])


def test_only_the_driver_may_speak_to_kubernetes() -> None:
    spec = _spec(FULL)
    cluster = cluster_manifest(spec, "lux")["spec"]
    job = driver_job(spec, "lux", ("landweave",))["spec"]["template"]["spec"]
    assert (job["automountServiceAccountToken"], job["serviceAccountName"]) == (True, "landweave")
    for part in ("scheduler", "worker"):
        pod = cluster[part]["spec"]
        assert (pod["automountServiceAccountToken"], pod["serviceAccountName"]) == (False, "reads-scenes")
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    account, role, binding = driver_access(spec)
    assert {m["metadata"]["namespace"] for m in (account, role, binding)} == {"maps"}
    assert binding["subjects"][0]["name"] == account["metadata"]["name"] == job["serviceAccountName"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert "*" not in json.dumps(role["rules"])
    assert not [rule for rule in role["rules"] if "secrets" in rule["resources"]]


def test_a_driver_is_replaced_but_a_run_that_ended_is_not_begun_again() -> None:
    job = driver_job(_spec(LEAN), "lux", ("landweave", "map", "run.yaml"), {"LANDWEAVE_X": "1"})["spec"]
    ignore, fail = job["podFailurePolicy"]["rules"]
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4, 5])
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "what a podFailurePolicy asks for"
    assert fail["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["containers"][0]["args"] == ["landweave", "map", "run.yaml"]
    assert {"name": "LANDWEAVE_X", "value": "1"} in pod["containers"][0]["env"]


def test_adapting_starts_with_the_least() -> None:
    manifest = autoscaler_manifest(_spec(FULL), "lux")
    assert manifest is not None
    assert manifest["spec"] == {"cluster": "lux", "minimum": 2, "maximum": 40}
    assert cluster_manifest(_spec(FULL), "lux")["spec"]["worker"]["replicas"] == 2
    assert cluster_manifest(_spec(LEAN | {"n_workers": 7}), "lux")["spec"]["worker"]["replicas"] == 7


@pytest.mark.parametrize("name", ["Lux", "-lux", "lux_1", "1lux", "l" * 46, "", "lux-"])
def test_names_that_kubernetes_refuses(name: str) -> None:
    with pytest.raises(InputError, match="does not take this name"):
        cluster_manifest(_spec(LEAN), name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"forward": ["AWS_SECRET_ACCESS_KEY"]}, "under secrets"),
        ({"secrets": {"TOKEN": "AKIAverysecret"}}, "TOKEN: write name-of-the-secret/key"),
        ({"memory_limit": None}, "pods need a limit"),
        ({"idle_timeout": "soon"}, "no duration"),
        ({"volumes": [{"claim": "runs", "path": "runs"}]}, "path"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "effect"),
        ({"image": None}, "image"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        _spec(LEAN | change)
    assert says in str(refused.value)
    assert "AKIAverysecret" not in str(refused.value)
