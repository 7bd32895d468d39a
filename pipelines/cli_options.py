"""What several commands do with their options, and how they print a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def print_told(data: dict[str, Any], as_json: bool) -> None:
    """Print a result as JSON or as aligned lines."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, default=str))
        return
    width = max(map(len, data))
    for key, value in data.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines):
            typer.echo(f"{'' if number else key:<{width}}  {line}")


def trusted(override: list[str] | None, trust_model: bool) -> list[str]:
    """Add the word of trust, which no file can give, to the overrides."""
    return [*(override or []), *(["trust_model=true"] if trust_model else [])]


def as_overrides(settings: dict[str, Any], cluster: str | None) -> list[str]:
    """Turn the options that were given into overrides of the YAML."""
    extra = [f"{k}={json.dumps(v)}" for k, v in settings.items() if v is not None]
    return extra if cluster is None else [_cluster_override(cluster), *extra]  # --workers changes the file's


def _cluster_override(text: str) -> str:
    """Accept a YAML file or a scheduler's address."""
    if Path(text).suffix in (".yaml", ".yml"):
        from cluster.spec import read_spec

        return f"cluster={json.dumps(read_spec(text))}"
    return f"cluster={json.dumps({'kind': 'address', 'address': text})}"
