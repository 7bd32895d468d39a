"""The command that explains a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import print_told

app = typer.Typer(rich_markup_mode=None)


@app.command()
def explain(  # noqa: PLR0913  # typer reads the options from the signature
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    config: Annotated[Path, typer.Argument(help="A training's YAML: where the examples come from.")],
    override: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="key=value of the YAML.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for figures, numbers and index.html.")] = Path("explain"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="permutation, occlusion, in_season, attention, gradients, integrated, hidden, training, "
            "activations, confidence; may be given again. Default: all."
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="test, val or train; default the first that is annotated.")
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Examples of each class; default 48 pixels or series, 8 patches."),
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder with weights of moments of the training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show why a network answers as it does: figures, the numbers behind them, and a page with all of them."""
    from pipelines.config import parse_config
    from pipelines.console import steps_progress
    from pipelines.explain_model import ExplainOptions, explain_model
    from pipelines.table_config import load_table_config
    from pipelines.train_model import load_train_config

    asked = {"part": part, "per_class": per_class, "only": tuple(only or ()), "checkpoints": checkpoints}
    options = parse_config(asked, "landweave explain", ExplainOptions)
    settings = load_table_config(config, override) or load_train_config(config, override)
    with steps_progress("explain", "steps") as show:
        found = explain_model(
            bundle, settings, out, options, lambda name, done, total: show(done, total, name)
        )
    print_told(found.lines(), as_json)
