"""The engine: from a STAC search to a map, without knowing where it runs.

Floors, each importing only downwards::

    cube  runs  inference  products      lazy cubes, tile runs, the model, what leaves the house
    archive  models  store               what is read, what computes, what is written
    values                               frozen values: Area, Grid, Lattice, CubeSpec, errors

Names load on first use (PEP 562), so ``import engine`` pulls in neither torch nor odc.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Area": "engine.values.area",
    "ClassScheme": "engine.values.classes",
    "CubeSpec": "engine.values.spec",
    "Grid": "engine.values.grid",
    "ItemTable": "engine.archive.items",
    "Lattice": "engine.values.lattice",
    "list_indices": "engine.cube.spectral",
    "load_bundle": "engine.inference.bundle",
    "load_model": "engine.inference.ensemble",
    "open_cube": "engine.cube.cube",
    "predict": "engine.inference.predict",
    "refine_map": "engine.refine.whole",
    "search": "engine.archive.search",
    "with_features": "engine.cube.derive",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
