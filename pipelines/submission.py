"""What was submitted, frozen: a later change of the user's file changes nothing of a run that waits or lives.

::

    submission.json            what to run, with the overrides as they were given, and what it must still be
    inputs/run-9f3c0a7e.yaml   the whole configuration: overrides applied, defaults filled in, paths absolute

Secrets are in neither: they come from the environment, and a configuration that holds one is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.submit import Place
from engine.runs.tile import engine_version
from engine.store.objects import Folder
from engine.values.errors import ConflictError, InputError, TrustError
from engine.values.redact import without_secrets
from pipelines.config import (
    AreaConfig,
    CubeConfig,
    RunConfig,
    TiledConfig,
    anchored,
    load_config,
    parse_config,
    part_named,
)
from pipelines.cube_area import area_of
from pipelines.plan_area import bundle_of
from pipelines.plan_cube import load_cube_config

SUBMISSION = "submission.json"

Command = Literal["map", "cube"]


@dataclass(frozen=True)
class Asked:
    """What a user submits.

    Attributes:
        path: The run's YAML.
        overrides: As given, the cluster's among them.
        command: ``map`` or ``cube``.
        only: Part of the area, see `pipelines.config.part_named`.
        refresh: Search again.
        trust_model: Open a bundle that may run code; is said again to each driver, never written down.
    """

    path: str
    overrides: tuple[str, ...] = ()
    command: Command = "map"
    only: str | None = None
    refresh: bool = False
    trust_model: bool = False


@dataclass(frozen=True)
class Submission:
    """What is run, as it is written down.

    Attributes:
        command: ``map`` or ``cube``.
        config: Name of the frozen YAML in the run folder.
        source: The user's YAML, for people.
        overrides: As they were given, for people; the frozen YAML has them.
        place: Where its drivers live.
        name: Part of their names.
        only: Part of the area to make, paths absolute.
        refresh: Search again, until one driver has.
        area: Name of the area.
        holds: Hashes of outline and model, which must be the same when it begins.
        engine: Version of the engine that submitted it.
    """

    command: Command
    config: str
    source: str
    overrides: tuple[str, ...]
    place: Place
    name: str
    only: dict[str, Any] | None
    refresh: bool
    area: str
    holds: dict[str, str]
    engine: str

    def write(self, run: str) -> None:
        """Put it into the run folder."""
        Folder(run).replace(SUBMISSION, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def find(cls, run: str) -> Submission | None:
        """Return what was submitted into a run folder, None if nothing was."""
        data = Folder(run).read(SUBMISSION)
        if data is None:
            return None
        told = json.loads(data)
        return cls(**{**told, "overrides": tuple(told["overrides"])})

    def settings(self, run: str, *, trust_model: bool = False) -> TiledConfig:
        """Return the frozen configuration.

        Raises:
            InputError: If it is gone, or this version does not know it any more.
            TrustError: If somebody has written trust into it.
        """
        data = Folder(run).read(self.config)
        if data is None:
            raise InputError("the frozen configuration is gone", where=run, found=self.config, mend=_AGAIN)
        raw = yaml.safe_load(data)
        if "trust_model" in raw:
            raise TrustError(
                "trust is not given in a file",
                where=f"{run}/{self.config}: trust_model",
                mend="say --trust-model when you submit or resume",
            )
        kind = RunConfig if self.command == "map" else CubeConfig
        config = parse_config(raw, f"{run}/{self.config}", kind)
        return config.model_copy(update={"trust_model": True}) if trust_model else config

    def part(self) -> AreaConfig | None:
        """Return the part of the area to make, None for all of it."""
        return None if self.only is None else AreaConfig.model_validate(self.only)

    def require_same(self, config: TiledConfig) -> None:
        """Refuse to begin with another outline or another model than were submitted.

        Raises:
            ConflictError: Naming which.
        """
        for what, now in held(config).items():
            if now != self.holds.get(what):
                raise ConflictError(
                    f"the {what} is not the one that was submitted",
                    where=what,
                    found=now[:16],
                    limit=str(self.holds.get(what))[:16],
                    mend=_AGAIN,
                )


_AGAIN = "landweave submit the YAML again"


def read_asked(asked: Asked) -> TiledConfig:
    """Read the YAML of what is submitted, with its overrides.

    Raises:
        InputError: If a setting is wrong.
    """
    trust = ["trust_model=true"] if asked.trust_model else []
    load = load_config if asked.command == "map" else load_cube_config
    return load(Path(asked.path).absolute(), [*asked.overrides, *trust])


def frozen(config: TiledConfig) -> str:
    """Return a configuration as YAML: defaults filled in, paths absolute.

    Raises:
        InputError: If a setting holds a secret.
    """
    raw = anchored(config.model_dump(mode="json"), Path.cwd())
    for where, text in _texts(raw):
        if without_secrets(text) != text:
            raise InputError(
                "a secret in the configuration would be written into the run folder",
                where=where,
                found=without_secrets(text),
                mend="give it by the environment (credentials, tokens), and leave it out of the YAML",
            )
    return yaml.safe_dump(raw, sort_keys=False)


def frozen_name(text: str) -> str:
    """Name the frozen YAML by its content."""
    return f"inputs/run-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"


def freeze(asked: Asked, config: TiledConfig, place: Place, name: str) -> tuple[Submission, str]:
    """Return what is submitted and the text of its frozen YAML; writes nothing."""
    text = frozen(config)
    only = None if asked.only is None else _part(asked.only, config)
    told = Submission(
        command=asked.command,
        config=frozen_name(text),
        source=str(Path(asked.path).absolute()),
        overrides=tuple(without_secrets(o) for o in asked.overrides),
        place=place,
        name=name,
        only=only,
        refresh=asked.refresh,
        area=area_of(config.area).name,
        holds=held(config),
        engine=engine_version(),
    )
    return told, text


def held(config: TiledConfig) -> dict[str, str]:
    """Return what must not change between submitting and beginning: hashes of outline and model."""
    holds = {"area": area_of(config.area).digest()}
    if isinstance(config, RunConfig):
        holds["bundle"] = bundle_of(config).digest()
    return holds


def _part(text: str, config: TiledConfig) -> dict[str, Any]:
    part = part_named(text, config.area)
    area_of(part)
    raw: dict[str, Any] = anchored({"area": part.model_dump(mode="json")}, Path.cwd())["area"]
    return raw


def _texts(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Return each text of a mapping with the name of its setting."""
    if isinstance(value, str):
        return [(where, value)]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, below in pairs for found in _texts(below, f"{where}.{key}".strip("."))]
