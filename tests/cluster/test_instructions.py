"""Pins are verified by the libraries themselves, each in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any, Literal

import pytest

from cluster.instructions import _expected, own_instruction_set, pins
from engine.inference.lane import instruction_set
from tests.cluster.sample import ROOT

_TELL = """
import json
from cluster.instructions import own_instruction_set
early = own_instruction_set()
import torch
torch.set_num_threads(1)
with torch.no_grad():
    torch.nn.Conv2d(16, 32, 3)(torch.ones(1, 16, 64, 64))
    torch.ones(300, 300) @ torch.ones(300, 300)
from engine.inference.lane import instruction_set
from numpy._core import _multiarray_umath as core
from numba import njit
from threadpoolctl import threadpool_info
double = njit("float32[:](float32[:])", fastmath=True)(lambda x: x * 2 + x)
print("FOUND " + json.dumps({
    "lane": instruction_set(),
    "own": own_instruction_set(),
    "early": early,
    "numba 512": any("zmm" in text for text in double.inspect_asm().values()),
    "numpy 512": any(core.__cpu_features__[n] for n in core.__cpu_dispatch__ if n == "X86_V4" or "AVX512" in n),
    "blas": sorted({i["architecture"] for i in threadpool_info() if i["internal_api"] == "openblas"}),
}))
"""


def _told(environment: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Return what the libraries of a new process take, and what oneDNN and MKL print of themselves."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TELL],
        env=os.environ | environment | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    found = next(line for line in said.splitlines() if line.startswith("FOUND "))
    return json.loads(found.removeprefix("FOUND ")), said


def _able() -> bool:
    return own_instruction_set().startswith("x86_64 AVX")


def test_unpinned_the_name_is_that_of_the_lane() -> None:
    assert pins(None) == {}
    assert own_instruction_set() == instruction_set()
    found, _ = _told({})
    assert found["early"] == found["own"] == found["lane"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="pins are for x86-64")
def test_a_pin_holds_every_library_to_avx2() -> None:
    assert _able(), f"landweave needs AVX2, this CPU has {own_instruction_set()}"
    found, said = _told(pins("avx2"))
    assert found["early"] == found["own"] == found["lane"] == "x86_64 AVX2"
    assert not found["numpy 512"]
    assert not found["numba 512"]
    assert found["blas"] == ["Haswell"]
    assert "isa:Intel AVX2\n" in said
    assert "convolution,jit:avx2" in said
    assert "CNR:COMPATIBLE" in said, "the only mode of MKL that is the same on CPUs of all makers"


def test_a_pin_to_avx512_leaves_out_what_came_later() -> None:
    found: dict[Literal["avx2", "avx512"], dict[str, str]] = {"avx2": pins("avx2"), "avx512": pins("avx512")}
    assert found["avx512"]["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"
    assert set(found["avx512"].get("NPY_DISABLE_CPU_FEATURES", "").split()) < set(
        found["avx2"]["NPY_DISABLE_CPU_FEATURES"].split()
    )


def test_what_the_cpu_cannot_do_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unpinned = _expected()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx1024")
    assert _expected() == unpinned
