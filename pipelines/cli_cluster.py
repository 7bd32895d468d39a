"""Commands about clusters: what would be sent to Kubernetes, for review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What a cluster's YAML becomes.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep `manifest` a command of its own while it is the only one."""


@app.command()
def manifest(
    cluster: Annotated[Path, typer.Argument(help="Cluster YAML of kind: kubernetes.")],
    name: Annotated[str, typer.Option(help="Name of the objects.")] = "landweave",
    access: Annotated[
        bool,
        typer.Option("--access", help="Only the rights that a driver in the cluster needs, to apply once."),
    ] = False,
    driver: Annotated[
        str | None, typer.Option(help="Also the Job that runs this: 'landweave map /runs/lux/run.yaml'.")
    ] = None,
) -> None:
    """Print the manifests that a run on Kubernetes sends; nothing is sent."""
    import yaml

    from pipelines.cluster_view import manifests

    told = manifests(cluster, name, access=access, driver=driver)
    typer.echo(yaml.safe_dump_all(told, sort_keys=False), nl=False)
