"""Commands that let a run go on without a terminal: submit, resume, and what the job itself runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import as_overrides, print_told

app = typer.Typer(rich_markup_mode=None)

Run = Annotated[str, typer.Argument(help="Run folder, local or any fsspec URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Trust = Annotated[
    bool, typer.Option("--trust-model", help="Open a bundle that may run code; only if you trust its maker.")
]


@app.command()
def submit(  # noqa: PLR0913  # typer reads the options from the signature
    config: Annotated[Path, typer.Argument(help="The run's YAML.")],
    override: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="key=value; dots go deeper: cube.period=10D.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster YAML, or the address of a scheduler.")] = None,
    out: Annotated[str | None, typer.Option(help="Run folder.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    cube: Annotated[bool, typer.Option("--cube", help="Stage the cube instead of making the map.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Make only the tiles of this part: a name, a file, or w,s,e,n.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Search again; tiles that other scenes touch are made again.")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Drive it from a process of this machine, not from a job.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script or manifest; start nothing.")
    ] = False,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """Let a run go on by itself: its driver becomes a job (slurm, kubernetes) or a process of this machine.

    The settings are frozen in the run folder. `status`, `logs`, `cancel` and `resume` work from any machine
    that sees it.
    """
    from pipelines.submission import Asked
    from pipelines.submit_run import draft
    from pipelines.submit_run import submit as submit_run

    settings = {"out": out, "cluster.n_workers": workers}
    asked = Asked(
        path=str(config),
        overrides=(*(override or []), *as_overrides(settings, cluster)),
        command="cube" if cube else "map",
        only=only,
        refresh=refresh,
        trust_model=trust_model,
    )
    if dry_run:
        typer.echo(draft(asked, here=here), nl=False)
        return
    print_told(submit_run(asked, here=here).as_dict(), as_json)


@app.command()
def resume(run: Run, trust_model: Trust = False, as_json: Json = False) -> None:
    """Submit again what was submitted into a run folder; finished tiles are kept."""
    from pipelines.submit_run import resume as resume_run

    print_told(resume_run(run, trust_model=trust_model).as_dict(), as_json)


@app.command(hidden=True)
def drive(
    run: Run,
    number: Annotated[int, typer.Argument(help="Number of the driver in the run folder.")],
    trust_model: Trust = False,
) -> None:
    """Drive a submitted run; what a submitted job or process runs."""
    from pipelines.drive_run import drive as drive_run

    raise typer.Exit(drive_run(run, number, trust_model=trust_model))
