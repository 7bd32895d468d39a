from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from cluster.kubernetes import KubernetesSpec, start
from cluster.kubernetes_start import wait_for_pod
from cluster.pods import autoscaler_manifest, cluster_manifest, driver_access, driver_job
from engine.values.errors import ConflictError, InputError, RetryableError
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import SampleRun
from tests.services.kubernetes import NAMESPACE, Kubernetes, kubernetes

SMALL: dict[str, Any] = {
    "image": "landweave:0.1.0",
    "name": "sample",
    "memory_limit": "1GiB",
    "scheduler_memory": "512MiB",
}
_CLUSTER = f"/apis/kubernetes.dask.org/v1/namespaces/{NAMESPACE}/daskclusters/sample"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with kubernetes(tmp_path_factory.mktemp("kubernetes")) as served:
        yield served


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Kubernetes]:
    with kubernetes(tmp_path) as served:
        yield served


class TestKubernetes(ClusterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, place: Kubernetes) -> KubernetesSpec:
        place.secrets = {"s3": {"secret-key": "it is a secret"}}
        return KubernetesSpec(
            **SMALL, secrets={"SAMPLE_SECRET": "s3/secret-key"}, adapt={"minimum": 1, "maximum": 1}
        )

    def test_what_is_sent_is_what_was_reviewed(
        self, client: Client, place: Kubernetes, target: KubernetesSpec
    ) -> None:
        reviewed = [cluster_manifest(target, "sample"), autoscaler_manifest(target, "sample")]
        for sent, manifest in zip(place.sent, reviewed, strict=True):
            assert manifest is not None
            sent["metadata"].pop("namespace", None)
            assert sent == manifest

    def test_the_scheduler_leaves_it_to_the_run_who_is_tried_again(self, client: Client) -> None:
        assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == 0

    def test_a_worker_has_its_secret_and_its_memory(self, client: Client) -> None:
        for name, limit in client.run(_secret_and_memory).values():
            assert (name, limit) == ("it is a secret", 2**30)

    def test_the_operator_may_retire_workers_over_http(self, client: Client) -> None:
        import urllib.request

        host = client.scheduler_info()["address"].split("//")[1].split(":")[0]
        with urllib.request.urlopen(f"http://{host}:8787/api/v1/adaptive_target", timeout=10) as answer:
            assert answer.status == 200


def _secret_and_memory(dask_worker: Any) -> tuple[str | None, int]:
    return os.environ.get("SAMPLE_SECRET"), dask_worker.memory_manager.memory_limit


@pytest.mark.long
def test_a_driver_in_a_pod_makes_the_same_map_and_ends_its_cluster(
    empty: Kubernetes, sample_run: SampleRun, tmp_path: Path
) -> None:
    cluster = {"kind": "kubernetes", **SMALL}
    told = ["-o", f"out={tmp_path / 'run'}", "-o", f"cluster={json.dumps(cluster)}"]
    command = ["landweave", "map", str(sample_run.yaml), *told]
    status, _ = empty.create("jobs", driver_job(KubernetesSpec(**SMALL), "driver", command))
    assert status == 201
    driver = empty.pods[0]
    assert driver.process.wait(timeout=240) == 0, (empty.folder / "driver" / "log").read_text()[-3000:]
    sample_run.assert_same(tmp_path / "run")
    assert ("DELETE", _CLUSTER) in empty.requests
    assert _left(empty) == [("jobs", "driver"), driver]
    _assert_allowed(empty)


def _assert_allowed(place: Kubernetes) -> None:
    """Compare what was asked for with what the role of a driver gives."""
    asked = {what for request in place.requests if (what := _right(*request)) is not None}
    allowed = {
        (group, resource, verb)
        for rule in driver_access(KubernetesSpec(**SMALL))[1]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for verb in ("create", "delete"):
        assert ("kubernetes.dask.org", "daskclusters", verb) in asked
    assert asked <= allowed


def _right(method: str, url: str) -> tuple[str, str, str] | None:
    """Return the right that a request needs: group, resource, verb; None for what everybody may ask."""
    found = re.match(r"/(?:api|apis/([^/]+))/v1/namespaces/[^/]+/([^/?]+)(?:/([^/?]+))?", url)
    if found is None:
        assert method == "GET"
        return None
    verbs = {"GET": "get" if found[3] else "list", "POST": "create", "DELETE": "delete", "PATCH": "patch"}
    return found[1] or "", found[2], verbs[method]


def _left(place: Kubernetes) -> list[Any]:
    return [*place.objects, *place.pods]


def test_it_is_deleted_also_after_an_error(empty: Kubernetes) -> None:
    spec = KubernetesSpec(**SMALL, adapt={"minimum": 1, "maximum": 2})
    with pytest.raises(RetryableError, match="no worker starts") as told, start(spec) as client:  # noqa: PT012
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert len(empty.pods) == 2
        empty.wait("sample", "0/3 nodes are available: 3 Insufficient memory.")
        client.cluster.wanted = KubernetesSpec(**SMALL, start_timeout="1s")
        wait_for_pod(NoWorkers(), client.cluster)  # type: ignore[arg-type]
    assert "Insufficient memory" in str(told.value)
    assert _left(empty) == []
    assert ("DELETE", _CLUSTER) in empty.requests
    _assert_allowed(empty)


class NoWorkers:
    """A client whose workers do not come."""

    def nthreads(self) -> dict[str, int]:
        return {}

    def wait_for_workers(self, many: int, timeout: float) -> None:
        raise TimeoutError


def test_a_cluster_of_somebody_else_is_left_alone(empty: Kubernetes) -> None:
    theirs = cluster_manifest(KubernetesSpec(**SMALL), "sample")
    empty.objects["daskclusters", "sample"] = theirs
    with pytest.raises(ConflictError, match="of this name exists"), start(KubernetesSpec(**SMALL)):
        pass
    assert _left(empty) == [("daskclusters", "sample")]
    assert not [verb for verb, _ in empty.requests if verb != "GET"]


def test_what_pods_wait_for_is_told_and_nothing_is_left(empty: Kubernetes) -> None:
    empty.unschedulable = "0/3 nodes are available: 3 Insufficient memory."
    spec = KubernetesSpec(**SMALL, start_timeout="3s")
    with pytest.raises(RetryableError, match="Insufficient memory"), start(spec):
        pass
    assert _left(empty) == []


def test_ctrl_c_while_it_starts_leaves_nothing(empty: Kubernetes) -> None:
    empty.unschedulable = "no node"
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), start(KubernetesSpec(**SMALL)):
        pass
    timer.join()
    assert ("POST", _CLUSTER.rsplit("/", 1)[0]) in empty.requests
    assert _left(empty) == []


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (404, InputError, "install the Dask operator"),
        (403, InputError, "administrator"),
        (409, ConflictError, "another name"),
        (503, RetryableError, "fails"),
    ],
)
def test_a_refusal_says_what_to_do(empty: Kubernetes, status: int, error: type[Exception], says: str) -> None:
    empty.refuse = {"daskclusters": status}
    with pytest.raises(error, match=says), start(KubernetesSpec(**SMALL)):
        pass
    assert _left(empty) == []


def test_no_way_to_an_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="no way to a Kubernetes API"), start(KubernetesSpec(**SMALL)):
        pass


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cluster.kubernetes_start", raising=False)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(InputError, match=r"landweave\[kubernetes\]"), start(KubernetesSpec(**SMALL)):
        pass
