from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.remote import MARK
from cluster.spec import parse_spec
from cluster.ssh import SshSpec
from cluster.ssh_hosts import Host, answer_in, command, connect_options
from engine.values.errors import InputError

_names = st.text("abz09.", min_size=1, max_size=9)


@given(name=_names, user=st.none() | _names, port=st.none() | st.integers(1, 65535))
def test_hosts_are_taken_apart(name: str, user: str | None, port: int | None) -> None:
    text = (f"{user}@" if user else "") + name + (f":{port}" if port else "")
    assert Host.parse(text) == Host(name, user, port)


def test_addresses_of_version_6_stand_in_brackets() -> None:
    assert Host.parse("me@[fe80::1]:22") == Host("fe80::1", "me", 22)


@pytest.mark.parametrize("text", ["", "-oProxyCommand=rm", "a b", "me@", "fe80::1", "a:b:c", "host:ssh"])
def test_other_texts_are_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        Host.parse(text)


def test_what_is_not_told_is_left_to_ssh() -> None:
    options = connect_options(SshSpec(hosts=("lab1",)), "lab1")
    assert not {"port", "username", "client_keys", "known_hosts"} & set(options)


def test_what_is_told_goes_before() -> None:
    spec = SshSpec(
        hosts=("lab1", "you@lab2:2222"),
        user="me",
        port=22,
        key_file="/k",
        known_hosts="/h",
        connect_options={"login_timeout": 99},
    )
    first, second = (connect_options(spec, host) for host in spec.hosts)
    assert (first["username"], first["port"]) == ("me", 22)
    assert (second["username"], second["port"]) == ("you", 2222)
    assert (first["client_keys"], first["known_hosts"], first["login_timeout"]) == (["/k"], "/h", 99)


def test_host_keys_go_unchecked_only_when_asked_for() -> None:
    spec = SshSpec(hosts=("lab1",), known_hosts="/h", check_host_key=False)
    assert connect_options(spec, "lab1")["known_hosts"] is None
    assert connect_options(SshSpec(hosts=("lab1",)), "lab1").get("known_hosts", "default") == "default"


def test_the_shell_is_told_the_prologue_and_one_python() -> None:
    spec = SshSpec(hosts=("lab1",), python="~/my env/bin/python", prologue=("module load gdal", "cd /tmp"))
    told = "module load gdal && cd /tmp && exec ~/'my env/bin/python' -P -m cluster.remote look"
    assert command(spec, "look") == told
    assert command(SshSpec(hosts=("lab1",))) == f"exec {sys.executable} -P -m cluster.remote"


def test_an_answer_is_found_among_a_logins_lines() -> None:
    assert answer_in(f'Welcome!\n{MARK}{{"cores": 2}}\nbye\n') == {"cores": 2}
    assert answer_in("Welcome!\n") is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "hosts"),
        ({"hosts": []}, "hosts"),
        ({"hosts": ["a", "a"]}, "twice"),
        ({"hosts": ["a", "b"], "n_workers": 1}, "without any"),
        ({"hosts": ["a"], "adapt": {"maximum": 2}}, "leave adapt out"),
        ({"hosts": ["a"], "connect_options": {"passphrase": "x"}}, "ssh agent"),
        ({"hosts": ["a"], "connect_options": {"password": "x"}}, "ssh agent"),
        ({"hosts": ["a"], "worker_ports": "many"}, "worker_ports"),
        ({"hosts": ["a"], "port": 70000}, "port"),
        ({"hosts": ["a b"]}, "no host"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_spec({"kind": "ssh", **settings})
    assert says in str(refused.value)


@given(hosts=st.integers(1, 9), more=st.integers(0, 40))
def test_workers_are_dealt_out_evenly(hosts: int, more: int) -> None:
    spec = SshSpec(hosts=tuple(f"lab{i}" for i in range(hosts)), n_workers=hosts + more)
    shares = spec.shares()
    assert shares is not None
    assert sum(shares) == hosts + more
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1
