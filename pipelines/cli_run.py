"""Commands about a run that is, or was: status, logs, cancel, verify. They read the run folder alone."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None)

Run = Annotated[str, typer.Argument(help="Run folder, local or any fsspec URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

REFRESH_S = 2.0


@app.command()
def status(
    run: Run,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Say how far a run is and whether it lives, from any machine; also while it is dead."""
    from pipelines.run_status import status_of

    if watch:
        _watch(run, as_json)
        return
    told = status_of(run)
    typer.echo(json.dumps(told, indent=2)) if as_json else _show(told)


@app.command()
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more until the run ends.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only what went wrong.")] = False,
    tile: Annotated[str | None, typer.Option(help="Only this tile: r3_c4.")] = None,
    driver: Annotated[
        bool, typer.Option("--driver", help="What the drivers of a submitted run printed themselves.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the log of all runs into a folder, oldest first."""
    from engine.runs.logs import LogReader
    from pipelines.driver_output import OutputReader
    from pipelines.run_folder import all_plans
    from pipelines.run_status import Watch
    from pipelines.run_view import log_line, wanted
    from pipelines.submission import Submission

    if Submission.find(run) is None:
        all_plans(run)
    reader, output, watched = LogReader(run), OutputReader(run), Watch(run)
    while True:
        alive = watched.pulse.look()
        judged = watched.judge(alive) if follow else None
        goes_on = follow and (alive in ("alive", "watching") or (judged is not None and judged.live))
        if driver:
            for text in output.lines():
                typer.echo(text)
        else:
            for line in wanted(reader.lines(), errors=errors, tile=tile):
                typer.echo(json.dumps(line) if as_json else log_line(line))
        if not goes_on:
            return
        time.sleep(REFRESH_S)


@app.command()
def cancel(run: Run) -> None:
    """Ask a run, from any machine, to finish what is in flight and to begin nothing more.

    A submitted job that still waits is taken out of its queue, and none goes on by itself.
    """
    from pipelines.run_status import cancel as ask

    typer.echo(ask(run))


@app.command()
def verify(
    run: Run,
    redo: Annotated[
        bool, typer.Option("--redo", help="Remove the records of tiles that differ: they are made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every finished tile of every stage again, compare it with its checksum, and look for seams."""
    from pipelines.console import steps_progress
    from pipelines.run_view import verified_lines
    from pipelines.verify_run import verify_run

    if as_json:
        found = verify_run(run, redo=redo)
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        with steps_progress("verify", "tiles") as show:
            found = verify_run(run, redo=redo, listener=show)
        for line in verified_lines(found, run):
            typer.echo(line)
    raise typer.Exit(found.exit_code)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console

    from pipelines.run_view import status_view

    Console(soft_wrap=True).print(status_view(told))


def _watch(run: str, as_json: bool) -> None:
    """Show the status again and again until the run has ended; Ctrl-C leaves the run alone."""
    from rich.console import Console
    from rich.live import Live

    from pipelines.run_status import Watch, status_of
    from pipelines.run_view import status_view

    watched, console = Watch(run), Console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    try:
        if live is not None:
            live.start()
        while True:
            told = status_of(run, watched)
            if live is not None:
                live.update(status_view(told), refresh=True)
            else:
                typer.echo(json.dumps(told)) if as_json else _show(told)
            if told["alive"] not in ("alive", "watching") and not (told["driver"] or {}).get("live"):
                return
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.stop()
