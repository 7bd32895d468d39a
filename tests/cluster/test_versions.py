from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from cluster import versions
from cluster.launch import open_client
from cluster.local import LocalSpec
from cluster.versions import Facts, LaterWorkers, differences, differing, own_facts, refusal
from engine.runs.news import TOPIC, NewsRoom
from engine.values.errors import InputError
from tests.faults.processes import wait_for

OURS = own_facts()
OLDER = replace(OURS, landweave="0.0.1, format 0", host="node7")


def test_facts_are_those_of_this_process() -> None:
    import numpy
    import torch

    assert OURS.libraries["numpy"] == numpy.__version__
    assert OURS.libraries["torch"] == str(torch.__version__).partition("+")[0] or OURS.libraries[
        "torch"
    ] == str(torch.__version__)
    assert OURS.host
    assert differing(OURS, OURS) == {}
    assert refusal(OURS, OURS) is None


def test_another_landweave_is_refused_and_both_are_named() -> None:
    refused = refusal(OURS, OLDER)
    assert refused is not None
    text = str(refused)
    for part in ("0.0.1, format 0", OURS.landweave, "node7", "pip install landweave=="):
        assert part in text


def test_a_worker_without_the_pinned_instructions_is_refused() -> None:
    plain = replace(OURS, instruction_set="x86_64 AVX2")
    assert refusal(OURS, plain, "avx2") is None
    refused = refusal(OURS, plain, "avx512")
    assert refused is not None
    assert "x86_64 AVX2" in str(refused)


def _with(**libraries: str) -> Facts:
    return replace(OURS, libraries={**OURS.libraries, **libraries})


def test_differences_are_told_once_by_name() -> None:
    assert differences([OURS, OURS]) == []
    assert differences([_with(torch="9.9"), _with(torch="9.9")]) == [
        f"all workers have torch 9.9, here it is {OURS.libraries['torch']}"
    ]
    (mixed,) = differences([OURS, _with(torch="9.9"), OURS])
    assert mixed.startswith(f"workers differ in torch: {OURS.libraries['torch']} on 2, 9.9 on 1")
    (narrow,) = differences([OURS, replace(OURS, instruction_set="x86_64 AVX1")])
    assert "instruction set" in narrow


def test_a_cluster_of_another_landweave_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        monkeypatch.setattr(versions, "worker_facts", lambda client: {"tcp://a": OLDER})
        with pytest.raises(InputError, match="another version of landweave"), open_client(client):
            pass


def test_later_workers_are_judged_as_they_come() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        room = NewsRoom(client)
        wait_for(lambda: client.id in cluster.scheduler._broker._topics[TOPIC].subscribers, "a subscription")
        client.register_plugin(LaterWorkers(OURS, _with(torch="9.9")), name="later")
        (differs,) = _news(room, 1)
        assert differs.kind == "worker-differs"
        assert "torch" in differs.message
        client.unregister_worker_plugin("later")

        client.register_plugin(_Refusing(OLDER, OURS), name="later")
        cluster.scale(2)
        (refused,) = _news(room, 1)
        assert refused.kind == "worker-refused"
        assert "0.0.1, format 0" in refused.message
        assert client.submit(_address, pure=False).result(timeout=60) != refused.worker
        room.close()


class _Refusing(LaterWorkers):
    """Judges only workers that come after the first."""

    async def setup(self, worker: Any) -> None:
        if worker.name != 0:
            await super().setup(worker)


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _news(room: NewsRoom, count: int) -> list[Any]:
    found, last = [], time.monotonic() + 60
    while len(found) < count and time.monotonic() < last:
        found += room.collect()
        time.sleep(0.02)
    return found


def test_environment_secrets_and_code_reach_all_workers_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDWEAVE_TEST_SECRET", "hush")
    module = tmp_path / "my_masks_for_a_test.py"
    module.write_text("def answer():\n    return 42\n")
    spec = LocalSpec(
        n_workers=1,
        memory_limit="1GiB",
        environment={"LANDWEAVE_TEST_PLAIN": "yes"},
        forward=("LANDWEAVE_TEST_SECRET",),
        code=(str(module),),
        instruction_set="avx2",
    )
    assert "hush" not in spec.model_dump_json()
    with open_client(spec) as client:
        assert client.submit(_seen, pure=False).result(timeout=60) == ("yes", "hush", 42, "AVX2")


def _seen() -> tuple[str | None, str | None, int, str]:
    import importlib

    import torch

    module = importlib.import_module("my_masks_for_a_test")
    got = os.environ.get
    capability = torch.backends.cpu.get_cpu_capability()
    return got("LANDWEAVE_TEST_PLAIN"), got("LANDWEAVE_TEST_SECRET"), module.answer(), capability


def test_a_missing_secret_and_a_missing_file_are_told_before_the_run(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="LANDWEAVE_NOT_SET"),
        open_client(LocalSpec(forward=("LANDWEAVE_NOT_SET",))),
    ):
        pass
    missing = str(tmp_path / "none.py")
    with (
        pytest.raises(InputError, match="none"),
        open_client(LocalSpec(n_workers=1, memory_limit="1GiB", code=(missing,))),
    ):
        pass
