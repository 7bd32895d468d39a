"""Write an ensemble, from a YAML that lists its members.

::

    name: two networks
    bundle: ensemble           # folder to write
    members:                   # folders of bundles; the larger the weight, the more a member counts
      - {bundle: unet-s2, weight: 2}
      - {bundle: unet-ndvi}
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from engine.inference.ensemble import Ensemble, create_ensemble
from pipelines.config import parse_config, read_yaml


class MemberConfig(BaseModel):
    """One member."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bundle: str = Field(description="Folder of the member's bundle; it is copied.")
    weight: int = Field(default=1, ge=1, description="How much its answers count.")


class EnsembleConfig(BaseModel):
    """Several bundles that map together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, description="Short name of the ensemble.")
    bundle: str = Field(description="Folder of the ensemble to write.")
    members: tuple[MemberConfig, ...] = Field(min_length=2, description="Its bundles, with weights.")
    description: str = Field(default="", description="A sentence or two for people.")


def lists_members(path: str | Path) -> bool:
    """Tell whether a YAML is of an ensemble rather than of one bundle."""
    return "members" in read_yaml(path, None, paths=())


def make_ensemble(
    path: str | Path, overrides: list[str] | None = None, *, trust_model: bool = False
) -> Ensemble:
    """Read the YAML and write the ensemble; relative folders start at the YAML.

    Args:
        path: The YAML.
        overrides: ``key=value`` of its settings.
        trust_model: Take members whose weights may run code.

    Raises:
        InputError: If a setting is wrong, or members do not fit together; names both.
        TrustError: If a member's weights could run code.
    """
    config = parse_config(read_yaml(path, overrides, paths=("bundle",)), str(path), EnsembleConfig)
    home = Path(path).parent
    members = [(home / m.bundle, m.weight) for m in config.members]  # an absolute path stays as it is
    return create_ensemble(
        config.bundle, members, config.name, description=config.description, trust_model=trust_model
    )
