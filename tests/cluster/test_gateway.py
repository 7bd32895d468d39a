from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import cluster.gateway as gateway
from cluster.gateway import PASSWORD, TOKEN, GatewaySpec
from cluster.launch import open_client
from engine.values.errors import InputError, LandweaveError, RetryableError
from pipelines.map_area import map_area
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import TILES, SampleRun
from tests.cluster.seen import of_scheduler, of_worker
from tests.services.gateway import GatewayServer, gateway_server

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with gateway_server(tmp_path_factory.mktemp("gateway")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, running.password)
        yield running


@pytest.fixture(scope="module")
def spec(server: GatewayServer) -> GatewaySpec:
    return GatewaySpec(address=server.address, auth="basic", user="me", n_workers=1)


class TestGateway(ClusterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, spec: GatewaySpec) -> GatewaySpec:
        return spec.model_copy(update={"n_workers": 2, "options": {"worker_memory_mb": 1000}})


@pytest.mark.long
def test_a_worker_that_is_killed_costs_its_tile_alone(
    spec: GatewaySpec,
    server: GatewayServer,
    sample_run: SampleRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And secrets reach the workers, deaths are the run's affair, the cluster is used again and ends when told."""
    monkeypatch.setenv("SECRET_OF_THE_ARCHIVE", "s3cret")
    killed: list[int] = []

    def kill(event: Any, km2: float) -> None:
        if event.kind == "done" and not killed:
            killed.append(seen["pid"])
            psutil.Process(seen["pid"]).kill()

    changes = {
        "options": {"worker_memory_mb": 1000},
        "forward": ("SECRET_OF_THE_ARCHIVE",),
        "environment": {"GDAL_HTTP_TIMEOUT": "17"},
        "gpus_per_worker": 1,
        "shutdown": False,
    }
    with open_client(spec.model_copy(update=changes)) as client:
        client.wait_for_workers(1, timeout=120)
        (seen,) = client.run(of_worker).values()
        assert seen["environment"]["SECRET_OF_THE_ARCHIVE"] == "s3cret"
        assert seen["environment"]["GDAL_HTTP_TIMEOUT"] == "17"
        assert seen["folder"] == str(Path.cwd())
        assert (seen["memory"], seen["resources"]["GPU"]) == (1000 * 2**20, 1)
        assert client.run_on_scheduler(of_scheduler)["allowed_failures"] == 0
        made = map_area(sample_run.config(tmp_path / "run"), client=client, listener=kill)
        assert killed
        assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
    sample_run.assert_same(tmp_path / "run")
    (name,) = server.running()
    with open_client(spec.model_copy(update={"cluster": name, "n_workers": None})) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    assert server.running() == [name], "what was not started is left"
    server.stop(name)


def test_the_cluster_ends_with_the_client_and_when_the_body_fails(
    spec: GatewaySpec, server: GatewayServer
) -> None:
    from cluster.base import Adapt

    follows = spec.model_copy(update={"n_workers": None, "adapt": Adapt(minimum=0, maximum=1)})

    def use() -> None:
        with open_client(follows) as client:
            assert len(server.running()) == 1
            assert client.submit(sum, [1, 2]).result(timeout=120) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert server.running() == []


def test_a_cluster_whose_driver_was_killed_ends_by_itself(
    spec: GatewaySpec, server: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_ALONE_S", 0.5)
    monkeypatch.setattr(gateway, "_stop", lambda *arguments: None)  # what a process that was killed does
    with gateway.start(spec) as client:
        scheduler = client.run_on_scheduler(of_scheduler)
        assert scheduler["allowed_failures"] == 0
        (name,) = server.running()
    end = time.monotonic() + 60
    while psutil.pid_exists(scheduler["pid"]) and psutil.Process(scheduler["pid"]).status() != "zombie":
        assert time.monotonic() < end
        time.sleep(0.2)
    server.stop(name)  # which the server does by itself when it misses the scheduler


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"address": "http://127.0.0.1:9"}, RetryableError, "does not answer"),
        ({"address": "{server}/elsewhere"}, InputError, "no Dask gateway answers there"),
        ({"auth": "jupyterhub"}, InputError, f"{TOKEN} is not set"),
        ({"auth": "kerberos"}, InputError, "dask-gateway[kerberos]"),
        ({"auth": None}, InputError, "set auth"),
        ({"n_workers": None}, InputError, "n_workers or adapt"),
        ({"options": {"worker_memory_mb": 5}}, InputError, "must be >= 100"),
        ({"options": {"cores": 5}}, InputError, "expected one of worker_memory_mb"),
        ({"cluster": "none"}, InputError, "no such cluster"),
        ({"forward": ("NOT_SET_ANYWHERE",)}, InputError, "NOT_SET_ANYWHERE"),
    ],
)
def test_what_is_wrong_is_said(
    spec: GatewaySpec,
    server: GatewayServer,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    kind: type[LandweaveError],
    says: str,
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    changes = {k: v.format(server=server.address) if k == "address" else v for k, v in changes.items()}
    with pytest.raises(kind) as refused, gateway.start(spec.model_copy(update=changes)):
        pass
    assert says in str(refused.value)
    assert server.running() == []


def test_a_wrong_secret_is_refused_and_not_repeated(
    spec: GatewaySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "wrong-word")
    with pytest.raises(InputError, match="does not let you in") as refused, gateway.start(spec):
        pass
    assert PASSWORD in str(refused.value)
    assert "wrong-word" not in str(refused.value)


def test_a_missing_package_names_the_extra(spec: GatewaySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_gateway", None)
    with pytest.raises(InputError, match=r"landweave\[gateway\]"), gateway.start(spec):
        pass


def test_a_cluster_that_cannot_be_stopped_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        address = "https://dask.example.org"

        def stop_cluster(self, name: str) -> None:
            raise OSError("gone")

    gateway._stop(GatewaySpec(), Gone(), "c-1")  # type: ignore[arg-type]
    assert "c-1 could not be stopped (gone)" in caplog.text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"address": "dask.example.org"}, "no address"),
        ({"address": "https://me:word@dask.example.org"}, "written down"),
        ({"options": {"password": "x"}}, "written down"),
        ({"cluster": "a", "options": {"cores": 1}}, "keep one"),
        ({"auth": "password"}, "auth"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], says: str) -> None:
    from cluster.spec import parse_spec

    with pytest.raises(InputError) as refused:
        parse_spec({"kind": "gateway", **settings})
    assert says in str(refused.value)
