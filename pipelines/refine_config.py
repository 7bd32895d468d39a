"""The YAML of a refinement: steps, and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cluster.spec import AnyCluster
from engine.refine.chain import RefineSpec
from pipelines.config import anchor_steps, parse_config, read_yaml, with_overrides

_OF_A_MAP = ("refine", "cluster", "products")


class RefineConfig(BaseModel):
    """How a map that is there is refined."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    refine: RefineSpec = Field(description="The steps.")
    tile_px: int | None = Field(
        default=None,
        ge=64,
        le=16384,
        multiple_of=16,
        description="Side of a tile in pixels; default that of the map. Same refined map.",
    )
    cluster: AnyCluster | None = Field(
        default=None, description="Where it runs; default where the map was made."
    )
    products: bool = Field(default=True, description="Make COG, STAC item and picture of the refined map.")


def load_refine_config(
    path: str | Path | None, overrides: list[str] | None, before: Any = None
) -> RefineConfig:
    """Read the YAML of a refinement: its own, one with nothing but `steps`, or a map's with `refine`.

    Args:
        path: The file; None for none.
        overrides: ``key=value``; ``steps=[...]`` will do without a file.
        before: The settings of an earlier refinement, for who gives no file.

    Raises:
        InputError: If a field is wrong, or nothing says what to do.
    """
    if path is None:
        raw, where = dict(before or {}), "the earlier refinement" if before else "-o"
    else:
        raw, where = read_yaml(path, None, paths=()), str(path)
    if "bundle" in raw or "area" in raw:  # a map's: only what concerns the refinement
        raw = {k: raw[k] for k in _OF_A_MAP if k in raw}
    if path is not None:
        anchor_steps(_nested(raw).get("refine"), Path(path).parent)
    return parse_config(_nested(with_overrides(_nested(raw), overrides)), where, RefineConfig)


def _nested(raw: dict[str, Any]) -> dict[str, Any]:
    """Put what belongs to the refinement itself where it belongs."""
    own = {k: raw[k] for k in RefineSpec.model_fields if k in raw}
    if not own:
        return raw
    refine = raw.get("refine")
    inner = {**refine, **own} if isinstance(refine, dict) else own
    return {k: v for k, v in raw.items() if k not in own} | {"refine": inner}
