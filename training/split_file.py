"""A split on disk: what decides the parts, what they hold, and the leakage that was measured.

JSON for programs and people, or GeoParquet with an outline for each unit, to look at on a map. Either is
read again by `read_split`, and a training's YAML names it: ``split: field-split.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.leakage import Leakage
from training.splits import PARTS, Split, block_of
from training.stratify import Counts

if TYPE_CHECKING:
    import geopandas as gpd

FORMAT, VERSION = "landweave split", 1
_KEY = b"landweave_split"


def write_split(
    path: str | Path, split: Split, counts: Counts, classes: ClassScheme, leakage: Leakage | None = None
) -> None:
    """Write a split with its units.

    Args:
        path: ``.json``, or ``.parquet`` for GeoParquet.
        split: On a grid if it is by blocks.
        counts: Labels of each class value in each unit (`training.stratify`).
        classes: The classes.
        leakage: What was measured.

    Raises:
        InputError: If the ending is neither.
    """
    path = Path(path)
    told = _document(split, counts, classes, leakage)
    if path.suffix == ".json":
        path.write_text(json.dumps(told, indent=2))
    elif path.suffix == ".parquet":
        _write_parquet(path, split, told)
    else:
        raise InputError(
            "a split is written as JSON or GeoParquet", where=str(path), limit=".json or .parquet"
        )


def read_split(path: str | Path) -> Split:
    """Read a split; its digest is checked.

    Raises:
        InputError: If it cannot be read, is no split, of a newer version, or was changed by hand.
    """
    path = Path(path)
    try:
        told = _parquet_text(path) if path.suffix == ".parquet" else json.loads(path.read_text())
        known = told.get("format") == FORMAT and told["version"] <= VERSION
        split = Split.model_validate(told["split"]) if known else None
    except (OSError, ValueError, KeyError, AttributeError, ValidationError) as error:
        raise InputError("cannot read the split", where=str(path), mend=str(error)) from error
    if split is None:
        raise InputError(
            "not a split, or of a newer version",
            where=str(path),
            found=f"{told.get('format')} {told.get('version')}",
            limit=f"{FORMAT} up to {VERSION}",
        )
    if split.digest() != told.get("sha256"):
        raise InputError(
            "the split was changed after it was written",
            where=str(path),
            found=split.digest()[:12],
            limit=str(told.get("sha256"))[:12],
            mend="write it again from its settings",
        )
    return split


def _document(split: Split, counts: Counts, classes: ClassScheme, leakage: Leakage | None) -> dict[str, Any]:
    units = {}
    for name, row in sorted(counts.items()):
        part = split.part_of_block(*block_of(name)) if split.by == "blocks" else split.part_of(name)
        units[name] = {"part": PARTS[part], **_by_name(row, classes)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": split.digest(),
        "split": split.model_dump(mode="json"),
        "classes": classes.digest(),
        "units": units,
        "leakage": leakage.as_dict() if leakage else None,
    }


def _by_name(row: Any, classes: ClassScheme) -> Mapping[str, int]:
    return {c.name: int(row[c.value]) for c in classes.classes if row[c.value]}


def _write_parquet(path: Path, split: Split, told: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    _outlines(split, told["units"]).to_parquet(path)
    table = pq.read_table(path)
    meta = {**table.schema.metadata, _KEY: json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(meta), path)


def _parquet_text(path: Path) -> Any:
    import pyarrow.parquet as pq

    return json.loads(pq.read_schema(path).metadata[_KEY])


def _outlines(split: Split, units: dict[str, dict[str, Any]]) -> gpd.GeoDataFrame:
    """Return a row for each unit: its name, part, labels and outline, if it has one."""
    import geopandas as gpd

    from training.regions import outlines

    crs: str = "EPSG:4326"
    shapes: dict[str, Any] = {}
    if split.by == "blocks" and split.grid is not None:
        crs = split.grid.crs
        shapes = {name: _block_outline(split.grid, split.block_px, name) for name in units}
    elif split.by == "regions":
        crs, shapes = outlines(str(split.regions), split.column)
    rows = [
        {
            "unit": name,
            "part": told["part"],
            "labels": int(np.sum([v for k, v in told.items() if k != "part"])),
        }
        for name, told in units.items()
    ]
    return gpd.GeoDataFrame(rows, geometry=[shapes.get(name) for name in units], crs=crs)


def _block_outline(grid: Grid, side: int, name: str) -> Any:
    import shapely

    row, col = block_of(name)
    box = Box(row * side, col * side, (row + 1) * side, (col + 1) * side)
    return shapely.box(*grid.bounds_of_box(box))
