from __future__ import annotations

import logging
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import cluster.ssh as ssh
import cluster.ssh_process as ssh_process
from cluster.launch import open_client
from cluster.ssh import SshSpec
from engine.values.errors import BudgetError, InputError, LandweaveError, RetryableError
from pipelines.map_area import map_area
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import ROOT, TILES, SampleRun
from tests.cluster.seen import of_scheduler, of_worker
from tests.services.sshd import Sshd, sshd

pytestmark = pytest.mark.service

_SECRET = "s3cret-of-the-archive"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def spec(server: Sshd) -> SshSpec:
    """Return a spec of one worker on one host."""
    return SshSpec(
        hosts=(server.host,),
        key_file=str(server.key),
        known_hosts=str(server.known_hosts),
        n_workers=1,
        memory_limit="1GiB",
        python=sys.executable,
        prologue=(f"export PYTHONPATH={ROOT}",),
    )


class _Collect(logging.Handler):
    """Keep messages; Dask's silence, which also reaches pytest's own handler, does not."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def told() -> Iterator[list[str]]:
    handler, logger = _Collect(), logging.getLogger("landweave.cluster")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


class TestSsh(ClusterConformance):
    """The whole suite, with a worker on each of two names of this machine."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, spec: SshSpec, server: Sshd) -> SshSpec:
        return spec.model_copy(update={"hosts": (server.host, f"localhost:{server.port}"), "n_workers": 2})


def _remotes() -> set[int]:
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "cluster.remote" in (process.info["cmdline"] or []) and str(ROOT) in _pythonpath(process):
            found.add(process.info["pid"])
    return found


def _pythonpath(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("PYTHONPATH", ""))
    except psutil.Error:
        return ""


def test_secrets_reach_the_workers_and_no_command_line(
    spec: SshSpec, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_ARCHIVE", _SECRET)  # of the client, not of the host's login
    changes = {
        "forward": ("SECRET_OF_THE_ARCHIVE",),
        "environment": {"GDAL_HTTP_TIMEOUT": "17"},
        "threads_per_worker": 2,
        "scheduler": "first",
    }
    with open_client(spec.model_copy(update=changes)) as client:
        (seen,) = client.run(of_worker).values()
        assert seen["environment"]["SECRET_OF_THE_ARCHIVE"] == _SECRET
        assert seen["environment"]["GDAL_HTTP_TIMEOUT"] == "17"
        assert seen["folder"] == str(Path.cwd())
        assert (seen["threads"], seen["memory"], seen["name"]) == (2, 2**30, "0-0")
        assert any("cluster.remote" in command for command in seen["commands"])
        assert not any(_SECRET in command for command in seen["commands"])
        scheduler = client.run_on_scheduler(of_scheduler)
        assert scheduler["allowed_failures"] == 0
        assert scheduler["pid"] in _remotes()
        assert client.scheduler.address.startswith("tls://")
        assert len(_remotes()) == 2
    assert not _remotes(), "scheduler and workers end with the client"
    assert any("Start Nanny" in line for line in told)
    assert not any(_SECRET in line for line in told)


def test_a_lost_connection_and_a_killed_host_cost_their_tiles_alone_and_come_back(
    spec: SshSpec,
    server: Sshd,
    sample_run: SampleRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: list[str],
) -> None:
    monkeypatch.setattr(ssh_process, "_AGAIN_S", 0.5)
    cut: list[psutil.Process] = []
    killed: list[int] = []

    def hurt(event: Any, km2: float) -> None:
        if event.kind != "done":
            return
        if not cut:
            cut.extend(server.sessions())
            for session in cut:
                session.kill()
        elif not killed and any("the workers are back" in line for line in told):
            killed.extend(_remotes())
            for pid in killed:
                psutil.Process(pid).kill()

    with open_client(spec) as client:
        made = map_area(sample_run.config(tmp_path / "run"), client=client, listener=hurt)
        assert cut
        assert killed
        assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
        assert _remotes().isdisjoint(killed)
    sample_run.assert_same(tmp_path / "run")
    assert sum("the workers are gone" in line for line in told) == 2
    assert not _remotes()


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"hosts": ("127.0.0.1:1",)}, RetryableError, "does not answer over ssh"),
        ({"hosts": ("no-such-host.invalid",)}, InputError, "no such host"),
        ({"key_file": "stranger"}, InputError, "refuses to let you in"),
        ({"key_file": "nowhere"}, InputError, "no such file"),
        ({"key_file": "known_hosts"}, InputError, "key cannot be used"),
        ({"known_hosts": "key.pub"}, InputError, "not the one that is known"),
        ({"python": "/no/such/python"}, InputError, "no such Python"),
        ({"python": "bare/bin/python", "prologue": ()}, InputError, "landweave is not installed"),
        ({"prologue": ("module load python",)}, InputError, "Python did not start"),
        ({"memory_limit": "100TiB"}, BudgetError, "more memory than it has"),
        ({"gpus_per_worker": 1, "n_workers": 100}, InputError, "fewer GPUs"),
        ({"forward": ("NOT_SET_ANYWHERE",)}, InputError, "NOT_SET_ANYWHERE"),
    ],
)
def test_what_is_wrong_is_said(
    spec: SshSpec, server: Sshd, changes: dict[str, Any], kind: type[LandweaveError], says: str
) -> None:
    if changes.get("python") == "bare/bin/python":
        venv.create(server.work / "bare", symlinks=True)
        changes = {**changes, "python": str(server.work / "bare/bin/python")}
    for name in ("key_file", "known_hosts"):
        if name in changes:
            changes = {name: str(server.work / changes[name])}
    with pytest.raises(kind) as refused, ssh.start(spec.model_copy(update=changes)):
        pass
    assert says in str(refused.value)
    assert not _remotes()
