"""A driver as a Kubernetes Job: what is asked of the API, over HTTP, and how its answers are read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kr8s
import pytest
import yaml

from cluster.kubernetes import KubernetesSpec
from cluster.submit import Order, look, place_of, printed, start, stop, written
from engine.values.errors import InputError

SPEC = KubernetesSpec(image="landweave:1", namespace="maps")
NAME = "landweave-lux-1"
ORDER = Order(NAME, ("landweave", "drive", "s3://b/lux", "1"), "unused")


class Api:
    """The few paths of the API that Jobs and their pods need; objects in a dictionary.

    Attributes:
        jobs: By name.
        pods: Of all Jobs.
        asked: Method and path of each request.
        refuses: Status of each answer to a POST; 0 takes it.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.pods: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.refuses = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path))
        path, _, query = path.partition("?")
        path = path.rstrip("/")
        if path.startswith("/apis/batch/v1/namespaces/maps/jobs"):
            return self._job(method, path.rpartition("/jobs")[2].strip("/"), body)
        if path == "/api/v1/namespaces/maps/pods":
            assert f"job-name%3D{NAME}" in query or f"job-name={NAME}" in query
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self.pods}
        if re.fullmatch(r"/api/v1/namespaces/maps/pods/[^/]+/log", path):
            return 200, "dashboard http://x\nmap 3/20 tiles\n"
        if path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        return 404, {"kind": "Status", "message": f"no {path}"}

    def _job(self, method: str, name: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            if self.refuses:
                return self.refuses, {"kind": "Status", "message": "jobs.batch is forbidden: who are you?"}
            self.jobs[body["metadata"]["name"]] = body
            return 201, body
        if name and name not in self.jobs:
            return 404, {"kind": "Status", "message": "not found"}
        if method == "DELETE":
            return 200, self.jobs.pop(name)
        if name:
            return 200, self.jobs[name]
        return 200, {"kind": "JobList", "apiVersion": "batch/v1", "items": list(self.jobs.values())}


class _Handler(BaseHTTPRequestHandler):
    api: Api

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, told = self.api.answer(self.command, self.path, body)
        data = (told if isinstance(told, str) else json.dumps(told)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(told, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, *told: Any) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "maps"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
    }
    kr8s.Api._instances.clear()  # it keeps one way for each context, and each test has a server of its own
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield api
    server.shutdown()
    server.server_close()
    thread.join()


def _pod(phase: str, **status: Any) -> dict[str, Any]:
    meta = {
        "name": f"{NAME}-x{phase.lower()}",
        "namespace": "maps",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {"nodeName": "node7"}, "status": {"phase": phase, **status},
    }  # fmt: skip


def test_the_manifest_is_what_is_sent(api: Api) -> None:
    assert place_of(SPEC) == "kubernetes"
    job = start("kubernetes", SPEC, ORDER)
    sent = api.jobs[NAME]
    wanted = yaml.safe_load(written("kubernetes", SPEC, ORDER))
    assert {k: sent[k] for k in wanted} == wanted
    assert sent["spec"]["template"]["spec"]["containers"][0]["args"] == list(ORDER.argv)
    assert (job.id, job.called, job.facts) == (NAME, f"Kubernetes Job {NAME}", {"namespace": "maps"})
    assert job.output == f"kubectl logs --namespace maps job/{NAME}"


def test_a_job_waits_runs_and_ends(api: Api) -> None:
    job = start("kubernetes", SPEC, ORDER)
    assert (look(job).state, look(job).said) == ("pending", "no pod yet"), api.asked
    api.pods = [_pod("Pending", conditions=[{"status": "False", "message": "0/3 nodes are available"}])]
    assert (look(job).state, look(job).said) == ("pending", "0/3 nodes are available")
    api.pods = [_pod("Pending", containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff"}}}])]
    assert look(job).said == "ImagePullBackOff"
    api.pods = [_pod("Failed"), _pod("Running")]
    assert (look(job).state, look(job).said) == ("running", "on node7")
    assert printed(job) == b"dashboard http://x\nmap 3/20 tiles\n"
    assert stop(job) == ""
    assert NAME in api.jobs, "one that runs is asked through its folder"
    condition = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}
    api.jobs[NAME]["status"] = {"conditions": [condition]}
    assert (look(job).state, look(job).said) == ("gone", "Failed PodFailurePolicy")


def test_a_job_that_waits_is_deleted(api: Api) -> None:
    job = start("kubernetes", SPEC, ORDER)
    assert stop(job) == ""
    assert api.jobs == {}
    assert (look(job).state, look(job).said) == ("gone", "the Job was deleted")


def test_a_refusal_is_told_in_kubernetes_words(api: Api) -> None:
    api.refuses = 403
    with pytest.raises(
        InputError, match=r"does not take the driver's Job \[maps/landweave-lux-1\].*forbidden"
    ):
        start("kubernetes", SPEC, ORDER)


def test_without_a_way_to_it_nothing_is_known(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start("kubernetes", SPEC, ORDER)
    kr8s.Api._instances.clear()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert look(job).state == "unknown"
    assert "no way to a Kubernetes API" in look(job).said
    assert printed(job) is None
    with pytest.raises(InputError, match="no way to a Kubernetes API"):
        start("kubernetes", SPEC, ORDER)
