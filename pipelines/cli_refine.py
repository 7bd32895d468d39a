"""The command that refines a map: of a run, or any raster of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import as_overrides, print_told

app = typer.Typer(rich_markup_mode=None)


@app.command()
def refine(  # noqa: PLR0913  # typer reads the options from the signature
    source: Annotated[
        str, typer.Argument(metavar="MAP", help="Run folder, or a GeoTIFF or Zarr of classes.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML with `steps` (or a map's, with `refine`); default as this map was refined before."
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "-o", "--override", help="key=value: 'steps=[{step: mmu, min_ha: 0.5}]' will do without a YAML."
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version of the map in the run folder.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Refine only the tiles of this part: a name, a file, or w,s,e,n.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Side of a tile, pixels.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster YAML, or the address of a scheduler.")] = None,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Make every tile again.")] = False,
    trust_model: Annotated[
        bool,
        typer.Option("--trust-model", help="Open a bundle that may run code; only if you trust its maker."),
    ] = False,
    classes: Annotated[
        Path | None, typer.Option(help="Class scheme (YAML) of a raster that does not tell its classes.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the refined raster goes: a .tif or .zarr.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Refine a map: drop small objects, smooth, fill gaps, correct by rules; the same map for any tiling.

    The map of a run is refined tile by tile into its refined.zarr; running it again goes on, and makes again only
    what changed. Any other raster of classes is refined block by block into --out.
    """
    from pipelines.console import map_progress, steps_progress
    from pipelines.refine_config import load_refine_config
    from pipelines.refine_file import FileCall, is_raster, refine_file

    settings = {"tile_px": tile, "cluster.n_workers": workers}
    given = [*(override or []), *as_overrides(settings, cluster)]
    if is_raster(source):
        call = FileCall(source, out, classes)
        with steps_progress("refine", "blocks") as show:
            told = refine_file(call, load_refine_config(config, given), show)
        print_told(told.as_dict(), as_json)
        return
    from pipelines.refine_run import RefineCall, earlier_settings, refine_run

    asked = RefineCall(version, not no_resume, only, trust_model)
    settings_of = load_refine_config(config, given, earlier_settings(source, asked))
    with map_progress(quiet=as_json) as listener:
        result = refine_run(source, settings_of, asked, listener)
    print_told(result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)
