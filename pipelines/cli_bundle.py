"""Commands about model bundles: create, show, check, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make, look at, check and export model bundles.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Trust = Annotated[
    bool, typer.Option("--trust-model", help="Open a model that may run code; only if you trust its maker.")
]


@app.command()
def create(
    source: Annotated[
        Path,
        typer.Argument(
            help="YAML: name, weights, cube, classes, layout, normalisation; or members; or WEIGHTS."
        ),
    ],
    published: Annotated[
        str | None, typer.Option("--from", help="SOURCE is the weights file of: presto, dynamic-world.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --from: folder of the bundle to write.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="key=value of the YAML: cube.period=10D.")
    ] = None,
    trust_model: Trust = False,
) -> None:
    """Write a bundle (ONNX, a network of the registry, or on trust a graph of torch.export) or an ensemble.

    An ensemble's YAML has name, bundle (the folder to write) and members: [{bundle: a, weight: 2}, {bundle: b}].
    Weights are read as numbers alone; a pickle is refused unopened. With --from, -o takes bands, n_dates and
    place (presto: -o bands=[B02,B03,B04,B08] -o n_dates=12) or normalisation (dynamic-world).
    """
    from pipelines.make_bundle import make_bundle, make_published
    from pipelines.make_ensemble import lists_members, make_ensemble
    from pipelines.view_bundle import show

    if published is None and lists_members(source):
        show(make_ensemble(source, override, trust_model=trust_model))
    elif published is None:
        show(make_bundle(source, override, trust_model=trust_model))
    else:
        show(make_published(published, source, out, override))


@app.command("show")
def show_command(folder: Folder, as_json: Json = False, trust_model: Trust = False) -> None:
    """Say what a bundle is: cube, classes with colours, window, scores, licence; checks its weights."""
    from engine.inference.ensemble import load_model
    from pipelines.view_bundle import as_dict, show

    model = load_model(folder, trust_model=trust_model)
    typer.echo(json.dumps(as_dict(model), indent=2)) if as_json else show(model)


@app.command()
def card(
    folder: Folder,
    write: Annotated[bool, typer.Option("--write", help="Write card.md and the figure anew.")] = False,
    trust_model: Trust = False,
) -> None:
    """Show a bundle's card: data, scores with intervals, calibration, intended use, limits."""
    from engine.inference.bundle import load_bundle
    from pipelines.model_card import card_lines, write_card

    bundle = load_bundle(folder, trust_model=trust_model)
    typer.echo(f"wrote {write_card(bundle)}" if write else "\n".join(card_lines(bundle)))


@app.command()
def check(
    folder: Folder,
    precision: Annotated[
        bool, typer.Option("--precision", help="Also count the labels that bfloat16 and float16 change.")
    ] = False,
    field: Annotated[
        bool, typer.Option("--field", help="Also measure how far the network looks around a pixel.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is one.")] = "cpu",
    as_json: Json = False,
    trust_model: Trust = False,
) -> None:
    """Check manifest, checksum and answers: finite, the same each time, the same in any batch.

    The network runs on drawn pixels, which tell nothing about its accuracy. Exit code 4 if a check fails.
    """
    from engine.inference.check import check_model
    from engine.inference.ensemble import load_model
    from engine.values.errors import DataError
    from pipelines.view_bundle import check_lines

    model = load_model(folder, trust_model=trust_model)
    findings = check_model(model, device=device, precision=precision, field=field)
    if as_json:
        typer.echo(json.dumps([vars(f) for f in findings], indent=2))
    else:
        typer.echo("\n".join(check_lines(findings)))
    if any(f.passed is False for f in findings):
        raise typer.Exit(DataError.exit_code)


@app.command()
def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="onnx, pt2 or safetensors.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="New folder; default FOLDER-onnx beside it.")] = None,
    first_month: Annotated[
        int | None,
        typer.Option(min=1, max=12, help="Month of the first date, for networks that ask for dates."),
    ] = None,
) -> None:
    """Write a network of the registry as ONNX, a graph of torch.export, or safetensors with its configuration.

    The graph takes reflectance x 10000 (float32, 0 = no data, dates merged into the channels) and does the rest
    itself. The new folder is a bundle again; a .pt2 is opened with --trust-model only.
    """
    from pipelines.make_bundle import export

    typer.echo(f"wrote {export(folder, to, out, first_month)}")
