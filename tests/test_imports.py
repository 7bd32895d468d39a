"""The import direction holds: pipelines -> {training, cluster} -> engine, and the floors inside engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A place may import itself and what is listed here; nothing else of ours.
ALLOWED = {
    "engine.values": set(),
    "engine.store": {"engine.values"},
    "engine.models": {"engine.values"},
    "engine.archive": {"engine.values"},
    "engine.cube": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "engine.inference": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "engine.products": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "engine.refine": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "engine.assessment": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "engine.runs": {"engine.archive", "engine.store", "engine.models", "engine.values"},
    "cluster": {"engine"},
    "training": {"engine"},
    "pipelines": {"engine", "cluster", "training"},
}


def _place(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "engine" and len(parts) > 1 else parts[0]


def _files() -> list[Path]:
    return [p for top in ("engine", "cluster", "training", "pipelines") for p in (ROOT / top).rglob("*.py")]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {m for m in found if m.split(".")[0] in {"engine", "cluster", "training", "pipelines", "tests"}}


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_downwards(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    home = _place(module)
    if home == "engine":  # the face names its children lazily
        return
    for target in _imports(path):
        place = _place(target)
        allowed = {home, *ALLOWED[home]}
        assert place in allowed or place.split(".")[0] in allowed, f"{module} may not import {target}"


def test_the_face_loads_neither_torch_nor_odc() -> None:
    heavy = {"torch", "odc", "rasterio", "dask", "zarr"}
    code = f"import sys, engine, pipelines; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


def test_files_stay_under_500_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in _files() if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_functions_stay_under_60_lines() -> None:
    long = {}
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert not long
