"""CPU instructions: which ones the libraries here take, and how to hold them to fewer.

Sums of floating point numbers depend on the width of the registers that they are made in, so a map whose
workers are of several generations differs in last bits from worker to worker. A pin makes all of them use
what the oldest can::

    ATen     ATEN_CPU_CAPABILITY     oneDNN    ONEDNN_MAX_CPU_ISA      NumPy    NPY_DISABLE_CPU_FEATURES
    MKL      MKL_CBWR                OpenBLAS  OPENBLAS_CORETYPE       numba    NUMBA_CPU_NAME

MKL takes other ways on CPUs of other makers whatever it is told, except ``COMPATIBLE``, which is slower.
ONNX Runtime cannot be pinned: for a bundle in ONNX take machines of one kind.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from typing import Any

from cluster.base import InstructionSet

_PINS: dict[InstructionSet, dict[str, str]] = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma",  # else those of the CPU that is there
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "OPENBLAS_CORETYPE": "SkylakeX",
        "NUMBA_CPU_NAME": "skylake-avx512",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl",
    },
}
_BASE_512 = (
    "X86_V4",
    "AVX512F",
    "AVX512CD",
    "AVX512_SKX",
)  # what every CPU with AVX-512 can, by NumPy's names


def pins(instruction_set: InstructionSet | None) -> dict[str, str]:
    """Return the environment that holds the libraries of a process to an instruction set.

    >>> pins(None)
    {}
    >>> pins("avx2")["ATEN_CPU_CAPABILITY"]
    'avx2'
    """
    if instruction_set is None:
        return {}
    named = {**_PINS[instruction_set], "MKL_CBWR": "COMPATIBLE"}
    if features := _too_new(instruction_set):
        named["NPY_DISABLE_CPU_FEATURES"] = " ".join(features)
    return named


def _too_new(instruction_set: InstructionSet) -> list[str]:
    """Return what NumPy must not use, by the names of the NumPy here: workers have the same version."""
    wide = [name for name in _numpy().__cpu_dispatch__ if name == "X86_V4" or name.startswith("AVX512")]
    return [name for name in wide if instruction_set == "avx2" or name not in _BASE_512]


def own_instruction_set() -> str:
    """Name what the bits of a CPU map depend on in this process, e.g. ``x86_64 AVX512``, without loading torch.

    The same as `engine.inference.lane.instruction_set`: the widest that both CPU and environment allow.
    """
    if "torch" in sys.modules:  # it looked at the environment when it was loaded, and never again
        return f"{platform.machine()} {sys.modules['torch'].backends.cpu.get_cpu_capability()}"
    return f"{platform.machine()} {_expected()}"


def _expected() -> str:
    """Return what torch will take in a process that begins with the environment here."""
    has = {name for name, there in _numpy().__cpu_features__.items() if there}
    able = ["DEFAULT"]
    able += ["AVX2"] if {"AVX2", "FMA3"} <= has else []
    able += ["AVX512"] if {"AVX512VL", "AVX512BW", "AVX512DQ"} <= has and "AVX2" in able else []
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    return asked if asked in able else able[-1]


def _numpy() -> Any:
    """Return NumPy's compiled core, which knows the CPU; NumPy prints this, but has no function that returns it."""
    return importlib.import_module("numpy._core._multiarray_umath")
