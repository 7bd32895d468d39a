"""The command that writes a map in the formats of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

app = typer.Typer(rich_markup_mode=None)


Run = Annotated[str, typer.Argument(help="Run folder, or a map store (.zarr); local or any fsspec URL.")]
Cog = Annotated[bool, typer.Option("--cog", help="GeoTIFFs (COG); above --cell, cells and a VRT.")]
Gdal = Annotated[
    bool, typer.Option("--gdal", help="An unsharded Zarr v2, for GDAL and QGIS that open no other.")
]
Legend = Annotated[
    bool,
    typer.Option("--legend", help="Class scheme, QGIS and SLD styles, GDAL colours, legend (PNG, JSON)."),
]
Statistics = Annotated[
    bool, typer.Option("--statistics", help="Pixels and true hectares of each class (CSV, JSON).")
]
Stac = Annotated[bool, typer.Option("--stac", help="COGs and their STAC catalogue, collection and items.")]
Layers = Annotated[str | None, typer.Option(help="Only these: label,confidence; default all.")]
Part = Annotated[
    str | None, typer.Option(help="Only the box around a part: a name, a vector file, or w,s,e,n.")
]
Store = Annotated[str | None, typer.Option(help="map, refined, map-b ...; default refined if there is one.")]
Reduction = Annotated[str, typer.Option(help="mode (majority of classes, mean of amounts) or nearest.")]
Time = Annotated[str | None, typer.Option(help="For --stac: first and last month or day; default the run's.")]


@app.command("export")
def export_command(  # noqa: PLR0913 - one option each
    run: Run,
    out: Annotated[Path, typer.Option(help="Local folder for the files.")],
    cog: Cog = False,
    gdal: Gdal = False,
    legend: Legend = False,
    statistics: Statistics = False,
    stac: Stac = False,
    layers: Layers = None,
    area: Part = None,
    store: Store = None,
    cell: Annotated[int, typer.Option(help="Side of a mosaic's cells in pixels, a power of two.")] = 16384,
    vrt: Annotated[bool, typer.Option("--vrt", help="Cells and a VRT even where one COG would do.")] = False,
    overviews: Reduction = "mode",
    time: Time = None,
    title: Annotated[str | None, typer.Option(help="For --stac: default area and time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Write a map for other programs; without --cog, --gdal, --legend, --statistics, --stac: COGs, legend.

    The CRS stays that of the map. What is there already and would not differ is not written again.
    """
    from engine.products.cog import Overviews
    from engine.products.mosaic import MosaicOptions
    from engine.values.errors import InputError
    from pipelines.cli_options import print_told
    from pipelines.console import steps_progress
    from pipelines.export_map import ExportRequest, Format, export_map

    if overviews not in get_args(Overviews):
        raise InputError("no such overviews", where="--overviews", found=overviews, limit=get_args(Overviews))
    chosen = {"cog": cog or vrt, "gdal": gdal, "legend": legend, "statistics": statistics, "stac": stac}
    formats: tuple[Format, ...] = tuple(f for f in get_args(Format) if chosen[f]) or ("cog", "legend")
    request = ExportRequest(
        run=run,
        out=out,
        formats=formats,
        layers=tuple(filter(None, (layers or "").split(","))),
        area=area,
        store=store,
        options=MosaicOptions(cell, overviews="nearest" if overviews == "nearest" else "mode", joined=vrt),
        time=time,
        title=title,
    )
    if as_json:
        typer.echo(json.dumps(export_map(request), indent=2))
        return
    with steps_progress("export") as show:
        told = export_map(request, show)
    print_told(told, as_json=False)
