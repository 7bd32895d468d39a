"""What each host is told to start; no host is needed for that."""

from __future__ import annotations

import json
import logging
import sys

import pytest

import cluster.ssh as ssh
from cluster.ssh import SshSpec
from cluster.ssh_hosts import Seen
from cluster.ssh_process import Order
from engine.values.errors import InputError

_SEEN = [
    Seen("lab1", here="10.0.0.9", there="10.0.0.1", cores=8, memory_bytes=64 * 2**30, gpus=2),
    Seen("lab2", here="10.0.0.9", there="10.0.0.2", cores=2, memory_bytes=8 * 2**30, gpus=1),
]


def _spec(**settings: object) -> SshSpec:
    return SshSpec(hosts=("lab1", "lab2"), **settings)  # type: ignore[arg-type]


def test_each_host_is_filled_when_nothing_is_told() -> None:
    spec = _spec()
    assert ssh._dealt(spec, _SEEN) == [8, 2]
    order = ssh._workers(spec, _SEEN[1], 2, None)
    options = [server["opts"] for server in order.servers.values()]
    assert [(o["name"], o["nthreads"], o["memory_limit"]) for o in options] == [
        ("1-0", 1, 4 * 2**30),
        ("1-1", 1, 4 * 2**30),
    ]


def test_each_worker_gets_a_gpu_of_its_own() -> None:
    spec = _spec(gpus_per_worker=1)
    assert ssh._dealt(spec, _SEEN) == [2, 1]
    options = [server["opts"] for server in ssh._workers(spec, _SEEN[0], 2, None).servers.values()]
    assert [o["env"]["CUDA_VISIBLE_DEVICES"] for o in options] == ["0", "1"]
    assert all(o["resources"] == {"GPU": 1} for o in options)
    with pytest.raises(InputError, match="fewer GPUs"):
        ssh._dealt(_spec(gpus_per_worker=1, n_workers=4), _SEEN)


def test_the_scheduler_is_called_as_each_host_knows_it() -> None:
    assert ssh._ways(_spec(), _SEEN) == ["10.0.0.9", "10.0.0.9"]
    assert ssh._ways(_spec(scheduler_address="gate"), _SEEN) == ["gate", "gate"]
    assert ssh._ways(_spec(scheduler="first"), _SEEN) == [None, None]
    here = ssh._scheduler(_spec(scheduler_port=8786), _SEEN, None)["options"]
    assert (here["host"], here["port"], here["protocol"]) == ("10.0.0.9", 8786, "tcp://")
    first = ssh._scheduler(_spec(scheduler="first"), _SEEN, None)["options"]
    assert first["order"].servers["scheduler"]["opts"]["host"] == "10.0.0.1"


def test_an_order_is_one_line_and_shows_no_secret() -> None:
    from distributed import Security

    order = ssh._order(_spec(environment={"REGION": "nowhere-1"}), {}, Security.temporary())
    line = order.line(["tls://x:1"])
    assert line.count("\n") == 1
    told = json.loads(line)
    assert told["environment"]["REGION"] == "nowhere-1"
    assert told["security"]["tls_worker_key"].startswith("-----BEGIN")
    assert "BEGIN" not in repr(order)
    assert "nowhere-1" not in repr(order)
    assert Order({"TOKEN": "abcdef", "FLAG": "1"}, {}, None).veil("1 of abcdef") == "1 of <TOKEN>"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(InputError, match=r"landweave\[ssh\]"), ssh.start(_spec()):
        pass


def test_unchecked_host_keys_are_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(
        logging.WARNING, "landweave.cluster"
    )  # whatever earlier tests left of logging in this process
    for name in ("landweave", "landweave.cluster"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    ssh._check_files(_spec(check_host_key=False))
    assert "check_host_key is off" in caplog.text
