"""A Kubernetes of one machine: what a cluster of the Dask operator needs of it, on loopback.

It is no Kubernetes. It stores objects behind the real API's paths, refuses what the operator's schema or
Kubernetes' models refuse (`tests.cluster.kubernetes_schema`), builds the operator's deployments with the
operator's own functions, and runs each pod's container as a process: its arguments and its variables are those
of the manifest and no others. What images, nodes, cgroups and the network do is not here.

::

    pod       a process with an address of its own in 127.0.0.0/8; "/scratch" is a folder
    image     this Python with this source tree
    DNS       `Kubernetes.resolve` for the process of the test; the same for pods, from a file
    Job       one pod, which nobody replaces
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from tests.cluster.kubernetes_schema import check

NAMESPACE = "maps"
ROOT = Path(__file__).parents[2]
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)/namespaces/(?P<ns>[^/]+)/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)
Object = dict[str, Any]
_PROGRAMS = {
    "dask": [sys.executable, "-m", "dask"],
    "landweave": [sys.executable, "-c", "from pipelines.cli import main; main()"],
}
_RESOLVER = """\
import json, os, pathlib, socket
real, hosts = socket.getaddrinfo, pathlib.Path(os.environ["HOSTS"])
def found(host, *args, **more):
    return real(json.loads(hosts.read_text()).get(host, host), *args, **more)
socket.getaddrinfo = found
"""
_DASK, _APPS, _BATCH = "kubernetes.dask.org/v1", "apps/v1", "batch/v1"
_SERVED = {
    "/api/v1": {"pods": "Pod", "services": "Service"},
    f"/apis/{_APPS}": {"deployments": "Deployment"},
    f"/apis/{_BATCH}": {"jobs": "Job"},
    f"/apis/{_DASK}": {
        "daskclusters": "DaskCluster",
        "daskworkergroups": "DaskWorkerGroup",
        "daskautoscalers": "DaskAutoscaler",
    },
}
_DISCOVERY: dict[str, Object] = {
    "/version": {"gitVersion": "v1.34.0"},
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {"name": version.split("/")[0], "versions": [{"groupVersion": version, "version": "v1"}]}
            for version in (_APPS, _BATCH, _DASK)
        ]
    },
    **{
        path: {
            "resources": [
                {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": True}
                for plural, kind in kinds.items()
            ]
        }
        for path, kinds in _SERVED.items()
    },
}
"""What there is, as the API tells it."""


@dataclass
class Pod:
    """A container as a process."""

    name: str
    labels: dict[str, str]
    address: str
    process: subprocess.Popen[bytes]
    health: str | None

    def status(self) -> Object:
        """Return what a node would tell of it; ready is what its readiness probe says."""
        waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        if self.process.poll() is not None and "batch.kubernetes.io/job-name" in self.labels:
            return {"phase": "Failed" if self.process.returncode else "Succeeded", "conditions": []}
        if self.process.poll() is not None:
            return {"phase": "Running", "conditions": [], "containerStatuses": [waiting]}
        ready = self.health is None or _answers(f"http://{self.address}:8787{self.health}")
        state = "True" if ready else "False"
        kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        return {"phase": "Running", "conditions": [{"type": kind, "status": state} for kind in kinds]}


@dataclass
class Kubernetes:
    """The API server, the operator and the node in one.

    Attributes:
        folder: For pods' disks and logs.
        secrets: Secrets of the namespace, by name and key.
        refuse: Status with which objects of a kind are refused: ``{"daskclusters": 403}``.
        unschedulable: What the scheduler of pods says of those that find no node; None to start them.
        requests: Everything asked for, in order.
    """

    folder: Path
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    unschedulable: str | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    sent: list[Object] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    hosts: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, plural: str, manifest: Object) -> tuple[int, Object]:
        """Store an object, if it is valid and new; the operator acts at once."""
        self.sent.append(json.loads(json.dumps(manifest)))
        try:
            check(manifest)
        except (jsonschema.ValidationError, ValueError) as error:
            return 422, {"message": str(error)[:500]}
        name = manifest["metadata"]["name"]
        if (plural, name) in self.objects:
            return 409, {"message": f'{plural} "{name}" already exists'}
        manifest["metadata"] |= {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "resourceVersion": "1"}
        self.objects[plural, name] = manifest
        if plural == "daskclusters":
            self._operate(manifest)
        if plural == "jobs":
            template = manifest["spec"]["template"]
            named = {"batch.kubernetes.io/job-name": name, "job-name": name}
            pod = {"name": name, "labels": template["metadata"]["labels"] | named}
            self._run({"metadata": pod, "spec": {"template": template}}, "")
        return 201, manifest

    def delete(self, plural: str, name: str) -> tuple[int, Object]:
        """Remove an object; with a cluster goes what the operator has made for it."""
        if self.objects.pop((plural, name), None) is None:
            return 404, {"message": "not found"}
        if plural == "daskclusters":
            for key in [k for k, o in self.objects.items() if _cluster_of(o) == name]:
                del self.objects[key]
            self.objects.pop(("daskautoscalers", name), None)
            self.stop([pod for pod in self.pods if pod.labels.get("dask.org/cluster-name") == name])
        if plural == "jobs":
            self.stop([pod for pod in self.pods if pod.labels.get("job-name") == name])
        return 200, {"status": "Success"}

    def listed(self, plural: str, query: dict[str, str]) -> list[Object]:
        """Return the objects of a kind that the selectors of a query choose."""
        if plural == "pods":
            found = [_pod_object(pod.name, pod.labels, pod.status()) for pod in self.pods]
            found += [o for (kind, _), o in self.objects.items() if kind == "pods"]
        else:
            found = [o for (kind, _), o in self.objects.items() if kind == plural]
        labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
        return [
            o
            for o in found
            if labels.items() <= o["metadata"].get("labels", {}).items()
            and fields.get("metadata.name", o["metadata"]["name"]) == o["metadata"]["name"]
            and ("status.phase" not in fields or fields["status.phase"] == o["status"]["phase"])
        ]

    def stop(self, pods: list[Pod]) -> None:
        """End pods as a node does: ask first."""
        for pod in pods:
            pod.process.terminate()
        for pod in pods:
            try:
                pod.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(pod.process.pid, signal.SIGKILL)
                pod.process.wait()
            self.pods.remove(pod)

    def wait(self, cluster: str, why: str) -> None:
        """Add a pod that finds no node."""
        name = f"{cluster}-{uuid.uuid4().hex[:6]}"
        told = {"type": "PodScheduled", "status": "False", "message": why}
        status = {"phase": "Pending", "conditions": [told]}
        self.objects["pods", name] = _pod_object(name, {"dask.org/cluster-name": cluster}, status)

    def resolve(self, patch: pytest.MonkeyPatch) -> None:
        """Let this process find services by their names, as DNS in a cluster does."""
        real = socket.getaddrinfo

        def found(host: Any, *args: Any, **more: Any) -> Any:
            return real(self.hosts.get(host, host), *args, **more)

        patch.setattr(socket, "getaddrinfo", found)

    def _publish(self) -> None:
        """Tell pods the names of services."""
        (self.folder / "sitecustomize.py").write_text(_RESOLVER)
        new = self.folder / "hosts.new"
        new.write_text(json.dumps(self.hosts))
        new.replace(self.folder / "hosts")

    def _operate(self, cluster: Object) -> None:
        """Do what the operator does for a new cluster, through its own functions."""
        from dask_kubernetes.operator.controller import controller as operator

        name, spec = cluster["metadata"]["name"], cluster["spec"]
        labels = cluster["metadata"].get("labels", {})
        service = operator.build_scheduler_service_spec(name, spec["scheduler"]["service"], {}, labels)
        group = operator.build_default_worker_group_spec(name, spec["worker"], {}, labels)
        head = operator.build_scheduler_deployment_spec(name, spec["scheduler"]["spec"], {}, labels)
        group_name, pod_spec = group["metadata"]["name"], spec["worker"]["spec"]
        workers = [
            operator.build_worker_deployment_spec(
                group_name, NAMESPACE, name, uuid.uuid4().hex[:10], pod_spec, {}, labels
            )
            for _ in range(spec["worker"]["replicas"])
        ]
        address = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"
        short = f"{name}-scheduler.{NAMESPACE}"
        self.hosts |= {short: address, f"{short}.svc.cluster.local": address}
        self._publish()
        for plural, made in (("services", service), ("daskworkergroups", group), ("deployments", head)):
            check(made)
            made["metadata"]["namespace"] = NAMESPACE
            self.objects[plural, made["metadata"]["name"]] = made
        for deployment in (head, *workers):
            check(deployment)
            self._run(deployment, address)
        cluster["status"] = {"phase": "Running"}

    def _run(self, deployment: Object, address: str) -> None:
        """Start a deployment's only pod."""
        name, labels = deployment["metadata"]["name"], deployment["metadata"]["labels"]
        if self.unschedulable is not None:
            self.wait(labels["dask.org/cluster-name"], self.unschedulable)
            return
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        disk = self.folder / name
        disk.mkdir()
        here = {"/scratch": str(disk), "0.0.0.0": address, ":8787": f"{address}:8787", ":8788": "127.0.0.1:0"}
        env = {key: here.get(value, value) for key, value in self._variables(container).items()}
        env |= {
            "PYTHONPATH": f"{self.folder}:{ROOT}",
            "PATH": os.environ["PATH"],
            "HOSTS": f"{self.folder}/hosts",
        }
        if deployment["spec"]["template"]["spec"]["automountServiceAccountToken"]:
            env["KUBECONFIG"] = str(self.folder / "kubeconfig")  # what the account's token is for
        args = [re.sub(r"\$\((\w+)\)", lambda m: env[m[1]], here.get(arg, arg)) for arg in container["args"]]
        with (disk / "log").open("wb") as log:
            process = subprocess.Popen(
                [*_PROGRAMS[args[0]], *args[1:]],
                env=env,
                cwd=disk,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        probe = container.get("readinessProbe")
        health = probe["httpGet"]["path"] if probe else None
        self.pods.append(Pod(f"{name}-0", labels, address, process, health))

    def _variables(self, container: Object) -> dict[str, str]:
        env = {}
        for whole in container.get("envFrom", []):
            env |= self.secrets[whole["secretRef"]["name"]]
        for entry in container["env"]:
            if "valueFrom" in entry:
                ref = entry["valueFrom"]["secretKeyRef"]
                env[entry["name"]] = self.secrets[ref["name"]][ref["key"]]
            else:
                env[entry["name"]] = entry["value"]
        return env


@contextmanager
def kubernetes(folder: Path) -> Iterator[Kubernetes]:
    """Serve one; ``KUBECONFIG`` and names of services are this process's while it runs."""
    served = Kubernetes(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = folder / "kubeconfig"
    config.write_text(json.dumps(_kubeconfig(server.server_address[1])))
    served._publish()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(config))
            served.resolve(patch)
            yield served
    finally:
        served.stop(list(served.pods))
        server.shutdown()
        server.server_close()
        thread.join()


def _kubeconfig(port: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {"token": "a-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}],
    }


def _handler(served: Kubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            parts = urlsplit(self.path)
            with served.lock:
                served.requests.append((self.command, self.path))
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                status, told = _act(served, self.command, parts.path.rstrip("/"), (query, body))
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet."""

    return Handler


def _act(served: Kubernetes, verb: str, path: str, said: tuple[dict[str, str], Object]) -> tuple[int, Object]:
    if path in _DISCOVERY:
        return 200, _DISCOVERY[path]
    found = _PATH.fullmatch(path)
    if found is None or found["ns"] != NAMESPACE:
        return 404, {"message": f"the server has no {path}"}
    plural, name = found["plural"], found["name"]
    if plural in served.refuse and verb != "GET":
        return served.refuse[plural], {"message": f"{plural} is refused by the test"}
    if verb == "POST":
        return served.create(plural, said[1])
    if verb == "DELETE":
        return served.delete(plural, name)
    if name is None:
        return 200, {"kind": "List", "items": served.listed(plural, said[0])}
    stored = [one for one in served.listed(plural, {}) if one["metadata"]["name"] == name]
    return (200, stored[0]) if stored else (404, {"message": "not found"})


def _pod_object(name: str, labels: dict[str, str], status: Object) -> Object:
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}, "status": status}


def _cluster_of(stored: Object) -> str | None:
    name: str | None = stored["metadata"].get("labels", {}).get("dask.org/cluster-name")
    return name


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
